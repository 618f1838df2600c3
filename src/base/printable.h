// Names from untrusted files, made fit for a one-line message: control characters escaped, absurd lengths cut.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tenon::base {

inline std::string printable(std::string_view text, std::size_t limit = 600) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string out;
  const bool cut = text.size() > limit;
  for (char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7F) { // UTF-8 passes
      out += c;
    } else {
      out += "\\x";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    }
  }
  if (cut) out += "...";
  return out;
}

} // namespace tenon::base

// Numbers in messages: "0x1f".
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <charconv>
#include <cstdint>
#include <string>

namespace tenon::base {

inline std::string hex(std::uint64_t value) {
  char digits[18] = {'0', 'x'};
  return {digits, std::to_chars(digits + 2, digits + sizeof digits, value, 16).ptr};
}

} // namespace tenon::base

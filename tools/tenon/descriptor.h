// File descriptors: owned ones, and whole contents through them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::cli {

// "WHAT: what errno says".
Error system_error(const std::string& what);

// Owns a descriptor; -1 is none.
class Descriptor {
public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }

private:
  int number_ = -1;
};

// Whatever a signal interrupts is taken up again.
bool write_all(int descriptor, std::string_view text);
// A regular or memory file from its beginning, wherever its offset is.
Result<std::vector<std::byte>> read_all(int descriptor, const std::string& name);
Result<std::vector<std::byte>> read_file(const std::string& path);

} // namespace tenon::cli

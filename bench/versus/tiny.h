// Tiny modules by the million: an object with one function and its .eh_frame is compiled once, and stamped out under other
// names by exchanging the digits in it.
//
// Module i defines int function_i(int x): its own number if x is zero, else what function_j(x - 1) gives, another module's.
// Module 0 calls nobody. So what a call gives shows who has been called.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "live.h"

#include <array>
#include <span>

namespace versus {

class TinyObjects {
public:
  static constexpr std::size_t limit = 9'999'999;
  // The name of a module's function, terminated by a zero.
  using Name = std::array<char, 17>;

  static Result<TinyObjects> create();

  static Name name(std::size_t module);
  std::size_t bytes() const noexcept { return calling_.bytes.size(); } // of each object but the first
  std::size_t content() const noexcept { return content_; } // of these, in memory: code and call frame information
  ObjectBytes first() const;                                // module 0
  // `to` has bytes() bytes.
  void stamp(std::size_t module, std::size_t callee, std::span<std::byte> to) const;

private:
  struct Template {
    ObjectBytes bytes;
    std::vector<std::size_t> own_names, callee_names, numbers; // where their digits, or the number in the code, begin
  };
  static Result<Template> compile(const std::string& text);

  Template calling_, leaf_;
  std::size_t content_ = 0;
};

// Some of them side by side, and their names: made without being timed, then linked, a batch at a time.
class TinyBatch {
public:
  TinyBatch(const TinyObjects& objects, std::size_t capacity);

  // Modules begin .. begin + count - 1; callee(module) is the number of the one that it calls.
  template <class Callee> void fill(std::size_t begin, std::size_t count, Callee&& callee) {
    count_ = count;
    for (std::size_t i = 0; i < count; ++i) {
      objects_.stamp(begin + i, callee(begin + i), std::span(bytes_).subspan(i * objects_.bytes(), objects_.bytes()));
      names_[i] = TinyObjects::name(begin + i);
    }
  }
  std::size_t size() const noexcept { return count_; }
  std::span<const std::byte> object(std::size_t i) const {
    return std::span(bytes_).subspan(i * objects_.bytes(), objects_.bytes());
  }
  const char* name(std::size_t i) const { return names_[i].data(); }

private:
  const TinyObjects& objects_;
  std::vector<std::byte> bytes_;
  std::vector<TinyObjects::Name> names_;
  std::size_t count_ = 0;
};

// What is wrong with a module, which calls its predecessor and so on, or nothing.
std::string check_tiny(std::uint64_t address, std::size_t module);

} // namespace versus

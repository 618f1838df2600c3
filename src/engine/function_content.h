// Functions of lambdas that a compiler has numbered (`main::$_0`, `main::{lambda(int)#2}`), and what carries their number in
// its own name, as std::function's callers do: one lambda more shifts the numbers, and another's code would read captures
// that are not its own. So such a name says nothing. The content does: code that is the same, and uses the same, reads the
// same captures.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::engine {

// Whether a lambda's number, or an unnamed type's, is part of a function's name. May throw std::bad_alloc.
bool has_numbered_closure(std::string_view name);
// Compilers number, in the order in which they come, functions that they make: those that destroy arrays at the end of the
// program (GCC: `__tcf_0`; Clang: `__cxx_global_array_dtor.1`), bodies of OpenMP's constructs (`f._omp_fn.0`,
// `f.omp_outlined.1`); GCC also nested functions (`inner.0`).
bool is_numbered_function(std::string_view name) noexcept;
// The name of a member of a local class without what tells classes of one name in one function apart (`_ZZ1fvEN1S1gE_0v`).
// May throw std::bad_alloc.
std::string without_class_numbers(std::string_view name);
// The name for people without such numbers: what all that may have changed places have in common. May throw std::bad_alloc.
std::string without_closure_numbers(std::string_view name);

// Hashes of an object's functions with what they refer to: others by name, literals and those whose names say nothing by
// content.
class FunctionContents {
public:
  explicit FunctionContents(const Object& object) : object_(object) {}

  // 0: it can't be told. May throw std::bad_alloc.
  std::uint64_t of(std::uint32_t symbol);
  // What that one, and what counts with it, refer to by name. Valid until the next of().
  std::span<const std::uint32_t> mentioned() const noexcept { return mentioned_; }

private:
  struct Place {
    std::uint32_t section = 0;
    std::uint64_t offset = 0;
    std::uint32_t symbol = 0;
  };

  void list_places();
  void add(std::uint64_t number) noexcept { hash_ = (hash_ ^ number) * 0x9E37'79B9'7F4A'7C15 + (hash_ >> 29); }
  void add(Bytes bytes) noexcept;
  void add_function(std::uint32_t symbol);
  void add_bytes(std::uint32_t section, std::uint64_t begin, std::uint64_t end);
  void add_target(const Relocation& relocation, bool code);
  void add_symbol(std::uint32_t symbol);
  void add_literal(std::uint32_t section, std::uint64_t offset);
  // Among those that lie there: the one of the least index, or none.
  std::uint32_t symbol_over(std::uint32_t section, std::uint64_t offset) const noexcept;

  const Object& object_;
  std::vector<Place> places_; // of functions and variables, sorted; once it is asked for
  std::uint64_t hash_ = 0;
  std::vector<std::uint64_t> visited_; // symbols, and sections behind them
  std::vector<std::uint32_t> mentioned_;
  bool told_ = true;
};

} // namespace tenon::engine

// What is wanted of debug information, as values: texts, references, places of variables, types as text.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/dwarf_reader.h"

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tenon::object::dwarf {

// Deeper than any compiler nests what is looked at.
inline constexpr int deepest = 64;

// Of this entry itself.
std::string_view own_text(const Die& die, unsigned name);
bool has(const Die& die, unsigned name);
std::optional<std::uint64_t> own_number(const Die& die, unsigned name);
std::optional<Die> own_reference(const Die& die, unsigned name);

// What the entry stands for: the abstract instance of an inlined function or variable, or the declaration of a member.
std::optional<Die> origin_of(const Die& die);
// Of the entry, or else of what it stands for.
std::string_view text(Die die, unsigned name);
std::optional<Die> reference(Die die, unsigned name);

// One piece of storage of a variable; size 0: all of it.
struct Stored {
  std::uint64_t address = 0, at = 0, size = 0;
};

// A variable's entry, read in one go: there are very many.
struct VariableEntry {
  Die die;
  std::uint64_t offset = 0;
  std::uint64_t stands_for = 0; // another entry, see origin_of
  std::string_view name;
  bool declaration = false;
  bool elsewhere = false; // in a register or frame
  std::vector<Stored> storage;
};
VariableEntry read_variable(const Die& die);

// Types as text. Keeps what it has made.
class Types {
public:
  explicit Types(File& file) : file_(file) {}

  // `type`: nothing stands for void.
  std::string name(const std::optional<Die>& type, int depth = 0);
  // "int (char const*, struct S{16})"
  std::string signature(Die function, int depth = 0);

private:
  std::string make(Die type, int depth);
  std::string compound(Die type, const char* keyword, bool sized, std::string_view alias);
  std::string pointer(Die type, const char* mark, int depth);
  std::string array(Die type, int depth);

  File& file_;
  std::unordered_map<std::uint64_t, std::string> known_; // by entry
};

} // namespace tenon::object::dwarf

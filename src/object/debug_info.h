// What an object's DWARF (4 and 5) says of its variables and functions, as far as it helps to find them again in another
// version of the object: where a variable stands in the source, what a function takes and gives.
//
// The input is untrusted: what is malformed is no information, and what would take time or memory out of proportion is given
// up. Read from a DebugImage (dwarf_reader.h).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include "object/producer.h"

#include <compare>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::object {

// A variable with storage, or a piece of one: compilers may take a structure apart.
struct DebugVariable {
  std::uint32_t section = 0;
  std::uint64_t offset = 0;
  // Scope and name, "f::count": of a function its linkage name, the same whether it was inlined or not. In an object of
  // several compilation units their file comes before it.
  std::string path;
  // Among variables of one path: blocks, type, and which of several.
  std::string place;
  std::uint64_t piece = 0, piece_size = 0; // size 0: the whole
  bool alone = false;                      // nothing else that is declared in the function has its name

  auto operator<=>(const DebugVariable&) const = default;
};

struct DebugFunction {
  std::string name;      // linkage name
  std::string signature; // "int (char const*, struct S{16})": types without typedefs, structures by name and size

  auto operator<=>(const DebugFunction&) const = default;
};

struct DebugInfo {
  bool several_units = false;
  Knowledge knowledge = Knowledge::any; // the most of its units
  std::vector<DebugVariable> variables; // by section and offset, each place once
  std::vector<DebugFunction> functions; // by name; without those that two units define differently
};

// Whether two signatures are the same as far as both tell: a structure's size may be known to one version only.
bool same_signature(std::string_view a, std::string_view b) noexcept;

// Cheap: whether there are debug sections at all.
bool has_debug_info(const Object& object) noexcept;
// Nothing if there is none that can be read.
std::optional<DebugInfo> read_debug_info(const Object& object);

} // namespace tenon::object

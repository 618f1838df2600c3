// The debug sections of an object as those of a finished program, which DWARF is read from.
//
// An object's debug sections are compressed, relocated and split among COMDAT groups in ways that readers of finished
// programs do not know. Here they are uncompressed, sections of one name joined, and relocated: each section of the program
// gets an address of its own, so that an address in the debug information says which section and offset is meant.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <array>
#include <optional>
#include <vector>

namespace tenon::object {

// What names, scopes and types are read from. Line tables, ranges and lists of locations are not needed.
enum class DebugSection : std::uint8_t { info, types, abbrev, str, line_str, str_offsets, addr };
inline constexpr std::size_t debug_sections = 7;

struct DebugImage {
  struct Place {
    std::uint32_t section = 0;
    std::uint64_t offset = 0;
  };

  std::array<std::vector<std::byte>, debug_sections> sections; // by DebugSection
  std::vector<std::uint64_t> bases;                            // of each section of the object: its address, ascending

  std::optional<Place> place_of(std::uint64_t address) const noexcept;
};

// Nothing if there is no debug information, or what there is can't be read: too large, or compressed in an unknown way.
std::optional<DebugImage> make_debug_image(const Object& object);

} // namespace tenon::object

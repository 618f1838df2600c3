// The debug sections of an object as a small executable file in memory, which a DWARF reader understands.
//
// An object's debug sections are compressed, relocated and split among COMDAT groups in ways that readers of finished
// programs do not know. Here they are uncompressed, sections of one name joined, and relocated: each section of the program
// gets an address of its own, so that an address in the debug information says which section and offset is meant. What
// stands around them in the object (headers, tables) is not passed on: it is untrusted, and was read already.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <optional>
#include <vector>

namespace tenon::object {

struct DebugImage {
  struct Place {
    std::uint32_t section = 0;
    std::uint64_t offset = 0;
  };

  std::vector<std::uint64_t> file; // of words, because readers want it aligned
  std::uint64_t size = 0;          // of the file, in bytes
  std::uint64_t info_size = 0, abbrev_size = 0;
  std::vector<std::uint64_t> bases; // of each section of the object: its address, ascending

  std::optional<Place> place_of(std::uint64_t address) const noexcept;
};

// Nothing if there is no debug information, or what there is can't be read: too large, or compressed in an unknown way.
std::optional<DebugImage> make_debug_image(const Object& object);

} // namespace tenon::object

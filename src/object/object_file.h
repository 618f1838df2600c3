// What an Object holds: the bytes, and the flat tables that the reader made, which lie behind the File in its piece of
// memory. Immutable once read, so copies share it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

namespace tenon {

struct Object::File {
  std::string name;
  Bytes bytes;
  std::shared_ptr<const void> owner; // of bytes
  Machine machine = Machine::other;
  std::uint32_t first_global = 1;
  std::span<const Section> sections;
  std::span<const Symbol> symbols;
  std::span<const Group> groups;
  // The sections that are allocated or debug information, by rising index: of all others the linker need see nothing, and
  // these are most in a C++ program (relocations, groups).
  std::span<const std::uint32_t> contents;
  // Beside `sections`, which are far between: where relocations stand, for the linker's passes over them. Empty if there
  // are none.
  struct RelocationTable {
    const Relocation* begin = nullptr;
    std::uint32_t count = 0;
    std::uint32_t section = 0; // that holds them, or 0
  };
  std::span<const RelocationTable> relocation_tables;

  // Of section `index`, in place. Not checked here.
  std::span<const Relocation> relocations_in_place(std::uint32_t index) const noexcept {
    if (index >= relocation_tables.size()) return {};
    return {relocation_tables[index].begin, relocation_tables[index].count};
  }
};

} // namespace tenon

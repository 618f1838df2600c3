// What an Object holds: the bytes, and the flat tables that one pass over them made. Immutable once read, so copies share
// it.
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
  std::vector<Section> sections;
  std::vector<Symbol> symbols;
  std::vector<Group> groups;
  // Beside `sections`, which are far between: where relocations stand, for the linker's passes over them.
  struct RelocationTable {
    const Relocation* begin = nullptr;
    std::uint32_t count = 0;
  };
  std::vector<RelocationTable> relocation_tables;
  std::vector<std::uint32_t> group_members; // of all groups, one after the other

  // Of section `index`, in place. Not checked here.
  std::span<const Relocation> relocations_in_place(std::uint32_t index) const noexcept {
    if (index >= relocation_tables.size()) return {};
    return {relocation_tables[index].begin, relocation_tables[index].count};
  }
};

} // namespace tenon

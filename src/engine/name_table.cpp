// Interning the names of a change.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/name_table.h"

#include <algorithm>

namespace tenon::engine {

NameTable::NameTable(std::size_t expected) {
  names_.reserve(expected);
  if (expected <= few) return; // should there be more, as groups' may be, they grow
  std::size_t cells = 2 * few;
  while (cells < expected * 2) cells *= 2;
  cells_ = make_cells(cells);
}

// Where it is, or where it is to be.
inline std::size_t NameTable::cell_of(std::string_view text, std::uint32_t library, std::uint64_t hash) const noexcept {
  const std::size_t mask = cells_.size() - 1;
  std::size_t at = hash & mask;
  for (; cells_[at].index != link::none; at = (at + 1) & mask) {
    const Name& name = names_[cells_[at].index];
    if (cells_[at].tag == std::uint32_t(hash >> 32) && name.library == library && name.view() == text) break;
  }
  return at;
}

// One after the other.
inline std::uint32_t NameTable::find_among_few(std::string_view text, std::uint32_t library,
                                               std::uint64_t plain) const noexcept {
  for (const Name& name : names_)
    if (name.hash == plain && name.library == library && name.view() == text) return index_of(name);
  return link::none;
}

std::uint32_t NameTable::find(std::string_view text, std::uint32_t library) const noexcept {
  const std::uint64_t plain = hash_name(text);
  return is_small() ? find_among_few(text, library, plain) : cells_[cell_of(text, library, mixed(plain, library))].index;
}

inline std::uint32_t NameTable::add(std::string_view text, std::uint32_t library, std::uint64_t plain) {
  Name& name = names_.emplace_back();
  name.text = text.data();
  name.size = std::uint32_t(text.size());
  name.hash = plain;
  name.library = library;
  return std::uint32_t(names_.size() - 1);
}

std::uint32_t NameTable::intern(std::string_view text, std::uint32_t library, std::uint64_t plain) {
  if (is_small()) {
    if (const std::uint32_t found = find_among_few(text, library, plain); found != link::none) return found;
    if (names_.size() < few) return add(text, library, plain);
  }
  if ((names_.size() + 1) * 2 > cells_.size()) grow();
  const std::uint64_t hash = mixed(plain, library);
  const std::size_t at = cell_of(text, library, hash);
  if (cells_[at].index == link::none) {
    const std::uint32_t index = add(text, library, plain); // may throw, and then nothing has changed
    cells_[at] = {index, std::uint32_t(hash >> 32)};
  }
  return cells_[at].index;
}

void NameTable::grow() {
  base::Vector<Cell> grown = make_cells(std::max<std::size_t>(cells_.size() * 2, 4 * few));
  std::size_t mask = grown.size() - 1;
  for (std::uint32_t i = 0; i < names_.size(); ++i) {
    std::uint64_t hash = mixed(names_[i].hash, names_[i].library);
    std::size_t at = hash & mask;
    while (grown[at].index != link::none) at = (at + 1) & mask;
    grown[at] = {i, std::uint32_t(hash >> 32)};
  }
  cells_.swap(grown);
}

} // namespace tenon::engine

// Interning the names of a change.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/name_table.h"

#include <algorithm>

namespace tenon::engine {

NameTable::NameTable(std::size_t expected) {
  if (expected == 0) return; // made when there is a name, as a group's may be
  std::size_t cells = 8;
  while (cells < expected * 2) cells *= 2;
  cells_ = make_cells(cells);
  names_.reserve(expected);
}

std::uint32_t NameTable::find(std::string_view text, std::uint32_t library) const noexcept {
  if (cells_.empty()) return link::none;
  std::uint64_t hash = mixed(hash_name(text), library);
  std::size_t mask = cells_.size() - 1;
  for (std::size_t at = hash & mask; cells_[at].index != link::none; at = (at + 1) & mask) {
    const Name& name = names_[cells_[at].index];
    if (cells_[at].tag == std::uint32_t(hash >> 32) && name.library == library && name.view() == text)
      return cells_[at].index;
  }
  return link::none;
}

std::uint32_t NameTable::intern(std::string_view text, std::uint32_t library, std::uint64_t plain) {
  if ((names_.size() + 1) * 2 > cells_.size()) grow();
  std::uint64_t hash = mixed(plain, library);
  std::size_t mask = cells_.size() - 1, at = hash & mask;
  for (; cells_[at].index != link::none; at = (at + 1) & mask) {
    const Name& name = names_[cells_[at].index];
    if (cells_[at].tag == std::uint32_t(hash >> 32) && name.library == library && name.view() == text)
      return cells_[at].index;
  }
  Name& name = names_.emplace_back();
  name.text = text.data();
  name.size = std::uint32_t(text.size());
  name.hash = plain;
  name.library = library;
  cells_[at] = {std::uint32_t(names_.size() - 1), std::uint32_t(hash >> 32)};
  return cells_[at].index;
}

void NameTable::grow() {
  base::Vector<Cell> grown = make_cells(std::max<std::size_t>(cells_.size() * 2, 16));
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

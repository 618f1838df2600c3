// Growing, filling and thinning the table of symbols.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/symbol_table.h"

#include "base/check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tenon::engine {

std::uint64_t hash_name(std::string_view name) noexcept { return XXH3_64bits(name.data(), name.size()); }

void SymbolTable::reserve(std::size_t more) {
  if ((used_ + more) * 4 <= cells_.size() * 3) return;
  std::size_t wanted = 16;
  while (wanted * 3 < (size_ + more) * 4 + wanted) // at most half full after growing
    wanted *= 2;
  std::vector<std::uint64_t> old(wanted, empty);
  old.swap(cells_);
  used_ = size_;
  std::size_t mask = wanted - 1;
  for (std::uint64_t cell : old) {
    if (cell == empty || cell == erased) continue;
    std::size_t at = pointer(cell)->hash & mask;
    while (cells_[at] != empty) at = (at + 1) & mask;
    cells_[at] = cell;
  }
}

void SymbolTable::insert(SymbolRecord* record) noexcept {
  TENON_CHECK(used_ < cells_.size(), "the symbol table is full");
  std::size_t mask = cells_.size() - 1, at = record->hash & mask;
  while (cells_[at] != empty && cells_[at] != erased) at = (at + 1) & mask;
  used_ += cells_[at] == empty ? 1 : 0;
  cells_[at] = reinterpret_cast<std::uint64_t>(record) | tag(record->hash) << tag_shift;
  ++size_;
}

void SymbolTable::erase(const SymbolRecord* record) noexcept {
  std::size_t mask = cells_.size() - 1;
  for (std::size_t at = record->hash & mask; cells_[at] != empty; at = (at + 1) & mask) {
    if (cells_[at] == erased || pointer(cells_[at]) != record) continue;
    // A cell that ends its run of used cells can be empty again, and so can erased ones before it.
    bool last = cells_[(at + 1) & mask] == empty;
    cells_[at] = last ? empty : erased;
    used_ -= last ? 1 : 0;
    for (std::size_t before = (at - 1) & mask; last && cells_[before] == erased; before = (before - 1) & mask) {
      cells_[before] = empty;
      --used_;
    }
    --size_;
    return;
  }
  TENON_CHECK(false, "erasing a symbol that is not in the table");
}

} // namespace tenon::engine

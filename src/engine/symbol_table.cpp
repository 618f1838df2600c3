// Growing, filling and thinning the table of symbols.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/symbol_table.h"

#include "base/check.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tenon::engine {

std::uint64_t hash_name(std::string_view name) noexcept { return XXH3_64bits(name.data(), name.size()); }

void SymbolTable::put(std::uint64_t cell, std::uint32_t hash) noexcept {
  std::size_t at = home(hash);
  while (cells_[at] != empty && cells_[at] != erased) at = next(at);
  used_ += cells_[at] == empty ? 1 : 0;
  cells_[at] = cell;
}

void SymbolTable::reserve(std::size_t more) {
  if ((used_ + more) * 4 <= cells_.size() * 3) return;
  // What comes at once is known to be all: three of four cells. What comes one by one finds half of them free.
  const std::size_t wanted = std::max({std::size_t(16), (size_ + more) * 4 / 3 + 1, size_ * 2});
  TENON_CHECK(wanted <= std::uint32_t(-1), "a table of more symbols than hashes");
  base::PageVector<std::uint64_t> old;
  old.reserve(wanted);
  base::touch_pages(old.data(), wanted * sizeof(std::uint64_t)); // all of it is written
  old.resize(wanted, empty);
  old.swap(cells_);
  used_ = 0;
  // Records are anywhere, and are asked for ahead.
  constexpr std::size_t ahead = 16;
  for (std::size_t i = 0; i < old.size(); ++i) {
    if (i + ahead < old.size()) __builtin_prefetch(pointer(old[i + ahead]));
    if (old[i] != empty && old[i] != erased) put(old[i], pointer(old[i])->hash());
  }
}

SymbolTable SymbolTable::packed() const {
  SymbolTable made;
  made.reserve(std::max<std::size_t>(size_ * 2, 1)); // an empty one has cells, too
  for_each([&](SymbolRecord& record) { made.insert(&record); });
  return made;
}

void SymbolTable::insert(SymbolRecord* record) noexcept {
  TENON_CHECK(used_ < cells_.size(), "the symbol table is full");
  put(reinterpret_cast<std::uint64_t>(record) | tag(record->hash()) << tag_shift, record->hash());
  ++size_;
}

void SymbolTable::erase(const SymbolRecord* record) noexcept {
  for (std::size_t at = home(record->hash()); cells_[at] != empty; at = next(at)) {
    if (cells_[at] == erased || pointer(cells_[at]) != record) continue;
    // A cell that ends its run of used cells can be empty again, and so can erased ones before it.
    const bool last = cells_[next(at)] == empty;
    cells_[at] = last ? empty : erased;
    used_ -= last ? 1 : 0;
    for (std::size_t i = before(at); last && cells_[i] == erased; i = before(i)) {
      cells_[i] = empty;
      --used_;
    }
    --size_;
    return;
  }
  TENON_CHECK(false, "erasing a symbol that is not in the table");
}

} // namespace tenon::engine

// A library's symbols by name: open addressing over tagged pointers to records, which hold their names inline. A look-up
// costs two dependent cache misses, one for the cell and one for the record.
//
// Owner: LibraryState. Lock: EngineState::tables, shared for find, exclusive for everything else. Records belong to the
// module (or library) that made them; the table only points.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/pages.h"
#include "base/prefetch.h"
#include "engine/symbol_record.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace tenon::engine {

std::uint64_t hash_name(std::string_view name) noexcept;

class SymbolTable {
public:
  SymbolRecord* find(std::string_view name, std::uint64_t hash) const noexcept {
    if (cells_.empty()) return nullptr;
    const auto wanted = std::uint32_t(hash);
    for (std::size_t at = home(wanted);; at = next(at)) {
      std::uint64_t cell = cells_[at];
      if (cell == empty) return nullptr;
      if (cell != erased && cell >> tag_shift == tag(wanted)) {
        SymbolRecord* record = pointer(cell);
        if (record->hash() == wanted && record->is_named(name)) return record;
      }
    }
  }

  void prefetch(std::uint64_t hash) const noexcept {
    if (!cells_.empty()) base::prefetch_to_write(&cells_[home(std::uint32_t(hash))]);
  }

  // Makes room for `more` records. May throw std::bad_alloc, and then nothing has changed.
  void reserve(std::size_t more);
  // Room must be there.
  void insert(SymbolRecord* record) noexcept;
  void erase(const SymbolRecord* record) noexcept;
  // By far the most cells of a large table are unused.
  bool is_sparse() const noexcept { return cells_.size() > 8192 && size_ * 32 < cells_.size(); }
  // The same records in a table that fits them. May throw std::bad_alloc.
  SymbolTable packed() const;
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return cells_.size() * sizeof(std::uint64_t); }

  template <class Visit> void for_each(Visit&& visit) const {
    for (std::uint64_t cell : cells_)
      if (cell != empty && cell != erased) visit(*pointer(cell));
  }

private:
  static constexpr std::uint64_t empty = 0, erased = 1;
  static constexpr unsigned tag_shift = 48; // user-space pointers have 47 bits
  // A cell is chosen by the hash's upper bits, so that a table may have any size; its tag are the lower ones.
  std::size_t home(std::uint32_t hash) const noexcept { return std::size_t(std::uint64_t(hash) * cells_.size() >> 32); }
  std::size_t next(std::size_t at) const noexcept { return at + 1 != cells_.size() ? at + 1 : 0; }
  std::size_t before(std::size_t at) const noexcept { return (at != 0 ? at : cells_.size()) - 1; }
  static std::uint64_t tag(std::uint32_t hash) noexcept { return hash & 0xFFFF; }
  static SymbolRecord* pointer(std::uint64_t cell) noexcept {
    return reinterpret_cast<SymbolRecord*>(cell & ((std::uint64_t(1) << tag_shift) - 1));
  }
  void put(std::uint64_t cell, std::uint32_t hash) noexcept;

  base::PageVector<std::uint64_t> cells_;
  std::size_t size_ = 0;
  std::size_t used_ = 0; // cells that are not empty
};

} // namespace tenon::engine

// A library's symbols by name: open addressing over tagged pointers to records, which hold their names inline. A look-up
// costs two dependent cache misses, one for the cell and one for the record.
//
// Owner: LibraryState. Lock: EngineState::tables, shared for find, exclusive for everything else. Records belong to the
// module (or library) that made them; the table only points.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

namespace tenon::engine {

struct ModuleState;
struct Definition;

namespace symbol_flag {
inline constexpr std::uint16_t hidden = 1, weak = 2, tls = 4, data = 8, rebindable = 16, forward = 32, group = 64,
                               erased = 128, current = 256, // current: scratch of an exchange of versions
    collected = 512;                                        // of a library whose modules are collected
}

// A published symbol, or a COMDAT group by its signature. Variable length: the name follows, unless the symbol has that of
// its group, as nearly all symbols of C++ that are in one do.
struct SymbolRecord {
  std::uint64_t hash = 0;
  std::uint64_t address = 0;     // offset in the TLS block for thread-local ones; of groups: a hash of the content
  ModuleState* module = nullptr; // null: an absolute one
  SymbolRecord* group = nullptr; // the COMDAT group that the symbol belongs to
  std::uint32_t users = 0;       // groups: modules that carry or use it, removed ones not counted
  // Set when it is made, and read without a lock by who refers to it: not among the flags, which change.
  static constexpr std::size_t longest_name = (std::size_t(1) << 30) - 1;
  std::uint32_t name_size : 30 = 0;
  std::uint32_t shares_name : 1 = 0; // its name is that of its COMDAT group
  std::uint32_t has_slot : 1 = 0;    // a library's own record, which is reached through a slot
  std::uint16_t flags = 0;
  std::uint16_t size_high = 0;
  std::uint32_t size_low = 0;

  // Of what it stands for; no module is as large as 48 bits can tell.
  std::uint64_t size() const noexcept { return std::uint64_t(size_high) << 32 | size_low; }
  void set_size(std::uint64_t size) noexcept {
    size_high = std::uint16_t(size >> 32);
    size_low = std::uint32_t(size);
  }
  std::string_view name() const noexcept {
    const SymbolRecord* named = shares_name != 0 ? group : this;
    return {reinterpret_cast<const char*>(named + 1), name_size};
  }
  // Of a replaceable module's.
  Definition* definition() const noexcept { return has_slot == 0 ? reinterpret_cast<Definition*>(either_) : nullptr; }
  void set_definition(Definition* definition) noexcept { either_ = reinterpret_cast<std::uint64_t>(definition); }
  // The address of its slot, or 0.
  std::uint64_t slot() const noexcept { return has_slot != 0 ? either_ : 0; }
  void set_slot(std::uint64_t slot) noexcept {
    has_slot = 1;
    either_ = slot;
  }
  // Of all that belongs to it, but for a forward symbol's trap.
  std::size_t bytes() const noexcept { return shares_name != 0 ? sizeof(SymbolRecord) : bytes(name_size); }
  // Of a forward symbol's record only, behind its name: what its slot leads to while nothing defines it.
  std::uint64_t& trap() noexcept {
    return *reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::byte*>(this) + bytes(name_size));
  }
  static std::size_t bytes(std::size_t name_size) noexcept {
    return (sizeof(SymbolRecord) + name_size + 1 + 7) & ~std::size_t(7);
  }
  // For one that is about to be made. Throws std::bad_alloc if the name is out of all proportion.
  static std::size_t bytes_for(std::size_t name_size) {
    if (name_size > longest_name) throw std::bad_alloc();
    return bytes(name_size);
  }
  static SymbolRecord* make(std::byte* at, std::string_view name, std::uint64_t hash) noexcept {
    auto* record = new (at) SymbolRecord;
    record->hash = hash;
    record->name_size = std::uint32_t(name.size() & longest_name);
    char* text = reinterpret_cast<char*>(record + 1);
    std::memcpy(text, name.data(), name.size());
    text[name.size()] = 0;
    return record;
  }
  // With the name of its group.
  static SymbolRecord* make_sharing(std::byte* at, SymbolRecord& group) noexcept {
    auto* record = new (at) SymbolRecord;
    record->hash = group.hash;
    record->name_size = group.name_size;
    record->group = &group;
    record->shares_name = 1;
    return record;
  }

private:
  std::uint64_t either_ = 0; // a definition or the address of a slot
};

std::uint64_t hash_name(std::string_view name) noexcept;

class SymbolTable {
public:
  SymbolRecord* find(std::string_view name, std::uint64_t hash) const noexcept {
    if (cells_.empty()) return nullptr;
    std::size_t mask = cells_.size() - 1;
    for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
      std::uint64_t cell = cells_[at];
      if (cell == empty) return nullptr;
      if (cell != erased && cell >> tag_shift == tag(hash)) {
        SymbolRecord* record = pointer(cell);
        if (record->hash == hash && record->name() == name) return record;
      }
    }
  }

  // Makes room for `more` records. May throw std::bad_alloc, and then nothing has changed.
  void reserve(std::size_t more);
  // Room must be there.
  void insert(SymbolRecord* record) noexcept;
  void erase(const SymbolRecord* record) noexcept;
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return cells_.size() * sizeof(std::uint64_t); }

  template <class Visit> void for_each(Visit&& visit) const {
    for (std::uint64_t cell : cells_)
      if (cell != empty && cell != erased) visit(*pointer(cell));
  }

private:
  static constexpr std::uint64_t empty = 0, erased = 1;
  static constexpr unsigned tag_shift = 48; // user-space pointers have 47 bits
  static std::uint64_t tag(std::uint64_t hash) noexcept { return hash >> tag_shift; }
  static SymbolRecord* pointer(std::uint64_t cell) noexcept {
    return reinterpret_cast<SymbolRecord*>(cell & ((std::uint64_t(1) << tag_shift) - 1));
  }

  std::vector<std::uint64_t> cells_; // a power of two, or none
  std::size_t size_ = 0;
  std::size_t used_ = 0; // cells that are not empty
};

} // namespace tenon::engine

// The names of one change: every global symbol and COMDAT signature of its modules, each once, with what it was resolved to.
//
// A name belongs to the library of the module that uses it: the same text in two libraries is two names. Texts are the
// objects' own or of the change's edits; they live as long as the change. Owner: ChangeState, one thread.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/prefetch.h"
#include "engine/symbol_table.h"
#include "link/module.h"

#include <string_view>
#include <vector>

namespace tenon::engine {

enum class Strength : std::uint8_t { none, common, weak, unique, strong };

// One cache line.
struct alignas(64) Name {
  const char* text = nullptr;
  std::uint64_t hash = 0;
  std::uint64_t address = 0;      // resolved outside of the change
  SymbolRecord* record = nullptr; // resolved to a published symbol
  std::uint32_t size = 0;
  std::uint32_t library = 0;         // index into ChangeState::libraries
  std::uint32_t module = link::none; // the definition, if it is in this change
  std::uint32_t symbol = 0;
  std::uint32_t group = link::none; // as a COMDAT signature: the module of this change that provides it
  std::uint32_t extra = link::none; // index into ChangeState::extras, for common and TLS symbols of the host
  link::TargetKind kind = link::TargetKind::missing; // if not defined here
  std::uint8_t flags = 0;                            // target_flag
  std::uint8_t thunk = 0;
  Strength strength = Strength::none;
  bool needed : 1 = false;    // by a reference that is not weak
  bool mentioned : 1 = false; // by any reference
  bool called : 1 = false;
  bool hidden : 1 = false;
  bool forward : 1 = false;        // may be missing
  bool forward_record : 1 = false; // `record` was a forward reference when the change was drafted
  bool absolute : 1 = false;       // the definition is a number, not a place
  std::uint8_t definition = 0;     // target_flag of the definition: asked for by everybody who refers to it

  std::string_view view() const noexcept { return {text, size}; }
};

static_assert(sizeof(Name) == 64);

// What prepare_states() makes of a name.
struct NameRecords {
  SymbolRecord* symbol = nullptr;
  SymbolRecord* group = nullptr;
  std::uint32_t within = link::none; // the COMDAT group that `symbol` lies in, by its name
  std::uint32_t mark = 0;            // scratch
};

struct NameExtra {
  std::uint64_t common_size = 0;
  std::uint64_t common_alignment = 1;
  std::uint64_t tls_key = 0;
  std::int64_t tls_static_offset = 0;
  std::string_view tls_owner;
};

class NameTable {
public:
  explicit NameTable(std::size_t expected);

  // The index of the name, added if it is new. May throw std::bad_alloc.
  std::uint32_t intern(std::string_view text, std::uint32_t library) { return intern(text, library, hash_name(text)); }
  std::uint32_t intern(std::string_view text, std::uint32_t library, std::uint64_t hash); // the text's
  std::uint32_t find(std::string_view text, std::uint32_t library) const noexcept;        // link::none: not there

  std::uint32_t index_of(const Name& name) const noexcept { return std::uint32_t(&name - names_.data()); }
  Name& operator[](std::uint32_t index) noexcept { return names_[index]; }
  const Name& operator[](std::uint32_t index) const noexcept { return names_[index]; }
  std::uint32_t size() const noexcept { return std::uint32_t(names_.size()); }

  // Asks for a name's memory ahead of its use: the table of a large change does not fit the caches.
  bool is_large() const noexcept { return cells_.size() > 4096; }
  bool is_small() const noexcept { return cells_.empty(); }
  void prefetch(std::uint32_t index) const noexcept {
    if (index < names_.size()) base::prefetch(&names_[index]);
  }

  // The same for names that will be interned soon, in three steps, each of which needs what the one before has asked for:
  // the cell, the name that it leads to, its text. Not of a small table.
  void prefetch_cell(std::uint64_t hash, std::uint32_t library) const noexcept {
    base::prefetch(&cells_[mixed(hash, library) & (cells_.size() - 1)]);
  }
  void prefetch_name(std::uint64_t hash, std::uint32_t library) const noexcept {
    const Cell& cell = cells_[mixed(hash, library) & (cells_.size() - 1)];
    if (cell.index != link::none) base::prefetch(&names_[cell.index]);
  }
  void prefetch_text(std::uint64_t hash, std::uint32_t library) const noexcept {
    const std::uint64_t wanted = mixed(hash, library);
    const Cell& cell = cells_[wanted & (cells_.size() - 1)];
    if (cell.index != link::none && cell.tag == std::uint32_t(wanted >> 32)) base::prefetch(names_[cell.index].text);
  }

private:
  // The library's own hash stays unchanged: it is what published tables are probed with.
  static std::uint64_t mixed(std::uint64_t hash, std::uint32_t library) noexcept {
    return hash ^ (std::uint64_t(library) * 0x9E3779B97F4A7C15ULL);
  }

  struct Cell {
    std::uint32_t index; // link::none: there is no name
    std::uint32_t tag;
  };
  static base::Vector<Cell> make_cells(std::size_t count) { return base::Vector<Cell>(count, Cell{link::none, link::none}); }
  std::size_t cell_of(std::string_view text, std::uint32_t library, std::uint64_t hash) const noexcept;
  std::uint32_t find_among_few(std::string_view text, std::uint32_t library, std::uint64_t plain) const noexcept;
  std::uint32_t add(std::string_view text, std::uint32_t library, std::uint64_t plain);
  void grow();

  static constexpr std::size_t few = 8; // names that are compared one after the other: tiny modules have no more
  base::Vector<Name> names_;
  base::Vector<Cell> cells_; // none while there are few names
};

} // namespace tenon::engine

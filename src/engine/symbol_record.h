// What is published of a symbol, or of a COMDAT group by its signature: as small as it can be, since a large module has more
// bytes of these than of anything else that is kept of it.
//
// 32 bytes, then the name, unless the symbol has that of its group, as nearly all symbols of C++ that are in one do.
// Pointers and addresses take 48 bits, as many as user space has; the group is a distance, since its record lies in the same
// chunk, before those of its symbols. What that has no room for - a definition that may be replaced, a slot, an absolute
// value of 64 bits, a group in another chunk - a wide record has three more words for.
//
// Owner: the module's chunk of records, or the library's own ones. Lock: EngineState::commit_mutex and tables to change it,
// either to read it. Without a lock only the name may be read, and what is set when the record is made: these are memory
// locations of their own.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/check.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>

namespace tenon::engine {

struct ModuleState;
struct Definition;

namespace symbol_flag {
inline constexpr std::uint16_t hidden = 1, weak = 2, tls = 4, data = 8, rebindable = 16, forward = 32, group = 64,
                               erased = 128, current = 256, // current: scratch of an exchange of versions
    collected = 512;                                        // of a library whose modules are collected
}

class SymbolRecord;

// What a record says, apart from whose it is.
struct RecordContent {
  std::uint64_t address = 0; // offset in the TLS block for thread-local ones; of groups: a hash of the content
  std::uint64_t size = 0;
  SymbolRecord* group = nullptr;    // the COMDAT group that the symbol belongs to
  Definition* definition = nullptr; // of a replaceable module's
  std::uint16_t flags = 0;
};

class SymbolRecord {
public:
  enum class Form : std::uint8_t { narrow, wide };
  static constexpr std::size_t longest_name = (std::size_t(1) << 28) - 1;

  // Whether a narrow record can say it; no module is as large as 48 bits can tell.
  static bool is_narrow(std::uint64_t address) noexcept { return address >> 48 == 0; }

  // In memory for bytes(), aligned to 8. `group`: of a COMDAT group, not of a symbol.
  static SymbolRecord* make(std::byte* at, std::string_view name, std::uint64_t hash, Form form,
                            bool group = false) noexcept {
    auto* record = new (at) SymbolRecord(hash, name.size(), form);
    record->is_group_ = group ? 1 : 0;
    char* text = const_cast<char*>(record->text());
    std::memcpy(text, name.data(), name.size());
    text[name.size()] = 0;
    return record;
  }
  // A narrow one with the name of its group.
  static SymbolRecord* make_sharing(std::byte* at, SymbolRecord& group) noexcept {
    auto* record = new (at) SymbolRecord(group.hash_, group.name_size_, Form::narrow);
    record->shares_name_ = 1;
    record->set_group(&group);
    return record;
  }
  void set(const RecordContent& content) noexcept {
    set_address(content.address);
    set_size(content.size);
    if (shares_name_ == 0 && is_group_ == 0) set_group(content.group);
    if (is_wide() && !has_slot_) wide().either = reinterpret_cast<std::uint64_t>(content.definition);
    flags = content.flags;
  }

  // Of all that belongs to it, but for a forward symbol's trap.
  std::size_t bytes() const noexcept {
    return shares_name_ != 0 ? bytes_sharing() : bytes(name_size_, is_wide() ? Form::wide : Form::narrow);
  }
  static std::size_t bytes(std::size_t name_size, Form form) noexcept {
    return (sizeof(SymbolRecord) + (form == Form::wide ? wide_bytes : 0) + name_size + 1 + 7) & ~std::size_t(7);
  }
  static constexpr std::size_t wide_bytes = 24; // more than a narrow one has
  static std::size_t bytes_sharing() noexcept { return sizeof(SymbolRecord); }
  // For one that is about to be made. Throws std::bad_alloc if the name is out of all proportion.
  static std::size_t bytes_for(std::size_t name_size, Form form) {
    if (name_size > longest_name) throw std::bad_alloc();
    return bytes(name_size, form);
  }

  std::string_view name() const noexcept {
    const SymbolRecord* named = shares_name_ != 0 ? group() : this;
    return {named->text(), name_size_};
  }
  // Look-ups end here, mostly with a name of one or two words: a call of memcmp's would cost as much as the rest of them.
  bool is_named(std::string_view text) const noexcept {
    if (text.size() != name_size_) return false;
    const SymbolRecord* named = shares_name_ != 0 ? group() : this;
    const char *a = text.data(), *b = named->text();
    const std::size_t size = name_size_;
    if (size < 8) {
      std::uint64_t differs = 0;
      for (std::size_t i = 0; i < size; ++i) differs |= static_cast<unsigned char>(a[i] ^ b[i]);
      return differs == 0;
    }
    if (size > 32) return std::memcmp(a, b, size) == 0;
    const auto word = [](const char* at) {
      std::uint64_t value = 0;
      std::memcpy(&value, at, sizeof value);
      return value;
    };
    for (std::size_t i = 0; i + 8 < size; i += 8)
      if (word(a + i) != word(b + i)) return false;
    return word(a + size - 8) == word(b + size - 8); // may overlap the word before
  }
  // Enough of hash_name(name()) for a table's cells; the rest stands in the cell.
  std::uint32_t hash() const noexcept { return hash_; }

  std::uint64_t address() const noexcept {
    return is_wide() ? wide().address : std::uint64_t(address_high_) << 32 | address_low_;
  }
  void set_address(std::uint64_t address) noexcept {
    if (is_wide()) {
      wide().address = address;
      return;
    }
    TENON_CHECK(is_narrow(address), "a narrow record of a wide address");
    address_low_ = std::uint32_t(address);
    address_high_ = std::uint16_t(address >> 32);
  }
  // Of what it stands for.
  std::uint64_t size() const noexcept { return std::uint64_t(size_high_) << 32 | size_low_; }
  void set_size(std::uint64_t size) noexcept {
    size_low_ = std::uint32_t(size);
    size_high_ = std::uint16_t(size >> 32);
  }
  // Null: an absolute one.
  ModuleState* module() const noexcept {
    return reinterpret_cast<ModuleState*>(std::uint64_t(module_high_) << 32 | module_low_);
  }
  void set_module(ModuleState* module) noexcept {
    const auto word = reinterpret_cast<std::uint64_t>(module);
    module_low_ = std::uint32_t(word);
    module_high_ = std::uint16_t(word >> 32);
  }
  // The COMDAT group that the symbol belongs to. Flags are not asked: they change while changes read this without a lock.
  SymbolRecord* group() const noexcept {
    if (is_wide()) return wide().group;
    if (is_group_ != 0 || users_or_group_ == 0) return nullptr;
    return reinterpret_cast<SymbolRecord*>(reinterpret_cast<std::uint64_t>(this) - std::uint64_t(users_or_group_) * 8);
  }
  // Groups only: modules that carry or use it, removed ones not counted.
  std::uint32_t& users() noexcept { return users_or_group_; }
  std::uint32_t users() const noexcept { return users_or_group_; }
  // Of a replaceable module's.
  Definition* definition() const noexcept {
    return is_wide() && has_slot_ == 0 ? reinterpret_cast<Definition*>(wide().either) : nullptr;
  }
  // A library's own record that is reached through a slot: its address, or 0.
  std::uint64_t slot() const noexcept { return has_slot_ != 0 ? wide().either : 0; }
  // Before it is published.
  void set_slot(std::uint64_t slot) noexcept {
    TENON_CHECK(is_wide(), "a narrow record has no slot");
    has_slot_ = 1;
    wide().either = slot;
  }
  // Of a forward symbol's record only, behind its name: what its slot leads to while nothing defines it.
  std::uint64_t& trap() noexcept { return *reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::byte*>(this) + bytes()); }

private:
  struct Wide {
    std::uint64_t either = 0; // a definition or the address of a slot
    std::uint64_t address = 0;
    SymbolRecord* group = nullptr;
  };
  static_assert(sizeof(Wide) == wide_bytes);

  SymbolRecord(std::uint64_t hash, std::size_t name_size, Form form) noexcept
      : hash_(std::uint32_t(hash)), name_size_(std::uint32_t(name_size & longest_name)), is_group_(0), shares_name_(0),
        has_slot_(0), is_wide_(form == Form::wide ? 1 : 0) {
    if (is_wide()) new (this + 1) Wide;
  }

  bool is_wide() const noexcept { return is_wide_ != 0; }
  Wide& wide() noexcept { return *reinterpret_cast<Wide*>(this + 1); }
  const Wide& wide() const noexcept { return *reinterpret_cast<const Wide*>(this + 1); }
  const char* text() const noexcept { return reinterpret_cast<const char*>(this + 1) + (is_wide() ? sizeof(Wide) : 0); }
  void set_group(SymbolRecord* group) noexcept {
    if (is_wide()) {
      wide().group = group;
      return;
    }
    const std::uint64_t distance =
        group != nullptr ? reinterpret_cast<std::uint64_t>(this) - reinterpret_cast<std::uint64_t>(group) : 0;
    users_or_group_ = std::uint32_t(distance / 8);
    TENON_CHECK(std::uint64_t(users_or_group_) * 8 == distance, "a COMDAT group's record is not before its symbol's");
  }

  std::uint32_t hash_;
  std::uint32_t name_size_ : 28;
  std::uint32_t is_group_ : 1;
  std::uint32_t shares_name_ : 1; // its name is that of its COMDAT group
  std::uint32_t has_slot_ : 1;
  std::uint32_t is_wide_ : 1;
  std::uint32_t users_or_group_ = 0; // of a group; else how many words before this its group is, or 0
  std::uint32_t address_low_ = 0, module_low_ = 0, size_low_ = 0;
  std::uint16_t address_high_ = 0, module_high_ = 0, size_high_ = 0;

public:
  std::uint16_t flags = 0;
};
static_assert(sizeof(SymbolRecord) == 32 && alignof(SymbolRecord) <= 8);

} // namespace tenon::engine

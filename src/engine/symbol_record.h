// What is published of a symbol, or of a COMDAT group by its signature: as small as it can be, since a large module has more
// bytes of these than of anything else that is kept of it.
//
// 24 bytes, then the name behind its length, unless the symbol has that of its group, as nearly all symbols of C++ that are
// in one do. Addresses take 48 bits, as many as user space has; the group is a distance, since its record lies in the same
// chunk, before those of its symbols; the module stands once for all at the begin of their chunk. What that has no room for
// - a definition that may be replaced, a slot, a value or size of 64 bits, a group in another chunk, a module that changes -
// a wide record has four more words for.
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

  // Whether a narrow record can say it.
  static bool is_narrow(std::uint64_t address, std::uint64_t size) noexcept { return address >> 48 == 0 && size >> 32 == 0; }

  // Records of a module lie behind that many bytes, which say whose they are.
  static constexpr std::size_t chunk_head = 8, longest_chunk = std::size_t(1) << 31;
  static std::byte* begin_chunk(std::byte* chunk, ModuleState* module) noexcept {
    new (chunk) ModuleState*(module);
    return chunk + chunk_head;
  }
  // In memory for bytes(), aligned to 8. `chunk`: of a module's; null: a narrow one has none. `group`: of a COMDAT group.
  static SymbolRecord* make(std::byte* at, std::string_view name, std::uint64_t hash, Form form,
                            const std::byte* chunk = nullptr, bool group = false) noexcept {
    auto* record = new (at) SymbolRecord(hash, form, chunk);
    record->is_group_ = group ? 1 : 0;
    std::uint8_t* text = record->tail();
    if (name.size() < long_name) {
      *text++ = std::uint8_t(name.size());
    } else {
      *text++ = long_name;
      const auto size = std::uint32_t(name.size());
      std::memcpy(text, &size, sizeof size);
      text += sizeof size;
    }
    std::memcpy(text, name.data(), name.size());
    text[name.size()] = 0;
    return record;
  }
  // A narrow one with the name of its group.
  static SymbolRecord* make_sharing(std::byte* at, SymbolRecord& group, const std::byte* chunk) noexcept {
    auto* record = new (at) SymbolRecord(group.hash_, Form::narrow, chunk);
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
    return shares_name_ != 0 ? bytes_sharing() : bytes(own_name().size(), is_wide() ? Form::wide : Form::narrow);
  }
  static std::size_t bytes(std::size_t name_size, Form form) noexcept {
    const std::size_t text = (name_size < long_name ? 1 : 5) + name_size + 1;
    return (sizeof(SymbolRecord) + (form == Form::wide ? wide_bytes : 0) + text + 7) & ~std::size_t(7);
  }
  static constexpr std::size_t wide_bytes = 32; // more than a narrow one has
  static std::size_t bytes_sharing() noexcept { return sizeof(SymbolRecord); }
  // For one that is about to be made. Throws std::bad_alloc if the name is out of all proportion.
  static std::size_t bytes_for(std::size_t name_size, Form form) {
    if (name_size > longest_name) throw std::bad_alloc();
    return bytes(name_size, form);
  }

  std::string_view name() const noexcept {
    const SymbolRecord* const named = shares_name_ != 0 ? group_before() : this;
    return named->own_name();
  }
  // Look-ups end here, mostly with a name of one or two words: a call of memcmp's would cost as much as the rest of them.
  bool is_named(std::string_view text) const noexcept {
    const std::string_view own = name();
    const char *a = text.data(), *b = own.data();
    const std::size_t size = own.size();
    if (text.size() != size) return false;
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
    TENON_CHECK(is_narrow(address, 0), "a narrow record of a wide address");
    address_low_ = std::uint32_t(address);
    address_high_ = std::uint16_t(address >> 32);
  }
  // Of what it stands for.
  std::uint64_t size() const noexcept { return is_wide() ? std::uint64_t(address_low_) << 32 | size_low_ : size_low_; }
  void set_size(std::uint64_t size) noexcept {
    TENON_CHECK(is_wide() || is_narrow(0, size), "a narrow record of a wide size");
    size_low_ = std::uint32_t(size);
    if (is_wide()) address_low_ = std::uint32_t(size >> 32);
  }
  // Null: an absolute one.
  ModuleState* module() const noexcept {
    if (is_wide()) return wide().module;
    return chunk_words_ != 0 ? *reinterpret_cast<ModuleState* const*>(before(chunk_words_)) : nullptr;
  }
  // Of one that is in no module's chunk.
  void set_module(ModuleState* module) noexcept {
    TENON_CHECK(is_wide(), "a narrow record's module does not change");
    wide().module = module;
  }
  // The COMDAT group that the symbol belongs to. Flags are not asked: they change while changes read this without a lock.
  SymbolRecord* group() const noexcept {
    if (is_wide()) return wide().group;
    if (is_group_ != 0 || users_or_group_ == 0) return nullptr;
    return group_before();
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
    ModuleState* module = nullptr;
  };
  static_assert(sizeof(Wide) == wide_bytes);
  static constexpr std::uint8_t long_name = 255; // its length stands in the four bytes behind this

  SymbolRecord(std::uint64_t hash, Form form, const std::byte* chunk) noexcept
      : hash_(std::uint32_t(hash)), chunk_words_(chunk != nullptr ? words_from(chunk) & most_words : 0), is_group_(0),
        shares_name_(0), has_slot_(0), is_wide_(form == Form::wide ? 1 : 0) {
    if (!is_wide()) return;
    new (this + 1) Wide;
    if (chunk != nullptr) wide().module = *reinterpret_cast<ModuleState* const*>(chunk);
  }

  static constexpr std::uint32_t most_words = longest_chunk / 8 - 1;
  std::uint32_t words_from(const std::byte* chunk) const noexcept {
    return std::uint32_t(std::size_t(reinterpret_cast<const std::byte*>(this) - chunk) / 8);
  }
  std::uint64_t before(std::uint32_t words) const noexcept {
    return reinterpret_cast<std::uint64_t>(this) - std::uint64_t(words) * 8;
  }
  SymbolRecord* group_before() const noexcept { return reinterpret_cast<SymbolRecord*>(before(users_or_group_)); }

  bool is_wide() const noexcept { return is_wide_ != 0; }
  Wide& wide() noexcept { return *reinterpret_cast<Wide*>(this + 1); }
  const Wide& wide() const noexcept { return *reinterpret_cast<const Wide*>(this + 1); }
  const std::uint8_t* tail() const noexcept {
    return reinterpret_cast<const std::uint8_t*>(this + 1) + (is_wide() ? sizeof(Wide) : 0);
  }
  std::uint8_t* tail() noexcept { return reinterpret_cast<std::uint8_t*>(this + 1) + (is_wide() ? sizeof(Wide) : 0); }
  std::string_view own_name() const noexcept {
    const std::uint8_t* const text = tail();
    if (*text == long_name) return text_of_long(text + 1);
    return {reinterpret_cast<const char*>(text + 1), *text};
  }
  // Apart, so that looking a name up is small enough to be inlined.
  __attribute__((noinline, cold)) static std::string_view text_of_long(const std::uint8_t* at) noexcept {
    std::uint32_t size = 0;
    std::memcpy(&size, at, sizeof size);
    return {reinterpret_cast<const char*>(at + sizeof size), size};
  }
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
  std::uint32_t chunk_words_ : 28; // how many words before this its module's chunk begins; 0: in none
  std::uint32_t is_group_ : 1;
  std::uint32_t shares_name_ : 1; // its name is that of its COMDAT group
  std::uint32_t has_slot_ : 1;
  std::uint32_t is_wide_ : 1;
  std::uint32_t users_or_group_ = 0;             // of a group; else how many words before this its group is, or 0
  std::uint32_t address_low_ = 0, size_low_ = 0; // a wide one's address is elsewhere: the rest of its size
  std::uint16_t address_high_ = 0;

public:
  std::uint16_t flags = 0;
};
static_assert(sizeof(SymbolRecord) == 24 && alignof(SymbolRecord) <= 8);

} // namespace tenon::engine

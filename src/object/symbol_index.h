// From the names that an archive's members define to the members: one flat hash table over names that live elsewhere.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace tenon::object {

// Open addressing with linear probing, built once and never changed. A name's first entry wins, as with ar and the linkers.
class SymbolIndex {
public:
  void reserve(std::size_t count) { entries_.reserve(count); }
  void add(std::string_view name, std::uint32_t member) { entries_.push_back({name, member}); }

  void build() {
    std::size_t size = 16;
    while (size < entries_.size() * 2) size *= 2;
    slots_.assign(size, none);
    for (std::uint32_t entry = 0; entry < entries_.size(); ++entry) {
      std::uint32_t& slot = slots_[probe(entries_[entry].name)];
      if (slot == none) slot = entry;
    }
  }

  std::optional<std::size_t> find(std::string_view name) const noexcept {
    if (slots_.empty()) return std::nullopt;
    const std::uint32_t entry = slots_[probe(name)];
    return entry == none ? std::nullopt : std::optional<std::size_t>(entries_[entry].member);
  }

  std::size_t size() const noexcept { return entries_.size(); }

private:
  static constexpr std::uint32_t none = 0xFFFFFFFF;
  struct Entry {
    std::string_view name;
    std::uint32_t member;
  };

  // The slot that holds `name`, or the empty one where it belongs.
  std::size_t probe(std::string_view name) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = std::hash<std::string_view>()(name) & mask;
    while (slots_[at] != none && entries_[slots_[at]].name != name) at = (at + 1) & mask;
    return at;
  }

  std::vector<Entry> entries_;
  std::vector<std::uint32_t> slots_;
};

} // namespace tenon::object

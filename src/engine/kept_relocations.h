// What the linker keeps of a module's relocations: the program's reference graph, at 8 bytes an edge.
//
// One word for each relocation of an allocated section, in the order of sections and of the object's tables:
//
//     bits 0..23 offset in the section | 24..29 type | 30..47 symbol | 48..63 addend, signed
//
// Where a number does not fit its field, the word's addend is `escape`, and the full relocation stands in a side table, in
// order. The bytes that a relocation replaced need not be kept: fields of RELA relocations hold nothing of their own, and
// relaxed instructions (GOTPCRELX) and thunked ones can be told back from what they became, their type and their addend. No
// names are kept: a symbol is its index in the object, and what that was bound to is kept beside the words
// (ModuleState::bindings, with final addresses), so that the object can go.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"

#include <vector>

namespace tenon::engine {

class KeptRelocations {
public:
  struct SectionRange {
    std::uint32_t section;
    std::uint32_t first; // index into the words
  };

  // May throw std::bad_alloc.
  static KeptRelocations of(const link::Module& module);

  // Calls visit(section, Relocation).
  template <class Visit> void for_each(Visit&& visit) const {
    std::size_t wide = 0;
    for (std::size_t s = 0; s < sections_.size(); ++s) {
      std::size_t end = s + 1 < sections_.size() ? sections_[s + 1].first : words_.size();
      for (std::size_t i = sections_[s].first; i < end; ++i)
        visit(sections_[s].section, is_wide(words_[i]) ? wide_[wide++] : unpack(words_[i]));
    }
  }

  std::size_t size() const noexcept { return words_.size(); }
  std::size_t bytes() const noexcept {
    return words_.capacity() * sizeof(words_[0]) + wide_.capacity() * sizeof(wide_[0]) +
           sections_.capacity() * sizeof(sections_[0]);
  }

private:
  static constexpr std::int64_t escape = -32768;
  static bool is_wide(std::uint64_t word) noexcept { return std::int64_t(word) >> 48 == escape; }
  static Relocation unpack(std::uint64_t word) noexcept {
    return {word & 0xFFFFFF, std::uint32_t(word >> 24 & 0x3F), std::uint32_t(word >> 30 & 0x3FFFF),
            std::int64_t(word) >> 48};
  }
  static bool fits(const Relocation& r) noexcept {
    return r.offset <= 0xFFFFFF && r.type <= 0x3F && r.symbol <= 0x3FFFF && r.addend > escape && r.addend <= 32767;
  }
  static std::uint64_t pack(const Relocation& r) noexcept {
    return r.offset | std::uint64_t(r.type) << 24 | std::uint64_t(r.symbol) << 30 | std::uint64_t(r.addend) << 48;
  }

  std::vector<SectionRange> sections_;
  std::vector<std::uint64_t> words_;
  std::vector<Relocation> wide_;
};

} // namespace tenon::engine

// What the linker keeps of a module's relocations: the program's reference graph, at 8 bytes an edge.
//
// One word for each relocation of an allocated section, in the order of sections and of the object's tables:
//
//     bits 0..23 offset in the section | 24..29 type | 30..47 symbol | 48..63 addend, signed
//
// Where a number does not fit its field, the word's addend is `escape`, and the full relocation stands in a side table, in
// order.
//
// The bytes that relocations replaced are known again from the words: fields of RELA relocations are zero in nearly all
// objects, and relaxed instructions (GOTPCRELX) can be told back from what they became (link::arch::restore). Where that is
// not so - a field that held something, an instruction that was led through a thunk - the linker has noticed when it wrote
// there (link::Module::rewritten). Such a section is taken back as a whole, compared with the object, and what differs is
// kept, so that restore() is exact by construction.
//
// No names are kept: a symbol is its index in the object. What that was bound to is kept by the module's state (`bindings`,
// with final addresses); which GOT entries, stubs and thunks belong to it is kept here. So the object can go, and relink.h
// links sections again.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/list.h"
#include "link/bound.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <vector>

namespace tenon::engine {

class KeptRelocations {
public:
  struct SectionRange {
    std::uint32_t section;
    std::uint32_t first;      // index into the words
    std::uint32_t first_wide; // into the side table
  };

  // Of a module whose bytes are final, and still where they were written. May throw std::bad_alloc.
  static KeptRelocations of(const link::Module& module);

  // Makes of a section's linked bytes what the object had. What else has changed in them since stays. `code`: its kind.
  void restore(std::uint32_t section, std::span<std::byte> bytes, bool code) const noexcept;
  // The same for the bytes that one of its relocations may have replaced.
  void restore(std::uint32_t section, std::span<std::byte> bytes, bool code, const Relocation& relocation) const noexcept;

  // Whether bytes of the section are kept: fields may overlap, and instructions be gone.
  bool keeps_bytes_of(std::uint32_t section) const noexcept;

  // What relocations need beside bindings: spans into this.
  void complete(link::Bound& bound) const noexcept;

  // Calls visit(Relocation) for those of one section.
  template <class Visit> void for_each_of(std::uint32_t section, Visit&& visit) const {
    auto found = std::lower_bound(sections_.begin(), sections_.end(), section,
                                  [](const SectionRange& range, std::uint32_t s) { return range.section < s; });
    if (found == sections_.end() || found->section != section) return;
    std::size_t end = std::next(found) != sections_.end() ? std::next(found)->first : words_.size();
    std::size_t wide = found->first_wide;
    for (std::size_t i = found->first; i < end; ++i) visit(is_wide(words_[i]) ? rare_[0].wide[wide++] : unpack(words_[i]));
  }
  // Calls visit(section, Relocation).
  template <class Visit> void for_each(Visit&& visit) const {
    std::size_t wide = 0;
    for (std::size_t s = 0; s < sections_.size(); ++s) {
      std::size_t end = s + 1 < sections_.size() ? sections_[s + 1].first : words_.size();
      for (std::size_t i = sections_[s].first; i < end; ++i)
        visit(sections_[s].section, is_wide(words_[i]) ? rare_[0].wide[wide++] : unpack(words_[i]));
    }
  }

  std::size_t size() const noexcept { return words_.size(); }
  std::size_t bytes() const noexcept {
    std::size_t bytes = sections_.bytes() + words_.bytes() + rare_.bytes();
    for (const Rare& rare : rare_)
      bytes +=
          rare.wide.bytes() + rare.replaced.bytes() + rare.entries.bytes() + rare.thunks.bytes() + rare.tls_bindings.bytes();
    return bytes;
  }

private:
  // A piece of the object that restore() can't know.
  struct Replaced {
    std::uint64_t offset;
    std::uint32_t section;
    std::uint8_t size;
    std::array<std::byte, 11> bytes;
  };
  // What a module without a GOT and stubs has nothing of.
  struct Rare {
    base::List<Relocation> wide;
    base::List<Replaced> replaced; // sorted by section and offset
    base::List<link::Entry> entries;
    base::List<link::Thunk> thunks;
    base::List<link::TlsBinding> tls_bindings; // without owners
    std::uint32_t tls_ld = link::none;
  };
  std::span<const Replaced> replaced() const noexcept {
    return rare_.empty() ? std::span<const Replaced>() : std::span<const Replaced>(rare_[0].replaced);
  }
  void keep_replaced(const link::Module& module, std::uint32_t section);
  void put_back(std::uint32_t section, std::span<std::byte> bytes, std::uint64_t begin, std::uint64_t end) const noexcept;

  static constexpr std::int64_t escape = -32768;
  static bool is_wide(std::uint64_t word) noexcept { return std::int64_t(word) >> 48 == escape; }
  static Relocation unpack(std::uint64_t word) noexcept {
    return {word & 0xFFFFFF, std::uint32_t(word >> 24 & 0x3F), std::uint32_t(word >> 30 & 0x3FFFF),
            std::int64_t(word) >> 48};
  }
  static bool fits(const Relocation& r) noexcept {
    const std::uint64_t large = r.offset >> 24 | std::uint64_t(r.type >> 6) | std::uint64_t(r.symbol >> 18);
    return large == 0 && std::uint64_t(r.addend) - std::uint64_t(escape + 1) < 65535; // -32767 ... 32767
  }
  static std::uint64_t pack(const Relocation& r) noexcept {
    return r.offset | std::uint64_t(r.type) << 24 | std::uint64_t(r.symbol) << 30 | std::uint64_t(r.addend) << 48;
  }

  base::List<SectionRange> sections_;
  base::List<std::uint64_t> words_;
  base::List<Rare> rare_; // one or none
};

} // namespace tenon::engine

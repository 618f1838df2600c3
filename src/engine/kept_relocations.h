// What the linker keeps of a module's relocations: the program's reference graph, at less than 5 bytes an edge.
//
// In words: how many sections and relocations there are, then a word for each section that has any, which says
// where its relocations begin in the bytes behind these words. Each relocation of an allocated section, in the order of the
// object's tables, is
//
//     head       0..2 type, one of the usual ones | 3..4 addend: -4, 0, 16 bits or 32 bits that follow | 5 bytes of offset
//                less one | 6..7 bytes of symbol: none (that of before), 1, 2 or 4
//     offset     distance to that of before in its section, which has gone up
//     [symbol]   distance to that of before in its section, signed
//     [addend]   signed
//
// and what does not fit is kept in full behind a head that says so. Lengths stand in the head, so that packing needs no
// branch that depends on a number.
//
// The bytes that relocations replaced are known again from the words: fields of RELA relocations are zero in nearly all
// objects, and relaxed instructions (GOTPCRELX) can be told back from what they became (link::arch::restore). Where that is
// not so - a field that held something, an instruction that was led through a thunk - the linker has noticed when it wrote
// there (link::Module::rewritten). Such a section is taken back as a whole, compared with the object, and what differs is
// kept, so that restore() is exact by construction.
//
// No names are kept: a symbol is its index in the object. What that was bound to is kept beside this (kept_linking.h, with
// final addresses); which GOT entries, stubs and thunks belong to it is kept here. So the object can go, and relink.h links
// sections again.
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

class Packing;

// What a module without a GOT and stubs has nothing of.
struct RareRelocations {
  // A piece of the object that restore() can't know.
  struct Replaced {
    std::uint64_t offset;
    std::uint32_t section;
    std::uint8_t size;
    std::array<std::byte, 11> bytes;
  };
  base::List<Replaced> replaced; // sorted by section and offset
  base::List<link::Entry> entries;
  base::List<link::Thunk> thunks;
  base::List<link::TlsBinding> tls_bindings; // without owners
  std::uint32_t tls_ld = link::none;

  std::size_t bytes() const noexcept {
    return sizeof *this + replaced.bytes() + entries.bytes() + thunks.bytes() + tls_bindings.bytes();
  }
};

// A view of KeptLinking.
class KeptRelocations {
public:
  KeptRelocations() = default;

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
    const std::span<const std::uint64_t> ranges = this->ranges();
    const auto found = std::lower_bound(ranges.begin(), ranges.end(), section,
                                        [](std::uint64_t range, std::uint32_t s) { return section_of(range) < s; });
    if (found != ranges.end() && section_of(*found) == section) read(std::size_t(found - ranges.begin()), visit);
  }
  // Calls visit(section, Relocation).
  template <class Visit> void for_each(Visit&& visit) const {
    const std::span<const std::uint64_t> ranges = this->ranges();
    for (std::size_t i = 0; i < ranges.size(); ++i) read(i, [&](const Relocation& r) { visit(section_of(ranges[i]), r); });
  }

  std::size_t size() const noexcept { return words_ == nullptr ? 0 : words_[0] >> 32; }
  std::size_t bytes() const noexcept {
    const std::span<const std::uint64_t> ranges = this->ranges();
    const std::size_t packed = words_ == nullptr ? 0 : 16 + ranges.size_bytes() + std::uint32_t(words_[1 + ranges.size()]);
    return packed + (rare_ != nullptr ? rare_->bytes() : 0);
  }

private:
  friend class KeptLinking;
  using Replaced = RareRelocations::Replaced;

  KeptRelocations(const std::uint64_t* words, const RareRelocations* rare) noexcept : words_(words), rare_(rare) {}
  std::span<const Replaced> replaced() const noexcept {
    return rare_ == nullptr ? std::span<const Replaced>() : std::span<const Replaced>(rare_->replaced);
  }
  static void pack(Packing& packing, const link::Module& module); // nothing if there are none; may throw std::bad_alloc
  static bool are_rare(const link::Module& module) noexcept;
  void keep(RareRelocations& rare, const link::Module& module) const; // `rare` is what this shows; may throw std::bad_alloc
  void keep_replaced(RareRelocations& rare, const link::Module& module, std::uint32_t section) const;
  void put_back(std::uint32_t section, std::span<std::byte> bytes, std::uint64_t begin, std::uint64_t end) const noexcept;

  // Of one section, in order.
  class Reader {
  public:
    explicit Reader(const std::uint8_t* at) noexcept : at_(at) {}
    const std::uint8_t* at() const noexcept { return at_; }
    Relocation next() noexcept;

  private:
    const std::uint8_t* at_;
    std::uint64_t offset_ = 0;
    std::uint32_t symbol_ = 0;
  };

  static std::uint32_t section_of(std::uint64_t range) noexcept { return std::uint32_t(range >> 32); }
  // Of each section that has relocations: its index, and where they begin among the bytes. One more says where they end.
  std::span<const std::uint64_t> ranges() const noexcept {
    return words_ == nullptr ? std::span<const std::uint64_t>() : std::span(words_ + 1, std::uint32_t(words_[0]));
  }
  template <class Visit> void read(std::size_t range, Visit&& visit) const {
    const std::uint64_t* first = words_ + 1 + range;
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(words_ + 2 + std::uint32_t(words_[0]));
    const std::uint8_t* end = bytes + std::uint32_t(first[1]);
    for (Reader reader(bytes + std::uint32_t(first[0])); reader.at() != end;) visit(reader.next());
  }

  const std::uint64_t* words_ = nullptr; // how many: sections, relocations above; ranges; bytes. Null: none
  const RareRelocations* rare_ = nullptr;
};

} // namespace tenon::engine

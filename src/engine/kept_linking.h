// Where a committed module's sections lie, what its symbols are bound to, and its relocations: what linking works with,
// packed for keeps in one piece of memory.
//
// Of link::SectionPlace a word is kept, and only of sections that take part. Of link::Target two or three bytes are kept
// where the symbol is the beginning of a section, as most are; five where it is near the module's own memory; else more. Of
// relocations: kept_relocations.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/list.h"
#include "engine/kept_relocations.h"
#include "link/module.h"

#include <cstdint>
#include <iterator>

namespace tenon::engine {

class Packing;

// What is packed is read by value. The view it is of may be gone, what that looks at may not.
template <class Kept> class KeptIterator {
public:
  using iterator_category = std::input_iterator_tag;
  using value_type = typename Kept::value_type;
  using difference_type = std::ptrdiff_t;
  using pointer = const value_type*;
  using reference = value_type;

  KeptIterator(const Kept& of, std::size_t at) noexcept : of_(of), at_(at) {}
  value_type operator*() const noexcept { return of_[at_]; }
  KeptIterator& operator++() noexcept {
    ++at_;
    return *this;
  }
  KeptIterator operator++(int) noexcept { return {of_, at_++}; }
  friend bool operator==(const KeptIterator& a, const KeptIterator& b) noexcept { return a.at_ == b.at_; } // of one view

private:
  Kept of_;
  std::size_t at_;
};

// By section, the linker's own ones last. Without SectionPlace::local and ::offset: they are of use only while it is linked.
// A view of KeptLinking.
class KeptPlaces {
public:
  using value_type = link::SectionPlace;

  KeptPlaces() = default;

  std::size_t size() const noexcept { return words_ == nullptr ? 0 : std::uint32_t(words_[0]); }
  link::SectionPlace operator[](std::size_t section) const noexcept;
  KeptIterator<KeptPlaces> begin() const noexcept { return {*this, 0}; }
  KeptIterator<KeptPlaces> end() const noexcept { return {*this, size()}; }

private:
  friend class KeptLinking;
  friend class KeptBindings;

  static std::size_t most_words(const link::Places& places) noexcept; // but for those that don't fit their entries
  static void pack(Packing& packing, const link::Places& places);     // may throw std::bad_alloc
  // A word for each 40 sections: a bit for each that is kept, above them how many are before.
  static constexpr std::size_t in_cell = 40, head = 2;
  static constexpr std::size_t cells(std::size_t sections) noexcept { return (sections + in_cell - 1) / in_cell; }
  explicit KeptPlaces(const std::uint64_t* words) noexcept : words_(words) {}
  std::uint64_t base() const noexcept { return words_[1]; }
  std::size_t entry_of(std::size_t section) const noexcept; // 0: not kept
  std::size_t entries() const noexcept { return words_[0] >> 32; }
  std::size_t traits_at() const noexcept { return head + cells(size()) + entries(); }
  std::size_t far_of(std::uint64_t entry) const noexcept; // of an entry that says where
  std::uint64_t address_of(std::size_t section) const noexcept;

  // How many sections, and above how many entries; an address that others are near; cells; an entry for each section that
  // is kept; what these have in common, three to a word, the first of which says how many; two words for each that does not
  // fit its entry.
  const std::uint64_t* words_ = nullptr;
};

// By symbol. Without Target::needs; Target::entry is only zero or not: KeptRelocations knows which. A symbol of a section of
// the module's own, other than by a stub, is kept as a distance in it: where the section is moved, it goes with it.
// A view of KeptLinking.
class KeptBindings {
public:
  using value_type = link::Target;

  KeptBindings() = default;

  std::size_t size() const noexcept;
  link::Target operator[](std::size_t symbol) const noexcept;

  // In order, without looking for each.
  class Iterator {
  public:
    using iterator_category = std::input_iterator_tag;
    using value_type = link::Target;
    using difference_type = std::ptrdiff_t;
    using pointer = const value_type*;
    using reference = value_type;

    link::Target operator*() const noexcept;
    Iterator& operator++() noexcept;
    Iterator operator++(int) noexcept {
      Iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) noexcept { return a.symbol_ == b.symbol_; } // of one view

  private:
    friend class KeptBindings;
    Iterator(KeptPlaces places, const std::uint8_t* at, std::size_t symbol) noexcept
        : places_(places), at_(at), symbol_(symbol) {}

    KeptPlaces places_;
    const std::uint8_t* at_;
    std::size_t symbol_;
    std::uint32_t where_ = 0; // of the one before in its cell
  };
  Iterator begin() const noexcept { return {places_, data(), 0}; }
  Iterator end() const noexcept { return {places_, nullptr, size()}; }

private:
  friend class KeptLinking;

  static constexpr std::size_t in_cell = 16, offset_bytes = 4;
  static std::size_t most_words(std::size_t symbols) noexcept;
  // `base`: of the places. May throw std::bad_alloc.
  static void pack(Packing& packing, const link::Module& module, std::uint64_t base);
  KeptBindings(KeptPlaces places, const std::uint64_t* words) noexcept
      : places_(places), bytes_(reinterpret_cast<const std::uint8_t*>(words)) {}
  // Of all cells but the first: where their bytes begin.
  static constexpr std::size_t offsets(std::size_t symbols) noexcept { return symbols != 0 ? (symbols - 1) / in_cell : 0; }
  const std::uint8_t* data() const noexcept;

  KeptPlaces places_;
  const std::uint8_t* bytes_ = nullptr; // how many, in four; offsets; what is said of each
};

// All of it. Empty: nothing is kept.
class KeptLinking {
public:
  KeptLinking() = default;
  // Of a module whose bytes are final, and still where they were written. What is bound to another module is bound to an
  // address from now on, since indices into a change mean nothing after it. May throw std::bad_alloc.
  static KeptLinking of(const link::Module& module);
  KeptLinking(KeptLinking&& other) noexcept = default;
  KeptLinking& operator=(KeptLinking&& other) noexcept {
    KeptLinking taken(std::move(other));
    words_.swap(taken.words_);
    return *this;
  }
  ~KeptLinking() {
    if (rare() != nullptr) give_up_rare();
  }
  KeptLinking copy() const; // may throw std::bad_alloc

  // Good until this is changed or gone, wherever it is moved to.
  KeptPlaces places() const noexcept { return words_.empty() ? KeptPlaces() : KeptPlaces(words_.data() + places_at()); }
  KeptBindings bindings() const noexcept {
    return bindings_at() == words_.size() ? KeptBindings() : KeptBindings(places(), words_.data() + bindings_at());
  }
  KeptRelocations relocations() const noexcept {
    return {relocations_at() != words_.size() ? words_.data() + relocations_at() : nullptr, rare()};
  }
  std::size_t bytes() const noexcept;
  const void* piece() const noexcept { return words_.data(); } // for prefetching only

  // It is not linked again: nothing but its places may be asked for.
  void keep_places() noexcept;

  // Sections that take part only.
  void leave_out(std::size_t section) noexcept; // its `kept` is false from now on
  // In the same reservation; its symbols go with it.
  void move(std::size_t section, std::uint64_t distance) noexcept;

private:
  // Where bindings begin, and above where relocations do.
  static constexpr unsigned relocations_bit = 32;
  static constexpr std::uint64_t has_rare = std::uint64_t(1) << 63, offset_mask = (std::uint64_t(1) << 31) - 1;
  std::size_t places_at() const noexcept { return (words_[0] & has_rare) != 0 ? 2 : 1; }
  std::size_t bindings_at() const noexcept { return words_.empty() ? 0 : words_[0] & offset_mask; }
  std::size_t relocations_at() const noexcept { return words_.empty() ? 0 : words_[0] >> relocations_bit & offset_mask; }
  RareRelocations* rare() const noexcept {
    return !words_.empty() && (words_[0] & has_rare) != 0 ? reinterpret_cast<RareRelocations*>(words_[1]) : nullptr;
  }
  void own(RareRelocations* rare) noexcept;
  void give_up_rare() noexcept;

  // That word; RareRelocations*, if there are any; places; bindings; relocations.
  base::List<std::uint64_t> words_;
};

} // namespace tenon::engine

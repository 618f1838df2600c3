// Where a committed module's sections lie, and what its symbols are bound to: what linking works with, packed for keeps.
//
// Of link::SectionPlace a word is kept, and only of sections that take part. Of link::Target half a word is kept where the
// symbol is the beginning of a section, as most are; a word where it is near the module's own memory; else more.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/list.h"
#include "link/module.h"

#include <bit>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

namespace tenon::engine {

// What is packed is read by value.
template <class Kept> class KeptIterator {
public:
  using iterator_category = std::input_iterator_tag;
  using value_type = typename Kept::value_type;
  using difference_type = std::ptrdiff_t;
  using pointer = const value_type*;
  using reference = value_type;

  KeptIterator(const Kept& of, std::size_t at) noexcept : of_(&of), at_(at) {}
  value_type operator*() const noexcept { return (*of_)[at_]; }
  KeptIterator& operator++() noexcept {
    ++at_;
    return *this;
  }
  KeptIterator operator++(int) noexcept { return {*of_, at_++}; }
  friend bool operator==(const KeptIterator&, const KeptIterator&) = default;

private:
  const Kept* of_;
  std::size_t at_;
};

// By section, the linker's own ones last. Without SectionPlace::local and ::offset: they are of use only while it is linked.
class KeptPlaces {
public:
  using value_type = link::SectionPlace;

  KeptPlaces() = default;
  explicit KeptPlaces(const link::Places& places); // may throw std::bad_alloc, as may copying

  std::size_t size() const noexcept { return words_.empty() ? 0 : std::uint32_t(words_[0]); }
  link::SectionPlace operator[](std::size_t section) const noexcept;
  KeptIterator<KeptPlaces> begin() const noexcept { return {*this, 0}; }
  KeptIterator<KeptPlaces> end() const noexcept { return {*this, size()}; }
  std::size_t bytes() const noexcept { return words_.bytes(); }

  // Sections that take part only.
  void leave_out(std::size_t section) noexcept; // its `kept` is false from now on
  void move(std::size_t section, std::uint64_t distance) noexcept;

private:
  // A word for each 40 sections: a bit for each that is kept, above them how many are before.
  static constexpr std::size_t in_cell = 40, head = 2;
  static constexpr std::size_t cells(std::size_t sections) noexcept { return (sections + in_cell - 1) / in_cell; }
  std::size_t entry_of(std::size_t section) const noexcept; // 0: not kept
  std::size_t entries() const noexcept { return words_[0] >> 32; }
  std::size_t traits_at() const noexcept { return head + cells(size()) + entries(); }
  std::size_t far_of(std::uint64_t entry) const noexcept; // of an entry that says where

  // How many sections, and above how many entries; an address that others are near; cells; an entry for each section that
  // is kept; what these have in common, three to a word, the first of which says how many; two words for each that does not
  // fit its entry.
  base::List<std::uint64_t> words_;
};

// By symbol. Without Target::needs; Target::entry is only zero or not: KeptRelocations knows which.
class KeptBindings {
public:
  KeptBindings() = default;
  // What is another module's is an address from now on, since indices into a change mean nothing after it. May throw
  // std::bad_alloc, as may copying.
  KeptBindings(std::span<const link::Target> targets, const link::Places& places);

  std::size_t size() const noexcept { return units_.empty() ? 0 : units_[0]; }
  // `places`: the module's, where the beginnings of sections are.
  link::Target at(std::size_t symbol, const KeptPlaces& places) const noexcept;
  std::size_t bytes() const noexcept { return units_.bytes() + odd_.bytes(); }

  // In the same reservation, with the section that it lies in, whose place has been moved.
  void move(std::size_t symbol, std::uint64_t distance) noexcept;

private:
  // Two units for each 16 symbols: how many units are before, and two bits for each: how many it has.
  static constexpr std::size_t in_cell = 16, head = 3;
  static constexpr std::size_t cells(std::size_t symbols) noexcept { return (symbols + in_cell - 1) / in_cell; }
  struct Found {
    std::size_t at, units;
  };
  Found find(std::size_t symbol) const noexcept;
  std::uint32_t* put_odd(const link::Target& target, std::uint32_t* at); // returns where its units end
  std::uint64_t base() const noexcept { return units_[1] | std::uint64_t(units_[2]) << 32; }

  base::List<std::uint32_t> units_; // how many; an address that most others are near, in two; cells; units
  base::List<link::Target> odd_;
};

// All bindings of a module, in order.
class AllBindings {
public:
  using value_type = link::Target;
  AllBindings(const KeptBindings& bindings, const KeptPlaces& places) noexcept : bindings_(&bindings), places_(&places) {}
  std::size_t size() const noexcept { return bindings_->size(); }
  link::Target operator[](std::size_t symbol) const noexcept { return bindings_->at(symbol, *places_); }
  KeptIterator<AllBindings> begin() const noexcept { return {*this, 0}; }
  KeptIterator<AllBindings> end() const noexcept { return {*this, size()}; }

private:
  const KeptBindings* bindings_;
  const KeptPlaces* places_;
};

} // namespace tenon::engine

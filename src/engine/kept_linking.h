// Where a committed module's sections lie, and what its symbols are bound to: what linking works with, packed for keeps.
//
// Of link::SectionPlace two words are kept, and only of sections that take part; of link::Target one word, since nearly all
// are near the module's own memory, or are an address and little else. What does not fit stands in a side table.
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

  std::size_t size() const noexcept { return words_.empty() ? 0 : words_[0]; }
  link::SectionPlace operator[](std::size_t section) const noexcept;
  KeptIterator<KeptPlaces> begin() const noexcept { return {*this, 0}; }
  KeptIterator<KeptPlaces> end() const noexcept { return {*this, size()}; }
  std::size_t bytes() const noexcept { return words_.bytes(); }

  // Of sections that take part.
  void leave_out(std::size_t section) noexcept; // its `kept` is false from now on
  void move(std::size_t section, std::uint64_t distance) noexcept;

private:
  // A word for each 40 sections: a bit for each that is kept, above them how many are before.
  static constexpr std::size_t in_cell = 40;
  std::size_t entry_of(std::size_t section) const noexcept; // 0: not kept
  static constexpr std::size_t cells(std::size_t sections) noexcept { return (sections + in_cell - 1) / in_cell; }

  base::List<std::uint64_t> words_; // how many; cells; two for each that is kept
};

// By symbol. Without Target::needs; Target::entry is only zero or not: KeptRelocations knows which.
class KeptBindings {
public:
  using value_type = link::Target;

  KeptBindings() = default;
  // What is another module's is an address from now on, since indices into a change mean nothing after it. May throw
  // std::bad_alloc, as may copying.
  KeptBindings(std::span<const link::Target> targets, const link::Places& places);

  std::size_t size() const noexcept { return words_.empty() ? 0 : words_.size() - 1; }
  link::Target operator[](std::size_t symbol) const noexcept;
  KeptIterator<KeptBindings> begin() const noexcept { return {*this, 0}; }
  KeptIterator<KeptBindings> end() const noexcept { return {*this, size()}; }
  std::size_t bytes() const noexcept { return words_.bytes() + wide_.bytes(); }

  // In the same reservation.
  void move(std::size_t symbol, std::uint64_t distance) noexcept;

private:
  base::List<std::uint64_t> words_; // an address that most others are near; one for each
  base::List<link::Target> wide_;
};

} // namespace tenon::engine

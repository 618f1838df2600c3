// Many address ranges of superseded code, and the question "does this word point into one of them?".
//
// Nearly every word on a stack points somewhere else. All code lies in one reservation, so one comparison with the interval
// that bounds all ranges settles those; what is left is searched in the sorted begins.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tenon::reclaim {

struct Range {
  Addr begin, end;
};

class RangeSet {
public:
  RangeSet() = default;

  // The ranges must not overlap (checked). Empty ones hold nothing.
  explicit RangeSet(std::span<const Range> ranges);

  // How many there are, empty ones included: a range keeps the index that it had in the constructor's argument.
  std::size_t size() const noexcept { return size_; }

  bool may_hold(std::uint64_t word) const noexcept { return word - low_ <= width_; }

  // Calls visit(index) for the range that holds the word, its end included: a call that never returns can be the last
  // instruction of a function, and the address it pushes is then the end. So a word between two adjacent ranges is in both.
  // Async-signal-safe.
  template <class Visit> void find(std::uint64_t word, Visit visit) const noexcept {
    if (!may_hold(word)) return;
    const Entry* first = entries_.data();
    std::size_t count = entries_.size();
    if (count == 0) return;
    const Entry* base = first;
    while (count > 1) { // the last entry whose begin is not above the word
      const std::size_t half = count / 2;
      base = base[half].begin <= word ? base + half : base;
      count -= half;
    }
    if (base->begin > word) return;
    if (word <= base->end) visit(base->index);
    if (word == base->begin && base != first && base[-1].end == word) visit(base[-1].index);
  }

private:
  struct Entry {
    std::uint64_t begin, end;
    std::uint32_t index;
  };

  std::vector<Entry> entries_; // by address
  std::size_t size_ = 0;
  std::uint64_t low_ = ~std::uint64_t(0);
  std::uint64_t width_ = 0;
};

} // namespace tenon::reclaim

// Sorting the ranges; looking them up is in the header, for the scan's inner loop.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/ranges.h"

#include "base/check.h"

#include <algorithm>

namespace tenon::reclaim {

RangeSet::RangeSet(std::span<const Range> ranges) : size_(ranges.size()) {
  entries_.reserve(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    TENON_CHECK(ranges[i].begin <= ranges[i].end, "a range of code ends before it begins");
    if (ranges[i].begin < ranges[i].end) {
      entries_.push_back({ranges[i].begin.value, ranges[i].end.value, static_cast<std::uint32_t>(i)});
    }
  }
  if (entries_.empty()) return;
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    TENON_CHECK(entries_[i - 1].end <= entries_[i].begin, "ranges of superseded code overlap");
  }
  low_ = entries_.front().begin;
  width_ = entries_.back().end - low_;
}

} // namespace tenon::reclaim

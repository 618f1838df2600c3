// A stable sort by a key. (std::stable_sort of GCC 12's library uses a deprecated function, which clang 22 reports as an
// error.)
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace tenon::base {

// Orders `items` by key(item); equal ones stay in their order. May throw std::bad_alloc.
template <class Items, class Key> void stable_sort_by(Items& items, Key&& key) {
  using T = typename Items::value_type;
  if (std::is_sorted(items.begin(), items.end(), [&](const T& a, const T& b) { return key(a) < key(b); })) return;
  std::vector<std::pair<decltype(key(items[0])), std::size_t>> order(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) order[i] = {key(items[i]), i};
  std::sort(order.begin(), order.end());
  Items sorted;
  sorted.reserve(items.size());
  for (const auto& [k, i] : order) sorted.push_back(std::move(items[i]));
  items = std::move(sorted);
}

} // namespace tenon::base

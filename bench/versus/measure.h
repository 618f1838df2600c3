// Times and their quantiles.
//
// Participants are measured in turns within one process, because on a shared machine two runs a minute apart differ by more
// than the things compared; the one that begins rotates, so that nobody always runs after the same neighbour. Medians are
// reported: the mean follows the worst interruption.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace versus {

// A steady clock in milliseconds.
inline double now_ms() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

class Samples {
public:
  void add(double value) { values_.push_back(value); }
  bool empty() const { return values_.empty(); }
  std::size_t size() const { return values_.size(); }

  // Interpolates between neighbours; 0 if there is no sample.
  double quantile(double q) const {
    if (values_.empty()) return 0;
    std::vector<double> sorted = values_;
    std::sort(sorted.begin(), sorted.end());
    double place = q * static_cast<double>(sorted.size() - 1);
    auto below = static_cast<std::size_t>(place);
    std::size_t above = std::min(below + 1, sorted.size() - 1);
    double part = place - static_cast<double>(below);
    return sorted[below] * (1 - part) + sorted[above] * part;
  }
  double median() const { return quantile(0.5); }

private:
  std::vector<double> values_;
};

// Calls run(index) `rounds` times for every index below `count`, in turns.
template <class Run> void in_turns(std::size_t count, std::size_t rounds, Run&& run) {
  for (std::size_t round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < count; ++i) run((i + round) % count);
}

} // namespace versus

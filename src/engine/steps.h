// Long walks under commit_mutex are cut into steps, so that nobody waits for more than one of them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <chrono>
#include <cstdint>
#include <thread>

namespace tenon::engine {

// Measured by the clock: what a module costs depends on how much of it is in the cache.
class StepBudget {
public:
  static constexpr std::chrono::microseconds usual{150};

  static StepBudget step() noexcept { return StepBudget(std::chrono::steady_clock::now() + usual); }
  static StepBudget unlimited() noexcept { return StepBudget(std::chrono::steady_clock::time_point::max()); }

  // Asked once for each piece of work; at least one is done.
  bool spent() const noexcept { return std::chrono::steady_clock::now() >= end_; }
  // The same for pieces that take less time than the clock.
  bool spent_after_many() noexcept { return ++pieces_ % 16 == 0 && spent(); }

private:
  explicit StepBudget(std::chrono::steady_clock::time_point end) noexcept : end_(end) {}
  std::chrono::steady_clock::time_point end_;
  std::uint32_t pieces_ = 0;
};

// Between two steps, without a lock. A mutex that is taken again at once is never had by those who have gone to sleep for
// it: they need the time to wake up.
inline void let_others_in() noexcept { std::this_thread::sleep_for(std::chrono::microseconds(1)); }

} // namespace tenon::engine

// A walk over EngineState::removed in steps: while it lasts nobody else takes anything out of the list, so that iterators
// stay valid; things are appended.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/engine_state.h"
#include "engine/steps.h"

namespace tenon::engine {

class Walk {
public:
  static constexpr std::size_t few = 256; // entries that are not worth it

  explicit Walk(EngineState& engine) noexcept : engine_(engine), one_at_a_time_(engine.walk_mutex) {
    std::lock_guard lock(engine.commit_mutex);
    engine.walked = true;
  }
  ~Walk() { end(); }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  // Calls step() under commit_mutex until it returns true.
  template <class Step> void in_steps(Step&& step) {
    for (;;) {
      {
        std::lock_guard lock(engine_.commit_mutex);
        if (step()) return;
      }
      let_others_in();
    }
  }

  // True: somebody has asked for a sweep meanwhile, which is the caller's to do now.
  bool end() noexcept {
    if (!one_at_a_time_.owns_lock()) return false;
    std::unique_lock lock(engine_.commit_mutex);
    engine_.walked = false;
    const bool again = engine_.sweep_again; // cleared by the next sweep
    lock.unlock();
    one_at_a_time_.unlock();
    return again;
  }

private:
  EngineState& engine_;
  std::unique_lock<std::mutex> one_at_a_time_;
};

} // namespace tenon::engine

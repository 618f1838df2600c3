// Freeing what threads may have been inside of: started here, done by the Reclaimer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/engine_state.h"
#include "engine/reclaimer.h"

#include <algorithm>

namespace tenon::engine {

Result<Reclaimer*> reclaimer_of(EngineState& engine) {
  std::lock_guard lock(engine.reclaimer_mutex);
  if (engine.reclaimer == nullptr) {
    Result<std::unique_ptr<Reclaimer>> made = Reclaimer::create(engine, engine.options.reclaim_signal);
    if (!made) return std::move(made).error();
    engine.reclaimer = std::move(*made);
  }
  return engine.reclaimer.get();
}

void reclaim_later(EngineState& engine) noexcept {
  try {
    if (Result<Reclaimer*> reclaimer = reclaimer_of(engine)) (*reclaimer)->wake();
  } catch (const std::bad_alloc&) {
    // What waits is looked after by the next commit or collect().
  }
}

void reclaim_now(EngineState& engine) noexcept {
  try {
    Result<Reclaimer*> reclaimer = reclaimer_of(engine);
    if (!reclaimer) return;
    const Reclaimer::Payment payment(**reclaimer);
    Result<std::size_t> left = (*reclaimer)->check();
    if (!left || *left != 0 || engine.collection.wanted.load(std::memory_order_relaxed)) (*reclaimer)->wake();
  } catch (const std::bad_alloc&) {
  }
}

bool may_reclaim_now(EngineState& engine, std::size_t removed) noexcept {
  try {
    Result<Reclaimer*> reclaimer = reclaimer_of(engine);
    return !reclaimer || (*reclaimer)->has_time(removed);
  } catch (const std::bad_alloc&) {
    return true;
  }
}

} // namespace tenon::engine

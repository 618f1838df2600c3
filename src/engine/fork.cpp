// fork(): the child finds every engine's locks free and what they guard whole, so that it can go on linking.
//
// The memory layer has handlers of its own, which give the child its own copy of shared memory. Handlers run before fork in the
// reverse order of registration; ours are registered after the memory's, because an engine is made after its Space: engine locks
// are taken first, as everywhere.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/engine_state.h"
#include "engine/tls.h"

#include "base/check.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace tenon::engine {

namespace {

struct Registry {
  std::mutex mutex;
  std::vector<EngineState*> engines;
};

Registry& registry() {
  static auto* instance = new Registry; // never destroyed: forks may happen after static destructors
  return *instance;
}

void before_fork() {
  Registry& all = registry();
  all.mutex.lock();
  for (EngineState* engine : all.engines) {
    engine->commit_mutex.lock();
    engine->tables.lock();
  }
  lock_tls();
}

void after_fork() {
  Registry& all = registry();
  unlock_tls();
  for (auto engine = all.engines.rbegin(); engine != all.engines.rend(); ++engine) {
    (*engine)->tables.unlock();
    (*engine)->commit_mutex.unlock();
  }
  all.mutex.unlock();
}

} // namespace

void register_for_fork(EngineState& engine) {
  Registry& all = registry();
  static const int registered = pthread_atfork(before_fork, after_fork, after_fork);
  TENON_CHECK(registered == 0, "no memory for fork handlers");
  std::lock_guard lock(all.mutex);
  all.engines.push_back(&engine);
}

void unregister_for_fork(EngineState& engine) noexcept {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::erase(all.engines, &engine);
}

} // namespace tenon::engine

// fork(): the child finds every engine's locks free and what they guard whole, so that it can go on linking.
//
// The memory layer has handlers of its own, which give the child its own copy of shared memory. Handlers run before fork in
// the reverse order of registration; ours are registered after the memory's, because an engine is made after its Space:
// engine locks are taken first, as everywhere. Those of the border and of declared stacks are asked for under commit_mutex
// (transition.cpp), so their handlers, too, are registered before ours.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/engine_state.h"
#include "engine/recall.h"
#include "engine/reclaimer.h"
#include "engine/tls.h"

#include "base/fault.h"
#include "reclaim/process.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <system_error>
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
    engine->stubs->lock();
  }
  endings().lock();
  lock_recalls();
  lock_tls();
}

void after_fork_in_parent() {
  Registry& all = registry();
  unlock_tls();
  unlock_recalls();
  endings().unlock();
  for (auto engine = all.engines.rbegin(); engine != all.engines.rend(); ++engine) {
    (*engine)->stubs->unlock();
    (*engine)->tables.unlock();
    (*engine)->commit_mutex.unlock();
  }
  all.mutex.unlock();
}

void after_fork_in_child() {
  Registry& all = registry();
  forget_other_threads_tls();
  unlock_tls();
  forget_other_threads_recalls();
  unlock_recalls();
  endings().unlock();
  for (auto engine = all.engines.rbegin(); engine != all.engines.rend(); ++engine) {
    (*engine)->stubs->unlock();
    (*engine)->tables.unlock_in_child();
    (*engine)->commit_mutex.unlock();
    // Whoever collected, or walked over removed modules, did it in steps: between two of them all is whole.
    new (&(*engine)->collection.mutex) std::mutex;
    new (&(*engine)->walk_mutex) std::mutex;
    (*engine)->walked = false;
    new (&(*engine)->reclaimer_mutex) std::mutex;
    if ((*engine)->reclaimer) (*engine)->reclaimer->after_fork_in_child();
  }
  all.mutex.unlock();
}

} // namespace

Result<void> register_for_fork(EngineState& engine) {
  Registry& all = registry();
  // Not under the registry's mutex, which a fork takes while the C library's list of handlers is locked. An engine that is
  // made after a failure tries again.
  static std::mutex once;
  static bool registered = false;
  {
    std::lock_guard lock(once);
    if (!registered) {
      reclaim::process::register_fork_handlers();
      int reason = base::fault::injected(base::fault::Call::pthread_atfork)
                       ? errno
                       : pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
      if (reason != 0) return Error{ErrorCode::system, "pthread_atfork: " + std::generic_category().message(reason)};
      registered = true;
    }
  }
  std::lock_guard lock(all.mutex);
  all.engines.push_back(&engine);
  return {};
}

void unregister_for_fork(EngineState& engine) noexcept {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::erase(all.engines, &engine);
}

} // namespace tenon::engine

// The cycles of collection: what is marked, what dies, how it goes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/collector.h"

#include "base/check.h"
#include "engine/engine_state.h"
#include "engine/recall.h"
#include "engine/steps.h"

#include <algorithm>
#include <new>
#include <utility>

namespace tenon::engine {

namespace {

// Everybody whom a version refers to. Sharing a COMDAT group is a reference to who provides it: a module that is collected
// goes as a whole.
template <class Visit> void for_each_reference(const Version& version, Visit&& visit) {
  for (const Dependency& dependency : version.dependencies) visit(*dependency.module);
  for (const SymbolRecord* group : version.groups) visit(*group->module());
}

// Earlier versions to whose functions pointers may be held count as the module's own code.
template <class Visit> void for_each_reference_of_all(const ModuleState& module, Visit&& visit) {
  for_each_holder(module, [&](const ModuleState& holder) { for_each_reference(holder, visit); });
  if (module.replaceable == nullptr || !module.live.load(std::memory_order_relaxed)) return;
  for (const std::shared_ptr<ModuleState>& version : module.replaceable->held) for_each_reference(*version, visit);
}

} // namespace

Collection::~Collection() {
  // Modules that were to be looked at keep themselves.
  auto forget = [](ModuleState* module) {
    while (module != nullptr) {
      const std::shared_ptr<ModuleState> self = std::move(module->collectable->self);
      module = module->collectable->next;
    }
  };
  forget(pending);
  forget(reached.load(std::memory_order_acquire));
}

bool is_dead(const Collection& collection, const ModuleState& module) noexcept {
  // Relaxed: whoever marks holds `tables`, and dead_below changes while nobody else does.
  return module.collectable != nullptr && module.collectable->marked.load(std::memory_order_relaxed) < collection.dead_below;
}

bool is_gone(const Collection& collection, const SymbolRecord& record) noexcept {
  if ((record.flags & (symbol_flag::erased | symbol_flag::collected)) == 0) return false;
  return (record.flags & symbol_flag::erased) != 0 || (record.module() != nullptr && is_dead(collection, *record.module()));
}

void reach(Collection& collection, ModuleState& module) noexcept {
  Collectable* collectable = module.collectable.get();
  if (collectable == nullptr || is_dead(collection, module)) return;
  // Relaxed: of those who mark it at once one wins, and what the winner writes is handed over by the push.
  if (collectable->marked.load(std::memory_order_relaxed) == collection.cycle ||
      collectable->marked.exchange(collection.cycle, std::memory_order_relaxed) == collection.cycle)
    return;
  collectable->self = module.shared_from_this();
  collectable->next = collection.reached.load(std::memory_order_relaxed);
  // Release: who takes the stack, with acquire, sees `next` and `self`. It is taken as a whole: no ABA.
  while (!collection.reached.compare_exchange_weak(collectable->next, &module, std::memory_order_release,
                                                   std::memory_order_relaxed)) {
  }
}

void reach_references(Collection& collection, const ModuleState& module) noexcept {
  for_each_reference(module, [&](ModuleState& other) { reach(collection, other); });
}

void hold_references(Collection& collection, const ModuleState& module) noexcept {
  for_each_reference(module, [&](ModuleState& other) {
    if (other.collectable == nullptr) return;
    ++other.collectable->outside;
    reach(collection, other);
  });
}

void release_references(Collection& collection, const ModuleState& module) noexcept {
  for_each_reference(module, [&](ModuleState& other) {
    if (other.collectable != nullptr && --other.collectable->outside == 0 && other.live.load(std::memory_order_relaxed))
      collection.wanted.store(true, std::memory_order_relaxed);
  });
}

void keep_references(Collection& collection, ModuleState& version) noexcept {
  if (version.collectable != nullptr) {
    if (version.held) return;
    hold_references(collection, version);
  }
  version.holds_references = true; // one that is not collected has counted all along
}

void let_go_references(Collection& collection, ModuleState& version) noexcept {
  if (std::exchange(version.holds_references, false)) release_references(collection, version);
}

void enlist(Collection& collection, ModuleState& module) noexcept {
  Collectable& collectable = *module.collectable;
  collectable.older = collection.newest;
  if (collection.newest != nullptr) collection.newest->collectable->newer = &module;
  collection.newest = &module;
}

void delist(Collection& collection, ModuleState& module) noexcept {
  Collectable& collectable = *module.collectable;
  if (collection.cursor == &module) collection.cursor = collectable.older;
  if (collectable.older != nullptr) collectable.older->collectable->newer = collectable.newer;
  (collectable.newer != nullptr ? collectable.newer->collectable->older : collection.newest) = collectable.older;
  collectable.newer = collectable.older = nullptr;
}

void want_collection(EngineState& engine) noexcept {
  if (!engine.collection.wanted.exchange(true, std::memory_order_relaxed)) reclaim_later(engine);
}

namespace {

// One step of a cycle. All state is the Collection's and changes under commit_mutex only, so that the child of a fork can
// go on with it.
class Step {
public:
  explicit Step(EngineState& engine) noexcept : engine_(engine), collection_(engine.collection) {}
  ~Step() { // without a lock: a module that was removed meanwhile may end here
    while (looked_at_ != nullptr) {
      ModuleState* module = std::exchange(looked_at_, looked_at_->collectable->next);
      const std::shared_ptr<ModuleState> self = std::move(module->collectable->self);
    }
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  // True: the cycle is over.
  bool run() noexcept {
    std::lock_guard lock(engine_.commit_mutex);
    StepBudget budget = StepBudget::step();
    switch (collection_.phase) {
    case Collection::Phase::idle: return begin();
    case Collection::Phase::mark: return mark(budget);
    case Collection::Phase::unpublish: return unpublish(budget);
    }
    return true;
  }

private:
  bool begin() noexcept {
    collection_.wanted.store(false, std::memory_order_relaxed);
    if (collection_.newest == nullptr) return true;
    std::unique_lock tables(engine_.tables);
    TENON_CHECK(collection_.reached.load(std::memory_order_relaxed) == nullptr, "a live module was not marked");
    ++collection_.cycle;
    collection_.cursor = collection_.newest;
    collection_.phase = Collection::Phase::mark;
    return false;
  }

  void look_at(ModuleState& module) noexcept {
    for_each_reference_of_all(module, [&](ModuleState& other) { reach(collection_, other); });
    module.collectable->next = std::exchange(looked_at_, &module);
  }

  static bool is_root(const ModuleState& module) noexcept {
    return module.collectable->outside != 0 || module.pins.load(std::memory_order_acquire) != 0;
  }

  bool mark(StepBudget& budget) noexcept {
    do {
      if (collection_.pending == nullptr)
        collection_.pending = collection_.reached.exchange(nullptr, std::memory_order_acquire);
      if (collection_.pending != nullptr) {
        look_at(*std::exchange(collection_.pending, collection_.pending->collectable->next));
      } else if (collection_.cursor != nullptr) {
        ModuleState& module = *std::exchange(collection_.cursor, collection_.cursor->collectable->older);
        if (is_root(module)) reach(collection_, module);
      } else if (flip()) {
        return false;
      }
    } while (!budget.spent());
    return false;
  }

  // Nobody takes a handle meanwhile: whatever is not marked now never will be.
  bool flip() noexcept {
    std::unique_lock tables(engine_.tables);
    if (collection_.reached.load(std::memory_order_relaxed) != nullptr) return false;
    collection_.dead_below = collection_.cycle;
    collection_.cursor = collection_.newest;
    collection_.phase = Collection::Phase::unpublish;
    return true;
  }

  bool unpublish(StepBudget& budget) noexcept {
    std::unique_lock tables(engine_.tables);
    while (collection_.cursor != nullptr) {
      ModuleState& module = *collection_.cursor;
      const bool dead = is_dead(collection_, module);
      if (dead && !erase_dead_names(engine_, module, budget)) return false;
      collection_.cursor = module.collectable->older;
      if (dead) {
        unpublish_dead(engine_, module);
        (collection_.last_dead != nullptr ? collection_.last_dead->collectable->next : collection_.dead) = &module;
        module.collectable->next = nullptr;
        collection_.last_dead = &module;
      }
      if (budget.spent()) return false;
    }
    collection_.phase = Collection::Phase::idle;
    return true;
  }

  EngineState& engine_;
  Collection& collection_;
  ModuleState* looked_at_ = nullptr;
};

// As for any removal: all finalizers before any memory goes.
void finalize(ModuleState* dead) noexcept {
  auto for_each = [&](auto&& visit) {
    for (ModuleState* module = dead; module != nullptr; module = module->collectable->next)
      if (has_an_end(*module)) visit(module->shared_from_this());
  };
  try {
    std::vector<std::shared_ptr<ModuleState>> ending;
    for_each([&](std::shared_ptr<ModuleState> module) { ending.push_back(std::move(module)); });
    std::reverse(ending.begin(), ending.end());
    finalize_all(ending);
  } catch (const std::bad_alloc&) {
    // Without the list priorities count inside of each module only.
    for_each([](const std::shared_ptr<ModuleState>& module) { finalize_all({&module, 1}); });
  }
}

void settle(EngineState& engine, ModuleState* dead) noexcept {
  while (dead != nullptr) {
    {
      std::lock_guard lock(engine.commit_mutex);
      StepBudget budget = StepBudget::step();
      do {
        ModuleState& module = *std::exchange(dead, dead->collectable->next);
        for_each_holder(module, [&](const ModuleState& holder) { release_references(engine.collection, holder); });
        module.finalizing = false; // from here on it may be freed
      } while (dead != nullptr && !budget.spent());
    }
    let_others_in();
  }
}

} // namespace

bool collect_unreferenced(EngineState& engine) noexcept {
  Collection& collection = engine.collection;
  ModuleState* dead = nullptr;
  {
    std::lock_guard one_at_a_time(collection.mutex);
    while (!Step(engine).run()) let_others_in();
    std::lock_guard lock(engine.commit_mutex);
    dead = std::exchange(collection.dead, nullptr);
    collection.last_dead = nullptr;
  }
  if (dead == nullptr) return false;
  finalize(dead);
  settle(engine, dead);
  return true;
}

bool collect_users(EngineState& engine, const Error& why) noexcept {
  if (why.code != ErrorCode::still_used) return false;
  // Even if nothing was dead: another thread's cycle may have taken them since the removal was refused.
  (void)collect_unreferenced(engine);
  return true;
}

} // namespace tenon::engine

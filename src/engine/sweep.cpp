// Frees the memory of removed modules that nobody needs any more.
//
// It may be needed for longer than the module: while its COMDAT groups are shared (its other symbols are gone then), while
// somebody pins it (a Function handle, a thread's pending destructors), while finalizers run, while threads may be inside,
// and as long as any such module refers to it. Those are found by marking from the roots, over removed modules only.
//
// A short list is swept under one hold of commit_mutex, a long one in steps. In between other threads append to the list,
// and roots cease to be roots. What is found needed stays so for the sweep. What is not found needed, is referred to by
// nothing but its like and by no thread: it can have been pinned only before that was so, by a thread that was inside then.
// Hence the second look at the pins, once all marking is done, before anything is taken out.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/engine_state.h"
#include "engine/steps.h"
#include "engine/trim.h"
#include "engine/walk.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tenon::engine {

namespace {

class Sweep {
public:
  explicit Sweep(EngineState& engine) noexcept : engine_(engine) { begin(); }

  // Under commit_mutex. True: done, and free_dead() can be called.
  bool step(StepBudget budget) noexcept {
    if (phase_ == Phase::mark && !mark(budget)) return false;
    if (phase_ == Phase::verify && !verify(budget)) return false;
    return take(budget);
  }

  // Without a lock.
  void free_dead() noexcept {
    const base::pool::Gathering gathering;
    freed_.clear();
    // What threads that were still inside have registered after the finalizers had run.
    for (const std::shared_ptr<ModuleState>& module : dead_) finalize_all({&module, 1});
    for (const std::shared_ptr<ModuleState>& module : dead_) module->release_memory();
    for (const std::shared_ptr<ModuleState>& module : dead_) leaving(*module).fetch_sub(1, std::memory_order_release);
    dead_.clear();
  }

private:
  enum class Phase : unsigned char { mark, verify, take };

  void begin() noexcept {
    phase_ = Phase::mark;
    any_seen_ = false;
    pending_ = nullptr;
  }

  bool is_needed(const ModuleState& module) const noexcept { return module.swept.is_needed_by(number_); }

  static bool is_needed_whole(const ModuleState& module) noexcept {
    return module.finalizing || module.waiting || module.pins.load(std::memory_order_acquire) != 0 ||
           (module.held && module.rare().current->live.load(std::memory_order_relaxed));
  }

  void reach(ModuleState* module, bool whole) noexcept {
    if (module == nullptr || !module->removed) return;
    const bool seen = is_needed(*module);
    if (whole)
      module->swept.needed_whole_by(number_);
    else if (!seen)
      module->swept.needed_by(number_);
    if (seen) return;
    module->next_reached = std::exchange(pending_, module);
  }

  void look_at(const ModuleState& module) noexcept {
    for_each_holder(module, [&](const ModuleState& holder) {
      for (const Dependency& dependency : holder.dependencies) reach(dependency.module, true);
      for (const SymbolRecord* group : holder.groups) reach(group->module(), group->module() != &module);
    });
    // What has been replaced singly lies in its version's memory.
    if (module.rare().stale_of != 0)
      for (const std::shared_ptr<ModuleState>& holder : engine_.removed)
        if (holder->extra().serial == module.rare().stale_of) reach(holder.get(), true);
    // A version runs on its module's storage; a module keeps versions to whose functions pointers may be held.
    if (module.superseded) reach(module.rare().current.get(), true);
    if (module.replaceable == nullptr) return;
    for (const std::shared_ptr<ModuleState>& version : module.replaceable->held) reach(version.get(), true);
    for (const Led& led : module.replaceable->led) reach(led.target, true);
  }

  // Those that somebody needs, and which of them for more than the COMDAT groups that others share.
  bool mark(StepBudget& budget) noexcept {
    if (!any_seen_) {
      number_ = ++engine_.sweep_number;
      engine_.sweep_again = false;
    }
    for (;;) {
      const ModuleList::iterator next = any_seen_ ? std::next(last_seen_) : engine_.removed.begin();
      if (pending_ != nullptr) {
        look_at(*std::exchange(pending_, pending_->next_reached));
      } else if (next != engine_.removed.end()) {
        last_seen_ = next;
        any_seen_ = true;
        const bool whole = is_needed_whole(**next);
        if (whole || (*next)->remnant) reach(next->get(), whole);
      } else {
        break;
      }
      if (budget.spent()) return false;
    }
    return walk_again(Phase::verify);
  }

  // Modules that were removed later than the marking ended are not this sweep's.
  bool walk_again(Phase phase) noexcept {
    phase_ = phase;
    at_ = engine_.removed.begin();
    left_ = any_seen_;
    return true;
  }
  ModuleList::iterator advance() noexcept {
    left_ = at_ != last_seen_;
    return at_++;
  }

  bool verify(StepBudget& budget) noexcept {
    while (left_) {
      ModuleState& module = **advance();
      if (!is_needed(module)) {
        if (is_needed_whole(module) || module.remnant) {
          begin();
          return false;
        }
        module.swept.doomed_by(number_);
      }
      if (budget.spent()) return false;
    }
    return walk_again(Phase::take);
  }

  // Moves what nobody needs to `dead_`, and what remnants do not need to `freed_`.
  bool take(StepBudget& budget) noexcept {
    for (;;) {
      // What it is tied to is there for as long as the sweep lasts, and so is its own memory: others that redirect calls
      // meanwhile may change it.
      if (leaving_ != nullptr && !bury(*leaving_, buried_, budget)) return false;
      leaving_ = nullptr;
      if (!left_) return true;
      const ModuleList::iterator here = advance();
      ModuleState& module = **here;
      if (is_needed(module)) {
        if (module.remnant && !module.swept.is_needed_whole_by(number_)) trim(module, freed_);
      } else {
        let_go_references(engine_.collection, module); // even if it has to stay: see bequeath()
        if (bequeath(engine_, module, freed_)) {
          detach(module);
          dead_.splice(dead_.end(), engine_.removed, here);
        }
      }
      if (budget.spent()) return false;
    }
  }

  std::atomic<std::size_t>& leaving(const ModuleState& module) noexcept {
    return module.auxiliary ? engine_.versions_leaving : engine_.modules_leaving;
  }

  // Nobody marks from it again, and what it points to may be freed before its handles go.
  void detach(ModuleState& module) noexcept {
    module.removed = false;
    leaving(module).fetch_add(1, std::memory_order_relaxed);
    --engine_.module_count;
    for_each_holder(module, [](ModuleState& holder) {
      holder.dependencies.clear();
      holder.groups.clear();
      holder.extra().forwards.clear();
    });
    leaving_ = &module;
    buried_ = 0;
  }

  EngineState& engine_;
  Phase phase_ = Phase::mark;
  std::uint64_t number_ = 0;
  ModuleState* pending_ = nullptr;
  ModuleList::iterator last_seen_{}, at_{};
  bool any_seen_ = false, left_ = false;
  ModuleState* leaving_ = nullptr; // the last of `dead_`, while it has ties to definitions
  std::size_t buried_ = 0;         // of these
  ModuleList dead_;
  std::vector<OwnedBlock> freed_;
};

// A library without a handle that can be closed now, or null.
std::shared_ptr<LibraryState> take_orphan(EngineState& engine) {
  std::lock_guard lock(engine.commit_mutex);
  for (std::shared_ptr<LibraryState>& orphan : engine.orphans) {
    // Modules that are collected go by themselves.
    if (orphan->collected ? !orphan->modules.empty() : !check_removable(engine, orphan->modules)) continue;
    std::shared_ptr<LibraryState> taken = std::move(orphan);
    orphan = std::move(engine.orphans.back());
    engine.orphans.pop_back();
    return taken;
  }
  return nullptr;
}

void close_orphans(EngineState& engine) noexcept {
  try {
    while (std::shared_ptr<LibraryState> orphan = take_orphan(engine)) {
      bool closed = false;
      try {
        closed = close_library(engine, orphan).ok(); // closes what it has set free in turn
      } catch (const std::bad_alloc&) {
      }
      if (closed) continue;
      std::lock_guard lock(engine.commit_mutex);
      engine.orphans.push_back(std::move(orphan));
      return;
    }
  } catch (const std::bad_alloc&) {
    // The next removal, or the engine's end, closes them.
  }
}

// Whether it takes no longer than a step.
bool is_short(const ModuleList& removed) noexcept {
  constexpr std::size_t most_ties = 2048;
  if (removed.size() > Walk::few) return false;
  std::size_t ties = 0;
  for (const std::shared_ptr<ModuleState>& module : removed)
    ties += module->extra().uses.size() + (module->replaceable != nullptr ? module->replaceable->definitions.size() : 0);
  return ties <= most_ties;
}

// True: the list was short. It is swept, or whoever walks over it will do that.
bool sweep_at_once(EngineState& engine) noexcept {
  Sweep sweep(engine);
  {
    std::lock_guard lock(engine.commit_mutex);
    if (engine.walked) {
      engine.sweep_again = true;
      return true;
    }
    if (!is_short(engine.removed)) return false;
    while (!sweep.step(StepBudget::unlimited())) {
    }
  }
  sweep.free_dead();
  return true;
}

// True: there is more to do.
bool sweep_in_steps(EngineState& engine) noexcept {
  Sweep sweep(engine);
  bool again;
  {
    Walk walk(engine);
    walk.in_steps([&] { return sweep.step(StepBudget::step()); });
    again = walk.end();
  }
  sweep.free_dead();
  return again;
}

// Tables that are far too large for what is left: their like that fit are made under commit_mutex, under which alone they
// change, and whoever looks something up meanwhile waits only while they are exchanged. Tables shrink to a sixteenth or
// less, so that each record is moved less than once for the sixteen that have gone. Without memory they stay.
void shrink_tables(EngineState& engine) noexcept {
  SymbolTable symbols, groups; // freed when the locks are given back
  base::PageVector<std::shared_ptr<ModuleState>> modules, last;
  std::shared_ptr<LibraryState> library;
  const std::lock_guard lock(engine.commit_mutex);
  library = std::move(engine.sparse);
  try {
    if (library != nullptr && base::is_sparse(library->modules)) {
      modules.reserve(library->modules.size() * 2);
      std::move(library->modules.begin(), library->modules.end(), std::back_inserter(modules));
      library->modules.swap(modules);
    }
    if (const std::size_t wanted = engine.module_count + 1;
        engine.last.capacity() > 4096 && engine.last.empty() && wanted * 32 < engine.last.capacity()) {
      last.reserve(wanted * 2);
      engine.last.swap(last);
    }
    if (library == nullptr) return;
    if (library->symbols.is_sparse()) symbols = library->symbols.packed();
    if (library->groups.is_sparse()) groups = library->groups.packed();
  } catch (const std::bad_alloc&) {
    return;
  }
  const std::unique_lock tables(engine.tables);
  if (symbols.bytes() != 0) std::swap(library->symbols, symbols);
  if (groups.bytes() != 0) std::swap(library->groups, groups);
}

} // namespace

void sweep(EngineState& engine) noexcept {
  while (!sweep_at_once(engine) && sweep_in_steps(engine)) {
  }
  bool orphans, sparse;
  {
    std::lock_guard lock(engine.commit_mutex);
    orphans = !engine.orphans.empty();
    sparse = engine.sparse != nullptr;
  }
  if (sparse) shrink_tables(engine);
  if (orphans) close_orphans(engine);
  if (engine.collection.wanted.load(std::memory_order_relaxed)) reclaim_later(engine);
}

} // namespace tenon::engine

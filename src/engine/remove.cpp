// Modules go: their symbols first, all at once, then their finalizers run, then their memory is freed.
//
// Who counts as a user is what is published or released. A removed module's memory may be needed for longer: while its
// COMDAT groups are shared (its other symbols are gone then), while somebody pins it (a Function handle, a thread's pending
// destructors), while finalizers run, and as long as any such module refers to it. Those are found by marking from the
// roots, over removed modules only.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"
#include "engine/engine_state.h"
#include "engine/forwards.h"
#include "engine/recall.h"
#include "engine/trim.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace tenon::engine {

namespace {

using Modules = std::span<const std::shared_ptr<ModuleState>>;

bool among(Modules modules, const ModuleState* module) {
  return std::any_of(modules.begin(), modules.end(),
                     [&](const std::shared_ptr<ModuleState>& m) { return m.get() == module; });
}

// Everybody who may hold a dependency, for the error message only.
template <class Visit> void for_each_module(EngineState& engine, Visit&& visit) {
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries) {
    std::shared_ptr<LibraryState> library = weak.lock();
    if (!library) continue;
    for (const std::shared_ptr<ModuleState>& module : library->modules) visit(*module);
  }
}

Error still_used(EngineState& engine, Modules leaving, const ModuleState& module) {
  std::string users;
  std::size_t told = 0;
  for_each_module(engine, [&](ModuleState& user) {
    if (among(leaving, &user)) return;
    for_each_holder(user, [&](const ModuleState& holder) {
      for (const Dependency& dependency : holder.dependencies) {
        if (dependency.module != &module || dependency.group != nullptr || ++told > 8) continue;
        users += (users.empty() ? " " : ", ") + user.name + " (by '" + dependency.symbol + "')";
      }
    });
    if (user.replaceable == nullptr) return;
    for (const Led& led : user.replaceable->led)
      if (led.target == &module && ++told <= 8)
        users += (users.empty() ? " " : ", ") + user.name + " (by '" + led.definition->name + "', which was led to '" +
                 led.symbol + "')";
  });
  if (module.replaceable != nullptr)
    for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
      for (const Definition* f = definition->followers; f != nullptr; f = f->next_follower)
        if (f->redirector != nullptr && ++told <= 8)
          users += (users.empty() ? " '" : ", '") + f->name + "' of " + f->module->name + ", which is redirected to '" +
                   definition->name + "'";
  return {ErrorCode::still_used, "module " + module.name + " can't be removed, it is still referred to by" +
                                     (users.empty() ? std::string(" released code") : users)};
}

// All symbols, but for those in COMDAT groups that others share.
void erase_records(LibraryState& library, ModuleState& module) noexcept {
  auto erase = [](SymbolTable& table, SymbolRecord& record) {
    if ((record.flags & symbol_flag::erased) != 0) return;
    table.erase(&record);
    record.flags |= symbol_flag::erased;
  };
  module.for_each_record([&](SymbolRecord& record) {
    bool group = (record.flags & symbol_flag::group) != 0;
    bool shared = group ? record.users != 0 : record.group != nullptr && record.group->users != 0;
    if (!shared) erase(group ? library.groups : library.symbols, record);
  });
}

bool shares_groups(const ModuleState& module) noexcept {
  bool shared = false;
  module.for_each_record([&](SymbolRecord& record) {
    shared |= (record.flags & (symbol_flag::group | symbol_flag::erased)) == symbol_flag::group && record.users != 0;
  });
  return shared;
}

void take_out(LibraryState& library, ModuleState& module) noexcept {
  std::shared_ptr<ModuleState>& last = library.modules.back();
  last->index = module.index;
  std::swap(library.modules[module.index], last);
  library.modules.pop_back();
}

// Removed modules that others no longer share anything with lose their last symbols.
void check_remnants(EngineState& engine) noexcept {
  for (const std::shared_ptr<ModuleState>& module : engine.removed) {
    if (!module->remnant) continue;
    if (std::shared_ptr<LibraryState> library = module->library.lock()) erase_records(*library, *module);
    module->remnant = shares_groups(*module);
  }
}

} // namespace

Result<void> check_removable(EngineState& engine, Modules modules) {
  std::unordered_map<const ModuleState*, std::uint32_t> from_inside;
  if (modules.size() > 1)
    for (const std::shared_ptr<ModuleState>& module : modules)
      for_each_holder(*module, [&](const ModuleState& holder) {
        for (const Dependency& dependency : holder.dependencies)
          if (dependency.group == nullptr) ++from_inside[dependency.module];
      });
  for (const std::shared_ptr<ModuleState>& module : modules)
    if (modules.size() > 1 && module->replaceable != nullptr)
      for (const Led& led : module->replaceable->led) ++from_inside[led.target];
  for (const std::shared_ptr<ModuleState>& module : modules) {
    if (!module->live.load(std::memory_order_relaxed))
      return Error{ErrorCode::conflict, "module " + module->name + " has been removed already"};
    auto inside = from_inside.find(module.get());
    if (module->users > (inside == from_inside.end() ? 0 : inside->second)) return still_used(engine, modules, *module);
    if (is_recalled_by_others(*module, modules))
      return Error{ErrorCode::still_used, "module " + module->name +
                                              " can't be removed while it is unloaded: others share its COMDAT groups, and "
                                              "may call their functions; replace it first"};
  }
  return {};
}

void count_references(const ModuleState& module) noexcept {
  for (SymbolRecord* group : module.groups) ++group->users;
  for (const Dependency& dependency : module.dependencies)
    ++(dependency.group != nullptr ? dependency.group->users : dependency.module->users);
}

void uncount_references(const ModuleState& module) noexcept {
  for (SymbolRecord* group : module.groups) --group->users;
  for (const Dependency& dependency : module.dependencies)
    --(dependency.group != nullptr ? dependency.group->users : dependency.module->users);
  if (module.replaceable != nullptr) // a module, not a version of one
    for (const Led& led : module.replaceable->led) --led.target->users;
}

void unpublish(EngineState& engine, Removal& removal) noexcept {
  for (const std::shared_ptr<ModuleState>& module : removal.modules)
    for_each_holder(*module, [](const ModuleState& holder) { uncount_references(holder); });
  for (const std::shared_ptr<ModuleState>& module : removal.modules) {
    std::shared_ptr<LibraryState> library = module->library.lock();
    TENON_CHECK(library != nullptr, "a published module without a library");
    module->live.store(false, std::memory_order_release);
    module->removed = module->finalizing = module->remnant = true;
    module->waiting = !removal.is_quiet(module.get());
    reopen_forwards(*module, *engine.machinery->space);
    take_out(*library, *module);
  }
  engine.removed.splice(engine.removed.end(), removal.entries);
  check_remnants(engine);
}

namespace {

// Marks the removed modules that somebody needs, and which of them for more than the COMDAT groups that others share.
void mark_needed(const ModuleList& removed) noexcept {
  ModuleState* pending = nullptr;
  auto reach = [&](ModuleState* module, bool whole) {
    if (module == nullptr || !module->removed) return;
    module->needed_whole |= whole;
    if (std::exchange(module->reachable, true)) return;
    module->next_reachable = std::exchange(pending, module);
  };
  for (const std::shared_ptr<ModuleState>& module : removed) module->reachable = module->needed_whole = false;
  for (const std::shared_ptr<ModuleState>& module : removed) {
    bool whole = module->finalizing || module->waiting || module->pins.load(std::memory_order_acquire) != 0 ||
                 (module->held && module->current->live.load(std::memory_order_relaxed));
    if (whole || module->remnant) reach(module.get(), whole);
  }
  while (pending != nullptr) {
    ModuleState* module = std::exchange(pending, pending->next_reachable);
    for_each_holder(*module, [&](const ModuleState& holder) {
      for (const Dependency& dependency : holder.dependencies) reach(dependency.module, true);
      for (const SymbolRecord* group : holder.groups) reach(group->module, group->module != module);
    });
    // What has been replaced singly lies in its version's memory.
    if (module->stale_of != 0)
      for (const std::shared_ptr<ModuleState>& holder : removed)
        if (holder->serial == module->stale_of) reach(holder.get(), true);
    // A version runs on its module's storage; a module keeps versions to whose functions pointers may be held.
    if (module->superseded) reach(module->current.get(), true);
    if (module->replaceable == nullptr) continue;
    for (const std::shared_ptr<ModuleState>& version : module->replaceable->held) reach(version.get(), true);
    for (const Led& led : module->replaceable->led) reach(led.target, true);
  }
}

// Moves what nobody needs to `dead`, under commit_mutex; its memory is released by the caller, without the lock.
void split_dead(EngineState& engine, ModuleList& dead, std::vector<OwnedBlock>& freed) noexcept {
  mark_needed(engine.removed);
  for (auto at = engine.removed.begin(); at != engine.removed.end();) {
    auto here = at++;
    if ((*here)->reachable || !bequeath(engine, **here, freed)) continue;
    (*here)->removed = false;
    dead.splice(dead.end(), engine.removed, here);
    --engine.module_count;
  }
  // Nobody marks from these again, and what they point to may be freed before their handles go.
  for (const std::shared_ptr<ModuleState>& module : dead) {
    for_each_holder(*module, [](ModuleState& holder) {
      holder.dependencies.clear();
      holder.groups.clear();
      holder.forwards.clear();
    });
    bury(*module);
  }
}

void release_all(ModuleList& dead) noexcept {
  for (const std::shared_ptr<ModuleState>& module : dead) module->release_memory();
  dead.clear();
}

// A library without a handle that can be closed now, or null.
std::shared_ptr<LibraryState> take_orphan(EngineState& engine) {
  std::lock_guard lock(engine.commit_mutex);
  for (std::shared_ptr<LibraryState>& orphan : engine.orphans) {
    if (!check_removable(engine, orphan->modules)) continue;
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

} // namespace

void sweep(EngineState& engine) noexcept {
  ModuleList dead;
  std::vector<OwnedBlock> freed;
  bool orphans;
  {
    std::lock_guard lock(engine.commit_mutex);
    {
      std::unique_lock tables(engine.tables);
      check_remnants(engine);
    }
    split_dead(engine, dead, freed);
    for (const std::shared_ptr<ModuleState>& module : engine.removed)
      if (!module->needed_whole) trim(*module, freed);
    orphans = !engine.orphans.empty();
  }
  freed.clear();
  release_all(dead);
  if (orphans) close_orphans(engine);
}

void retire(EngineState& engine, Removal& removal) noexcept {
  std::sort(removal.modules.begin(), removal.modules.end(),
            [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  finalize_all(removal.modules);
  {
    std::lock_guard lock(engine.commit_mutex);
    for (const std::shared_ptr<ModuleState>& module : removal.modules) module->finalizing = false;
  }
  sweep(engine);
  if (std::any_of(removal.modules.begin(), removal.modules.end(), [&](const auto& m) { return !removal.is_quiet(m.get()); }))
    reclaim_now(engine);
}

} // namespace tenon::engine

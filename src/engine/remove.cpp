// Modules go: their symbols first, all at once, then their finalizers run, then their memory is freed.
//
// COMDAT groups are counted apart from modules: a removed module whose groups others share stays as a remnant, without its other
// symbols, until the last of those is gone. Memory that somebody pins (a Function handle, a thread's pending destructors) stays
// too, with everything it refers to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"
#include "engine/engine_state.h"

#include <algorithm>
#include <unordered_map>

namespace tenon::engine {

namespace {

using Modules = std::span<const std::shared_ptr<ModuleState>>;

bool among(Modules modules, const ModuleState* module) {
  return std::any_of(modules.begin(), modules.end(), [&](const std::shared_ptr<ModuleState>& m) { return m.get() == module; });
}

// Everybody who may hold a dependency, for the error message only.
template <class Visit> void for_each_module(EngineState& engine, Visit&& visit) {
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries) {
    std::shared_ptr<LibraryState> library = weak.lock();
    if (!library)
      continue;
    for (const std::shared_ptr<ModuleState>& module : library->modules)
      visit(*module, "");
  }
  for (const std::shared_ptr<ModuleState>& module : engine.remnants)
    visit(*module, " (removed, but its COMDAT sections are shared)");
  for (const std::shared_ptr<ModuleState>& module : engine.lingering)
    visit(*module, " (removed, but a handle keeps it)");
}

Error still_used(EngineState& engine, Modules leaving, const ModuleState& module) {
  std::string users;
  std::size_t told = 0;
  for_each_module(engine, [&](ModuleState& user, const char* remark) {
    if (among(leaving, &user))
      return;
    for (const Dependency& dependency : user.dependencies) {
      if (dependency.module != &module || dependency.group != nullptr || ++told > 8)
        continue;
      users += (users.empty() ? " " : ", ") + user.name + remark + " (by '" + dependency.symbol + "')";
    }
  });
  return {ErrorCode::still_used, "module " + module.name + " can't be removed, it is still referred to by" +
                                     (users.empty() ? std::string(" released code") : users)};
}

void erase_records(LibraryState& library, ModuleState& module, bool keep_shared_groups) noexcept {
  module.for_each_record([&](SymbolRecord& record) {
    if ((record.flags & symbol_flag::group) != 0) {
      if (record.module != nullptr && (!keep_shared_groups || record.users == 0)) {
        library.groups.erase(&record);
        record.module = nullptr;
      }
      return;
    }
    bool shared = keep_shared_groups && record.group != nullptr && record.group->users != 0;
    if (record.module != nullptr && !shared) {
      library.symbols.erase(&record);
      record.module = nullptr;
    }
  });
}

bool shares_groups(const ModuleState& module) noexcept {
  bool shared = false;
  module.for_each_record([&](SymbolRecord& record) {
    shared |= (record.flags & symbol_flag::group) != 0 && record.module != nullptr && record.users != 0;
  });
  return shared;
}

void take_out(LibraryState& library, ModuleState& module) noexcept {
  std::shared_ptr<ModuleState>& last = library.modules.back();
  last->index = module.index;
  std::swap(library.modules[module.index], last);
  library.modules.pop_back();
}

// Forward symbols that the module had defined wait for another definition again.
void reopen_forwards(LibraryState& library, const ModuleState& module, Machinery& machinery) noexcept {
  if (library.own_records.empty())
    return;
  for (const std::unique_ptr<std::byte[]>& bytes : library.own_records) {
    auto* record = reinterpret_cast<SymbolRecord*>(bytes.get());
    if (record->module != &module)
      continue;
    record->module = nullptr;
    record->address = 0;
    record->flags |= symbol_flag::forward;
    memory::WriteGuard guard(*machinery.space);
    auto* cell = reinterpret_cast<std::uint64_t*>(machinery.space->writable({record->slot}));
    std::atomic_ref<std::uint64_t>(*cell).store(unresolved_function(), std::memory_order_release);
  }
}

// Remnants whose groups nobody shares any more.
void collect_remnants(EngineState& engine, std::vector<std::shared_ptr<ModuleState>>& gone) noexcept {
  for (std::size_t i = 0; i < engine.remnants.size();) {
    std::shared_ptr<ModuleState>& remnant = engine.remnants[i];
    if (std::shared_ptr<LibraryState> library = remnant->library.lock())
      erase_records(*library, *remnant, true);
    if (shares_groups(*remnant)) {
      ++i;
      continue;
    }
    remnant->remnant = false;
    if (gone.size() == gone.capacity())
      return; // there is no room to hold it now: the next removal, or the engine's end, collects it
    gone.push_back(std::move(remnant));
    remnant = std::move(engine.remnants.back());
    engine.remnants.pop_back();
  }
}

} // namespace

Result<void> check_removable(EngineState& engine, Modules modules) {
  std::unordered_map<const ModuleState*, std::uint32_t> from_inside;
  if (modules.size() > 1)
    for (const std::shared_ptr<ModuleState>& module : modules)
      for (const Dependency& dependency : module->dependencies)
        if (dependency.group == nullptr)
          ++from_inside[dependency.module];
  for (const std::shared_ptr<ModuleState>& module : modules) {
    if (!module->live.load(std::memory_order_relaxed))
      return Error{ErrorCode::conflict, "module " + module->name + " has been removed already"};
    auto inside = from_inside.find(module.get());
    if (module->users > (inside == from_inside.end() ? 0 : inside->second))
      return still_used(engine, modules, *module);
  }
  return {};
}

void reserve_for_removal(EngineState& engine, std::size_t count, std::vector<std::shared_ptr<ModuleState>>& gone) {
  engine.remnants.reserve(engine.remnants.size() + count);
  engine.lingering.reserve(engine.lingering.size() + engine.remnants.size() + count);
  gone.reserve(engine.remnants.size() + count);
}

void unpublish(EngineState& engine, Modules modules, std::vector<std::shared_ptr<ModuleState>>& gone) noexcept {
  for (const std::shared_ptr<ModuleState>& module : modules)
    for (SymbolRecord* group : module->groups)
      --group->users;
  for (const std::shared_ptr<ModuleState>& module : modules) {
    std::shared_ptr<LibraryState> library = module->library.lock();
    TENON_CHECK(library != nullptr, "a published module without a library");
    module->live.store(false, std::memory_order_release);
    module->groups.clear();
    reopen_forwards(*library, *module, *engine.machinery);
    erase_records(*library, *module, true);
    take_out(*library, *module);
    module->remnant = shares_groups(*module);
    if (module->remnant)
      engine.remnants.push_back(module);
    gone.push_back(module);
  }
  collect_remnants(engine, gone);
}

namespace {

void mark(ModuleState& module) noexcept {
  // Iterative: chains of modules are long. The work list is threaded through nothing but the flags, so it is repeated until
  // nothing changes; lingering modules are few.
  module.reachable = true;
}

void mark_needed(std::vector<std::shared_ptr<ModuleState>>& lingering) noexcept {
  for (const std::shared_ptr<ModuleState>& module : lingering)
    module->reachable = module->pins.load(std::memory_order_acquire) != 0 || module->remnant;
  for (bool changed = true; changed;) {
    changed = false;
    for (const std::shared_ptr<ModuleState>& module : lingering) {
      if (!module->reachable)
        continue;
      for (const Dependency& dependency : module->dependencies) {
        changed |= !dependency.module->reachable;
        mark(*dependency.module);
      }
    }
  }
}

void drop_dependencies(ModuleState& module) noexcept {
  for (const Dependency& dependency : module.dependencies)
    --(dependency.group != nullptr ? dependency.group->users : dependency.module->users);
  module.dependencies.clear();
}

// Splits the dead off `modules`, under commit_mutex; their memory is released by the caller, without the lock.
void split_dead(std::vector<std::shared_ptr<ModuleState>>& modules, std::vector<std::shared_ptr<ModuleState>>& dead) noexcept {
  mark_needed(modules);
  for (std::size_t i = 0; i < modules.size();) {
    if (modules[i]->reachable || dead.size() == dead.capacity()) {
      modules[i]->reachable = false;
      ++i;
      continue;
    }
    drop_dependencies(*modules[i]);
    dead.push_back(std::move(modules[i]));
    modules[i] = std::move(modules.back());
    modules.pop_back();
  }
}

void release_all(std::vector<std::shared_ptr<ModuleState>>& dead) noexcept {
  for (const std::shared_ptr<ModuleState>& module : dead)
    module->release_memory();
  dead.clear();
}

} // namespace

void retire(EngineState& engine, std::vector<std::shared_ptr<ModuleState>>& gone) noexcept {
  std::sort(gone.begin(), gone.end(), [](const auto& a, const auto& b) { return a->sequence > b->sequence; });
  for (const std::shared_ptr<ModuleState>& module : gone)
    module->finalize();
  std::erase_if(gone, [](const std::shared_ptr<ModuleState>& module) { return module->remnant; });
  std::vector<std::shared_ptr<ModuleState>> dead;
  {
    std::lock_guard lock(engine.commit_mutex);
    dead.swap(gone); // has the room for all of them
    gone.swap(engine.lingering);
    for (std::shared_ptr<ModuleState>& module : dead)
      if (module->pins.load(std::memory_order_acquire) == 0 && gone.empty()) {
        drop_dependencies(*module); // nobody lingers: nothing can need it
      } else {
        gone.push_back(std::move(module));
      }
    std::erase(dead, nullptr);
    engine.lingering.swap(gone);
    if (!engine.lingering.empty()) {
      split_dead(engine.lingering, dead);
    }
  }
  release_all(dead);
}

void sweep(EngineState& engine) noexcept {
  std::vector<std::shared_ptr<ModuleState>> dead;
  {
    std::lock_guard lock(engine.commit_mutex);
    try {
      dead.reserve(engine.lingering.size());
    } catch (const std::bad_alloc&) {
      return; // the next removal sweeps again
    }
    split_dead(engine.lingering, dead);
  }
  release_all(dead);
}

Result<void> remove_modules(EngineState& engine, Modules modules) {
  std::vector<std::shared_ptr<ModuleState>> gone;
  {
    std::lock_guard lock(engine.commit_mutex);
    if (Result<void> removable = check_removable(engine, modules); !removable)
      return removable;
    reserve_for_removal(engine, modules.size(), gone);
    std::unique_lock tables(engine.tables);
    unpublish(engine, modules, gone);
  }
  retire(engine, gone);
  return {};
}

} // namespace tenon::engine

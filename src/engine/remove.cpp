// Modules go: their symbols first, all at once, then their finalizers run, then their memory is freed (sweep.cpp).
//
// Who counts as a user is what is published or released. The collector counts more: see Collectable::outside.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"
#include "base/prefetch.h"
#include "engine/at_once.h"
#include "engine/engine_state.h"
#include "engine/forwards.h"
#include "engine/recall.h"
#include "engine/reclaimer.h"

#include <algorithm>
#include <unordered_map>

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

void erase(SymbolTable& table, SymbolRecord& record) noexcept {
  if ((record.flags & symbol_flag::erased) != 0) return;
  table.erase(&record);
  record.flags |= symbol_flag::erased;
}

// All symbols, but for those in COMDAT groups that others share. The removed module stays a remnant while there are such.
void check_remnant(ModuleState& module, LibraryState* library) noexcept {
  module.remnant = false;
  module.for_each_record([&](SymbolRecord& record) {
    const bool group = (record.flags & symbol_flag::group) != 0;
    const bool shared = group ? record.users() != 0 : record.group() != nullptr && record.group()->users() != 0;
    if (!shared && library != nullptr) erase(group ? library->groups : library->symbols, record);
    module.remnant |= group && shared && (record.flags & symbol_flag::erased) == 0;
  });
}
void check_remnant(ModuleState& module) noexcept { check_remnant(module, module.library.lock().get()); }

void take_out(LibraryState& library, ModuleState& module) noexcept {
  std::shared_ptr<ModuleState>& last = library.modules.back();
  last->index = module.index;
  std::swap(library.modules[module.index], last);
  library.modules.pop_back();
}

// Versions that stayed because pointers into them may be held could be entered all the time: whoever is inside now is looked
// for once the module is gone.
void await_held(ModuleState& module) noexcept {
  if (module.replaceable == nullptr) return;
  for (const std::shared_ptr<ModuleState>& version : module.replaceable->held) {
    version->waiting = true;
    leave_retirement(*version);
  }
}

// Out of its library: nobody finds it any more.
void leave(EngineState& engine, ModuleState& module, std::shared_ptr<LibraryState> library) noexcept {
  TENON_CHECK(library != nullptr, "a published module without a library");
  if (module.collectable != nullptr) delist(engine.collection, module);
  module.live.store(false, std::memory_order_release);
  module.removed = module.finalizing = true;
  reopen_forwards(module, *engine.machinery->space);
  take_out(*library, module);
  // One after the other: to let go of another here would be to end it, and what its client gave it, under the locks.
  if (engine.sparse == nullptr && library->is_sparse()) engine.sparse = std::move(library);
}
void leave(EngineState& engine, ModuleState& module) noexcept { leave(engine, module, module.library.lock()); }

// `from_inside`: how many of its users leave with it.
Result<void> check_one(EngineState& engine, Modules leaving, const ModuleState& module, std::uint32_t from_inside) {
  if (!module.live.load(std::memory_order_relaxed))
    return Error{ErrorCode::conflict, "module " + module.name + " has been removed already"};
  if (module.users > from_inside) {
    if (is_dead(engine.collection, module))
      return Error{ErrorCode::conflict, "module " + module.name + " has been collected already"};
    return still_used(engine, leaving, module);
  }
  if (is_recalled_by_others(module, leaving))
    return Error{ErrorCode::still_used, "module " + module.name +
                                            " can't be removed while it is unloaded: others share its COMDAT groups, and "
                                            "may call their functions; replace it first"};
  return {};
}

} // namespace

Result<void> check_removable(EngineState& engine, Modules modules) {
  if (modules.size() == 1) return check_one(engine, modules, *modules.front(), 0);
  std::unordered_map<const ModuleState*, std::uint32_t> from_inside;
  for (const std::shared_ptr<ModuleState>& module : modules)
    for_each_holder(*module, [&](const ModuleState& holder) {
      for (const Dependency& dependency : holder.dependencies)
        if (dependency.group == nullptr) ++from_inside[dependency.module];
    });
  for (const std::shared_ptr<ModuleState>& module : modules)
    if (module->replaceable != nullptr)
      for (const Led& led : module->replaceable->led) ++from_inside[led.target];
  for (const std::shared_ptr<ModuleState>& module : modules) {
    auto inside = from_inside.find(module.get());
    Result<void> removable = check_one(engine, modules, *module, inside == from_inside.end() ? 0 : inside->second);
    if (!removable) return removable;
  }
  return {};
}

void count_references(EngineState& engine, const ModuleState& module) noexcept {
  for (SymbolRecord* group : module.groups) ++group->users();
  for (const Dependency& dependency : module.dependencies)
    ++(dependency.group != nullptr ? dependency.group->users() : dependency.module->users);
  if (module.collectable == nullptr)
    hold_references(engine.collection, module);
  else
    reach_references(engine.collection, module);
}

void uncount_references(EngineState& engine, const ModuleState& module) noexcept {
  auto leave_group = [](SymbolRecord& group) {
    if (--group.users() == 0 && group.module()->remnant) check_remnant(*group.module());
  };
  for (SymbolRecord* group : module.groups) leave_group(*group);
  for (const Dependency& dependency : module.dependencies)
    if (dependency.group != nullptr)
      leave_group(*dependency.group);
    else
      --dependency.module->users;
  if (module.replaceable != nullptr) // a module, not a version of one
    for (const Led& led : module.replaceable->led) --led.target->users;
  if (module.collectable != nullptr) engine.collection.wanted.store(true, std::memory_order_relaxed);
}

void unpublish(EngineState& engine, Removal& removal) noexcept {
  for (const std::shared_ptr<ModuleState>& module : removal.modules)
    for_each_holder(*module, [&](const ModuleState& holder) { uncount_references(engine, holder); });
  for (const std::shared_ptr<ModuleState>& module : removal.modules) {
    // Until its finalizers have run it keeps what it refers to.
    if (module->collectable != nullptr)
      for_each_holder(*module, [&](const ModuleState& holder) { hold_references(engine.collection, holder); });
    leave(engine, *module);
    module->waiting = !removal.is_quiet(module.get());
    if (module->waiting) await_held(*module);
  }
  engine.removed.splice(engine.removed.end(), removal.entries);
  for (const std::shared_ptr<ModuleState>& module : removal.modules) check_remnant(*module);
}

void unpublish_dead(EngineState& engine, ModuleState& module) noexcept {
  // What it refers to may be dead and gone from its library, but is being finalized and so still there.
  for_each_holder(module, [&](const ModuleState& holder) {
    uncount_references(engine, holder);
    hold_references(engine.collection, holder);
  });
  module.collectable->entry.front() = module.shared_from_this();
  leave(engine, module);
  module.waiting = true;
  await_held(module);
  engine.removed.splice(engine.removed.end(), module.collectable->entry);
}

bool erase_dead_names(EngineState& engine, ModuleState& module, StepBudget& budget) noexcept {
  const std::shared_ptr<LibraryState> library = module.library.lock();
  TENON_CHECK(library != nullptr, "a published module without a library");
  reopen_forwards(module, *engine.machinery->space);
  // Dead modules are not replaced: their records stay where they are.
  return module.visit_records_from(module.collectable->unpublished, [&](SymbolRecord& record) {
    erase((record.flags & symbol_flag::group) != 0 ? library->groups : library->symbols, record);
    return !budget.spent_after_many();
  });
}

namespace {

// A dead module's, which stands in the way of another that defines the name.
void make_way(EngineState& engine, SymbolRecord& record) noexcept {
  ModuleState& module = *record.module();
  const std::shared_ptr<LibraryState> library = module.library.lock();
  TENON_CHECK(library != nullptr, "a published module without a library");
  if (std::find(module.rare().filled.begin(), module.rare().filled.end(), &record) != module.rare().filled.end())
    reopen_forwards(module, *engine.machinery->space);
  else
    erase((record.flags & symbol_flag::group) != 0 ? library->groups : library->symbols, record);
}

} // namespace

SymbolRecord* find_alive(EngineState& engine, const SymbolTable& table, std::string_view name, std::uint64_t hash) noexcept {
  for (;;) {
    SymbolRecord* record = table.find(name, hash);
    if (record == nullptr || !is_gone(engine.collection, *record)) return record;
    make_way(engine, *record);
  }
}

void retire(EngineState& engine, Removal& removal) noexcept {
  std::sort(removal.modules.begin(), removal.modules.end(),
            [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  finalize_all(removal.modules);
  std::size_t removed;
  {
    std::lock_guard lock(engine.commit_mutex);
    for (const std::shared_ptr<ModuleState>& module : removal.modules) {
      for_each_holder(*module, [&](const ModuleState& holder) { release_references(engine.collection, holder); });
      module->finalizing = false;
    }
    removed = engine.removed.size();
  }
  const auto waits = [&](const std::shared_ptr<ModuleState>& module) { return !removal.is_quiet(module.get()); };
  const bool any = std::any_of(removal.modules.begin(), removal.modules.end(), waits);
  // While all of them wait, nothing can be freed that could not before; whoever finds them free sweeps.
  if (any && !may_reclaim_now(engine, removed) && std::all_of(removal.modules.begin(), removal.modules.end(), waits))
    return reclaim_later(engine);
  sweep(engine);
  if (any) reclaim_now(engine);
}

void prefetch_leaving(Modules modules) noexcept {
  constexpr std::size_t few = 8; // of many, the first would be out of the cache again
  if (modules.size() > few) return;
  for (const std::shared_ptr<ModuleState>& module : modules) {
    base::pool::prefetch(module.get());
    for (const void* piece : {static_cast<const void*>(module->records.data()),
                              static_cast<const void*>(module->dependencies.data()), module->linking.piece()}) {
      base::prefetch_to_write(piece);
      base::pool::prefetch(piece);
    }
    module->blocks.prefetch();
  }
}

void prefetch_places(const LibraryState& library, const ModuleState& module) noexcept {
  base::prefetch_to_write(&library.modules.back()->index);
  base::prefetch_to_write(&library.modules[module.index]);
  module.for_each_record([&](const SymbolRecord& record) { library.symbols.prefetch(record.hash()); });
  module.blocks.prefetch_neighbours();
}

bool ends_at_once(const EngineState& engine, const ModuleState& module) noexcept {
  if (!engine.removed.empty() || engine.walked) return false;
  if (module.replaceable != nullptr || module.collectable != nullptr || !module.groups.empty()) return false;
  if (module.has_exit_handlers.load(std::memory_order_relaxed)) return false;
  if (!module.extra().finalizers.empty() && module.initialized.load(std::memory_order_acquire)) return false;
  return std::none_of(module.dependencies.begin(), module.dependencies.end(),
                      [](const Dependency& dependency) { return dependency.group != nullptr; });
}

bool leave_at_once(EngineState& engine, ModuleState& module, std::shared_ptr<LibraryState> library) noexcept {
  TENON_CHECK(library != nullptr, "a published module without a library");
  LibraryState& from = *library;
  uncount_references(engine, module);
  release_references(engine.collection, module);
  check_remnant(module, &from);
  leave(engine, module, std::move(library));
  TENON_CHECK(!module.remnant, "a module without COMDAT groups leaves nothing behind");
  std::size_t done = 0;
  StepBudget budget = StepBudget::unlimited();
  const bool all = bury(module, done, budget);
  TENON_CHECK(all, "a step without end ends nothing early");
  // Nobody marks from it: it is in no list, and what it points to may be freed before its handles go.
  module.removed = module.finalizing = false;
  module.dependencies.clear();
  if (module.has_extra()) module.extra().forwards.clear();
  engine.modules_leaving.fetch_add(1, std::memory_order_relaxed);
  --engine.module_count;
  return engine.sparse != nullptr || !engine.orphans.empty() || engine.collection.wanted.load(std::memory_order_relaxed);
}

void end_at_once(EngineState& engine, std::shared_ptr<ModuleState> module) noexcept {
  // What threads that were still inside have registered, in spite of what the client said.
  finalize_all({&module, 1});
  if (module.use_count() != 1) module->release_memory(); // or else it does that at its end
  module.reset();
  engine.modules_leaving.fetch_sub(1, std::memory_order_release);
}

} // namespace tenon::engine

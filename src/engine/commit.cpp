// The point of no return: what a change has prepared becomes visible as a whole.
//
// Order: (1) everything that allocates; (2) frames are registered, IFUNCs chosen, without a lock: nobody can see the code
// yet; (3) under the locks: what the draft was built on is checked once more, room is reserved, then symbols are exchanged
// by steps that can't fail; (4) without a lock: finalizers of removed modules, their memory, then initializers of added
// ones.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/at_once.h"
#include "engine/forwards.h"
#include "engine/recall.h"
#include "engine/transition.h"

#include "base/stable_sort.h"

#include <cxxabi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <list>
#include <thread>
#include <unordered_set>

namespace tenon::engine {

namespace {
Error conflict(std::string text) { return {ErrorCode::conflict, std::move(text) + "; draft the change again"}; }
} // namespace

Result<void> check_references(const ChangeState& change) {
  for (std::size_t m = 0; change.shares_groups && m < change.drafts.size(); ++m)
    for (const auto& [signature, record] : change.drafts[m].shared_groups)
      if (is_gone(change.engine->collection, *record))
        return conflict("COMDAT group '" + std::string(signature) + "', which this change shares, was removed meanwhile");
  for (std::uint32_t i = change.found_begin; i < change.found_end; ++i) {
    const Name& name = (*change.names)[i];
    if (name.record == nullptr) continue;
    if (((name.record->flags & symbol_flag::forward) != 0) != name.forward_record)
      return conflict("'" + std::string(name.view()) + "', a forward reference, was defined or reopened meanwhile");
    if (name.module == link::none && is_gone(change.engine->collection, *name.record))
      return conflict("'" + std::string(name.view()) + "' of " + name.record->module()->name + " was removed meanwhile");
    // Calls are led to where a function is by now; who refers to data has its address in many places.
    if (name.module == link::none && name.record->definition() != nullptr && !name.forward_record &&
        name.record->address() != name.address)
      return conflict("'" + std::string(name.view()) + "' of " + name.record->module()->name + " was replaced meanwhile");
  }
  return {};
}

namespace {

using link::Synthetic;

// (2) The unwinder is told before anything can run. A failed commit takes the frames out again with the blocks.
Result<void> register_frames(ChangeState& change) {
  Machinery& machinery = *change.engine->machinery;
  std::array<notify::Frame, 3> few; // of a tiny module
  base::Vector<notify::Frame> many;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    ModuleState& state = *change.drafts[m].state;
    if (change.mode == PlaceMode::client) {
      if (!module.unwinding) continue;
      module.for_each_kept([&](std::uint32_t i) {
        if (module.section_kind(i) == SectionKind::unwind)
          state.extra().client.frames.emplace_back(Addr{module.places[i].address}.as<const std::byte*>());
      });
      continue;
    }
    if (machinery.space->mapping() != memory::Mapping::dual) // there everything is as it is to be
      for (const RunBlocks::View& block : state.blocks.all())
        if (block)
          if (Result<void> published = machinery.space->publish(*block); !published) return published;
    if (!machinery.frames || module.frames.empty()) continue;
    const RunBlocks::View code = state.blocks[link::Run::code];
    std::span<notify::Frame> frames = few;
    if (module.frames.size() > few.size()) {
      many.resize(module.frames.size());
      frames = many;
    }
    std::size_t count = 0;
    for (const link::FrameEntry& frame : module.frames)
      if (Addr pc{frame.pc}; pc >= code->begin && pc < code->end()) frames[count++] = {pc, {frame.fde}};
    memory::WriteGuard guard(*machinery.space);
    machinery.frames->add(*code, frames.first(count));
  }
  return {};
}

// (2) IFUNC resolvers run in the new code; their answers go to the slots that stubs jump through.
Result<void> choose_ifuncs(ChangeState& change) {
  memory::Space& space = *change.engine->machinery->space;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    link::Module& module = *change.modules[m];
    for (std::uint32_t symbol : module.ifuncs) {
      const link::Target& target = module.targets[symbol];
      if (target.kind != link::TargetKind::section) continue; // a stronger definition has won
      const Symbol& definition = module.symbols()[symbol];
      std::uint64_t resolver = module.places[definition.section].address + definition.value;
      const link::SectionPlace& slots = module.place(Synthetic::slots);
      std::uint32_t slot = module.entries[target.entry - 1].slot;
      std::uint64_t chosen = 0;
      try {
        chosen = reinterpret_cast<std::uint64_t (*)()>(resolver)();
      } catch (const abi::__forced_unwind&) {
        throw;
      } catch (...) {
        return Error{ErrorCode::initializer,
                     module.name + ": the resolver of IFUNC '" + std::string(definition.name()) + "' threw"};
      }
      if (chosen == 0)
        return Error{ErrorCode::initializer,
                     module.name + ": the resolver of IFUNC '" + std::string(definition.name()) + "' has chosen none"};
      memory::WriteGuard guard(space);
      // A client's memory has been published by now: its slots are writable where the program sees them.
      auto* cell = change.mode == PlaceMode::client ? Addr{slots.address + slot}.as<std::uint64_t*>()
                                                    : reinterpret_cast<std::uint64_t*>(slots.local + slot);
      std::atomic_ref<std::uint64_t>(*cell).store(chosen, std::memory_order_release);
    }
  }
  return {};
}

Error unloaded_meanwhile() { return conflict("a module that is to be removed was unloaded meanwhile"); }

Result<void> check_leaving_groups(const ChangeState& change) {
  if (!change.removals.empty() && find_leaving_groups(change.removals) != change.leaving_groups)
    return conflict(
        "another change has begun or ceased meanwhile to share COMDAT groups of the modules that this one removes");
  return {};
}

// What the definitions of a change meet when they are published.
Result<void> check_definitions(ChangeState& change) {
  if (!change.removals.empty())
    if (Result<void> same = check_leaving_groups(change); !same) return same;
  if (change.has_identities && find_kept_groups(change) != change.kept_groups)
    return conflict(
        "another change has begun or ceased meanwhile to share COMDAT groups of the modules that this one replaces");
  if (change.found_end == 0 && are_empty(change)) return {}; // nobody to meet
  for (std::uint32_t i = 0, count = change.names->size(); i < count; ++i) {
    const Name& name = (*change.names)[i];
    LibraryState& library = *change.libraries[name.library];
    const SymbolRecord* group =
        name.group != link::none ? find_alive(*change.engine, library.groups, name.view(), name.hash) : nullptr;
    if (group != nullptr && !leaves(change, *group) && !takes_over(change, name.group, *group))
      return conflict("COMDAT group '" + std::string(name.view()) + "' was committed by another change meanwhile");
    if (name.module == link::none && !is_new_forward(name)) continue;
    SymbolRecord* there = find_alive(*change.engine, library.symbols, name.view(), name.hash);
    SymbolRecord* expected = name.forward_record ? name.record : nullptr;
    if (there == expected || (there != nullptr && (leaves(change, *there) || takes_over(change, name.module, *there))))
      continue;
    if (there == nullptr || name.strength != Strength::strong || (there->flags & symbol_flag::forward) != 0)
      return conflict("'" + std::string(name.view()) + "' was defined or removed by another change meanwhile");
    return Error{ErrorCode::duplicate, "'" + std::string(name.view()) + "' of " + change.modules[name.module]->name +
                                           " was defined meanwhile" +
                                           (there->module() != nullptr ? " by " + there->module()->name : "")};
  }
  return {};
}

Result<void> check_pins(ChangeState& change) {
  if (change.removals.empty()) return {};
  for (const std::shared_ptr<ModuleState>& pin : change.pins) {
    bool leaving = std::find(change.removals.begin(), change.removals.end(), pin) != change.removals.end();
    if (leaving)
      for (const ModuleDraft& draft : change.drafts)
        for (const Dependency& dependency : draft.state->dependencies)
          if (dependency.module == pin.get() && dependency.group == nullptr)
            return Error{ErrorCode::still_used, "module " + pin->name + " can't be removed: " + draft.state->name +
                                                    ", which the same change adds, refers to its '" + dependency.symbol +
                                                    "'"};
  }
  return {};
}

void reserve_room(ChangeState& change, std::size_t forwards) {
  for (std::size_t l = 0; l < change.libraries.size(); ++l) {
    LibraryState& library = *change.libraries[l];
    const Additions& added = change.added(l);
    if (added.symbols + forwards != 0) library.symbols.reserve(added.symbols + forwards);
    if (added.groups != 0) library.groups.reserve(added.groups);
    // Grown by doubling: reserving exactly would copy the list at every commit.
    if (std::size_t wanted = library.modules.size() + added.modules; wanted > library.modules.capacity())
      library.modules.reserve(std::max(wanted, library.modules.capacity() * 2));
    if (forwards != 0) {
      library.own_records.reserve(library.own_records.size() + forwards);
      library.own_slots.reserve(library.own_slots.size() + 2 * change.forward_slots.size());
    }
  }
  if (std::size_t wanted = change.engine->module_count + change.drafts.size() + 2; wanted > change.engine->last.capacity())
    change.engine->last.reserve(std::max(wanted, change.engine->last.capacity() * 2));
}

// (3) From here on nothing fails.
void publish(ChangeState& change, std::vector<NewForward>& forwards, const std::vector<Adoption>& adoptions) noexcept {
  if (change.has_forwards) {
    fill_forwards(change, adoptions);
    publish_forwards(change, forwards);
  }
  for (std::size_t m = 0; m < change.drafts.size(); ++m) {
    ModuleDraft& draft = change.drafts[m];
    LibraryState& library = *change.libraries[draft.library];
    ModuleState& state = *draft.state;
    state.for_each_record([&](SymbolRecord& record) {
      ((record.flags & symbol_flag::group) != 0 ? library.groups : library.symbols).insert(&record);
    });
    if (draft.replaces != nullptr) { // goes on being the module that it is
      reach(change.engine->collection, *draft.replaces);
      continue;
    }
    if (state.collectable != nullptr) enlist(change.engine->collection, state);
    state.sequence = change.engine->next_sequence++;
    state.index = std::uint32_t(library.modules.size());
    library.modules.push_back(draft.state);
    ++change.engine->module_count;
    state.live.store(true, std::memory_order_release);
  }
  if (!change.exchanges()) return;
  apply_leads(change);
  publish_definitions(change);
  publish_unloads(change);
}

void adopt_client_memory(ChangeState& change) noexcept {
  for (ModuleDraft& draft : change.drafts) draft.state->extra().client.memory = change.memory;
  for (std::size_t i = 0; i < change.requests.size(); ++i)
    change.drafts[change.requests[i].module.index].state->extra().client.placements.push_back(change.placements[i]);
  change.placements_owned = false;
}

void reserve_client_memory(ChangeState& change) {
  for (ModuleDraft& draft : change.drafts) draft.state->make_extra().client.placements.reserve(change.requests.size());
}

Result<void> publish_client_memory(ChangeState& change) {
  reserve_client_memory(change);
  if (Result<void> published = change.memory->publish(change.placements); !published)
    return std::move(published).error().within("the client's memory");
  adopt_client_memory(change);
  return {};
}

struct PendingCall {
  ModuleState* module;
  InitCall call;
};

// An initializer's own body rather than its stub, which an atomic commit may still lead to the version before.
std::uint64_t own_body(const ModuleDraft& draft, std::uint64_t function) noexcept {
  if (draft.replacement == nullptr) return function;
  for (const Provided& p : draft.replacement->provided)
    if (p.definition->kind == DefinitionKind::function && p.definition->stub.address() == function) return p.address;
  return function;
}

bool is_skipped(const ModuleDraft& draft, std::uint64_t function) noexcept {
  if (draft.replacement == nullptr) return false;
  const std::vector<std::uint64_t>& skipped = draft.replacement->skipped_initializers;
  return std::binary_search(skipped.begin(), skipped.end(), function);
}

// All initializers of a change, as one program's: by priority, then in the order of modules. Before the point of no return,
// because the list needs memory.
std::vector<PendingCall> collect_initializers(ChangeState& change) {
  std::vector<PendingCall> calls;
  for (ModuleDraft& draft : change.drafts)
    if (draft.options->initialize)
      for (const InitCall& call : draft.state->extra().initializers)
        if (!is_skipped(draft, call.function))
          calls.push_back({draft.identity().get(), {own_body(draft, call.function), call.priority}});
  if (calls.size() > 1) base::stable_sort_by(calls, [](const PendingCall& call) { return call.call.priority; });
  return calls;
}

// The modules are committed: whatever memory is left, the client must be told so, if in the few letters that need none.
Error initializer_threw(const ModuleState& module, const char* what) {
  try {
    return {ErrorCode::initializer, "a static initializer of " + module.name + " threw" + (what != nullptr ? ": " : "") +
                                        (what != nullptr ? what : "")};
  } catch (const std::bad_alloc&) {
    return {ErrorCode::initializer, "it threw"};
  }
}

// (4)
Result<void> run_initializers(ChangeState& change, const std::vector<PendingCall>& calls) {
  for (ModuleDraft& draft : change.drafts)
    if (draft.options->initialize) draft.identity()->initialized.store(true, std::memory_order_release);
  for (const PendingCall& call : calls) {
    try {
      reinterpret_cast<void (*)(int, char**, char**)>(call.call.function)(0, nullptr, environ);
    } catch (const abi::__forced_unwind&) {
      throw;
    } catch (const std::exception& thrown) {
      return initializer_threw(*call.module, thrown.what());
    } catch (...) {
      return initializer_threw(*call.module, nullptr);
    }
  }
  return {};
}

// Before any of the new code runs: what it may call must be there, and stay until the change is committed or has failed.
Result<void> pin_references(ChangeState& change, std::list<Pin>& pins) {
  std::lock_guard lock(change.engine->commit_mutex);
  std::shared_lock tables(change.engine->tables);
  if (Result<void> found = check_references(change); !found) return found;
  for (const std::shared_ptr<ModuleState>& pin : change.pins) {
    pins.emplace_back(change.engine, pin);
    reach(change.engine->collection, *pin);
  }
  return {};
}

// `pins` is cleared by the caller, without a lock.
Result<void> make_ready(ChangeState& change, std::list<Pin>& pins) {
  if (change.mode == PlaceMode::addresses)
    return Error{ErrorCode::invalid_argument,
                 "a change that was placed at plain addresses can be copied out, not committed"};
  if (change.atomic && (!change.unloads.empty() || !change.leads.empty()))
    return Error{ErrorCode::unsupported, "a change that unloads modules, or leads vanished functions elsewhere, can't be "
                                         "committed with Switch::atomic"};
  if (Result<void> prepared = prepare_states(change); !prepared) return prepared;
  if (!change.unloads.empty())
    if (Result<void> prepared = prepare_unloads(change); !prepared) return prepared;
  if (change.mode == PlaceMode::client)
    if (Result<void> published = publish_client_memory(change); !published) return published;
  if (Result<void> registered = register_frames(change); !registered) return registered;
  if (change.has_ifuncs) {
    if (Result<void> pinned = pin_references(change, pins); !pinned) return pinned;
    if (Result<void> chosen = choose_ifuncs(change); !chosen) return chosen;
  }
  if (change.atomic) {
    Result<std::unique_ptr<Transition>> made = make_transition(change);
    if (!made) return std::move(made).error();
    change.transition = std::move(*made);
  }
  if (!change.has_identities) return {};
  return migrate_variables(change);
}

constexpr std::size_t many_waiting = 256;

bool is_much_waiting(EngineState& engine) noexcept {
  std::lock_guard lock(engine.commit_mutex);
  return engine.removed.size() > many_waiting;
}

// A program that swaps all the time gets ahead of the thread that frees: from so many on it has to help, with one commit in
// so many, since what waits for a thread that is running is not freed any sooner by asking again. What is not free by then
// is most often held up by a thread that was inside when it lost its core, perhaps to this one: it pauses, so that the other
// can go on. If that was in vain, for a shorter time the next time: a thread may be inside for good.
void help_to_free(EngineState& engine, std::size_t commits_behind) noexcept {
  constexpr std::chrono::microseconds shortest(30), longest(4000);
  reclaim_now(engine);
  const std::chrono::microseconds end =
      longest / (std::size_t(1) << std::min<std::size_t>(commits_behind / many_waiting, 8));
  for (std::chrono::microseconds pause = shortest; pause < end && is_much_waiting(engine); pause *= 2) {
    std::this_thread::sleep_for(pause);
    reclaim_now(engine);
  }
}

void forget_linking_of_released(ModuleState& state) noexcept {
  state.set_bookkeeping(state.bookkeeping() - state.linking.bytes());
  state.linking = KeptLinking();
}

// An old version is not linked again: it needs nothing but its code and data.
void forget_linking(Version& version) noexcept {
  if (version.extra().client.memory == nullptr)
    version.linking = KeptLinking();
  else
    version.linking.keep_places();
}

// What is left to do for versions that nobody enters any more.
void leave_superseded(ChangeState& change) noexcept {
  bool any = !change.unloads.empty();
  if (!any && !change.has_identities) return;
  for (Unload& unload : change.unloads) forget_linking(*unload.version);
  for (ModuleDraft& draft : change.drafts) {
    if (draft.replaces == nullptr) continue;
    any = true;
    if (!draft.partial) forget_linking(*draft.state);
  }
  if (!any) return;
  std::size_t behind = 0;
  {
    std::lock_guard lock(change.engine->commit_mutex);
    EngineState& engine = *change.engine;
    behind = engine.commits_behind = engine.removed.size() > many_waiting ? engine.commits_behind + 1 : 0;
  }
  behind % many_waiting == 1 ? help_to_free(*change.engine, behind) : reclaim_later(*change.engine);
}

// The usual way of modules that only a removal has, from commit_mutex on: `lock`.
Result<void> commit_listed_removals(ChangeState& change, std::unique_lock<base::QuickMutex>& lock) {
  EngineState& engine = *change.engine;
  Removal removal(change.removals);
  removal.quiet = change.quiet;
  {
    const std::unique_lock tables(engine.tables);
    if (Result<void> same = check_leaving_groups(change); !same) return same;
    unpublish(engine, removal);
  }
  lock.unlock();
  retire(engine, removal);
  return {};
}

// The modules that only a removal has: nothing is drafted, placed or published.
Result<void> commit_removals(ChangeState& change) {
  EngineState& engine = *change.engine;
  if (Result<void> recalled = recall_to_end(engine, change.removals); !recalled) return recalled;
  std::unique_lock lock(engine.commit_mutex);
  if (Result<void> removable = check_removable(engine, change.removals); !removable) return removable;
  if (needs_recall_to_end(change.removals)) return unloaded_meanwhile();
  ModuleState& first = *change.removals.front();
  const bool at_once =
      change.removals.size() == 1 && !change.quiet.empty() && change.leaving_groups.empty() && ends_at_once(engine, first);
  if (!at_once) return commit_listed_removals(change, lock);
  bool left = false, any_left = false;
  {
    const base::pool::Gathering gathering; // the last piece goes after the module has ended
    {
      const std::unique_lock tables(engine.tables);
      // Who finds a symbol of it may pin it until now, under `tables` alone.
      left = first.pins.load(std::memory_order_acquire) == 0;
      if (left) any_left = leave_at_once(engine, first, std::move(change.leaving));
    }
    if (left) {
      lock.unlock();
      end_at_once(engine, std::move(change.removals.front()));
    }
  }
  if (!left) return commit_listed_removals(change, lock);
  change.removals.clear();
  if (any_left) sweep(engine);
  return {};
}

// A cycle of collection that is under way need not look at them: what they refer to is marked when it is counted.
void mark_new_modules(ChangeState& change) noexcept {
  if (!change.has_collected) return;
  const Collection& collection = change.engine->collection;
  for (const ModuleDraft& draft : change.drafts)
    if (draft.state->collectable != nullptr)
      draft.state->collectable->marked.store(collection.cycle, std::memory_order_relaxed);
}

// Modules that are collected live from the start as long as the handle does.
std::shared_ptr<const void> keep_new_modules(ChangeState& change) {
  std::shared_ptr<std::list<Pin>> kept;
  if (!change.has_collected) return kept;
  for (ModuleDraft& draft : change.drafts) {
    if (draft.state->collectable == nullptr) continue;
    if (kept == nullptr) kept = std::make_shared<std::list<Pin>>();
    kept->emplace_back(change.engine, draft.identity());
  }
  return kept;
}

} // namespace

Result<std::vector<Module>> commit(ChangeState& change, bool initialize, std::shared_ptr<const void>& keeps) {
  if (change.only_removes() && change.mode == PlaceMode::engine && !change.removals.empty()) {
    if (Result<void> removed = commit_removals(change); !removed) return std::move(removed).error();
    return std::vector<Module>();
  }
  std::list<Pin> pins;
  if (Result<void> ready = make_ready(change, pins); !ready) return std::move(ready).error();
  EngineState& engine = *change.engine;
  const bool removes = !change.removals.empty();
  if (removes)
    if (Result<void> recalled = recall_to_end(engine, change.removals); !recalled) return std::move(recalled).error();
  std::vector<NewForward> forwards;
  if (change.has_forwards) forwards = make_forwards(change);
  if (change.has_forwards || change.has_slots) {
    note_forwards(change, forwards);
    note_forward_pointers(change, forwards);
  }
  std::vector<Module> modules;
  modules.reserve(change.drafts.size());
  for (const ModuleDraft& draft : change.drafts) modules.emplace_back(draft.identity());
  std::vector<PendingCall> initializers;
  if (initialize) initializers = collect_initializers(change);
  keeps = keep_new_modules(change);
  std::vector<std::shared_ptr<const char>> initializing; // one for each module; they end after the last initializer
  if (!initializers.empty())
    for (ModuleDraft& draft : change.drafts)
      draft.state->make_extra().initializing = initializing.emplace_back(std::make_shared<const char>());
  std::optional<Removal> removal;
  if (removes) removal.emplace(change.removals).quiet = change.quiet;
  {
    std::lock_guard lock(engine.commit_mutex);
    if (removes) {
      if (Result<void> removable = check_removable(engine, change.removals); !removable) return std::move(removable).error();
      if (needs_recall_to_end(change.removals)) return unloaded_meanwhile();
      if (Result<void> pinned = check_pins(change); !pinned) return std::move(pinned).error();
    }
    if (Result<void> open = check_libraries(change); !open) return std::move(open).error();
    std::unique_lock tables(engine.tables);
    // Names of the dead must be out of the way before others take them, which looking for them sees to.
    const bool all_live = engine.collection.phase != Collection::Phase::unpublish;
    if (!all_live || !change.is_up_to_date(1)) { // by now: this is the first time since
      if (Result<void> found = check_references(change); !found) return std::move(found).error();
      if (Result<void> defined = check_definitions(change); !defined) return std::move(defined).error();
    }
    if (change.exchanges()) {
      if (Result<void> versions = check_versions(change); !versions) return std::move(versions).error();
      if (Result<void> unloads = check_unloads(change); !unloads) return std::move(unloads).error();
    }
    std::vector<Adoption> adoptions;
    if (change.has_forwards) adoptions = find_adoptions(change);
    reserve_room(change, forwards.size());
    mark_new_modules(change);
    // What is added is counted before anything leaves: a COMDAT group may go from one to the other.
    for (const ModuleDraft& draft : change.drafts) count_references(engine, *draft.state);
    if (removes) unpublish(engine, *removal);
    publish(change, forwards, adoptions);
    change.committed = true;
  }
  if (!pins.empty()) pins.clear();
  if (removes) retire(engine, *removal);
  leave_superseded(change);
  if (initialize)
    if (Result<void> initialized = run_initializers(change, initializers); !initialized)
      return std::move(initialized).error();
  return modules;
}

namespace {

// Released code keeps everything that it can reach, engine or no engine.
void pin_closure(std::span<const std::shared_ptr<ModuleState>> from, std::vector<std::shared_ptr<ModuleState>>& needed) {
  std::vector<ModuleState*> work;
  for (const std::shared_ptr<ModuleState>& module : from) work.push_back(module.get());
  std::unordered_set<ModuleState*> seen(work.begin(), work.end());
  std::vector<std::shared_ptr<ModuleState>> found;
  while (!work.empty()) {
    ModuleState* module = work.back();
    work.pop_back();
    auto need = [&](ModuleState* other) {
      if (!seen.insert(other).second) return;
      work.push_back(other);
      found.push_back(other->shared_from_this());
    };
    for_each_holder(*module, [&](const ModuleState& holder) {
      for (const Dependency& dependency : holder.dependencies) need(dependency.module);
      for (const SymbolRecord* group : holder.groups) need(group->module());
    });
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  std::lock_guard lock(endings());
  for (const std::shared_ptr<ModuleState>& module : found) {
    module->pins.fetch_add(1, std::memory_order_relaxed);
    ++module->codes;
  }
  needed = std::move(found);
}

} // namespace

void end_released(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules) noexcept {
  std::lock_guard lock(engine.commit_mutex);
  std::unique_lock tables(engine.tables);
  for (const std::shared_ptr<ModuleState>& module : modules) {
    uncount_references(engine, *module);
    if (module->collectable == nullptr) release_references(engine.collection, *module);
    module->groups.clear();
    module->dependencies.clear();
  }
}

void unpin_needed(Machinery& machinery, std::vector<std::shared_ptr<ModuleState>>& needed) noexcept {
  auto ours = needed.begin();
  {
    std::lock_guard lock(endings());
    ours = std::partition(needed.begin(), needed.end(), [&](const std::shared_ptr<ModuleState>& module) {
      return --module->codes == 0 && machinery.ended;
    });
  }
  std::sort(needed.begin(), ours, [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  // All of them before any memory goes: one's finalizers may call another.
  finalize_all({needed.begin(), ours});
  for (auto module = needed.begin(); module != needed.end(); ++module) {
    bool last = (*module)->pins.fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (last && module < ours) (*module)->release_memory();
  }
}

Result<std::vector<std::shared_ptr<ModuleState>>>
release(ChangeState& change, std::vector<std::shared_ptr<ModuleState>>& needed, bool initialize) {
  if (!change.removals.empty())
    return Error{ErrorCode::invalid_argument, "a change that removes modules is committed, not released"};
  if (change.has_identities)
    return Error{
        ErrorCode::invalid_argument,
        "code that is in a replaceable library, or refers to one, can't be released: nobody would lead its calls to "
        "new versions"};
  if (!change.forward_slots.empty())
    return Error{ErrorCode::invalid_argument, "released code can't have forward references: nothing later can define them"};
  std::list<Pin> pins;
  if (Result<void> ready = make_ready(change, pins); !ready) return std::move(ready).error();
  std::vector<std::shared_ptr<ModuleState>> states;
  for (const ModuleDraft& draft : change.drafts) {
    states.push_back(draft.state);
    forget_linking_of_released(*draft.state); // released code is not linked again
  }
  std::vector<PendingCall> initializers;
  if (initialize) initializers = collect_initializers(change);
  {
    std::lock_guard lock(change.engine->commit_mutex);
    std::unique_lock tables(change.engine->tables);
    if (Result<void> found = check_references(change); !found) return std::move(found).error();
    mark_new_modules(change);
    pin_closure(states, needed);
    for (const std::shared_ptr<ModuleState>& module : needed) reach(change.engine->collection, *module);
    for (const ModuleDraft& draft : change.drafts) {
      count_references(*change.engine, *draft.state);
      draft.state->sequence = change.engine->next_sequence++;
    }
    change.committed = true;
  }
  pins.clear();
  if (initialize)
    if (Result<void> initialized = run_initializers(change, initializers); !initialized) {
      finalize_all(states);
      end_released(*change.engine, states);
      return std::move(initialized).error();
    }
  return states;
}

} // namespace tenon::engine

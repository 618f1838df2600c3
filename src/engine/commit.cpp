// The point of no return: what a change has prepared becomes visible as a whole.
//
// Order: (1) everything that allocates; (2) frames are registered, IFUNCs chosen, without a lock: nobody can see the code yet;
// (3) under the locks: what the draft was built on is checked once more, room is reserved, then symbols are exchanged by steps
// that can't fail; (4) without a lock: finalizers of removed modules, their memory, then initializers of added ones.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/check.h"
#include "base/stable_sort.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace tenon::engine {

namespace {
Error conflict(std::string text) { return {ErrorCode::conflict, std::move(text) + "; draft the change again"}; }
} // namespace

Result<void> check_references(const ChangeState& change) {
  for (const ModuleDraft& draft : change.drafts)
    for (const auto& [signature, record] : draft.shared_groups)
      if ((record->flags & symbol_flag::erased) != 0)
        return conflict("COMDAT group '" + std::string(signature) + "', which this change shares, was removed meanwhile");
  for (std::uint32_t i = 0; i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    if (name.record == nullptr)
      continue;
    if (((name.record->flags & symbol_flag::forward) != 0) != name.forward_record)
      return conflict("'" + std::string(name.view()) + "', a forward reference, was defined or reopened meanwhile");
    if (name.module == link::none && (name.record->flags & symbol_flag::erased) != 0)
      return conflict("'" + std::string(name.view()) + "' of " + name.record->module->name + " was removed meanwhile");
  }
  return {};
}

namespace {

using link::Synthetic;

// (2) The unwinder is told before anything can run. A failed commit takes the frames out again with the blocks.
Result<void> register_frames(ChangeState& change) {
  Machinery& machinery = *change.engine->machinery;
  std::vector<notify::Frame> frames;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    ModuleState& state = *change.drafts[m].state;
    if (change.mode == PlaceMode::client) {
      if (!module.unwinding)
        continue;
      module.for_each_kept([&](std::uint32_t i) {
        if (module.section_kind(i) == SectionKind::unwind)
          state.client.frames.emplace_back(Addr{module.places[i].address}.as<const std::byte*>());
      });
      continue;
    }
    for (OwnedBlock& block : state.blocks)
      if (block)
        if (Result<void> published = machinery.space->publish(*block); !published)
          return published;
    if (!machinery.frames || module.frames.empty())
      continue;
    const OwnedBlock& code = state.blocks[std::size_t(link::Run::code)];
    frames.clear();
    for (const link::FrameEntry& frame : module.frames)
      if (Addr pc{frame.pc}; pc >= code->begin && pc < code->end())
        frames.push_back({pc, {frame.fde}});
    memory::WriteGuard guard(*machinery.space);
    machinery.frames->add(*code, frames);
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
      if (target.kind != link::TargetKind::section)
        continue; // a stronger definition has won
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
        return Error{ErrorCode::initializer, module.name + ": the resolver of IFUNC '" + std::string(definition.name()) + "' threw"};
      }
      memory::WriteGuard guard(space);
      // A client's memory has been published by now: its slots are writable where the program sees them.
      auto* cell = change.mode == PlaceMode::client ? Addr{slots.address + slot}.as<std::uint64_t*>()
                                                    : reinterpret_cast<std::uint64_t*>(slots.local + slot);
      std::atomic_ref<std::uint64_t>(*cell).store(chosen, std::memory_order_release);
    }
  }
  return {};
}

bool is_new_forward(const Name& name) {
  return name.module == link::none && name.kind == link::TargetKind::missing && name.forward && name.needed && name.address != 0;
}

// What the definitions of a change meet when they are published.
Result<void> check_definitions(ChangeState& change) {
  if (!change.removals.empty() && find_leaving_groups(change.removals) != change.leaving_groups)
    return conflict("another change has begun or ceased meanwhile to share COMDAT groups of the modules that this one removes");
  for (std::uint32_t i = 0; i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    LibraryState& library = *change.libraries[name.library];
    const SymbolRecord* group = name.group != link::none ? library.groups.find(name.view(), name.hash) : nullptr;
    if (group != nullptr && !leaves(change, *group))
      return conflict("COMDAT group '" + std::string(name.view()) + "' was committed by another change meanwhile");
    if (name.module == link::none && !is_new_forward(name))
      continue;
    SymbolRecord* there = library.symbols.find(name.view(), name.hash);
    SymbolRecord* expected = name.forward_record ? name.record : nullptr;
    if (there == expected || (there != nullptr && leaves(change, *there)))
      continue;
    if (there == nullptr || name.strength != Strength::strong || (there->flags & symbol_flag::forward) != 0)
      return conflict("'" + std::string(name.view()) + "' was defined or removed by another change meanwhile");
    return Error{ErrorCode::duplicate, "'" + std::string(name.view()) + "' of " + change.modules[name.module]->name +
                                           " was defined meanwhile" + (there->module != nullptr ? " by " + there->module->name : "")};
  }
  return {};
}

Result<void> check_pins(ChangeState& change) {
  for (const std::shared_ptr<ModuleState>& pin : change.pins) {
    bool leaving = std::find(change.removals.begin(), change.removals.end(), pin) != change.removals.end();
    if (leaving)
      for (const ModuleDraft& draft : change.drafts)
        for (const Dependency& dependency : draft.state->dependencies)
          if (dependency.module == pin.get() && dependency.group == nullptr)
            return Error{ErrorCode::still_used, "module " + pin->name + " can't be removed: " + draft.state->name +
                                                    ", which the same change adds, refers to its '" + dependency.symbol + "'"};
  }
  return {};
}

// Forward symbols that this change declares for the first time.
struct NewForward {
  std::uint32_t name;
  std::unique_ptr<std::byte[]> bytes;
  SymbolRecord* record;
};

std::vector<NewForward> make_forwards(ChangeState& change) {
  std::vector<NewForward> made;
  for (std::uint32_t i = 0; change.has_forwards && i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    if (!is_new_forward(name))
      continue;
    auto bytes = std::make_unique<std::byte[]>(SymbolRecord::bytes(name.size) + sizeof(std::uint64_t));
    SymbolRecord* record = SymbolRecord::make(bytes.get(), name.view(), name.hash);
    record->flags = symbol_flag::forward;
    record->slot = name.address;
    record->trap() = change.forward_traps[made.size()]->begin.value;
    made.push_back({i, std::move(bytes), record});
  }
  return made;
}

// Who refers to a forward symbol depends on the module that defines it, from now on.
struct Adoption {
  ModuleState* user;
  ModuleState* definer;
  SymbolRecord* record;
};

std::vector<Adoption> find_adoptions(ChangeState& change) {
  std::vector<Adoption> adoptions;
  for (std::uint32_t i = 0; change.has_forwards && i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    if (name.module == link::none || !name.forward_record)
      continue;
    ModuleState* definer = change.drafts[name.module].state.get();
    for (const std::shared_ptr<ModuleState>& user : change.libraries[name.library]->modules)
      if (std::find(user->forwards.begin(), user->forwards.end(), name.record) != user->forwards.end())
        adoptions.push_back({user.get(), definer, name.record});
  }
  for (const Adoption& adoption : adoptions)
    adoption.user->dependencies.reserve(adoption.user->dependencies.size() + adoptions.size());
  return adoptions;
}

// The program may be changing the pointer right now: it is exchanged only if it is as it was linked.
void fill_pointer(memory::Space& space, const ForwardPointer& pointer, std::uint64_t address) noexcept {
  std::byte* at = space.contains({pointer.address}) ? space.writable({pointer.address}) : Addr{pointer.address}.as<std::byte*>();
  std::uint64_t initial = pointer.initial, value = address + std::uint64_t(pointer.addend);
  if (pointer.address % sizeof value == 0)
    std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(at)).compare_exchange_strong(initial, value, std::memory_order_release);
  else if (std::memcmp(at, &initial, sizeof initial) == 0)
    std::memcpy(at, &value, sizeof value);
}

void fill_forwards(ChangeState& change, const std::vector<Adoption>& adoptions) noexcept {
  memory::Space& space = *change.engine->machinery->space;
  for (std::uint32_t i = 0; change.has_forwards && i < change.names->size(); ++i) {
    Name& name = (*change.names)[i];
    if (name.module == link::none || !name.forward_record)
      continue;
    name.record->address = change.modules[name.module]->targets[name.symbol].address;
    name.record->module = change.drafts[name.module].state.get();
    name.record->flags = std::uint16_t(name.record->flags & ~symbol_flag::forward);
    memory::WriteGuard guard(space);
    auto* cell = reinterpret_cast<std::uint64_t*>(space.writable({name.record->slot}));
    // Release: whoever reads the new address through the slot sees the bytes it leads to.
    std::atomic_ref<std::uint64_t>(*cell).store(name.record->address, std::memory_order_release);
  }
  for (const Adoption& adoption : adoptions) {
    {
      memory::WriteGuard guard(space);
      for (const ForwardPointer& pointer : adoption.user->forward_pointers)
        if (pointer.record == adoption.record)
          fill_pointer(space, pointer, adoption.record->address);
    }
    if (adoption.user == adoption.definer)
      continue;
    adoption.user->dependencies.push_back({adoption.definer, nullptr, adoption.record->name().data()});
    ++adoption.definer->users;
  }
}

void reserve_room(ChangeState& change, std::size_t forwards) {
  std::vector<std::size_t> symbols(change.libraries.size()), groups(change.libraries.size()), modules(change.libraries.size());
  for (ModuleDraft& draft : change.drafts) {
    ++modules[draft.library];
    draft.state->for_each_record([&](const SymbolRecord& record) {
      ++((record.flags & symbol_flag::group) != 0 ? groups : symbols)[draft.library];
    });
  }
  for (std::size_t l = 0; l < change.libraries.size(); ++l) {
    LibraryState& library = *change.libraries[l];
    if (symbols[l] + forwards != 0)
      library.symbols.reserve(symbols[l] + forwards);
    if (groups[l] != 0)
      library.groups.reserve(groups[l]);
    // Grown by doubling: reserving exactly would copy the list at every commit.
    if (std::size_t wanted = library.modules.size() + modules[l]; wanted > library.modules.capacity())
      library.modules.reserve(std::max(wanted, library.modules.capacity() * 2));
    if (forwards != 0) {
      library.own_records.reserve(library.own_records.size() + forwards);
      library.own_slots.reserve(library.own_slots.size() + 2 * change.forward_slots.size());
    }
  }
}

// (3) From here on nothing fails.
void publish(ChangeState& change, std::vector<NewForward>& forwards, const std::vector<Adoption>& adoptions) noexcept {
  fill_forwards(change, adoptions);
  std::size_t slot = 0;
  for (NewForward& forward : forwards) {
    LibraryState& library = *change.libraries[(*change.names)[forward.name].library];
    library.symbols.insert(forward.record);
    library.own_records.push_back(std::move(forward.bytes));
    library.own_slots.push_back(std::move(change.forward_slots[slot]));
    library.own_slots.push_back(std::move(change.forward_traps[slot++]));
  }
  for (std::size_t m = 0; m < change.drafts.size(); ++m) {
    ModuleDraft& draft = change.drafts[m];
    LibraryState& library = *change.libraries[draft.library];
    ModuleState& state = *draft.state;
    state.bindings = std::move(change.modules[m]->targets);
    state.places = std::move(change.modules[m]->places);
    state.for_each_record([&](SymbolRecord& record) {
      ((record.flags & symbol_flag::group) != 0 ? library.groups : library.symbols).insert(&record);
    });
    state.sequence = change.engine->next_sequence++;
    state.index = std::uint32_t(library.modules.size());
    library.modules.push_back(draft.state);
    state.live.store(true, std::memory_order_release);
  }
}

void note_forwards(ChangeState& change, const std::vector<NewForward>& fresh) {
  if (!change.has_forwards)
    return;
  for (ModuleDraft& draft : change.drafts)
    for (std::uint32_t id : draft.names) {
      if (id == link::none)
        continue;
      const Name& name = (*change.names)[id];
      if (name.module != link::none)
        continue;
      if (name.forward_record)
        draft.state->forwards.push_back(name.record);
      for (const NewForward& forward : fresh)
        if (forward.name == id)
          draft.state->forwards.push_back(forward.record);
    }
}

// Read-only data can be filled later through the linker's own view only.
bool can_fill(const ChangeState& change, const link::SectionPlace& place) {
  return place.run == link::Run::data ||
         (change.mode == PlaceMode::engine && change.engine->machinery->space->mapping() == memory::Mapping::dual);
}

void note_forward_pointers(ChangeState& change, const std::vector<NewForward>& fresh) {
  for (std::size_t m = 0; m < change.drafts.size(); ++m) {
    const link::Module& module = *change.modules[m];
    ModuleDraft& draft = change.drafts[m];
    for (const link::SlotPointer& pointer : module.slot_pointers) {
      std::uint32_t id = draft.names[pointer.symbol - module.object.first_global()];
      const Name& name = (*change.names)[id];
      SymbolRecord* record = name.forward_record ? name.record : nullptr;
      for (const NewForward& forward : fresh)
        if (forward.name == id)
          record = forward.record;
      const link::SectionPlace& place = module.places[pointer.section];
      if (record == nullptr || !can_fill(change, place))
        continue;
      std::uint64_t initial = 0;
      std::memcpy(&initial, place.local + pointer.offset, sizeof initial);
      draft.state->forward_pointers.push_back({record, place.address + pointer.offset, pointer.addend, initial});
    }
  }
}

void adopt_client_memory(ChangeState& change) noexcept {
  for (ModuleDraft& draft : change.drafts)
    draft.state->client.memory = change.memory;
  for (std::size_t i = 0; i < change.requests.size(); ++i)
    change.drafts[change.requests[i].module.index].state->client.placements.push_back(change.placements[i]);
  change.placements_owned = false;
}

void reserve_client_memory(ChangeState& change) {
  for (ModuleDraft& draft : change.drafts)
    draft.state->client.placements.reserve(change.requests.size());
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

// All initializers of a change, as one program's: by priority, then in the order of modules. Before the point of no return,
// because the list needs memory.
std::vector<PendingCall> collect_initializers(ChangeState& change, bool initialize) {
  std::vector<PendingCall> calls;
  for (ModuleDraft& draft : change.drafts)
    if (initialize && draft.options.initialize)
      for (const InitCall& call : draft.state->initializers)
        calls.push_back({draft.state.get(), call});
  base::stable_sort_by(calls, [](const PendingCall& call) { return call.call.priority; });
  return calls;
}

// (4)
Result<void> run_initializers(ChangeState& change, const std::vector<PendingCall>& calls) {
  for (ModuleDraft& draft : change.drafts)
    if (draft.options.initialize)
      draft.state->initialized.store(true, std::memory_order_release);
  for (const PendingCall& call : calls) {
    try {
      reinterpret_cast<void (*)(int, char**, char**)>(call.call.function)(0, nullptr, environ);
    } catch (const abi::__forced_unwind&) {
      throw;
    } catch (const std::exception& thrown) {
      return Error{ErrorCode::initializer, "a static initializer of " + call.module->name + " threw: " + thrown.what()};
    } catch (...) {
      return Error{ErrorCode::initializer, "a static initializer of " + call.module->name + " threw"};
    }
  }
  return {};
}

Result<void> make_ready(ChangeState& change) {
  if (change.mode == PlaceMode::addresses)
    return Error{ErrorCode::invalid_argument, "a change that was placed at plain addresses can be copied out, not committed"};
  if (Result<void> prepared = prepare_states(change); !prepared)
    return prepared;
  if (change.mode == PlaceMode::client)
    if (Result<void> published = publish_client_memory(change); !published)
      return published;
  if (Result<void> registered = register_frames(change); !registered)
    return registered;
  return choose_ifuncs(change);
}

} // namespace

Result<std::vector<Module>> commit(ChangeState& change, bool initialize) {
  if (Result<void> ready = make_ready(change); !ready)
    return std::move(ready).error();
  EngineState& engine = *change.engine;
  std::vector<NewForward> forwards = make_forwards(change);
  note_forwards(change, forwards);
  note_forward_pointers(change, forwards);
  std::vector<Module> modules;
  modules.reserve(change.drafts.size());
  for (const ModuleDraft& draft : change.drafts)
    modules.emplace_back(draft.state);
  std::vector<PendingCall> initializers = collect_initializers(change, initialize);
  Removal removal(change.removals);
  {
    std::lock_guard lock(engine.commit_mutex);
    if (Result<void> removable = check_removable(engine, change.removals); !removable)
      return std::move(removable).error();
    if (Result<void> pinned = check_pins(change); !pinned)
      return std::move(pinned).error();
    if (Result<void> open = check_libraries(change); !open)
      return std::move(open).error();
    std::unique_lock tables(engine.tables);
    if (Result<void> found = check_references(change); !found)
      return std::move(found).error();
    if (Result<void> defined = check_definitions(change); !defined)
      return std::move(defined).error();
    std::vector<Adoption> adoptions = find_adoptions(change);
    reserve_room(change, forwards.size());
    // What is added is counted before anything leaves: a COMDAT group may go from one to the other.
    for (const ModuleDraft& draft : change.drafts)
      count_references(*draft.state);
    if (!removal.modules.empty())
      unpublish(engine, removal);
    publish(change, forwards, adoptions);
  }
  if (!removal.modules.empty())
    retire(engine, removal);
  if (initialize)
    if (Result<void> initialized = run_initializers(change, initializers); !initialized)
      return std::move(initialized).error();
  return modules;
}

namespace {

// Released code keeps everything that it can reach, engine or no engine.
void pin_closure(std::span<const std::shared_ptr<ModuleState>> from, std::vector<std::shared_ptr<ModuleState>>& needed) {
  std::vector<ModuleState*> work;
  for (const std::shared_ptr<ModuleState>& module : from)
    work.push_back(module.get());
  std::unordered_set<ModuleState*> seen(work.begin(), work.end());
  std::vector<std::shared_ptr<ModuleState>> found;
  while (!work.empty()) {
    ModuleState* module = work.back();
    work.pop_back();
    auto need = [&](ModuleState* other) {
      if (!seen.insert(other).second)
        return;
      work.push_back(other);
      found.push_back(other->shared_from_this());
    };
    for (const Dependency& dependency : module->dependencies)
      need(dependency.module);
    for (const SymbolRecord* group : module->groups)
      need(group->module);
  }
  for (const std::shared_ptr<ModuleState>& module : found)
    module->pins.fetch_add(1, std::memory_order_relaxed);
  needed = std::move(found);
}

} // namespace

void end_released(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules) noexcept {
  {
    std::lock_guard lock(engine.commit_mutex);
    std::unique_lock tables(engine.tables);
    for (const std::shared_ptr<ModuleState>& module : modules) {
      uncount_references(*module);
      module->groups.clear();
      module->dependencies.clear();
    }
  }
}

Result<std::vector<std::shared_ptr<ModuleState>>> release(ChangeState& change, std::vector<std::shared_ptr<ModuleState>>& needed,
                                                          bool initialize) {
  if (!change.removals.empty())
    return Error{ErrorCode::invalid_argument, "a change that removes modules is committed, not released"};
  if (!change.forward_slots.empty())
    return Error{ErrorCode::invalid_argument, "released code can't have forward references: nothing later can define them"};
  if (Result<void> ready = make_ready(change); !ready)
    return std::move(ready).error();
  std::vector<std::shared_ptr<ModuleState>> states;
  for (const ModuleDraft& draft : change.drafts)
    states.push_back(draft.state);
  std::vector<PendingCall> initializers = collect_initializers(change, initialize);
  {
    std::lock_guard lock(change.engine->commit_mutex);
    std::unique_lock tables(change.engine->tables);
    if (Result<void> found = check_references(change); !found)
      return std::move(found).error();
    pin_closure(states, needed);
    for (const ModuleDraft& draft : change.drafts) {
      count_references(*draft.state);
      draft.state->sequence = change.engine->next_sequence++;
    }
  }
  if (initialize)
    if (Result<void> initialized = run_initializers(change, initializers); !initialized) {
      finalize_all(states);
      end_released(*change.engine, states);
      return std::move(initialized).error();
    }
  return states;
}

} // namespace tenon::engine

// Forward symbols are declared, filled and reopened.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/forwards.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>

namespace tenon::engine {

void store_slot(memory::Space& space, std::uint64_t slot, std::uint64_t address) noexcept {
  memory::WriteGuard guard(space);
  auto* cell = reinterpret_cast<std::uint64_t*>(space.writable({slot}));
  std::atomic_ref<std::uint64_t>(*cell).store(address, std::memory_order_release);
}

bool is_new_forward(const Name& name) noexcept {
  return name.module == link::none && name.kind == link::TargetKind::missing && name.forward && name.needed &&
         name.address != 0;
}

std::vector<NewForward> make_forwards(ChangeState& change) {
  std::vector<NewForward> made;
  for (std::uint32_t i = 0; change.has_forwards && i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    if (!is_new_forward(name)) continue;
    auto bytes =
        std::make_unique<std::byte[]>(SymbolRecord::bytes_for(name.size, SymbolRecord::Form::wide) + sizeof(std::uint64_t));
    SymbolRecord* record = SymbolRecord::make(bytes.get(), name.view(), name.hash, SymbolRecord::Form::wide);
    record->flags = symbol_flag::forward;
    record->set_slot(name.address);
    record->trap() = change.forward_traps[made.size()]->begin.value;
    made.push_back({i, std::move(bytes), record});
  }
  return made;
}

namespace {

// The change's own record of a name, if it declares it. `fresh` is in the order of names.
SymbolRecord* fresh_record(const std::vector<NewForward>& fresh, std::uint32_t name) noexcept {
  auto found =
      std::lower_bound(fresh.begin(), fresh.end(), name, [](const NewForward& f, std::uint32_t id) { return f.name < id; });
  return found != fresh.end() && found->name == name ? found->record : nullptr;
}

// Read-only data can be filled later through the linker's own view only.
bool can_fill(const ChangeState& change, const link::SectionPlace& place) {
  return place.run == link::Run::data ||
         (change.mode == PlaceMode::engine && change.engine->machinery->space->mapping() == memory::Mapping::dual);
}

// The program may be changing the pointer right now: it is exchanged only if it is as it was linked.
void fill_pointer(memory::Space& space, const ForwardPointer& pointer, std::uint64_t address) noexcept {
  std::byte* at =
      space.contains({pointer.address}) ? space.writable({pointer.address}) : Addr{pointer.address}.as<std::byte*>();
  std::uint64_t initial = pointer.initial, value = address + std::uint64_t(pointer.addend);
  if (pointer.address % sizeof value == 0)
    std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(at))
        .compare_exchange_strong(initial, value, std::memory_order_release);
  else if (std::memcmp(at, &initial, sizeof initial) == 0)
    std::memcpy(at, &value, sizeof value);
}

void fill_pointers(memory::Space& space, const ModuleState& user, const SymbolRecord& record) noexcept {
  memory::WriteGuard guard(space);
  for (const ForwardPointer& pointer : user.extra().forward_pointers)
    if (pointer.record == &record) fill_pointer(space, pointer, record.address());
}

} // namespace

void note_forwards(ChangeState& change, const std::vector<NewForward>& fresh) {
  for (ModuleDraft& draft : change.drafts)
    for (std::uint32_t id : draft.names) {
      if (id == link::none) continue;
      const Name& name = (*change.names)[id];
      if (name.module != link::none) continue;
      const bool filled = name.record != nullptr && name.record->slot() != 0 && name.record->module() != nullptr;
      if (name.forward_record || filled) draft.state->make_extra().forwards.push_back(name.record);
      if (SymbolRecord* record = fresh_record(fresh, id)) draft.state->make_extra().forwards.push_back(record);
    }
}

void note_forward_pointers(ChangeState& change, const std::vector<NewForward>& fresh) {
  for (std::size_t m = 0; m < change.drafts.size(); ++m) {
    const link::Module& module = *change.modules[m];
    ModuleDraft& draft = change.drafts[m];
    for (const link::SlotPointer& pointer : module.slot_pointers) {
      std::uint32_t id = draft.names[pointer.symbol - module.object.first_global()];
      const Name& name = (*change.names)[id];
      SymbolRecord* record = name.forward_record ? name.record : fresh_record(fresh, id);
      const link::SectionPlace& place = module.places[pointer.section];
      if (record == nullptr || !can_fill(change, place)) continue;
      std::uint64_t initial = 0;
      std::memcpy(&initial, place.local + pointer.offset, sizeof initial);
      draft.state->make_extra().forward_pointers.push_back(
          {record, place.address + pointer.offset, pointer.addend, initial});
    }
  }
}

std::vector<Adoption> find_adoptions(ChangeState& change) {
  std::vector<Adoption> adoptions;
  if (!change.has_forwards) return adoptions;
  // One walk over the modules of each library, however many symbols are filled.
  std::map<const SymbolRecord*, ModuleState*> definers;
  std::vector<bool> concerned(change.libraries.size());
  for (std::uint32_t i = 0; i < change.names->size(); ++i) {
    const Name& name = (*change.names)[i];
    if (name.module == link::none || !name.forward_record) continue;
    ModuleState* definer = change.drafts[name.module].identity().get();
    definers.emplace(name.record, definer);
    concerned[name.library] = true;
  }
  for (const auto& [record, definer] : definers) definer->make_rare().filled.reserve(definers.size());
  for (std::size_t l = 0; l < change.libraries.size(); ++l)
    if (concerned[l])
      for (const std::shared_ptr<ModuleState>& user : change.libraries[l]->modules) {
        // Who leaves with this very change uses nothing any more.
        if (std::find(change.removals.begin(), change.removals.end(), user) != change.removals.end()) continue;
        for_each_holder(*user, [&](ModuleState& holder) {
          for (SymbolRecord* record : holder.extra().forwards)
            if (auto found = definers.find(record); found != definers.end())
              adoptions.push_back({&holder, found->second, record});
        });
      }
  std::size_t run = 0;
  for (std::size_t i = 0; i < adoptions.size(); ++i) { // those of one user lie together
    run = i != 0 && adoptions[i - 1].user == adoptions[i].user ? run + 1 : 1;
    if (i + 1 == adoptions.size() || adoptions[i + 1].user != adoptions[i].user)
      adoptions[i].user->dependencies.reserve(adoptions[i].user->dependencies.size() + run);
  }
  return adoptions;
}

void fill_forwards(ChangeState& change, const std::vector<Adoption>& adoptions) noexcept {
  memory::Space& space = *change.engine->machinery->space;
  for (std::uint32_t i = 0; change.has_forwards && i < change.names->size(); ++i) {
    Name& name = (*change.names)[i];
    if (name.module == link::none || !name.forward_record) continue;
    name.record->set_address(definition_of(change, name).address);
    name.record->set_size(change.modules[name.module]->symbols()[name.symbol].size);
    ModuleState* const definer = change.drafts[name.module].identity().get();
    name.record->set_module(definer);
    definer->rare().filled.push_back(name.record);
    name.record->flags = std::uint16_t(name.record->flags & ~symbol_flag::forward);
    if (definer->collectable != nullptr) name.record->flags |= symbol_flag::collected;
    store_slot(space, name.record->slot(), name.record->address());
  }
  for (const Adoption& adoption : adoptions) {
    fill_pointers(space, *adoption.user, *adoption.record);
    if (adoption.user == adoption.definer || adoption.user->rare().fragment_of == adoption.definer) continue;
    adoption.user->dependencies.push_back({adoption.definer, nullptr, adoption.record->name().data()});
    ++adoption.definer->users;
  }
}

void publish_forwards(ChangeState& change, std::vector<NewForward>& forwards) noexcept {
  std::size_t slot = 0;
  for (NewForward& forward : forwards) {
    LibraryState& library = *change.libraries[(*change.names)[forward.name].library];
    library.symbols.insert(forward.record);
    library.own_records.push_back(std::move(forward.bytes));
    library.own_slots.push_back(std::move(change.forward_slots[slot]));
    library.own_slots.push_back(std::move(change.forward_traps[slot++]));
  }
}

void define_forward(memory::Space& space, LibraryState& library, SymbolRecord& record, const Absolute& symbol) noexcept {
  record.set_address(symbol.address.value);
  record.flags = std::uint16_t((record.flags & ~symbol_flag::forward) | (symbol.rebindable ? symbol_flag::rebindable : 0));
  store_slot(space, record.slot(), record.address());
  if (symbol.rebindable) return; // pointers go on leading through the slot, so that they follow
  for (const std::shared_ptr<ModuleState>& user : library.modules)
    for_each_holder(*user, [&](ModuleState& holder) {
      if (std::find(holder.extra().forwards.begin(), holder.extra().forwards.end(), &record) !=
          holder.extra().forwards.end())
        fill_pointers(space, holder, record);
    });
}

std::string forward_users(const ChangeState& change, const SymbolRecord& record) {
  constexpr std::size_t some = 8;
  std::string names;
  std::size_t count = 0;
  for (const std::weak_ptr<LibraryState>& known : change.engine->libraries) {
    const std::shared_ptr<LibraryState> library = known.lock();
    if (library == nullptr) continue;
    for (const std::shared_ptr<ModuleState>& user : library->modules) {
      const bool leaves = std::find(change.removals.begin(), change.removals.end(), user) != change.removals.end();
      if (user.get() == record.module() || leaves || change.replaces(user.get())) continue;
      bool refers = false;
      for_each_holder(*user, [&](const ModuleState& holder) {
        refers = refers || std::find(holder.extra().forwards.begin(), holder.extra().forwards.end(), &record) !=
                               holder.extra().forwards.end();
      });
      if (refers && ++count <= some) names += (count == 1 ? "" : ", ") + user->name;
    }
  }
  if (count > some) names += " and " + std::to_string(count - some) + " more";
  return names;
}

void reopen_forward(SymbolRecord& record, memory::Space& space) noexcept {
  record.set_module(nullptr);
  record.set_address(0);
  record.flags = std::uint16_t((record.flags & ~symbol_flag::collected) | symbol_flag::forward);
  store_slot(space, record.slot(), record.trap());
}

void reopen_forwards(ModuleState& module, memory::Space& space) noexcept {
  for (SymbolRecord* record : module.rare().filled) reopen_forward(*record, space);
  module.rare().filled.clear();
}

} // namespace tenon::engine

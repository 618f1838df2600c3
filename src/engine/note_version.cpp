// What a new version of a module, linked but not committed, takes from the versions before it: the storage it borrows, the
// variables that move to new storage, the initializers that must not run again.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/carry.h"
#include "engine/change_state.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

namespace tenon::engine {

namespace {

using link::Run;
using link::TargetKind;

// Strings, tables of pointers, and what else the program may have a pointer to. Numbers that a compiler merges are only
// read. GCC keeps strings in .rodata if it does not optimize.
bool holds_literals(const link::Module& module, std::uint32_t i) {
  const Section& section = module.sections()[i];
  if (section.strings || section.name.starts_with(".data.rel.ro")) return true;
  return section.name.starts_with(".rodata") && !section.mergeable && !leads_into_code(module, i);
}

// Read-only data without names whose address the program may keep.
void note_anonymous(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  ModuleState& state = *change.drafts[m].state;
  std::vector<std::uint8_t> named(module.object_sections()), numbered(module.object_sections());
  for (const Symbol& symbol : module.symbols())
    if (symbol.type == SymbolType::object && symbol.section < named.size())
      (is_nameless_constant(symbol) ? numbered : named)[symbol.section] = 1;
  auto note = [&](std::uint32_t i) {
    const link::SectionPlace& place = module.places[i];
    if (named[i] == 0 && place.run == Run::rodata && place.size != 0 && (numbered[i] != 0 || holds_literals(module, i)))
      state.extra().anonymous.push_back(
          {std::string(module.sections()[i].name), place.address, place.size, place.alignment()});
  };
  for (std::uint32_t i : module.kept()) note(i);
  for (const CarriedSection& carried : change.drafts[m].replacement->carried) note(carried.section);
}

// The storage that the section of each variable and constant has: a later version's can't take up more.
void note_storage(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  Replacement& replacement = *change.drafts[m].replacement;
  std::unordered_map<std::uint32_t, const CarriedSection*> carried;
  for (const CarriedSection& c : replacement.carried) carried.emplace(c.section, &c);
  for (Provided& p : replacement.provided) {
    Definition& definition = *p.definition;
    if (definition.kind != DefinitionKind::variable && definition.kind != DefinitionKind::constant) continue;
    const std::uint32_t section = module.symbols()[p.symbol].section;
    auto found = carried.find(section);
    p.section_address = found != carried.end() ? found->second->address : module.places[section].address;
    p.section_size = found != carried.end() ? found->second->size : module.sections()[section].size;
    if (!p.fresh) continue; // changed by the commit
    definition.section_address = p.section_address;
    definition.section_size = p.section_size;
  }
}

void fill_provided(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  memory::Space& space = *change.engine->machinery->space;
  for (Provided& p : change.drafts[m].replacement->provided) {
    const bool function = p.definition->kind == DefinitionKind::function;
    p.address = function ? module.callees[module.callee_of[p.symbol] - 1].body : module.targets[p.symbol].address;
  }
  note_storage(change, m);
  base::List<OwnFunction>& functions = change.drafts[m].state->extra().functions;
  for (const Provided& p : change.drafts[m].replacement->provided)
    if (p.definition->kind == DefinitionKind::function) functions.push_back({p.address, p.definition});
  std::sort(functions.begin(), functions.end(),
            [](const OwnFunction& a, const OwnFunction& b) { return a.address < b.address; });
  // Nobody but the change knows these stubs: they can lead to their functions already.
  for (const Provided& p : change.drafts[m].replacement->provided)
    if (p.fresh && p.definition->kind == DefinitionKind::function)
      std::memcpy(space.writable({p.definition->stub.slot()}), &p.address, sizeof p.address);
}

void borrow(ChangeState& change, std::uint32_t m) {
  const ModuleDraft& draft = change.drafts[m];
  base::List<Stretch>& borrowed = draft.state->extra().borrowed;
  auto add = [&](std::uint64_t address, std::uint64_t size) {
    if (size != 0) borrowed.push_back({{address}, {address + size}});
  };
  for (const CarriedSection& carried : draft.replacement->carried) add(carried.address, carried.size);
  // Frames of a fragment may use what else the module had for longer than the module has it.
  auto add_own = [&](const Definition* definition) {
    if (definition != nullptr && definition->module == draft.replaces.get() &&
        (definition->kind == DefinitionKind::variable || definition->kind == DefinitionKind::constant))
      add(definition->section_address, definition->section_size);
  };
  if (draft.partial) {
    for (const LocalBinding& local : draft.replacement->local_bindings) add_own(local.definition);
    for (std::uint32_t id : draft.names)
      if (id != link::none && (*change.names)[id].record != nullptr) add_own((*change.names)[id].record->definition());
  }
  if (draft.replaces->rare().dso_handle != 0) add(draft.replaces->rare().dso_handle, 16);
  if (draft.state->extra().tls != nullptr && draft.state->extra().tls == draft.replaces->extra().tls)
    for (const Stretch& image : draft.replaces->extra().tls_image) add(image.begin.value, image.end - image.begin);
}

// Variables of the same name that differ, and so have new storage.
void find_migrations(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (draft.replacement->how->policy.differing != DataPolicy::Differing::migrate) return;
  const link::Module& module = *change.modules[m];
  LabelTables labels(module);
  for (const Provided& p : draft.replacement->provided)
    if (p.definition->kind == DefinitionKind::variable && p.definition->address != 0 && p.definition->address != p.address &&
        !labels.is(module.symbols()[p.symbol].section))
      draft.replacement->migrations.push_back(
          {p.definition->name, {p.definition->address}, p.definition->size, {p.address}, module.symbols()[p.symbol].size});
}

} // namespace

Result<bool> keep_tls(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (draft.replaces == nullptr) return false;
  const link::Module& module = *change.modules[m];
  const ModuleState& earlier = *draft.replaces;
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> unmoved = check_unmoved(change, draft); !unmoved) return std::move(unmoved).error();
  if (earlier.extra().tls == nullptr) return false;
  auto differ = [&](std::string_view how) {
    return Error{ErrorCode::unsupported, "module " + earlier.name + ": its thread-local variables " + std::string(how) +
                                             ": threads hold those of the version before"};
  };
  if (module.tls_size == 0) {
    draft.state->extra().tls = earlier.extra().tls;
    return true;
  }
  if (module.tls_size != earlier.extra().tls_size || module.tls_image_size != earlier.extra().tls_image_size)
    return differ("take up " + std::to_string(module.tls_size) + " bytes, not " + std::to_string(earlier.extra().tls_size));
  if (module.tls_alignment > earlier.extra().tls_alignment)
    return differ("need an alignment of " + std::to_string(module.tls_alignment) + " bytes, not " +
                  std::to_string(earlier.extra().tls_alignment));
  for (const Provided& p : draft.replacement->provided) {
    if (p.definition->kind != DefinitionKind::thread_variable) continue;
    const Symbol& symbol = module.symbols()[p.symbol];
    const std::uint64_t offset = module.places[symbol.section].offset + symbol.value;
    if (p.definition->address != offset || p.definition->size != symbol.size)
      return differ("lie otherwise in their block: '" + p.definition->name + "'");
  }
  draft.state->extra().tls = earlier.extra().tls;
  return true;
}

void note_version(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (!is_replaceable(change, draft)) return;
  link::Module& module = *change.modules[m];
  fill_provided(change, m);
  draft.state->extra().escaped_parts.assign(module.escaped_parts.begin(), module.escaped_parts.end());
  note_anonymous(change, m);
  note_debug_names(change, m);
  draft.state->extra().tls_size = module.tls_size;
  draft.state->extra().tls_image_size = module.tls_image_size;
  draft.state->extra().tls_alignment = module.tls_alignment;
  if (module.tls_image_size != 0)
    for (std::uint32_t i : module.kept())
      if (module.sections()[i].kind == SectionKind::tls_data)
        draft.state->extra().tls_image.push_back(
            {{module.places[i].address}, {module.places[i].address + module.places[i].size}});
}

Result<void> check_unmoved(const ChangeState& change, const ModuleDraft& draft) {
  const ModuleState& module = *draft.replaces;
  if (module.live.load(std::memory_order_relaxed) && !is_dead(change.engine->collection, module) &&
      module.replaceable->version == draft.replacement->version)
    return {};
  return Error{ErrorCode::conflict, "module " + module.name + " was replaced or removed meanwhile; draft the change again"};
}

Result<void> take_over(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (draft.replaces == nullptr || !is_replaceable(change, draft)) return {};
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> unmoved = check_unmoved(change, draft); !unmoved) return unmoved;
  if (draft.state->extra().tls != nullptr && draft.state->extra().tls == draft.replaces->extra().tls) {
    draft.state->extra().tls_size = draft.replaces->extra().tls_size;
    draft.state->extra().tls_image_size = draft.replaces->extra().tls_image_size;
    draft.state->extra().tls_alignment = draft.replaces->extra().tls_alignment;
    draft.state->extra().tls_image = draft.replaces->extra().tls_image;
  }
  borrow(change, m);
  find_migrations(change, m);
  return find_skipped_initializers(change, m);
}

Result<void> migrate_variables(ChangeState& change) {
  if (!change.has_identities) return {};
  for (const ModuleDraft& draft : change.drafts) {
    if (draft.replacement->migrations.empty()) continue;
    // Old storage stays until the module ends; whether it is still the current one is seen once more at the end.
    std::lock_guard lock(change.engine->commit_mutex);
    if (Result<void> unmoved = check_unmoved(change, draft); !unmoved) return unmoved;
  }
  for (const ModuleDraft& draft : change.drafts)
    for (const DataPolicy::Migration& migration : draft.replacement->migrations)
      if (draft.replacement->how->policy.migration)
        if (Result<void> done = draft.replacement->how->policy.migration(migration); !done)
          return std::move(done).error().within("migrating '" + std::string(migration.variable) + "'");
  return {};
}

} // namespace tenon::engine

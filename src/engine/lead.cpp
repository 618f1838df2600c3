// Vanished functions are led elsewhere.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/lead.h"

#include "engine/change_state.h"

#include <algorithm>

namespace tenon::engine {

namespace {

const ModuleDraft* draft_of(const ChangeState& change, const ModuleState* module) {
  auto found = std::find_if(change.drafts.begin(), change.drafts.end(),
                            [&](const ModuleDraft& draft) { return draft.identity().get() == module; });
  return found != change.drafts.end() ? &*found : nullptr;
}

const Provided* find_provided(const ModuleDraft& draft, std::string_view name, bool local_too) {
  for (const Provided& p : draft.replacement->provided)
    if (p.definition->name == name && !p.definition->ambiguous && (local_too || !p.local)) return &p;
  return nullptr;
}

Error refused(const Lead& lead, const std::string& why, ErrorCode code = ErrorCode::invalid_argument) {
  return {code, "'" + lead.name + "' of module " + lead.module->name + " can't be led " +
                    (lead.to.empty() ? "to an address" : "to '" + lead.to + "'") + ": " + why};
}

Result<void> find_vanished(const ChangeState& change, Lead& lead) {
  const Replaceable& replaceable = *lead.module->replaceable;
  auto found = replaceable.by_name.find(lead.name);
  if (found == replaceable.by_name.end()) return refused(lead, "the module has had no such function", ErrorCode::undefined);
  Definition& definition = *found->second;
  if (definition.kind != DefinitionKind::function)
    return refused(lead, "it is no function; who refers to data has its address in many places");
  const ModuleDraft* draft = draft_of(change, lead.module.get());
  if (draft != nullptr && draft->partial) draft = nullptr; // with single functions nothing vanishes
  const bool there = draft == nullptr ? !definition.vanished
                                      : std::any_of(draft->replacement->provided.begin(), draft->replacement->provided.end(),
                                                    [&](const Provided& p) { return p.definition == &definition; });
  if (there)
    return refused(lead, draft == nullptr ? "it has not vanished, and the change does not replace the module"
                                          : "it has not vanished, the new version defines it");
  lead.definition = &definition;
  return {};
}

// In the library that the module is in, then in those that it searches.
SymbolRecord* find_published(const LibraryState& library, std::string_view name) {
  const std::uint64_t hash = hash_name(name);
  if (SymbolRecord* record = library.find_symbol(name, hash)) return record;
  for (const Source& source : *library.sources) {
    if (source.state().library == nullptr) continue;
    SymbolRecord* record = source.state().library->symbols.find(name, hash);
    if (record != nullptr && (record->flags & symbol_flag::hidden) == 0) return record;
  }
  return nullptr;
}

Result<void> use_published(const ChangeState& change, Lead& lead, SymbolRecord& record) {
  constexpr auto no_function = symbol_flag::forward | symbol_flag::tls | symbol_flag::data | symbol_flag::group;
  const bool function = record.definition() != nullptr ? record.definition()->kind == DefinitionKind::function
                                                       : (record.flags & no_function) == 0;
  if (!function) return refused(lead, "that is no function");
  for (const std::shared_ptr<ModuleState>& leaving : change.removals)
    if (leaving.get() == record.module()) return refused(lead, "module " + leaving->name + " is removed by the same change");
  if (record.module() != nullptr && record.module()->collectable != nullptr && record.module() != lead.module.get())
    return refused(lead, "that is in a library whose modules are collected");
  lead.target = record.definition();
  lead.needs = record.module();
  if (lead.target == nullptr) {
    lead.body = record.address();
    return {};
  }
  const ModuleDraft* draft = draft_of(change, record.module());
  if (draft == nullptr) return {};
  for (const Provided& p : draft->replacement->provided)
    if (p.definition == lead.target) {
      lead.body = p.address;
      return {};
    }
  return refused(lead, "that vanishes with the same change");
}

Result<void> find_target(const ChangeState& change, Lead& lead) {
  if (lead.to.empty()) {
    lead.body = lead.address.value;
    return lead.body != 0 ? Result<void>() : refused(lead, "it is null");
  }
  auto use = [&](const Provided& p, ModuleState* owner) -> Result<void> {
    if (p.definition->kind != DefinitionKind::function) return refused(lead, "that is no function");
    lead.target = p.definition;
    lead.body = p.address;
    lead.needs = owner;
    return {};
  };
  const ModuleDraft* own = draft_of(change, lead.module.get());
  if (own != nullptr)
    if (const Provided* p = find_provided(*own, lead.to, true)) return use(*p, lead.module.get());
  if (own == nullptr) {
    const Replaceable& replaceable = *lead.module->replaceable;
    if (auto found = replaceable.by_name.find(lead.to);
        found != replaceable.by_name.end() && !found->second->vanished && found->second->kind == DefinitionKind::function) {
      lead.target = found->second;
      lead.needs = lead.module.get();
      return {};
    }
  }
  std::shared_ptr<LibraryState> library = lead.module->library.lock();
  for (const ModuleDraft& draft : change.drafts)
    if (change.libraries[draft.library] == library)
      if (const Provided* p = find_provided(draft, lead.to, false)) return use(*p, draft.identity().get());
  SymbolRecord* record = library != nullptr ? find_published(*library, lead.to) : nullptr;
  if (record == nullptr) return refused(lead, "there is no such function", ErrorCode::undefined);
  return use_published(change, lead, *record);
}

} // namespace

Result<void> resolve_leads(ChangeState& change) {
  for (Lead& lead : change.leads) {
    lead.definition = lead.target = nullptr;
    lead.needs = nullptr;
    lead.body = 0;
    if (!lead.module->live.load(std::memory_order_relaxed) || lead.module->replaceable == nullptr)
      return refused(lead, "the module was removed, or can't be replaced");
    if (Result<void> found = find_vanished(change, lead); !found) return found;
  }
  for (Lead& lead : change.leads) {
    if (Result<void> found = find_target(change, lead); !found) return found;
    if (lead.target == lead.definition || (lead.target != nullptr && is_led(change, *lead.target)))
      return refused(lead, "that vanishes with the same change");
    std::vector<Led>& led = lead.module->replaceable->led;
    led.reserve(led.size() + change.leads.size());
  }
  return {};
}

bool is_led(const ChangeState& change, const Definition& definition) noexcept {
  return std::any_of(change.leads.begin(), change.leads.end(),
                     [&](const Lead& lead) { return lead.definition == &definition; });
}

void apply_leads(ChangeState& change) noexcept {
  memory::Space& space = *change.engine->machinery->space;
  for (Lead& lead : change.leads) {
    Definition& definition = *lead.definition;
    if (definition.led) end_lead(definition);
    if (lead.target != nullptr)
      follow(space, definition, *lead.target, lead.body);
    else
      lead_away(space, definition, lead.body);
    if (lead.needs == nullptr || lead.needs == lead.module.get()) continue;
    ++lead.needs->users;
    lead.module->replaceable->led.push_back({&definition, lead.needs, std::move(lead.to)}); // has the room
  }
}

void end_lead(Definition& definition) noexcept {
  std::erase_if(definition.module->replaceable->led, [&](const Led& led) {
    if (led.definition != &definition) return false;
    --led.target->users;
    return true;
  });
  unfollow(definition);
}

} // namespace tenon::engine

// A module's new version takes the place of the old one: who refers to what, what has changed meanwhile, the exchange.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/code_graph.h"
#include "engine/forwards.h"

#include "base/check.h"
#include "engine/move.h"
#include "engine/onward.h"
#include "engine/reclaimer.h"
#include "engine/transition.h"

#include <algorithm>
#include <unordered_set>

namespace tenon::engine {

Replaceable::~Replaceable() = default;

namespace {

bool is_among(std::span<const std::shared_ptr<ModuleState>> modules, const ModuleState* module) {
  return std::any_of(modules.begin(), modules.end(), [&](const auto& m) { return m.get() == module; });
}

// Not an earlier version's, whose frames may be running but whose needs are over.
bool is_current(const Use& use) noexcept { return !use.past && use.user->live.load(std::memory_order_relaxed); }

// Whether a module that the change neither removes nor replaces refers to it.
bool is_used_by_others(const ChangeState& change, const Definition& definition, std::string* by = nullptr) {
  for (const Use* use = definition.uses; use != nullptr; use = use->next) {
    if (!is_current(*use) || is_among(change.removals, use->user) || change.replaces(use->user)) continue;
    if (by != nullptr) *by = use->user->name;
    return true;
  }
  for (const Definition* f = definition.followers; f != nullptr; f = f->next_follower) {
    if (is_among(change.removals, f->module) || is_led(change, *f)) continue;
    if (by != nullptr) *by = (f->led ? "'" : "the redirected '") + f->name + "' of " + f->module->name;
    return true;
  }
  return false;
}

} // namespace

void make_uses(ChangeState& change, std::uint32_t m) {
  if (!change.has_identities) return;
  link::Module& module = *change.modules[m];
  ModuleDraft& draft = change.drafts[m];
  ModuleState& state = *draft.state;
  std::sort(module.sites.begin(), module.sites.end(), [](const link::Site& a, const link::Site& b) {
    return std::pair(a.callee, a.field) < std::pair(b.callee, b.field);
  });
  VersionExtra& extra = state.make_extra();
  extra.sites.reserve(module.sites.size());
  for (const link::Site& site : module.sites) extra.sites.push_back(site.field);
  extra.uses.reserve(module.callees.size() + draft.names.size());

  std::size_t at = 0;
  for (std::uint32_t c = 0; c < module.callees.size(); ++c) {
    const std::size_t first = at;
    while (at < module.sites.size() && module.sites[at].callee == c) ++at;
    if (first == at && !module.callees[c].escapes && !module.callees[c].through_stub) continue;
    Use& use = state.extra().uses.emplace_back();
    use.definition = draft.replacement->callees[c].definition;
    use.user = draft.identity().get();
    use.sites = std::span<const std::uint64_t>(extra.sites).subspan(first, at - first);
    use.bound = module.callees[c].body;
    use.address = module.callees[c].escapes;
    use.through_stub = module.callees[c].through_stub;
  }
  for (std::uint32_t id : draft.names) {
    if (id == link::none) continue;
    const Name& name = (*change.names)[id];
    Definition* definition = name.record != nullptr ? name.record->definition() : nullptr;
    if (name.module != link::none && name.module != m) definition = provided_by(change.drafts[name.module], name.symbol);
    // Functions were among the callees, unless the memory is the client's, where all goes through the stub.
    const bool seen = definition != nullptr && definition->kind == DefinitionKind::function && !module.callees.empty();
    // What a fragment refers to of its own module is there as long as the module is.
    const bool own = draft.partial && definition != nullptr && definition->module == draft.replaces.get();
    if (name.module == m || definition == nullptr || seen || own) continue;
    Use& use = extra.uses.emplace_back();
    use.definition = definition;
    use.user = draft.identity().get();
    use.address = true;
  }
}

namespace {

// A name that others need, and who that is.
using Needed = std::pair<std::string_view, std::string>;

Error vanishing(const ModuleState& module, const std::vector<Needed>& used) {
  std::string text = "module " + module.name + " can't be replaced: its new version lacks";
  std::size_t told = 0;
  for (const auto& [name, by] : used) {
    if (++told > 16) continue;
    text += (told == 1 ? " '" : ", '") + std::string(name) + "' (needed by " + by + ")";
  }
  if (told > 16) text += ", and " + std::to_string(told - 16) + " more";
  return {ErrorCode::still_used, std::move(text)};
}

bool is_redirected_to(const Definition& definition) {
  for (const Definition* f = definition.followers; f != nullptr; f = f->next_follower)
    if (f->redirector != nullptr) return true;
  return false;
}

bool is_stored(const Definition& definition) noexcept {
  return definition.kind == DefinitionKind::constant || definition.kind == DefinitionKind::variable;
}

bool has_former(const Definition& definition, std::uint64_t address) noexcept {
  return std::any_of(definition.former.begin(), definition.former.end(),
                     [&](const Storage& former) { return former.address == address; });
}

// For the place that it leaves.
void reserve_former(Definition& definition) {
  std::vector<Storage>& former = definition.former;
  if (former.size() == former.capacity()) former.reserve(former.empty() ? 1 : 2 * former.size());
}

// Its group is kept for those who share it.
bool stays(const ModuleDraft& draft, const Definition& definition) noexcept {
  const std::vector<Definition*>& kept = draft.replacement->kept;
  return !kept.empty() && std::binary_search(kept.begin(), kept.end(), &definition, std::less<>());
}

// What the new version has by that name, or null.
const Provided* find_provided(const ModuleDraft& draft, std::string_view name) {
  const auto found = std::find_if(draft.replacement->provided.begin(), draft.replacement->provided.end(),
                                  [&](const Provided& p) { return p.definition->name == name && !p.local; });
  return found != draft.replacement->provided.end() ? &*found : nullptr;
}

// The stub that users of the forward symbol have leads somewhere, though the module lacks the function.
bool is_led_elsewhere(const ChangeState& change, const ModuleState& module, std::string_view name) {
  const auto found = module.replaceable->by_name.find(name);
  return found != module.replaceable->by_name.end() && found->second->kind == DefinitionKind::function &&
         (is_led(change, *found->second) || (found->second->vanished && found->second->led));
}

// Forward symbols that others had declared, and this module has defined: their users hold the library's record.
Result<void> check_filled(const ChangeState& change, const ModuleDraft& draft, std::vector<Needed>& used) {
  const ModuleState& module = *draft.replaces;
  for (const SymbolRecord* record : module.rare().filled) {
    const Provided* there = find_provided(draft, record->name());
    const bool moves =
        there != nullptr && there->definition->kind != DefinitionKind::function && there->address != record->address();
    if (there != nullptr ? !moves : is_led_elsewhere(change, module, record->name())) continue;
    std::string by = forward_users(change, *record);
    if (by.empty()) continue; // it is reopened, or filled anew
    if (moves)
      return Error{ErrorCode::still_used, "module " + module.name + " can't be replaced: '" + std::string(record->name()) +
                                              "', a forward reference, gets another address, but " + by + " refers to it"};
    used.emplace_back(record->name(), std::move(by));
  }
  return {};
}

// By anybody, the version that is being superseded included: what it did with the address can't be seen (it may stand in a
// variable that is kept, or with the host), so that its own uses can't be left out. Only those of the linker's own would be
// harmless, such as tables of initializers, and a function that is in one seldom vanishes.
bool address_was_taken(const Definition& definition) noexcept {
  if (definition.awaited != 0) return true;
  for (const Use* use = definition.uses; use != nullptr; use = use->next)
    if (use->address) return true;
  return false;
}

// A compiler may give a local function whose address is not taken another way to be called, and another result, under its
// name: who got the address from an earlier version would call it wrongly.
bool may_be_called_otherwise(const ChangeState& change, const ModuleDraft& draft, const Provided& p) noexcept {
  const link::Module& object = *change.modules[std::size_t(&draft - change.drafts.data())];
  if (p.fresh || !p.local || p.definition->kind != DefinitionKind::function) return false;
  if (object.knowledge == object::Knowledge::none || object.callee_of.empty() || object.callee_of[p.symbol] == 0)
    return false;
  return !object.callees[object.callee_of[p.symbol] - 1].escapes && address_was_taken(*p.definition) &&
         !object::is_of_gcc(object.object);
}

// Names that others need must be there, and data that others refer to must stay where it is.
Result<void> check_definitions_of(ChangeState& change, ModuleDraft& draft) {
  const ModuleState& module = *draft.replaces;
  std::unordered_set<const Definition*> provided;
  for (const Provided& p : draft.replacement->provided) {
    provided.insert(p.definition);
    const bool moves = p.definition->kind != DefinitionKind::function && p.definition->address != p.address;
    if (moves && is_stored(*p.definition)) reserve_former(*p.definition);
    if (may_be_called_otherwise(change, draft, p))
      return Error{ErrorCode::needs_flag,
                   "module " + module.name + " can't be replaced: the address of its local function '" + p.definition->name +
                       "' was taken before and is not any more, so that the compiler may have changed how it is called; "
                       "compile so that callers know nothing of functions, and say so (ModuleOptions::opaque), give it "
                       "another name, or go on taking its address"};
    std::string by;
    if (!p.fresh && p.local && !p.definition->local && is_used_by_others(change, *p.definition, &by))
      return Error{ErrorCode::still_used, "module " + module.name + " can't be replaced: '" + p.definition->name +
                                              "' becomes local, but " + by + " refers to it"};
    if (moves && draft.partial && !p.fresh && p.definition->kind == DefinitionKind::variable)
      return Error{ErrorCode::unsupported, "variable '" + p.definition->name + "' of module " + module.name +
                                               " gets another address, but functions that are not replaced refer to it: "
                                               "replace the whole module"};
    if (moves && p.definition->address != 0 && is_used_by_others(change, *p.definition, &by))
      return Error{ErrorCode::still_used, "module " + module.name + " can't be replaced: '" + p.definition->name +
                                              "' gets another address, but " + by + " refers to it"};
  }
  if (draft.partial) return {}; // nothing vanishes
  std::vector<Needed> used;
  if (Result<void> checked = check_filled(change, draft, used); !checked) return checked;
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions) {
    if (definition->vanished || provided.contains(definition.get()) || stays(draft, *definition)) continue;
    if (is_stored(*definition)) reserve_former(*definition);
    std::string by;
    if ((!is_led(change, *definition) || is_redirected_to(*definition)) && is_used_by_others(change, *definition, &by))
      used.emplace_back(definition->name, std::move(by));
  }
  return used.empty() ? Result<void>() : vanishing(module, used);
}

// What exchange_versions() must not need memory for.
void reserve_for(const ChangeState& change, ModuleDraft& draft) {
  Replaceable& replaceable = draft.replaceable();
  Replacement& replacement = *draft.replacement;
  std::size_t fresh = 0, drafts = 0; // of all fragments of the module
  for (const ModuleDraft& other : change.drafts)
    if (&other == &draft || (draft.replaces != nullptr && other.replaces == draft.replaces)) {
      fresh += other.replacement->fresh.size();
      ++drafts;
    }
  replaceable.definitions.reserve(replaceable.definitions.size() + fresh);
  std::size_t anonymous = 0;
  if (draft.replaces != nullptr)
    for_each_holder(*draft.replaces, [&](const ModuleState& holder) { anonymous += holder.extra().anonymous.size(); });
  const std::size_t wanted = replaceable.retained.size() + replaceable.definitions.size() * drafts + anonymous;
  if (wanted > replaceable.retained.capacity()) replaceable.retained.reserve(2 * wanted);
  replaceable.literals.reserve(replaceable.literals.size() + anonymous);
  replaceable.held.reserve(replaceable.held.size() + drafts + replaceable.fragments.size());
  if (draft.replaces != nullptr)
    draft.replaces->rare().more_records.reserve(draft.replaces->rare().more_records.size() + drafts);
  replacement.by_name = replaceable.by_name;
  // Several fragments of one module come one after the other.
  for (const ModuleDraft& other : change.drafts) {
    if (&other != &draft && (draft.replaces == nullptr || other.replaces != draft.replaces)) continue;
    for (const Provided& p : other.replacement->provided)
      if (!p.definition->ambiguous) {
        replacement.by_name.erase(p.definition->name); // its key may be another definition's name
        replacement.by_name.emplace(p.definition->name, p.definition);
      }
    if (&other == &draft) break;
  }
}

} // namespace

Result<void> check_versions(ChangeState& change) {
  if (Result<void> resolved = resolve_leads(change); !resolved) return resolved;
  if (change.transition != nullptr) {
    change.engine->transitions.reserve(change.engine->transitions.size() + 1);
    std::size_t definitions = 0;
    for (const ModuleDraft& draft : change.drafts)
      if (draft.replaces != nullptr) definitions += draft.replaces->replaceable->definitions.size();
    change.transition->vanished.reserve(definitions);
    base::List<Dependency>& needed = change.transition->memory->dependencies;
    needed.reserve(needed.size() + change.transition->choices.size());
  }
  for (ModuleDraft& draft : change.drafts) {
    if (!change.has_identities) break;
    if (draft.replaces != nullptr) {
      if (Result<void> unmoved = check_unmoved(change, draft); !unmoved) return unmoved;
      if (Result<void> checked = check_definitions_of(change, draft); !checked) return checked;
    }
    if (draft.replaces != nullptr || draft.replacement->replaceable != nullptr) reserve_for(change, draft);
  }
  return find_losses(change);
}

namespace {

// Versions of the module whose frames may call it by its stub: the body that this leads to stays as long. False: so may
// those of other modules.
bool let_stubs_call(EngineState& engine, ModuleState& module, const Definition& definition) noexcept {
  auto mark = [&](ModuleState& version) {
    for (const Use& use : version.extra().uses) version.extra().strays |= use.definition == &definition && use.through_stub;
  };
  for_each_holder(module, mark);
  for (const std::shared_ptr<ModuleState>& other : engine.removed)
    if (other->rare().current.get() == &module) mark(*other);
  for (const Use* use = definition.uses; use != nullptr; use = use->next)
    if (use->through_stub && use->user != &module) return false;
  return true;
}

// A variable or constant moves or vanishes: pointers to it may be held, and a later version may have it there again.
void retain(Replaceable& replaceable, Definition& d) noexcept {
  if (d.address == 0 || d.size == 0 || has_former(d, d.address)) return;
  const std::uint64_t begin = d.section_size != 0 ? std::min(d.section_address, d.address) : d.address;
  const std::uint64_t end = std::max(d.section_address + d.section_size, d.address + d.size);
  // Both have the room.
  d.former.push_back({d.address, d.size, d.section_address, d.section_size});
  replaceable.retained.push_back({{begin}, {end}});
}

// The version's own body of the function, also where its calls went through a switch of an atomic commit.
void freeze_local(memory::Space& space, const Version& version, Use& use) noexcept {
  use.frozen = true;
  const OwnFunction* own = own_function(version, use.definition);
  if (use.sites.empty() || own == nullptr || use.bound == own->address) return;
  memory::WriteGuard guard(space);
  bind_sites(space, use, own->address);
}

} // namespace

void keep_own_calls(EngineState& engine, ModuleState& code, const ModuleState& holder) noexcept {
  if (holder.opaque) return;
  // What it was compiled with: another holder's function it knows by its declaration.
  auto freeze = [&](ModuleState& of) {
    for (Use& use : of.extra().uses) {
      if (use.definition == nullptr || !use.definition->known_inside || use.definition->holder != &holder) continue;
      use.compiled_for = true;
      freeze_local(*engine.machinery->space, code, use);
      of.extra().strays |= &of != &code && &code != &holder;
    }
  };
  freeze(code);
  // Frames that are still where its code was before it was moved belong to it.
  if (holder.extra().moves == 0) return;
  for (const std::shared_ptr<ModuleState>& before : engine.removed)
    if (before->rare().moved_of != 0 && before->rare().moved_of == holder.extra().serial) freeze(*before);
}

bool let_own_frames_call(EngineState& engine, ModuleState& module, Definition& definition) noexcept {
  memory::Space& space = *engine.machinery->space;
  auto freeze = [&](ModuleState& version) {
    const bool own = own_function(version, &definition) != nullptr;
    if (!own && (version.held || !version.extra().escaped_parts.empty())) return;
    for (Use& use : version.extra().uses) {
      if (use.definition != &definition || use.frozen || use.sites.empty()) continue;
      freeze_local(space, version, use);
      version.extra().strays |= !own;
    }
  };
  for_each_holder(module, freeze);
  for (const std::shared_ptr<ModuleState>& other : engine.removed)
    if (other->rare().current.get() == &module) freeze(*other);
  for (const Use* use = definition.uses; use != nullptr; use = use->next)
    if (!use->frozen && !use->sites.empty()) return false;
  return true;
}

namespace {

// A name that the new version lacks. Nobody else refers to it, but a frame of the old version may, and pointers to it may be
// anywhere. True: the old version has to stay for it.
bool let_vanish(EngineState& engine, ModuleState& module, Definition& definition, Transition* transition) noexcept {
  memory::Space& space = *engine.machinery->space;
  definition.vanished = true;
  definition.holder = nullptr;
  // Pointers to constants may be held by anybody, and what a variable has registered may run at the end.
  if (is_stored(definition)) retain(*module.replaceable, definition);
  if (definition.kind != DefinitionKind::function || definition.led) return false;
  // A handle may be of this function, unless that is local.
  const bool pinned = !definition.local && module.pins.load(std::memory_order_acquire) != 0;
  if (pinned || address_was_taken(definition)) return true;
  if (!let_own_frames_call(engine, module, definition) || !let_stubs_call(engine, module, definition)) return true;
  // Entries of before an atomic commit go on calling it.
  if (transition != nullptr)
    transition->vanished.push_back(&definition); // has the room
  else if (definition.choice != nullptr)
    definition.ends_with_switch = true;
  else
    lead_nowhere(space, definition);
  return false;
}

// A name of a group that is kept. True: the old version has to stay for it; false: it is an older one's, which does.
bool let_stay(const ModuleDraft& draft, Definition& definition) noexcept {
  if (definition.holder == nullptr || definition.holder->held) return false;
  if (definition.holder == draft.replaces.get()) definition.holder = draft.state.get(); // what was the module's goes there
  return true;
}

// Forward symbols that nobody refers to any more follow the new version, which may lack them.
void update_filled(EngineState& engine, const ModuleDraft& draft) noexcept {
  ModuleState& module = *draft.replaces;
  base::erase_if(module.rare().filled, [&](SymbolRecord* record) {
    const Provided* there = find_provided(draft, record->name());
    const auto earlier = module.replaceable->by_name.find(record->name());
    const bool led = earlier != module.replaceable->by_name.end() && earlier->second->led;
    if (there == nullptr && !led) reopen_forward(*record, *engine.machinery->space);
    if (there == nullptr) return !led;
    if (there->definition->kind == DefinitionKind::function || there->address == record->address()) return false;
    record->set_address(there->address);
    store_slot(*engine.machinery->space, record->slot(), record->address());
    return false;
  });
}

// Symbols that the new version lacks are found no more.
void erase_vanished(const ChangeState& change, LibraryState& library, ModuleState& module) noexcept {
  module.for_each_record([&](SymbolRecord& record) {
    const bool group = (record.flags & symbol_flag::group) != 0;
    const bool current = (record.flags & symbol_flag::current) != 0;
    record.flags = std::uint16_t(record.flags & ~symbol_flag::current);
    if (current || (record.flags & symbol_flag::erased) != 0 || is_kept(change, record)) return;
    (group ? library.groups : library.symbols).erase(&record);
    record.flags |= symbol_flag::erased;
  });
}

void update_records(const ChangeState& change, LibraryState& library, ModuleDraft& draft) noexcept {
  ModuleState& module = *draft.replaces;
  for (RecordUpdate& update : draft.replacement->updates) {
    SymbolRecord& record = *update.record;
    record.set(update.content);
    if (!draft.partial) record.flags |= symbol_flag::current;
  }
  if (!draft.state->records.empty()) module.rare().more_records.push_back(std::move(draft.state->records)); // has the room
  if (draft.partial) return;
  erase_vanished(change, library, module);
}

// Entries of before go on to where the function was led.
void note_leader(Transition& transition, Definition& definition) noexcept {
  Definition* leader = go_by_leader(definition);
  if (leader == nullptr) return;
  transition.memory->dependencies.push_back({leader->module, nullptr, ""}); // has the room
  for (Choice& choice : transition.choices)
    if (choice.definition == &definition) choice.led_to = leader;
}

// True: the version before has to stay.
bool publish_provided(EngineState& engine, ModuleDraft& draft, const link::Module& object, Transition* transition) noexcept {
  memory::Space& space = *engine.machinery->space;
  const bool atomic = transition != nullptr;
  Replaceable& replaceable = draft.replaceable();
  Replacement& replacement = *draft.replacement;
  bool hold = false;
  for (const Provided& p : replacement.provided) {
    if (transition != nullptr && p.definition->led) note_leader(*transition, *p.definition);
    if (p.definition->led) end_lead(*p.definition);
    p.definition->vanished = p.definition->ends_with_switch = p.definition->ends_with_calls = false;
  }
  if (draft.replaces != nullptr && !draft.partial) {
    for (const std::unique_ptr<Definition>& definition : replaceable.definitions) definition->seen = false;
    for (const Provided& p : replacement.provided) p.definition->seen = true;
    for (const std::unique_ptr<Definition>& definition : replaceable.definitions)
      if (!definition->seen && !definition->vanished)
        hold |= stays(draft, *definition) ? let_stay(draft, *definition)
                                          : let_vanish(engine, *draft.replaces, *definition, transition);
    // A later set must not take them for its members (Use::frozen).
    for (const Provided& p : replacement.provided) p.definition->seen = false;
  }
  for (const Provided& p : replacement.provided) {
    Definition& definition = *p.definition;
    const Symbol& symbol = object.symbols()[p.symbol];
    if (definition.kind == DefinitionKind::function && (!atomic || p.fresh))
      retarget(space, definition, p.address);
    else if (!p.fresh && definition.address != p.address && is_stored(definition))
      retain(replaceable, definition);
    definition.address = p.address;
    definition.holder = draft.partial ? draft.state.get() : draft.identity().get();
    definition.size = symbol.size;
    definition.content = p.content;
    definition.section_address = p.section_address;
    definition.section_size = p.section_size;
    definition.local = p.local;
    definition.known_inside = p.local ? object.knowledge != object::Knowledge::none : object.may_know(symbol);
  }
  for (std::unique_ptr<Definition>& definition : replacement.fresh) replaceable.definitions.push_back(std::move(definition));
  replacement.fresh.clear();
  replaceable.by_name.swap(replacement.by_name);
  return hold;
}

void exchange(ChangeState& change, ModuleDraft& draft, bool hold) noexcept {
  ModuleState& module = *draft.replaces;
  ModuleState& version = *draft.state;
  hold |= !module.extra().escaped_parts.empty();
  supersede(change, draft.replaces, version, hold);
  if (module.rare().dso_handle == 0) module.rare().dso_handle = version.rare().dso_handle;
  if (hold) module.replaceable->held.push_back(draft.state);
  if (change.transition == nullptr) return;
  freeze_members(version, [&](const Definition& d) { return change.replaces(d.module); });
  version.in_transition = true;
  join(version, change.transition->retirement);
  change.transition->superseded.push_back(draft.state); // has the room
}

} // namespace

namespace {

void freeze_own_calls(EngineState& engine, ModuleState& module) noexcept {
  for_each_holder(module, [&](ModuleState& holder) { keep_own_calls(engine, holder, holder); });
}

// Replaces it, or functions of it.
bool changes(const ChangeState& change, const ModuleState* module) noexcept {
  return std::any_of(change.drafts.begin(), change.drafts.end(),
                     [&](const ModuleDraft& draft) { return draft.replaces.get() == module; });
}

} // namespace

void supersede(ChangeState& change, const std::shared_ptr<ModuleState>& current, ModuleState& version, bool hold) noexcept {
  ModuleState& module = *current;
  keep_literals(module, module, &version);
  supersede_fragments(change, current, &version, hold);
  std::swap(static_cast<Version&>(module), static_cast<Version&>(version));
  ++module.replaceable->version;
  uncount_references(*change.engine, version);
  version.superseded = version.removed = true;
  version.rare().current = current;
  version.waiting = true;
  version.held = hold;
  keep_references(change.engine->collection, version);
  version.sequence = module.sequence;
  version.auxiliary = true;
  version.extra().debug.reset(); // only the current version's is asked for
  for (Use& use : version.extra().uses) use.past = true;
  leave_moved(*change.engine, version);
  ++change.engine->module_count;
}

namespace {

// A plain change while a set is still being exchanged: what an entry of before calls is decided by that one's switch, also
// from new code. The switch leads to the new bodies before new code calls through it, so that nobody else gets to old ones.
void go_by_switches(memory::Space& space, ChangeState& change) noexcept {
  if (change.transition != nullptr) return;
  for (ModuleDraft& draft : change.drafts)
    for (const Provided& p : draft.replacement->provided)
      if (!p.fresh && p.definition->choice != nullptr && p.definition->leader == nullptr && !p.definition->led)
        retarget(space, *p.definition, p.address);
  for (ModuleDraft& draft : change.drafts)
    for (Use& use : draft.state->extra().uses)
      if (use.definition->choice != nullptr) catch_up(space, use);
}

} // namespace

void publish_definitions(ChangeState& change) noexcept {
  if (!change.has_identities) return;
  memory::Space& space = *change.engine->machinery->space;
  // Where a member was unloaded, entries of before run its new version: members may not call each other's directly then.
  const bool direct =
      change.transition != nullptr && std::none_of(change.drafts.begin(), change.drafts.end(), [](const ModuleDraft& draft) {
        return draft.replaces != nullptr && draft.replaces->extra().recalls != nullptr;
      });
  supersede_functions(change);
  // What others have replaced since this change was linked may be freed by now: nothing may lead to new code before its
  // calls are caught up with. Likewise what is led elsewhere: its own new version is not to be called.
  for (ModuleDraft& draft : change.drafts)
    for (Use& use : draft.state->extra().uses)
      if (use.definition->entry != 0 && (use.definition->leader != nullptr || !changes(change, use.definition->module)))
        catch_up(space, use);
  go_by_switches(space, change);
  for (std::size_t m = 0; m < change.drafts.size(); ++m) {
    ModuleDraft& draft = change.drafts[m];
    if (draft.replaces == nullptr && draft.replacement->replaceable == nullptr) continue;
    if (draft.replaces == nullptr) draft.state->replaceable = std::move(draft.replacement->replaceable);
    if (draft.replaces != nullptr && !draft.partial) freeze_own_calls(*change.engine, *draft.replaces);
    if (!draft.partial) draft.replaceable().shared_bodies.swap(draft.replacement->shared_bodies);
    const bool hold = publish_provided(*change.engine, draft, *change.modules[m], change.transition.get());
    if (draft.replaces == nullptr) continue;
    update_records(change, *change.libraries[draft.library], draft);
    if (!draft.partial) update_filled(*change.engine, draft);
    draft.partial ? attach_fragment(draft) : exchange(change, draft, hold);
  }
  if (change.transition != nullptr) {
    ++change.engine->module_count; // the switches'
    begin_transition(*change.engine, std::move(change.transition));
  }
  change.engine->removed.splice(change.engine->removed.end(), change.superseded);
  // What this very change has replaced is caught up with.
  for (ModuleDraft& draft : change.drafts)
    for (Use& use : (draft.partial ? draft.state : draft.identity())->extra().uses) {
      use.in_new_set = direct;
      link_use(use);
      catch_up(space, use);
    }
}

namespace {

// What the module's current version, and others of it that are not freed yet, use of the storage of earlier ones.
std::vector<Stretch> still_needed(const EngineState& engine, const ModuleState& module, const ModuleState& dying) {
  const Replaceable& replaceable = *module.replaceable;
  std::vector<Stretch> needed = replaceable.retained;
  for_each_holder(module, [&](const ModuleState& holder) {
    needed.insert(needed.end(), holder.extra().borrowed.begin(), holder.extra().borrowed.end());
  });
  if (module.rare().dso_handle != 0) needed.push_back({{module.rare().dso_handle}, {module.rare().dso_handle + 16}});
  // What came with a fragment stays when the fragment goes.
  for (const std::unique_ptr<Definition>& d : replaceable.definitions)
    if (replaceable.in_parts && !d->vanished && (d->kind == DefinitionKind::variable || d->kind == DefinitionKind::constant))
      needed.push_back({{d->section_address}, {d->section_address + d->section_size}});
  for (const std::shared_ptr<ModuleState>& other : engine.removed)
    if (other.get() != &dying && other->rare().current.get() == &module)
      needed.insert(needed.end(), other->extra().borrowed.begin(), other->extra().borrowed.end());
  return whole_granules(std::move(needed));
}

// Local functions that the current version lacks and nobody refers to: so many would add up. Other versions that are not
// freed yet may have them, and name them. Whose storage has stayed may come back to it.
void forget_vanished(const EngineState& engine, Replaceable& replaceable, const ModuleState& dying) noexcept {
  if (replaceable.drafts.load(std::memory_order_acquire) != 0) return; // which look at definitions without the lock
  for (const std::shared_ptr<ModuleState>& other : engine.removed)
    if (other.get() != &dying && other->rare().current == dying.rare().current) return;
  std::erase_if(replaceable.definitions, [&](const std::unique_ptr<Definition>& definition) {
    const bool comes_back = !definition->former.empty() && !definition->ambiguous;
    if (!definition->vanished || !definition->local || comes_back || definition->uses != nullptr || definition->led ||
        definition->choice != nullptr || definition->awaited != 0 || definition->leader != nullptr ||
        definition->followers != nullptr)
      return false;
    if (auto found = replaceable.by_name.find(definition->name);
        found != replaceable.by_name.end() && found->second == definition.get())
      replaceable.by_name.erase(found);
    return true;
  });
}

} // namespace

bool bequeath(EngineState& engine, ModuleState& version, std::vector<OwnedBlock>& freed) noexcept {
  if (!version.superseded) return true;
  ModuleState& module = *version.rare().current;
  if (version.rare().stale_of != 0) {
    try {
      free_stale(engine, version, freed);
      forget_vanished(engine, *module.replaceable, version);
    } catch (const std::bad_alloc&) {
      return false;
    }
    --engine.stale_parts;
    return true;
  }
  if (module.swept.is_doomed_by(engine.sweep_number)) return true; // it ends, too
  // Even if it has to stay: nobody runs it any more, and what it refers to may go.
  for (Use& use : version.extra().uses) {
    Definition* definition = use.definition;
    unlink_use(use);
    if (definition != nullptr && definition->ends_with_calls) lead_nowhere(*engine.machinery->space, *definition);
  }
  try {
    const std::vector<Stretch> needed = still_needed(engine, module, version);
    std::vector<OwnedBlock>& kept = module.replaceable->kept;
    kept.reserve(kept.size() + link::runs + version.extra().parts.size());
    for (const link::Run run : {link::Run::rodata, link::Run::data, link::Run::slots})
      if (OwnedBlock block = version.blocks.take(run)) kept.push_back(std::move(block));
    for (OwnedBlock& part : version.extra().parts)
      if (part && part->area != memory::AreaKind::code) kept.push_back(std::move(part));
    for (std::size_t i = 0, count = kept.size(); i < count; ++i) OwnedBlock::keep_only(kept, i, needed, freed);
    std::erase_if(kept, [](const OwnedBlock& part) { return !part; });
    forget_vanished(engine, *module.replaceable, version);
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

bool bury(ModuleState& module, std::size_t& done, StepBudget& budget) noexcept {
  std::size_t first = 0; // of those that are looked at, among all
  bool spent = false;
  for_each_holder(module, [&](ModuleState& holder) {
    for (; !spent && done < first + holder.extra().uses.size(); spent = budget.spent_after_many())
      unlink_use(holder.extra().uses[done++ - first]);
    first += holder.extra().uses.size();
  });
  if (module.replaceable == nullptr) return done == first;
  const std::vector<std::unique_ptr<Definition>>& definitions = module.replaceable->definitions;
  for (; !spent && done < first + definitions.size(); spent = budget.spent_after_many()) {
    Definition& definition = *definitions[done++ - first];
    detach(definition);
    definition.stub = Stub();
  }
  return done == first + definitions.size();
}

} // namespace tenon::engine

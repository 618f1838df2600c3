// What single functions leave behind when they are replaced.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/fragment.h"

#include "engine/change_state.h"
#include "engine/code_graph.h"
#include "engine/move.h"
#include "engine/onward.h"
#include "engine/reclaimer.h"

#include "base/check.h"

#include <algorithm>
#include <iterator>
#include <set>

namespace tenon::engine {

namespace {

bool contains(std::span<const std::uint64_t> sorted, std::uint64_t address) {
  return std::binary_search(sorted.begin(), sorted.end(), address);
}

bool is_current(const ModuleState& holder, const OwnFunction& function) {
  return function.definition->holder == &holder && function.definition->address == function.address;
}

bool is_lost(const Loss& loss, const Definition* definition) {
  return std::binary_search(loss.definitions.begin(), loss.definitions.end(), definition);
}

bool lies_in(const base::List<Stretch>& stretches, std::uint64_t address) {
  return std::any_of(stretches.begin(), stretches.end(),
                     [&](const Stretch& s) { return s.begin.value <= address && address < s.end.value; });
}

bool lies_in_code(const ModuleState& holder, std::uint64_t address) {
  const KeptPlaces places = holder.places();
  return std::any_of(places.begin(), places.end(), [&](const link::SectionPlace& place) {
    return place.kept && place.run == link::Run::code && address - place.address < place.size;
  });
}

Loss& loss_of(ChangeState& change, const std::shared_ptr<ModuleState>& module, ModuleState* holder) {
  for (Loss& loss : change.losses)
    if (loss.holder == holder) return loss;
  Loss& loss = change.losses.emplace_back();
  loss.module = module;
  loss.holder = holder;
  return loss;
}

// One function for each: two new definitions in one change can't both be it.
Result<void> collect_bodies(ChangeState& change) {
  std::set<const Definition*> seen;
  std::set<std::pair<const ModuleState*, std::string_view>> names;
  for (const ModuleDraft& draft : change.drafts) {
    if (!draft.partial) continue;
    for (const Provided& p : draft.replacement->provided) {
      const Definition& d = *p.definition;
      const bool variable = d.kind == DefinitionKind::variable && !d.ambiguous;
      if (p.fresh && variable && !names.emplace(draft.replaces.get(), d.name).second)
        return Error{ErrorCode::duplicate, "the new variable '" + d.name + "' of module " + draft.replaces->name +
                                               " comes twice in one change: which of them functions mean can't be told"};
      if (p.fresh) continue;
      if (!seen.insert(p.definition).second)
        return Error{ErrorCode::duplicate,
                     "'" + p.definition->name + "' of module " + draft.replaces->name + " is replaced twice in one change"};
      if (d.kind != DefinitionKind::function || d.holder == nullptr) continue;
      Loss& loss = loss_of(change, draft.replaces, d.holder);
      loss.bodies.push_back(d.address);
      loss.definitions.push_back(&d);
    }
  }
  for (Loss& loss : change.losses) {
    std::sort(loss.bodies.begin(), loss.bodies.end());
    std::sort(loss.definitions.begin(), loss.definitions.end());
  }
  return {};
}

Error not_opaque(const Loss& loss, const std::string& function) {
  return {ErrorCode::needs_flag,
          "'" + function + "' can't be replaced singly: other functions of module " + loss.module->name +
              " were compiled with it, and may have been compiled for what it did. Compile the module with tenon-llvm's "
              "`replaceable` or GCC's -fno-inline -flive-patching=inline-only-static and say so (ModuleOptions::opaque), or "
              "replace all of it"};
}

// The stale code's sites leave their version: while a thread is inside they follow what they lead to, and then they go.
void take_sites(const Loss& loss, ModuleState& stale) {
  auto is_stale = [&](std::uint64_t site) { return lies_in(stale.rare().stale, site); };
  std::size_t uses = 0, sites = 0;
  for (const Use& use : loss.holder->extra().uses) {
    const auto count = std::size_t(std::count_if(use.sites.begin(), use.sites.end(), is_stale));
    uses += count != 0 ? 1 : 0;
    sites += count;
  }
  stale.extra().uses.reserve(uses);
  stale.extra().sites.reserve(sites);
  for (const Use& use : loss.holder->extra().uses) {
    const std::size_t first = stale.extra().sites.size();
    std::copy_if(use.sites.begin(), use.sites.end(), std::back_inserter(stale.extra().sites), is_stale);
    if (stale.extra().sites.size() == first) continue;
    Use& taken = stale.extra().uses.emplace_back();
    taken.definition = use.definition;
    taken.user = use.user;
    taken.sites = std::span<const std::uint64_t>(stale.extra().sites).subspan(first);
    taken.past = true;
  }
}

// Stands for the sections that the version no longer needs.
void make_stale(ChangeState& change, Loss& loss) {
  const CodeGraph& graph = *loss.holder->extra().graph;
  auto stale = make_full_state();
  stale->name = loss.module->name;
  stale->rare().current = loss.module;
  stale->superseded = stale->removed = stale->auxiliary = stale->waiting = true;
  stale->sequence = loss.module->sequence;
  stale->rare().stale_of = loss.holder->extra().serial;
  stale->extra().initializing = loss.holder->extra().initializing;
  for (std::uint32_t i : loss.sections) {
    const Stretch freeable = graph.freeable(i);
    // What will be freed may be used for something else at once: all of it waits here, and nowhere else.
    const Addr begin{graph.section(i).begin}, end{graph.section(i).end};
    const bool some = freeable.begin < freeable.end;
    stale->rare().stale.push_back(
        {some ? std::min(begin, freeable.begin) : begin, some ? std::max(end, freeable.end) : end});
    stale->rare().freeable.push_back(freeable);
    for (const OwnFunction& function : loss.holder->extra().functions)
      if (graph.section(i).begin <= function.address && function.address < graph.section(i).end)
        stale->extra().functions.push_back(function);
  }
  // Nobody else calls by its veneers, and what these lead to goes with it.
  const link::SectionPlace stubs =
      loss.holder->places()[loss.holder->places().size() - link::synthetic_sections + std::size_t(link::Synthetic::stubs)];
  if (!loss.holder->opaque && stubs.kept) stale->rare().stale.push_back({{stubs.address}, {stubs.address + stubs.size}});
  std::sort(stale->extra().functions.begin(), stale->extra().functions.end(),
            [](const OwnFunction& a, const OwnFunction& b) { return a.address < b.address; });
  take_sites(loss, *stale);
  change.superseded.push_back(stale); // for EngineState::removed
  loss.stale = std::move(stale);
}

Result<void> judge(ChangeState& change, Loss& loss) {
  ModuleState& holder = *loss.holder;
  bool others = false;
  // Those that can't be told apart by name can't be replaced either: they go with the fragment that brought them. Of several
  // names for one function each counts.
  for (const OwnFunction& function : holder.extra().functions)
    others = others || (is_current(holder, function) && !is_lost(loss, function.definition) &&
                        (loss.holder == loss.module.get() || !function.definition->ambiguous));
  // Labels that the fragment has brought, or whose code may have been compiled for what goes.
  for (const std::unique_ptr<Definition>& definition : loss.module->replaceable->definitions)
    others = others || ((loss.holder != loss.module.get() || !holder.opaque) && definition->kind == DefinitionKind::other &&
                        !definition->vanished && lies_in_code(holder, definition->address));
  if (others && !holder.opaque)
    for (const OwnFunction& function : holder.extra().functions)
      if (contains(loss.bodies, function.address)) return not_opaque(loss, function.definition->name);
  loss.whole = !others && loss.holder != loss.module.get();
  if (loss.whole) {
    loss.module->replaceable->literals.reserve(loss.module->replaceable->literals.size() + holder.extra().anonymous.size());
    return {};
  }
  if (holder.extra().graph == nullptr) holder.extra().graph = std::make_unique<CodeGraph>(holder, *loss.module);
  loss.sections = holder.extra().graph->find_stale(loss.bodies);
  if (!loss.sections.empty()) make_stale(change, loss);
  return {};
}

} // namespace

namespace {

// The engine's end must not need memory, however many become entries of EngineState::removed.
void reserve_last(ChangeState& change) {
  EngineState& engine = *change.engine;
  std::size_t wanted = engine.module_count + change.drafts.size() + change.losses.size() + 2 * change.unloads.size() + 2;
  for (const ModuleDraft& draft : change.drafts)
    if (draft.replaces != nullptr) wanted += draft.replaces->replaceable->fragments.size();
  for (const Unload& unload : change.unloads) wanted += unload.module->replaceable->fragments.size();
  if (wanted > engine.last.capacity()) engine.last.reserve(std::max(wanted, engine.last.capacity() * 2));
}

} // namespace

Result<void> find_losses(ChangeState& change) {
  change.losses.clear();
  if (Result<void> collected = collect_bodies(change); !collected) return collected;
  for (Loss& loss : change.losses)
    if (Result<void> judged = judge(change, loss); !judged) return judged;
  reserve_last(change);
  if (change.transition == nullptr) return {};
  std::size_t leaving = change.drafts.size() + change.losses.size();
  for (const ModuleDraft& draft : change.drafts)
    if (draft.replaces != nullptr) leaving += draft.replaces->replaceable->fragments.size();
  for (const Unload& unload : change.unloads) leaving += unload.module->replaceable->fragments.size();
  change.transition->superseded.reserve(leaving);
  return {};
}

namespace {

template <class List> bool is_listed(const List& list, std::uint64_t address) noexcept {
  return std::any_of(list.begin(), list.end(), [&](const Anonymous& a) { return a.address == address; });
}

} // namespace

void keep_literals(ModuleState& module, Version& old, const Version* now) noexcept {
  Replaceable& replaceable = *module.replaceable;
  for (Anonymous& literal : old.extra().anonymous) {
    bool current = is_listed(replaceable.literals, literal.address) ||
                   (now != nullptr && is_listed(now->extra().anonymous, literal.address));
    for_each_holder(module, [&](const ModuleState& holder) {
      current =
          current || (static_cast<const Version*>(&holder) != &old && is_listed(holder.extra().anonymous, literal.address));
    });
    if (current || literal.size == 0) continue;
    replaceable.retained.push_back(
        {{literal.address}, {literal.address + literal.size}}); // has the room, as have the literals
    replaceable.literals.push_back(std::move(literal));
  }
}

namespace {

// Neither its code nor what it refers to counts for the module any more.
void supersede(EngineState& engine, const std::shared_ptr<ModuleState>& module, ModuleState& fragment) noexcept {
  for (Use& use : fragment.extra().uses) use.past = true;
  uncount_references(engine, fragment);
  fragment.superseded = fragment.removed = fragment.auxiliary = fragment.waiting = true;
  fragment.rare().current = module;
  fragment.linking.keep_places();
  fragment.extra().graph.reset();
  leave_moved(engine, fragment);
  ++engine.module_count;
}

std::list<std::shared_ptr<ModuleState>>::iterator find(ModuleState& module, const ModuleState* fragment) noexcept {
  auto& fragments = module.replaceable->fragments;
  return std::find_if(fragments.begin(), fragments.end(), [&](const auto& f) { return f.get() == fragment; });
}

void join_transition(ChangeState& change, const std::shared_ptr<ModuleState>& superseded) noexcept {
  if (change.transition == nullptr) return;
  freeze_members(*superseded, [&](const Definition& d) { return d.seen || change.replaces(d.module); });
  superseded->in_transition = true;
  join(*superseded, change.transition->retirement);
  change.transition->superseded.push_back(superseded); // has the room
}

void strip(Loss& loss) noexcept {
  for (Use& use : loss.holder->extra().uses)
    drop_sites(use, [&](std::uint64_t site) { return lies_in(loss.stale->rare().stale, site); });
  // Nor may calls that are left to old frames lead there (freeze_local).
  base::erase_if(loss.holder->extra().functions,
                 [&](const OwnFunction& f) { return lies_in(loss.stale->rare().stale, f.address); });
}

void supersede_one(ChangeState& change, Loss& loss) noexcept {
  if (loss.whole) {
    auto at = find(*loss.module, loss.holder);
    TENON_CHECK(at != loss.module->replaceable->fragments.end(), "a fragment that its module does not have");
    keep_literals(*loss.module, *loss.holder, nullptr);
    keep_own_calls(*change.engine, *loss.holder, *loss.holder);
    supersede(*change.engine, loss.module, *loss.holder);
    loss.holder->held = !loss.holder->extra().escaped_parts.empty();
    for (const OwnFunction& function : loss.holder->extra().functions)
      if (function.definition->ambiguous) loss.holder->held = true;       // pointers to it may be anywhere
    if (loss.holder->held) loss.module->replaceable->held.push_back(*at); // has the room
    keep_references(change.engine->collection, *loss.holder);
    join_transition(change, *at);
    change.engine->removed.splice(change.engine->removed.end(), loss.module->replaceable->fragments, at);
    return;
  }
  loss.holder->extra().graph->supersede(loss.bodies, loss.sections);
  if (loss.stale == nullptr) return;
  for (std::uint32_t i : loss.sections) loss.holder->linking.leave_out(loss.holder->extra().graph->section(i).place);
  strip(loss);
  for (Use& use : loss.stale->extra().uses) {
    // They lead where their version's did, until somebody retargets them.
    for (const Use& whole : loss.holder->extra().uses)
      if (whole.definition == use.definition) use.bound = whole.bound;
    link_use(use);
  }
  keep_own_calls(*change.engine, *loss.stale, *loss.holder);
  join_transition(change, loss.stale);
  ++change.engine->stale_parts;
  ++change.engine->module_count;
}

} // namespace

void supersede_functions(ChangeState& change) noexcept {
  if (change.losses.empty()) return;
  auto mark = [&](bool seen) {
    for (const ModuleDraft& draft : change.drafts)
      if (draft.partial)
        for (const Provided& p : draft.replacement->provided) p.definition->seen = seen;
  };
  mark(true);
  for (Loss& loss : change.losses) supersede_one(change, loss);
  mark(false);
  change.losses.clear();
}

void attach_fragment(ModuleDraft& draft) noexcept {
  ModuleState& module = *draft.replaces;
  ModuleState& fragment = *draft.state;
  fragment.rare().fragment_of = &module;
  fragment.sequence = module.sequence;
  if (module.rare().dso_handle == 0) module.rare().dso_handle = fragment.rare().dso_handle;
  Replaceable& replaceable = *module.replaceable;
  replaceable.in_parts = true;
  ++replaceable.version;
  replaceable.fragments.splice(replaceable.fragments.end(), draft.replacement->fragment);
}

void supersede_fragments(ChangeState& change, const std::shared_ptr<ModuleState>& module, const Version* now,
                         bool hold) noexcept {
  Replaceable& replaceable = *module->replaceable;
  for (const std::shared_ptr<ModuleState>& fragment : replaceable.fragments) {
    keep_literals(*module, *fragment, now);
    supersede(*change.engine, module, *fragment);
    fragment->held = hold || !fragment->extra().escaped_parts.empty();
    if (fragment->held) replaceable.held.push_back(fragment); // has the room
    keep_references(change.engine->collection, *fragment);
    join_transition(change, fragment);
  }
  change.engine->removed.splice(change.engine->removed.end(), replaceable.fragments);
}

namespace {

// The version whose memory the code lies in: the module's current one, a fragment, or one that is not freed yet.
ModuleState* find_holder(EngineState& engine, ModuleState& module, std::uint64_t serial) noexcept {
  ModuleState* found = nullptr;
  for_each_holder(module, [&](ModuleState& holder) {
    if (holder.extra().serial == serial) found = &holder;
  });
  for (const std::shared_ptr<ModuleState>& other : engine.removed)
    if (found == nullptr && other->extra().serial == serial) found = other.get();
  return found;
}

void cut(ModuleState& holder, const Stretch& stretch, std::vector<OwnedBlock>& freed) {
  holder.extra().parts.reserve(holder.extra().parts.size() + 1);
  if (OwnedBlock block = holder.blocks.take(link::Run::code)) holder.extra().parts.push_back(std::move(block));
  for (std::size_t i = 0; i < holder.extra().parts.size(); ++i) {
    if (!holder.extra().parts[i]) continue;
    const memory::Block& block = *holder.extra().parts[i];
    if (stretch.begin < block.begin || stretch.end > block.end()) continue;
    std::array<Stretch, 2> kept{Stretch{block.begin, stretch.begin}, Stretch{stretch.end, block.end()}};
    const auto first = kept[0].begin == kept[0].end ? kept.begin() + 1 : kept.begin();
    const auto last = kept[1].begin == kept[1].end ? kept.end() - 1 : kept.end();
    OwnedBlock::keep_only(holder.extra().parts, i,
                          first < last ? std::span<const Stretch>(first, last) : std::span<const Stretch>(), freed);
    break;
  }
  base::erase_if(holder.extra().parts, [](const OwnedBlock& part) { return !part; });
}

} // namespace

void free_stale(EngineState& engine, ModuleState& stale, std::vector<OwnedBlock>& freed) {
  for (Use& use : stale.extra().uses) unlink_use(use);
  // Once its version has gone, so has its code.
  ModuleState* holder = find_holder(engine, *stale.rare().current, stale.rare().stale_of);
  if (holder == nullptr) return;
  for (const Stretch& stretch : stale.rare().freeable)
    if (stretch.begin < stretch.end) cut(*holder, stretch, freed);
}

} // namespace tenon::engine

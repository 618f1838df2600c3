// From a change's inputs to a draft: everything resolved, all sizes known.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/at_once.h"
#include "engine/change_state.h"
#include "engine/transition.h"

#include <algorithm>
#include <functional>
#include <map>
#include <shared_mutex>
#include <utility>

namespace tenon::engine {

ModuleDraft& begin_draft(ChangeState& change, std::uint32_t library, const ModuleOptions* options) {
  ModuleDraft& draft = change.drafts.emplace_back();
  draft.library = library;
  if (options == nullptr && change.usual_options == nullptr) change.usual_options = std::make_unique<const ModuleOptions>();
  draft.options = options != nullptr ? options : change.usual_options.get();
  if (change.libraries[library]->replaceable) draft.replacement = std::make_unique<Replacement>();
  if (!change.edits.empty()) draft.edited = std::make_unique<EditedSymbols>();
  return draft;
}

namespace {

void begin_modules(ChangeState& change) {
  std::size_t globals = 0;
  change.modules.reserve(change.additions.size());
  change.drafts.reserve(change.additions.size());
  for (Addition& addition : change.additions) {
    auto module = std::make_unique<link::Module>(addition.object);
    module->name = addition.options.name.empty() ? addition.object.name() : addition.options.name;
    module->debug_sections = addition.options.debug_sections;
    module->knowledge = addition.options.opaque ? object::Knowledge::none : object::Knowledge::any;
    module->unwinding = addition.options.unwinding && change.engine->options.unwinding;
    const std::size_t symbols = module->symbols().size();
    globals += symbols - std::min<std::size_t>(module->object.file().first_global, symbols);
    change.modules.push_back(std::move(module));
    ModuleDraft& draft = begin_draft(change, addition.library, &addition.options);
    change.has_identities |= draft.replacement != nullptr;
    change.has_collected |= change.libraries[addition.library]->collected;
    if (addition.replaces == nullptr) continue;
    draft.replaces = addition.replaces;
    draft.replacement->how = addition.how;
    draft.partial = addition.partial;
  }
  change.names.emplace(globals);
  if (!change.edits.empty()) change.edits_used.assign(change.edits.size(), 0);
}

link::Reach engine_reach(const EngineState& engine) {
  const memory::Space& space = *engine.machinery->space;
  return {true, space.begin().value, space.end().value, space.area_begin(memory::AreaKind::code).value,
          space.area_end(memory::AreaKind::code).value};
}

// A removal is refused as early as it can be seen to fail; commit looks again.
Result<void> check_removals(ChangeState& change) {
  if (change.removals.empty()) return {};
  for (bool again = true;; again = false) {
    Result<void> removable;
    {
      std::lock_guard lock(change.engine->commit_mutex);
      prefetch_leaving(change.removals);
      change.leaving_groups = find_leaving_groups(change.removals);
      removable = check_removable(*change.engine, change.removals);
      if (removable && change.removals.size() == 1) prefetch_places(*change.leaving, *change.removals.front());
    }
    if (removable || !again || !collect_users(*change.engine, removable.error())) return removable;
  }
}

// Other threads commit between one look at the tables and the next: a COMDAT group may be found and its symbols no more. If
// all that was found is still there at the end, then it was there all the time, and the draft is of one piece.
bool is_of_one_piece(ChangeState& change, bool drafted) {
  if (change.pins.empty()) return true; // nothing of what was found can be removed
  if (drafted && change.looks == 1 && !change.has_identities) return true;
  std::shared_lock lock(change.engine->tables);
  if (change.is_up_to_date(0)) return true;
  for (std::uint32_t i = change.found_begin; !drafted && i < change.found_end; ++i)
    if (const SymbolRecord* record = (*change.names)[i].record;
        record != nullptr && is_gone(change.engine->collection, *record))
      return false; // what went wrong may have been because of it
  return check_references(change).ok();
}

} // namespace

std::vector<const SymbolRecord*> find_leaving_groups(std::span<const std::shared_ptr<ModuleState>> removals) {
  const bool any = std::any_of(removals.begin(), removals.end(), [](const std::shared_ptr<ModuleState>& module) {
    return module->replaceable != nullptr || !module->groups.empty() ||
           std::any_of(module->dependencies.begin(), module->dependencies.end(),
                       [](const Dependency& dependency) { return dependency.group != nullptr; });
  });
  if (!any) return {};
  std::map<const SymbolRecord*, std::uint32_t> users;
  for (const std::shared_ptr<ModuleState>& module : removals) {
    for_each_holder(*module, [&](const ModuleState& holder) {
      for (const SymbolRecord* group : holder.groups) ++users[group];
      for (const Dependency& dependency : holder.dependencies)
        if (dependency.group != nullptr) ++users[dependency.group];
    });
  }
  std::vector<const SymbolRecord*> leaving;
  for (const auto& [group, count] : users)
    if (group->users() == count) leaving.push_back(group);
  return leaving;
}

bool leaves(const ChangeState& change, const SymbolRecord& record) noexcept {
  if (is_kept(change, record)) return false;
  // What a replaced module has is there again with its new version, or is meant to be gone.
  if (change.replaces(record.module())) return true;
  if (change.removals.empty()) return false;
  if (const SymbolRecord* group = (record.flags & symbol_flag::group) != 0 ? &record : record.group())
    return std::binary_search(change.leaving_groups.begin(), change.leaving_groups.end(), group, std::less<>());
  return std::any_of(change.removals.begin(), change.removals.end(),
                     [&](const std::shared_ptr<ModuleState>& module) { return module.get() == record.module(); });
}

bool takes_over(const ChangeState& change, std::uint32_t module, const SymbolRecord& record) noexcept {
  if (module == link::none || !change.drafts[module].partial) return false;
  return record.module() != nullptr && record.module() == change.drafts[module].replaces.get();
}

std::string module_context(const ChangeState& change, std::uint32_t index) { return change.modules[index]->name; }

Result<void> survey_and_lay_out(ChangeState& change, bool engine_memory) {
  link::Reach reach = engine_memory ? engine_reach(*change.engine) : link::Reach{};
  std::size_t sections = change.modules.size() * link::synthetic_sections;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    link::Module& module = *change.modules[m];
    if (engine_memory) bind_targets(change, m); // just before its survey, while its tables are in the cache
    find_callees(change, m);
    Result<void> done = link::survey(module, reach);
    if (done) done = find_sizes(change, m);
    if (done) done = link::lay_out(module);
    if (!done) return std::move(done).error().within(module_context(change, m));
    sections += module.places.of_object().size();
  }
  if (engine_memory) reserve_lists(change, sections);
  return {};
}

Result<void> check_libraries(const ChangeState& change) {
  for (const std::shared_ptr<LibraryState>& library : change.libraries)
    if (library->closed) return Error{ErrorCode::conflict, "library " + library->name + " was closed meanwhile"};
  return {};
}

namespace {

void find_what_stays(ChangeState& change) {
  if (!change.has_identities) return;
  std::lock_guard lock(change.engine->commit_mutex);
  keep_groups(change);
}

// Modules out of archives come and go with what is needed, so that an edit may find its module replaced by another.
Result<void> check_edits(const ChangeState& change) {
  for (std::size_t i = 0; i < change.edits.size(); ++i) {
    const Edit& edit = change.edits[i];
    const std::string& module = change.edited_modules[i];
    if (edit.module.index >= change.modules.size() || change.modules[edit.module.index]->name != module)
      return Error{ErrorCode::invalid_argument, "an edit of '" + edit.symbol + "' names module " + module + ", number " +
                                                    std::to_string(edit.module.index) +
                                                    ", which is not there, or not by that number, once the edits are made"};
    if (change.edits_used[i] == 0)
      return Error{ErrorCode::invalid_argument,
                   "module " + module + " has no global symbol '" + edit.symbol + "' that an edit could be of"};
  }
  return {};
}

// So that another version of them can be drafted against.
bool replaces_live_modules(const ChangeState& change) {
  bool any = false;
  for (const Addition& addition : change.additions) {
    if (addition.replaces == nullptr) continue;
    if (!addition.replaces->live.load(std::memory_order_acquire)) return false;
    any = true;
  }
  return any;
}

Result<void> draft_once(ChangeState& change) {
  if (Result<void> open = check_libraries(change); !open) return open;
  if (Result<void> removable = check_removals(change); !removable) return removable;
  if (change.only_removes()) return {};
  begin_modules(change);
  find_what_stays(change);
  for (std::uint32_t m = 0; m < change.additions.size(); ++m)
    if (Result<void> introduced = introduce_module(change, m); !introduced)
      return std::move(introduced).error().within(module_context(change, m));
  if (Result<void> resolved = resolve_names(change); !resolved) return resolved;
  if (!change.pending.empty())
    if (Result<void> gathered = gather_named_sections(change); !gathered) return gathered;
  if (!change.edits.empty())
    if (Result<void> edited = check_edits(change); !edited) return edited;
  allocate_commons(change);
  if (Result<void> surveyed = survey_and_lay_out(change, true); !surveyed) return surveyed;
  list_missing(change);
  return {};
}

} // namespace

Result<void> draft(ChangeState& change) {
  if (change.misuse) return *change.misuse;
  for (int attempt = 0;; ++attempt) {
    Result<void> drafted = draft_once(change);
    const bool overtaken = !drafted && drafted.error().code == ErrorCode::conflict && replaces_live_modules(change);
    if ((!overtaken && is_of_one_piece(change, drafted.ok())) || attempt == 100) return drafted;
    change.undo_draft();
  }
}

bool ChangeState::replaces(const ModuleState* module) const noexcept {
  return module != nullptr && module->replaceable != nullptr &&
         std::any_of(additions.begin(), additions.end(),
                     [&](const Addition& a) { return a.replaces.get() == module && !a.partial; });
}

std::uint32_t ChangeState::library_index(const std::shared_ptr<LibraryState>& library) {
  auto found = std::find(libraries.begin(), libraries.end(), library);
  if (found != libraries.end()) return std::uint32_t(found - libraries.begin());
  libraries.push_back(library);
  return std::uint32_t(libraries.size() - 1);
}

void ChangeState::undo_draft() noexcept {
  // IFUNC resolvers of modules that were not committed may have run, and have registered handlers.
  for (std::size_t m = 0; !committed && m < drafts.size(); ++m)
    if (drafts[m].state != nullptr && drafts[m].state->sequence == 0) finalize_all({&drafts[m].state, 1});
  if (placements_owned && memory != nullptr)
    for (const Placement& placement : placements) memory->release(placement);
  placements_owned = false;
  for (ModuleDraft& draft : drafts)
    if (draft.replacement != nullptr && std::exchange(draft.replacement->counted, false))
      draft.replaces->replaceable->drafts.fetch_sub(1, std::memory_order_release);
  shown.clear();
  forward_slots.clear();
  forward_traps.clear();
  buffers.clear();
  placements.clear();
  requests.clear();
  mode = PlaceMode::none;
  missing.clear();
  warnings.clear();
  drafts.clear();
  members.clear();
  modules.clear();
  pins.clear();
  pending.clear();
  section_bounds.clear();
  extras.clear();
  looks = found_begin = found_end = 0;
  has_clashes = has_slots = has_unique = has_missing = has_forwards = has_ifuncs = has_collected = shares_groups = false;
  records.clear();
  names.reset();
  superseded.clear();
  losses.clear();
  undo_unloads(*this);
  transition.reset();
  has_identities = false;
}

ChangeState::~ChangeState() {
  // Otherwise members end as they are: what has been added is the engine's, and what only removes has drafted nothing.
  if (!only_removes() && (!committed || exchanges() || placements_owned)) undo_draft();
}

} // namespace tenon::engine

// A change from the inside: one object that is carried through all stages.
//
// Owner: the stage that holds it; one thread at a time. Nothing here is visible to others until commit; everything that is
// taken from the outside (memory, TLS keys, slots) is held by members that give it back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>

#include "engine/engine_state.h"
#include "engine/fragment.h"
#include "engine/lead.h"
#include "engine/name_table.h"
#include "engine/recall.h"
#include "engine/replacement.h"
#include "engine/transition.h"
#include "link/passes.h"

#include "base/scratch_list.h"

#include <optional>
#include <set>
#include <tuple>
#include <type_traits>

namespace tenon::object {
struct DebugInfo;
}

namespace tenon::engine {

// Of an addition that takes the place of a module, or of functions of one.
struct Replacing {
  DataPolicy policy;
  std::vector<std::string> functions; // partial: of those that the object defines, which; empty: all
};

struct Addition {
  std::uint32_t library = 0; // index into ChangeState::libraries
  bool partial = false;      // single functions, beside the module's version
  Object object;
  ModuleOptions options;
  std::shared_ptr<ModuleState> replaces; // null: a new module
  std::shared_ptr<const Replacing> how;  // beside `replaces`
};

// A symbol whose references an edit has bound to an address; what the module itself defines by that name is still published.
struct BoundSymbol {
  std::uint32_t symbol;
  std::uint64_t address;
  link::Target definition; // kind `missing`: the module does not define it
};

// A reference to the definition of a bound symbol of this change.
struct Redirect {
  std::uint32_t symbol;
  std::uint32_t module, definition; // whose, and which symbol of it
};

// What edits have made of a module's symbols.
struct EditedSymbols {
  base::Vector<BoundSymbol> bound;
  base::Vector<Redirect> redirects;
  TENON_IN_SCRATCH
};

// What a change knows of a module beyond what the linker does. Changes may have a hundred thousand: what few modules need
// is apart.
struct ModuleDraft {
  std::uint32_t library = 0;
  std::uint32_t mark = 0;                  // scratch of prepare_states()
  bool partial = false;                    // of the module that it replaces only what the object defines: a fragment
  const ModuleOptions* options = nullptr;  // the addition's, or those of archive members
  base::ScratchList<std::uint8_t> dropped; // by section: in a COMDAT group that somebody else provides; empty: none
  base::Vector<std::uint32_t> names;       // of each global symbol (index less the first global), or link::none
  base::Vector<std::uint32_t> groups;      // name of each COMDAT group's signature
  std::size_t records_bytes = 0;           // of the symbols that it defines: no fewer than it will publish
  base::ScratchList<std::pair<std::string_view, SymbolRecord*>> shared_groups;
  std::shared_ptr<ModuleState> state;       // made before bytes are written: __dso_handle holds its address
  std::shared_ptr<ModuleState> replaces;    // the module that this is a new version of
  std::unique_ptr<Replacement> replacement; // null until replaceable modules are added, replaced or referred to
  std::unique_ptr<EditedSymbols> edited;    // null: the change has no edits

  // What others refer to once the change is committed.
  const std::shared_ptr<ModuleState>& identity() const noexcept { return replaces != nullptr ? replaces : state; }
  Replaceable& replaceable() const noexcept {
    return replaces != nullptr                   ? *replaces->replaceable
           : replacement->replaceable != nullptr ? *replacement->replaceable
                                                 : *state->replaceable;
  }
};

// What clients may ask to be shown, in one piece of memory, which is made before they can.
class ShownLists {
public:
  ShownLists() = default;
  ShownLists(const ShownLists&) = delete;
  ShownLists& operator=(const ShownLists&) = delete;
  ~ShownLists() { clear(); }

  std::span<const ModuleLayout> layouts() const noexcept { return {layouts_, layout_count_}; }
  std::span<const PlacedSection> places() const noexcept { return {places_, place_count_}; }

  // So many of each at most; none is there yet. May throw std::bad_alloc.
  void reserve(std::size_t modules, std::size_t sections);
  void clear() noexcept;
  void clear_places() noexcept { place_count_ = 0; }
  void add(const ModuleLayout& layout) noexcept { new (&layouts_[layout_count_++]) ModuleLayout(layout); }
  void add(const SectionLayout& section) noexcept { new (&sections_[section_count_++]) SectionLayout(section); }
  void add(const PlacedSection& place) noexcept { new (&places_[place_count_++]) PlacedSection(place); }
  // The last `count` that were added.
  std::span<const SectionLayout> last_sections(std::size_t count) const noexcept {
    return {sections_ + section_count_ - count, count};
  }
  std::size_t section_count() const noexcept { return section_count_; }

private:
  static_assert(std::is_trivially_destructible_v<ModuleLayout> && std::is_trivially_destructible_v<SectionLayout> &&
                std::is_trivially_destructible_v<PlacedSection>);

  std::size_t bytes_ = 0;
  ModuleLayout* layouts_ = nullptr; // in the order in which they lie in the piece
  SectionLayout* sections_ = nullptr;
  PlacedSection* places_ = nullptr;
  std::size_t layout_count_ = 0, section_count_ = 0, place_count_ = 0;
};

// What a change brings to a library.
struct Additions {
  std::size_t symbols = 0, groups = 0, modules = 0;
};

enum class PlaceMode : std::uint8_t { none, engine, client, addresses };

// Its lists are one word each: every change makes and drops all of them, and most have nothing in most of them.
struct ChangeState {
  std::shared_ptr<EngineState> engine;
  base::ScratchList<std::shared_ptr<LibraryState>> libraries;
  base::ScratchList<Addition> additions;
  base::ScratchList<std::shared_ptr<ModuleState>> removals;
  base::Vector<const ModuleState*> quiet; // of these: the client guarantees that no thread is inside
  std::shared_ptr<LibraryState> leaving;  // the library of the last of these
  base::ScratchList<Unload> unloads;
  base::ScratchList<Lead> leads;
  std::vector<Edit> edits;
  std::vector<std::string> edited_modules; // beside `edits`: the name of the module, as it was when the client saw it
  std::optional<Error> misuse;             // of the calls that collected the change

  // From draft() on.
  base::ScratchList<std::shared_ptr<ModuleState>> pins; // published modules that names were resolved to
  base::Vector<std::unique_ptr<link::Module>> modules;
  base::Vector<ModuleDraft> drafts;                                      // beside `modules`
  std::set<std::tuple<const void*, std::size_t, std::uint32_t>> members; // of archives that are in: archive, member, library
  std::unique_ptr<const ModuleOptions> usual_options;                    // made when a member of an archive has them
  std::optional<NameTable> names;
  base::ScratchList<NameExtra> extras;
  std::uint32_t looks = 0;     // at the tables of published symbols, each under one lock; asking sources counts as several
  std::uint64_t looked_at = 0; // at the first look: how often EngineState::tables had been held exclusively
  std::uint32_t found_begin = 0, found_end = 0; // among these names are all that were resolved to published symbols
  base::ScratchList<std::uint32_t> pending;     // names that are not resolved yet
  // Most changes have nothing of these, and leave out what they ask for.
  bool has_clashes = false;                // some name is defined here, and was resolved to a published symbol
  bool has_slots = false;                  // some published symbol is reached through a slot
  bool has_unique = false;                 // some name has a definition of GNU_UNIQUE binding
  bool has_missing = false;                // some symbol is bound to nothing
  bool has_forwards = false;               // some name is, or may be, a forward reference
  bool has_identities = false;             // replaceable modules are added, replaced or referred to
  bool has_ifuncs = false;                 // some module defines one
  bool has_collected = false;              // some module is of a library whose modules are collected
  bool shares_groups = false;              // some module shares a published COMDAT group
  bool committed = false;                  // what it has added is the engine's, or released code
  base::Vector<NameRecords> records;       // beside `names`, from prepare_states() on
  Additions added_first;                   // to libraries[0], which most changes add to only; from prepare_states() on
  base::ScratchList<Additions> added_more; // to the others
  std::vector<const SymbolRecord*> leaving_groups; // COMDAT groups that only removed modules share, sorted
  std::vector<const SymbolRecord*> kept_groups;    // that new versions lack and others share, sorted
  base::ScratchList<std::pair<std::uint32_t, link::SectionBound>>
      section_bounds; // of __start_ and __stop_ names, sorted by name
  base::ScratchList<Missing> missing;
  base::ScratchList<Warning> warnings;
  base::ScratchList<std::shared_ptr<const object::DebugInfo>> debug_infos; // beside `additions`
  base::ScratchList<std::uint8_t> edits_used;                              // beside `edits`: the symbol has been met
  ShownLists shown; // filled by describe_layouts() and describe_places()

  // From place() on.
  PlaceMode mode = PlaceMode::none;
  Memory* memory = nullptr;
  Granularity granularity = Granularity::section;
  base::ScratchList<BlockRequest> requests; // client memory and plain addresses
  base::ScratchList<Placement> placements;
  bool placements_owned = false; // release() them if the change is dropped
  base::ScratchList<std::vector<std::byte>>
      buffers; // local bytes where the client gives none; zero fill at the end of a block has none
  base::ScratchList<OwnedBlock> forward_slots;
  base::ScratchList<OwnedBlock> forward_traps; // beside `forward_slots`: what the slot leads to until the symbol is defined

  bool atomic = false; // the replaced functions become visible as a set
  std::unique_ptr<Transition> transition;
  base::ScratchList<Loss> losses;
  ModuleList superseded; // the states of replaced modules' new versions, for EngineState::removed

  // From link() on.
  Inspector inspector;
  bool references_settled = false; // by settle_all()
  bool observed = false;           // the client knows addresses or bytes: they may not change any more

  TENON_IN_SCRATCH
  explicit ChangeState(std::shared_ptr<EngineState> owner) : engine(std::move(owner)) {}
  ~ChangeState();

  Additions& added(std::size_t library) noexcept { return library == 0 ? added_first : added_more[library - 1]; }
  // It adds nothing and leads nothing elsewhere: most stages have nothing to do.
  bool only_removes() const noexcept { return additions.empty() && unloads.empty() && leads.empty() && edits.empty(); }
  // Versions of modules, or what is led to them.
  bool exchanges() const noexcept { return has_identities || !unloads.empty() || !leads.empty(); }
  // With a whole new version.
  bool replaces(const ModuleState* module) const noexcept;
  // Notes a look; under EngineState::tables.
  void look() noexcept {
    if (looks++ == 0) looked_at = engine->tables.times_held();
  }
  // Whether all that it was drafted on is as it was at the first look: the tables have not been held exclusively since,
  // other than by the caller, who holds them. Versions come and go under other locks, too.
  bool is_up_to_date(std::uint64_t times_by_caller) const noexcept {
    return looks != 0 && !has_identities && removals.empty() && looked_at + times_by_caller == engine->tables.times_held();
  }
  std::uint32_t library_index(const std::shared_ptr<LibraryState>& library);
  // Forgets everything from draft() on.
  void undo_draft() noexcept;
};

// The stages. Each throws std::bad_alloc only, and leaves the state fit to be destroyed.
Result<void> draft(ChangeState& change);
// Whether the change's libraries have no symbols at all; under EngineState::tables.
bool are_empty(const ChangeState& change) noexcept;
// Whether what the references of a change were bound to is still there; under EngineState::tables. Errors: conflict.
Result<void> check_references(const ChangeState& change);
// At the end of the change under EngineState::commit_mutex. Errors: conflict.
Result<void> check_libraries(const ChangeState& change);
// The lists that clients may ask for: room for them, and then, once, what they show of the change as it stands.
void reserve_lists(ChangeState& change, std::size_t sections);
void describe_layouts(ChangeState& change) noexcept;
void describe_places(ChangeState& change) noexcept;
Result<void> place_in_engine(ChangeState& change);
Result<void> place_in_client(ChangeState& change, Memory& memory);
Result<void> place_at(ChangeState& change, Granularity granularity, std::span<const Addr> addresses);
Result<void> link_bytes(ChangeState& change);
// The modules it publishes, in the order of ModuleIds. `keeps`: keeps those alive that would be collected.
Result<std::vector<Module>> commit(ChangeState& change, bool initialize, std::shared_ptr<const void>& keeps);
// `needed`: the published modules that the released ones refer to, directly or not; each is pinned once.
Result<std::vector<std::shared_ptr<ModuleState>>>
release(ChangeState& change, std::vector<std::shared_ptr<ModuleState>>& needed, bool initialize);
// Released code ends: what it referred to is no longer used by it.
void end_released(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules) noexcept;

// Takes back what release() has pinned. If the engine is gone, those that nobody else needs end here.
void unpin_needed(Machinery& machinery, std::vector<std::shared_ptr<ModuleState>>& needed) noexcept;

// Views of a stage (views.cpp).
std::vector<PlacedSymbol> placed_symbols(const ChangeState& change);
std::vector<LinkerEntry> linker_entries(const ChangeState& change);
std::vector<Branch> direct_branches(const ChangeState& change);
Result<std::vector<BlockRequest>> client_requests(const ChangeState& change, Granularity granularity);
Result<void> copy_out(const ChangeState& change, std::span<const std::span<std::byte>> buffers);
// The change with more edits, drafted; `change` itself stays as it is.
Result<std::unique_ptr<ChangeState>> edit(const ChangeState& change, std::vector<Edit> edits);

// Whether a published symbol or group goes when the change is committed.
bool leaves(const ChangeState& change, const SymbolRecord& record) noexcept;
// Whether what a module of the change defines, or provides as a group, takes the place of that one: a fragment of its own
// module.
bool takes_over(const ChangeState& change, std::uint32_t module, const SymbolRecord& record) noexcept;
// The COMDAT groups that nobody shares once these modules are gone, sorted; under EngineState::commit_mutex.
// COMDAT groups that modules which the change replaces provide, their new versions lack, and others share; sorted. Under
// EngineState::commit_mutex.
std::vector<const SymbolRecord*> find_kept_groups(const ChangeState& change);
// Notes them, and what they need. Under the same.
void keep_groups(ChangeState& change);
// Of such a group.
bool is_kept(const ChangeState& change, const SymbolRecord& record) noexcept;

std::vector<const SymbolRecord*> find_leaving_groups(std::span<const std::shared_ptr<ModuleState>> removals);

// A module's draft is added; `options` null: the usual ones.
ModuleDraft& begin_draft(ChangeState& change, std::uint32_t library, const ModuleOptions* options);

// Parts of draft(), in the order in which they run.
Result<void> introduce_module(ChangeState& change, std::uint32_t index); // groups, sections, symbols into names
Result<void> resolve_names(ChangeState& change);                         // libraries, archives, host, resolvers
Result<void> gather_named_sections(ChangeState& change);                 // what __start_ and __stop_ names bound
void allocate_commons(ChangeState& change);                              // room for common symbols
void bind_targets(ChangeState& change, std::uint32_t module);            // names to link::Target
Result<void> find_sizes(ChangeState& change, std::uint32_t module);      // that relocations ask for
void list_missing(ChangeState& change);
Result<void> survey_and_lay_out(ChangeState& change, bool engine_memory);

// All symbols get their final addresses.
// Symbols get their final addresses: those that modules define, or references, too, which writing bytes does otherwise.
void settle_definitions(ChangeState& change);
void settle_all(ChangeState& change);
// Once sections have addresses: definitions that edits have hidden from their own module get theirs.
void settle_bound(ChangeState& change) noexcept;
// What a module defines by a symbol, as others see it.
const link::Target& definition_before_edits(const ChangeState& change, std::uint32_t module, std::uint32_t symbol) noexcept;
inline const link::Target& definition_of(const ChangeState& change, std::uint32_t module, std::uint32_t symbol) noexcept {
  if (change.drafts[module].edited != nullptr) [[unlikely]]
    return definition_before_edits(change, module, symbol);
  return change.modules[module]->targets[symbol];
}
inline const link::Target& definition_of(const ChangeState& change, const Name& name) noexcept {
  return definition_of(change, name.module, name.symbol);
}

// Part of link_bytes(): what is kept of a module's tables and bytes, while they are in the cache.
void keep_linked(ChangeState& change, std::uint32_t module);

// Parts of commit().
Result<void> prepare_states(ChangeState& change); // everything that allocates
void tie_named_sections(ChangeState& change);     // dependencies of modules whose sections lie together

// Its symbols have narrow records, but for absolute ones. A client may place what it likes beyond 48 bits.
inline bool has_narrow_records(const ChangeState& change, const ModuleDraft& draft) noexcept {
  return !change.libraries[draft.library]->replaceable &&
         (change.mode == PlaceMode::none || change.mode == PlaceMode::engine);
}
// `usual`: of the module's symbols. A value may be anything, far outside of its section, too: with an address of user space
// it makes no more than 48 bits.
inline SymbolRecord::Form record_form(SymbolRecord::Form usual, const Name& name, const Symbol& said) noexcept {
  const bool is_ordinary = said.value >> 46 == 0 && SymbolRecord::is_narrow(0, said.size);
  return name.absolute || !is_ordinary ? SymbolRecord::Form::wide : usual;
}

std::string module_context(const ChangeState& change, std::uint32_t index);

} // namespace tenon::engine

// Engines and libraries from the inside.
//
// Locks, in the order in which they may be taken:
//
//     Collection::mutex, EngineState::walk_mutex  one thread collects, one walks over removed modules; neither in the other
//     EngineState::commit_mutex  one commit, removal or definition at a time; short: no byte is linked, no client code runs
//     EngineState::tables        all symbol tables of the engine: shared to find, exclusive to change; once in a thread
//     memory's and the unwinder's own locks
//
// No lock is held while the client's resolver, memory, inspector, initializers or finalizers run.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/engine.h>

#include "base/pages.h"
#include "base/quick_mutex.h"
#include "base/scratch.h"
#include "base/spread_mutex.h"
#include "engine/collector.h"
#include "engine/host_cache.h"
#include "engine/machinery.h"
#include "engine/module_state.h"
#include "engine/steps.h"
#include "engine/symbol_table.h"

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
#include <shared_mutex>

namespace tenon::engine {

class Reclaimer;
struct ChangeState;
struct Transition;

struct LibraryState {
  std::string name;
  std::weak_ptr<EngineState> engine; // a Source may keep the library for longer
  bool replaceable = false;          // constant, as are the next two
  bool collected = false;
  const Collection* collection = nullptr; // the engine's: whoever looks symbols up holds the engine

  // Under EngineState::tables.
  SymbolTable symbols;
  SymbolTable groups;
  std::shared_ptr<const std::vector<Source>> sources;

  // Under EngineState::commit_mutex.
  base::PageVector<std::shared_ptr<ModuleState>> modules;
  std::vector<std::unique_ptr<std::byte[]>> own_records; // absolute and forward symbols
  std::vector<OwnedBlock> own_slots;
  std::atomic<bool> closed{false}; // a draft asks without the lock, its commit with it

  // Whether its tables are far too large for what is left in them. Under commit_mutex.
  bool is_sparse() const noexcept { return base::is_sparse(modules) || symbols.is_sparse() || groups.is_sparse(); }

  // Without what only waits to be unpublished. Under EngineState::tables.
  SymbolRecord* find_symbol(std::string_view name_of, std::uint64_t hash) const noexcept {
    return there(symbols.find(name_of, hash));
  }
  SymbolRecord* find_group(std::string_view signature, std::uint64_t hash) const noexcept {
    return there(groups.find(signature, hash));
  }

private:
  SymbolRecord* there(SymbolRecord* record) const noexcept {
    constexpr auto maybe = symbol_flag::erased | symbol_flag::collected; // few have either
    return record != nullptr && (record->flags & maybe) != 0 && is_gone(*collection, *record) ? nullptr : record;
  }
};

// Lists are spliced: what has been put into one can go on to the others without memory.
using ModuleList = std::list<std::shared_ptr<ModuleState>>;

struct EngineState : std::enable_shared_from_this<EngineState> {
  Options options;
  std::shared_ptr<Machinery> machinery;
  std::unique_ptr<StubPool> stubs;
  std::mutex reclaimer_mutex; // for its making
  std::unique_ptr<Reclaimer> reclaimer;
  std::vector<std::unique_ptr<Transition>> transitions; // atomic commits that are not over; under commit_mutex

  std::mutex walk_mutex; // one such walk at a time; outside of commit_mutex
  base::QuickMutex commit_mutex;
  base::SpreadMutex tables;
  Collection collection;
  HostCache host_cache; // under tables

  // Under commit_mutex.
  std::map<std::string, std::shared_ptr<LibraryState>, std::less<>> named;
  std::vector<std::weak_ptr<LibraryState>> libraries; // all of them
  std::vector<std::shared_ptr<LibraryState>> orphans; // without a handle, but others refer to their modules; has the
                                                      // capacity for all libraries
  ModuleList removed; // being finalized, or pinned, or COMDAT groups of theirs are shared, or needed by one of these
  std::size_t commits_behind = 0; // in a row, that found much in `removed`
  std::size_t stale_parts = 0;    // of `removed`, those that stand for a part of a version (ModuleRare::stale)
  bool walked = false;            // somebody walks over `removed` in steps: nothing may be taken out by others,
  bool sweep_again = false;       // who leave their sweep to that walk
  // Taken out of `removed`, their memory not yet freed. Counted down by release, once it is: who reads 0 sees it free.
  std::atomic<std::size_t> modules_leaving{0}, versions_leaving{0};
  std::uint64_t sweep_number = 0;
  std::uint64_t onward_number = 0; // of the last Onward
  std::uint64_t next_sequence = 1;
  std::atomic<std::uint64_t> next_serial{1};           // of versions; any thread
  std::atomic<bool> unloads{false};                    // some module was unloaded, ever; set under commit_mutex
  std::size_t module_count = 0;                        // published and removed ones
  base::PageVector<std::shared_ptr<ModuleState>> last; // room for all of them: the engine's end must not need memory
  std::shared_ptr<LibraryState> sparse;                // one whose tables have become far too large, if there is one

  EngineState();
  ~EngineState();

  // The memory of an engine of these options, with the unwinder told of it.
  static Result<std::shared_ptr<EngineState>> create(const Options& options);
  // Errors: invalid_argument (there is one of that name, with other options).
  Result<std::shared_ptr<LibraryState>> library(std::string_view name, const LibraryOptions& options);
};

// Modules go in two halves: their symbols first, then their memory. Under commit_mutex, unpublish under tables too.
Result<void> check_removable(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules);
// What is removed by one change. Made before the removal, so that this needs no memory; may throw std::bad_alloc.
struct Removal {
  base::Vector<std::shared_ptr<ModuleState>> modules;
  ModuleList entries;                     // the same, for EngineState::removed
  base::Vector<const ModuleState*> quiet; // of these: no thread is inside
  bool all_quiet = false;

  bool is_quiet(const ModuleState* module) const noexcept {
    return all_quiet || std::find(quiet.begin(), quiet.end(), module) != quiet.end();
  }

  explicit Removal(std::span<const std::shared_ptr<ModuleState>> leaving)
      : modules(leaving.begin(), leaving.end()), entries(leaving.begin(), leaving.end()) {}
};
// Moves the modules out of their libraries into EngineState::removed.
void unpublish(EngineState& engine, Removal& removal) noexcept;
// The same with one that the collector has found dead. Needs no memory.
void unpublish_dead(EngineState& engine, ModuleState& module) noexcept;
// Takes its names out of the tables, which comes before unpublish_dead(). False: there are more; call it again. Under
// commit_mutex and tables.
bool erase_dead_names(EngineState& engine, ModuleState& module, StepBudget& budget) noexcept;
// The record of that name; dead ones are erased. Under commit_mutex and tables.
SymbolRecord* find_alive(EngineState& engine, const SymbolTable& table, std::string_view name, std::uint64_t hash) noexcept;
// Without a lock: finalizers in the reverse order of commits, then the memory of those that nobody needs.
void retire(EngineState& engine, Removal& removal) noexcept;
// Frees removed modules that had been needed and are no longer, closes libraries that had been in use. The caller holds no
// lock.
void sweep(EngineState& engine) noexcept;
// Frees what threads may have been inside of when it was removed or superseded, and can be no more: in the background, or
// as much as can be freed now, by the calling thread. The caller holds no lock.
void reclaim_later(EngineState& engine) noexcept;
void reclaim_now(EngineState& engine) noexcept;
// Whether who removes something may take the time for reclaim_now(), with so much in EngineState::removed.
bool may_reclaim_now(EngineState& engine, std::size_t removed) noexcept;
// Made when it is first needed. May throw std::bad_alloc. Errors: invalid_argument (the signal).
Result<Reclaimer*> reclaimer_of(EngineState& engine);
// Parts of a sweep, under commit_mutex; `freed` goes once the lock is given back. What a superseded version, about to be
// freed, has that later ones go on using passes to its module; false: there is no memory for that, it stays. And the end of
// a module's or version's ties to definitions: `done` of them are over; false: there are more.
[[nodiscard]] bool bequeath(EngineState& engine, ModuleState& version, std::vector<OwnedBlock>& freed) noexcept;
[[nodiscard]] bool bury(ModuleState& module, std::size_t& done, StepBudget& budget) noexcept;
// The version's content becomes the module's, and the other way round; under commit_mutex. `hold`: the old one stays.
void supersede(ChangeState& change, const std::shared_ptr<ModuleState>& module, ModuleState& version, bool hold) noexcept;
// A compiler may have agreed with itself on how a function of the same file is called, and on what it does. Frames of the
// holder's code that is about to go, all of it or a part, go on calling what they were compiled with. Through its stub, that
// is by its address, the new one is reached by everybody.
void keep_own_calls(EngineState& engine, ModuleState& code, const ModuleState& holder) noexcept;
// Frames of earlier versions, and of the one that goes, whose branches lead to a function that vanishes: each to the one
// that its own version has, which stays as long as they do, or else to where they lead now, which waits for them. False:
// there is one that can do neither, another module's, or code that stays for good.
bool let_own_frames_call(EngineState& engine, ModuleState& module, Definition& definition) noexcept;
// Counts a module as a user of what it refers to, or no longer; under commit_mutex and, if the groups are published, tables.
void count_references(EngineState& engine, const ModuleState& module) noexcept;
void uncount_references(EngineState& engine, const ModuleState& module) noexcept;

// Takes a library out of its engine: all its modules go. Errors: still_used; nothing has changed then.
Result<void> close_library(EngineState& engine, const std::shared_ptr<LibraryState>& library, Quiet quiet = Quiet::prove);

// Defines absolute symbols. Errors: duplicate, exhausted.
Result<void> define(EngineState& engine, LibraryState& library, std::span<const Absolute> symbols);

// Around fork: every engine's locks are taken, so that the child finds them free and what they guard whole.
Result<void> register_for_fork(EngineState& engine); // may throw std::bad_alloc. Errors: system
void unregister_for_fork(EngineState& engine) noexcept;

} // namespace tenon::engine

namespace tenon {

struct Library::Handle {
  std::shared_ptr<engine::EngineState> engine;
  std::shared_ptr<engine::LibraryState> state;
  ~Handle();
};

} // namespace tenon

// Engines and libraries from the inside.
//
// Locks, in the order in which they may be taken:
//     EngineState::commit_mutex   one commit, removal or definition at a time; short: no byte is linked and no client code runs
//     EngineState::tables         all symbol tables of the engine: shared to find, exclusive to change
//     memory's and the unwinder's own locks
// No lock is held while the client's resolver, memory, inspector, initializers or finalizers run.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/engine.h>

#include "engine/machinery.h"
#include "engine/module_state.h"
#include "engine/symbol_table.h"

#include <map>
#include <mutex>
#include <shared_mutex>

namespace tenon::engine {

struct LibraryState {
  std::string name;
  EngineState* engine = nullptr;

  // Under EngineState::tables.
  SymbolTable symbols;
  SymbolTable groups;
  std::shared_ptr<const std::vector<Source>> sources;

  // Under EngineState::commit_mutex.
  std::vector<std::shared_ptr<ModuleState>> modules;
  std::vector<std::unique_ptr<std::byte[]>> own_records;   // absolute and forward symbols
  std::vector<OwnedBlock> own_slots;
  bool closed = false;
};

struct EngineState : std::enable_shared_from_this<EngineState> {
  Options options;
  std::shared_ptr<Machinery> machinery;

  std::mutex commit_mutex;
  std::shared_mutex tables;

  // Under commit_mutex.
  std::map<std::string, std::shared_ptr<LibraryState>, std::less<>> named;
  std::vector<std::weak_ptr<LibraryState>> libraries;   // all of them
  std::vector<std::shared_ptr<LibraryState>> orphans;   // closed, but others still refer to their modules
  std::vector<std::shared_ptr<ModuleState>> remnants;   // removed, but others share their COMDAT groups
  std::vector<std::shared_ptr<ModuleState>> lingering;  // removed and finalized, but pinned, or needed by one that is
  std::uint64_t next_sequence = 1;

  ~EngineState();

  // The memory of an engine of these options, with the unwinder told of it.
  static Result<std::shared_ptr<EngineState>> create(const Options& options);
  std::shared_ptr<LibraryState> library(std::string_view name);
};

// Removes modules as a set: takes their symbols out under the locks, then runs finalizers and frees. Errors: still_used, naming
// who refers to them; nothing has changed then. The caller holds no lock.
Result<void> remove_modules(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules);

// The two halves, for a commit that removes and adds at once; under commit_mutex, unpublish under tables too.
Result<void> check_removable(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules);
// Room for what unpublish and retire keep; may throw std::bad_alloc.
void reserve_for_removal(EngineState& engine, std::size_t count, std::vector<std::shared_ptr<ModuleState>>& gone);
// Moves the modules out of their libraries into `gone`, which has the capacity.
void unpublish(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules,
               std::vector<std::shared_ptr<ModuleState>>& gone) noexcept;
// Without a lock: finalizers in the reverse order of commits, then the memory of those that nobody pins.
void retire(EngineState& engine, std::vector<std::shared_ptr<ModuleState>>& gone) noexcept;
// Frees removed modules that had been pinned and are no longer. The caller holds no lock.
void sweep(EngineState& engine) noexcept;

// Takes a library out of its engine: all its modules go. Errors: still_used; nothing has changed then.
Result<void> close_library(EngineState& engine, const std::shared_ptr<LibraryState>& library);

// Defines absolute symbols. Errors: duplicate, exhausted.
Result<void> define(LibraryState& library, std::span<const Absolute> symbols);

// Around fork: every engine's locks are taken, so that the child finds them free and what they guard whole.
void register_for_fork(EngineState& engine); // may throw std::bad_alloc
void unregister_for_fork(EngineState& engine) noexcept;

} // namespace tenon::engine

namespace tenon {

struct Library::Handle {
  std::shared_ptr<engine::EngineState> engine;
  std::shared_ptr<engine::LibraryState> state;
  ~Handle();
};

struct Source::State {
  enum class Kind : unsigned char { process, shared, library, archive, resolver };
  Kind kind = Kind::process;
  void* handle = nullptr;
  std::shared_ptr<engine::LibraryState> library;
  std::optional<Archive> archive;
  std::shared_ptr<Resolver> resolver;
};

} // namespace tenon

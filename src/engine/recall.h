// Modules whose code is gone and comes back when it is called (Change::unload).
//
// To unload is to replace a version by one that has nothing but trampolines, one for each function. All that is known of
// versions serves it so: slots and sites lead to the trampolines, the old code waits until nobody is inside, a later
// replacement supersedes the trampolines in turn. The empty version borrows the storage of what it stands for: all
// variables, and the constants whose addresses may be held.
//
// A thread that is being held up by a trampoline has its address on the stack as a return address, so that trampolines, and
// what hangs on them, are not freed under it.
//
// What a module has registered to run at its end is called by the addresses of stubs. Its code is made again before the
// module is unpublished, while a commit is possible, so that finalizers find all they need.
//
// Owner: the version (Version::recalls). Lock: one for the process, of waiting and running callbacks; leaf. No lock is held
// while a callback runs.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>

#include "engine/engine_state.h"

#include <memory>
#include <vector>

namespace tenon::engine {

struct ChangeState;
struct Recalls;
struct Caller;

// What a trampoline is for. Its address follows the trampoline's instruction.
struct RecallEntry {
  Recalls* recalls = nullptr;
  Definition* definition = nullptr;
  std::uint64_t trampoline = 0;
  // A local function's body, if a set's switch led there when the module was unloaded: a call that was inside of the switch
  // just then gets to the trampoline, and the version that comes may lack the function.
  std::uint64_t before = 0;
};

struct Recalls : std::enable_shared_from_this<Recalls> {
  Recall recall;
  std::shared_ptr<const ModuleOptions> options;
  std::weak_ptr<EngineState> engine;
  std::weak_ptr<ModuleState> module;
  std::vector<RecallEntry> entries; // in the order of trampolines; never grows once there are any
  Caller* runner = nullptr;         // whose callback is under way; this and the next under the lock
  Recalls* next_running = nullptr;
};

// One module that a change unloads.
struct Unload {
  std::shared_ptr<ModuleState> module;
  Recall recall;

  // From prepare_unloads() on.
  std::shared_ptr<ModuleState> version; // with the trampolines; the old code's once it is committed
  ModuleList node;                      // for EngineState::removed
  std::uint64_t number = 0;             // of the version that goes
  bool counted = false;                 // among Replaceable::drafts
};

// Everything that allocates. Errors: see Change::unload.
Result<void> prepare_unloads(ChangeState& change);
// Under the locks. Errors: conflict.
Result<void> check_unloads(ChangeState& change);
void publish_unloads(ChangeState& change) noexcept;
void undo_unloads(ChangeState& change) noexcept;

// Whether others would call functions of it, through groups that they share, when it is gone.
bool is_recalled_by_others(const ModuleState& module, std::span<const std::shared_ptr<ModuleState>> leaving) noexcept;

// What is to run at a module's end needs its code: destructors that were registered, finalizers, thread-local destructors.
bool has_an_end(const ModuleState& module) noexcept;
// Under EngineState::commit_mutex: whether one of these modules is unloaded, and its code will be needed when they end
// together: by its own functions, or by those of the others, which may call it.
bool needs_recall_to_end(std::span<const std::shared_ptr<ModuleState>> modules) noexcept;
// Makes them again where that is so. Without a lock, before they are unpublished. Errors: the callback's.
Result<void> recall_to_end(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules);
// The same at the engine's end. A module that has functions to run and can't be made again ends the process.
void recall_at_engine_end(EngineState& engine) noexcept;

// Around fork: in the child, callbacks of threads that it does not have are under way no more.
void lock_recalls() noexcept;
void unlock_recalls() noexcept;
void forget_other_threads_recalls() noexcept;

} // namespace tenon::engine

// Code goes to another address while threads run it; move_plan.h has what can go, and with what.
//
// Of the code a copy is made for its new place, without a lock and before anybody knows of it. Then, under commit_mutex, the
// module's version takes over the copy, all slots and sites lead there by one atomic store each, and the old place becomes
// an entry of EngineState::removed like a superseded version's, with its own uses: whoever is still inside goes on there,
// calls current functions, throws and takes backtraces, until the Reclaimer finds that nobody is left.
//
// A holder is whoever has the Version: the module itself, or a fragment.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/engine.h>

#include "engine/code_graph.h"
#include "engine/engine_state.h"

namespace tenon::engine {

struct MoveRequest {
  std::string_view function; // empty: all code
  Stretch within;            // not empty: only what lies there
  bool lower = false;        // to a lower address, or not at all
};

// May throw std::bad_alloc; then, and on an error, nothing has changed. Errors: unsupported, undefined (no such function),
// conflict (removed, or part of an atomic commit that is under way), exhausted, out_of_range, system.
Result<Moved> move_code(EngineState& engine, const std::shared_ptr<ModuleState>& module, ModuleState& holder,
                        const MoveRequest& request);

// All code of a module, or one function. As move_code(); an error only if nothing could be moved.
Result<Moved> move_module(EngineState& engine, const std::shared_ptr<ModuleState>& module, std::string_view function);

// A Version has been superseded, and `version` has its content: it stays for as long as frames are still where its code was
// before it was moved.
void leave_moved(EngineState& engine, ModuleState& version) noexcept;

// May throw std::bad_alloc. Errors: unsupported (single mapping), system.
Result<Compaction> compact(EngineState& engine);

} // namespace tenon::engine

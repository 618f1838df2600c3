// Single functions of a module are replaced: the new definitions stand in a fragment, beside the module's version.
//
// A fragment is linked like a module, but has no life of its own: its definitions are the module's. When all functions of a
// fragment have been replaced in turn it is superseded as a version is. What a version loses is found with its CodeGraph and
// freed section by section: the stale code keeps its place in the version's memory, and a ModuleState that has nothing else
// stands for it in EngineState::removed until no thread can be inside.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace tenon::engine {

struct ChangeState;
struct ModuleDraft;
struct EngineState;

// What one version, of a module or a fragment, loses by a change.
struct Loss {
  std::shared_ptr<ModuleState> module;
  ModuleState* holder = nullptr;
  std::vector<const Definition*> definitions; // that are replaced, sorted
  std::vector<std::uint64_t> bodies;          // theirs
  bool whole = false;                         // a fragment that has no other
  std::vector<std::uint32_t> sections;        // of the holder's graph
  std::shared_ptr<ModuleState> stale;         // stands for them; null: there are none
};

// Which sections of the object take part, if only some of its functions are wanted, and which symbols are the module's
// own local ones. Errors: invalid_argument (no such function), needs_flag (sections hold more than one function or
// variable), unsupported (thread-local variables, initializers of new variables; variables that differ).
Result<void> select_functions(ChangeState& change, std::uint32_t module);

// Under commit_mutex, before the point of no return. Errors: needs_flag (the module was not compiled so that its functions
// could be replaced singly), duplicate (one function is replaced twice).
Result<void> find_losses(ChangeState& change);
// Under commit_mutex and tables: versions lose what find_losses() has found.
void supersede_functions(ChangeState& change) noexcept;
// The fragment becomes the module's.
void attach_fragment(ModuleDraft& draft) noexcept;
// All fragments of a module of which there is a whole new version go with the old one.
void supersede_fragments(ChangeState& change, const std::shared_ptr<ModuleState>& module, const Version* now,
                         bool hold) noexcept;
// Pointers to the string literals of a version that is superseded may be held by anybody: they stay, and later versions with
// the same ones use them again. `now`: the new version, not yet the module's; null: there is none.
void keep_literals(ModuleState& module, Version& old, const Version* now) noexcept;
// The code that a ModuleState stands for is cut out of the memory of its version. May throw std::bad_alloc, and then nothing
// has changed.
void free_stale(EngineState& engine, ModuleState& stale, std::vector<OwnedBlock>& freed);

} // namespace tenon::engine

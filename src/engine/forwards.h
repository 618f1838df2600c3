// Forward references inside a commit: symbols that modules call through slots before anything defines them. They are
// declared, filled when a definition arrives, and reopened when that goes.
//
// Records, slots and traps belong to the library. Lock: EngineState::commit_mutex, and tables for everything that changes a
// record.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/change_state.h"

#include <memory>
#include <string>
#include <vector>

namespace tenon::engine {

// Forward symbols that this change declares for the first time.
struct NewForward {
  std::uint32_t name;
  std::unique_ptr<std::byte[]> bytes;
  SymbolRecord* record;
};

// Who refers to a forward symbol depends on the module that defines it, from now on.
struct Adoption {
  ModuleState* user;
  ModuleState* definer;
  SymbolRecord* record;
};

bool is_new_forward(const Name& name) noexcept;

// Without a lock; may throw std::bad_alloc.
std::vector<NewForward> make_forwards(ChangeState& change);
void note_forwards(ChangeState& change, const std::vector<NewForward>& fresh);
void note_forward_pointers(ChangeState& change, const std::vector<NewForward>& fresh);
// Under commit_mutex; may throw std::bad_alloc. Makes room for what fill_forwards() notes.
std::vector<Adoption> find_adoptions(ChangeState& change);

// What the change defines of published forward symbols.
void fill_forwards(ChangeState& change, const std::vector<Adoption>& adoptions) noexcept;
void publish_forwards(ChangeState& change, std::vector<NewForward>& forwards) noexcept; // room has been reserved

// The client gives a forward symbol an address of its own.
void define_forward(memory::Space& space, LibraryState& library, SymbolRecord& record, const Absolute& symbol) noexcept;

// Under commit_mutex: the modules that refer to a forward symbol, without the one that defines it and those that the change
// removes or replaces; empty: there are none.
std::string forward_users(const ChangeState& change, const SymbolRecord& record);
// The module's new version lacks it, and nobody refers to it.
void reopen_forward(SymbolRecord& record, memory::Space& space) noexcept;
// Forward symbols that the module had defined wait for another definition again.
void reopen_forwards(ModuleState& module, memory::Space& space) noexcept;

// Release: whoever reads the new address through the slot sees the bytes it leads to.
void store_slot(memory::Space& space, std::uint64_t slot, std::uint64_t address) noexcept;

} // namespace tenon::engine

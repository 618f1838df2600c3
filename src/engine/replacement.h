// Replaceable modules inside a change: which of its references go to definitions that may be replaced, what a new version
// of a module takes over from the one before, and the exchange itself.
//
// In the order in which they run:
//     carry_variables   draft    sections of variables that the module has already are left out: their storage serves
//     find_callees      draft    functions that may be replaced, of this change and published ones
//     give_identities   place    a Definition, with its stub, for each of the change's own
//     settle_callees    link     bodies get their addresses
//     unify_constants   link     constants that are the same as before keep their addresses
//     note_version      link     what later versions have to know of this one
//     take_over         link     what it borrows of earlier ones, and what must not be initialized again
//     make_uses         commit   who refers to what, and where the call sites are
//     check_versions    commit   under the locks: nothing has changed since the draft, nobody refers to what vanishes
//     exchange_versions commit   under the locks: fails no more
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>

#include "engine/definition.h"
#include "engine/module_state.h"
#include "engine/symbol_table.h"
#include "link/module.h"

#include <list>
#include <memory>
#include <vector>

namespace tenon::object {
struct DebugInfo;
}

namespace tenon::engine {

struct ChangeState;
struct ModuleDraft;
struct Replacing;

// Where a callee of link::Module::callees is defined: published, or in a module of the change.
struct CalleeSource {
  Definition* definition = nullptr; // of the change's own: from give_identities() on
  std::uint32_t module = link::none;
  std::uint32_t symbol = 0;
};

// What a version defines, by name.
struct Provided {
  Definition* definition = nullptr;
  std::uint32_t symbol = 0;
  bool fresh = false; // not in an earlier version
  bool local = false; // in this one
  std::uint64_t address = 0;
  std::uint64_t content = 0;                           // see Definition
  std::uint64_t section_address = 0, section_size = 0; // see Definition
};

// A section that an earlier version's storage stands for.
struct CarriedSection {
  std::uint32_t section = 0;
  std::uint64_t address = 0;
  std::uint64_t size = 0; // of the storage, which may be larger than the section
};

// A published record that the new version goes on using, with what it will hold.
struct RecordUpdate {
  SymbolRecord* record = nullptr;
  RecordContent content;
};

// A symbol of a fragment's object that stands for something that its module has and others don't see.
struct LocalBinding {
  std::uint32_t symbol;
  Definition* definition;
};

struct Replacement {
  std::shared_ptr<const Replacing> how;                   // of a draft that replaces something
  bool counted = false;                                   // among Replaceable::drafts
  base::Vector<LocalBinding> local_bindings;              // partial: symbols that are the module's own, sorted by symbol
  base::Vector<std::uint32_t> localized;                  // partial: global definitions that are local in the module, sorted
  std::list<std::shared_ptr<ModuleState>> fragment;       // partial: the draft's state, for Replaceable::fragments
  std::shared_ptr<const object::DebugInfo> debug;         // of a module that can be replaced, if it has any
  base::Vector<CalleeSource> callees;                     // beside link::Module::callees
  std::vector<std::unique_ptr<Definition>> fresh;         // that the change brings
  base::Vector<Provided> provided;                        // of a module of a replaceable library
  std::unordered_map<std::uint32_t, Definition*> matched; // variables whose names don't tell, by symbol; null: new
  base::Vector<CarriedSection> carried;
  std::vector<Definition*> kept;             // of ChangeState::kept_groups, sorted
  std::vector<Dependency> kept_dependencies; // what these need
  base::Vector<RecordUpdate> updates;
  std::uint64_t version = 0;                                 // of the replaced module, when the change was drafted
  std::unique_ptr<Replaceable> replaceable;                  // of a module that is new
  std::unordered_map<std::string_view, Definition*> by_name; // as it will be
  SharedBodies shared_bodies;                                // as they will be
  std::vector<DataPolicy::Migration> migrations;
  std::vector<std::uint64_t> skipped_initializers; // sorted

  TENON_IN_SCRATCH
};

// Under EngineState::commit_mutex: notes which version of the module the change is built on. Errors: conflict.
Result<void> begin_replacing(ModuleDraft& draft);
Result<void> carry_variables(ChangeState& change, std::uint32_t module);
void find_callees(ChangeState& change, std::uint32_t module);
Result<void> give_identities(ChangeState& change);
void settle_callees(ChangeState& change) noexcept;
Result<void> unify_constants(ChangeState& change);
// The new version's thread-local variables are those that every thread has already. False: there is no earlier version, or
// it had none. Errors: unsupported (they differ), conflict.
Result<bool> keep_tls(ChangeState& change, std::uint32_t module);
void note_version(ChangeState& change, std::uint32_t module);
// What it takes over from the module that it replaces, once its bytes are there.
Result<void> take_over(ChangeState& change, std::uint32_t module);
// Whether the module that the draft replaces is still in the version that it was drafted for; under commit_mutex, as is all
// that is read of a published module's Version. Errors: conflict.
Result<void> check_unmoved(const ChangeState& change, const ModuleDraft& draft);
Result<void> find_skipped_initializers(ChangeState& change, std::uint32_t module); // under commit_mutex
void make_uses(ChangeState& change, std::uint32_t module);
Result<void> migrate_variables(ChangeState& change); // runs the client's migration functions
Result<void> check_versions(ChangeState& change);
void publish_definitions(ChangeState& change) noexcept;

// Parts and specialized copies of functions that a compiler has made belong to their version: nothing else calls them, and
// they count on what the rest of it is like. A pointer to one, as coroutines keep in their frames, keeps the version.
bool is_part_of_another(std::string_view name) noexcept;

// Names that occur several times in one module, or that a compiler has numbered (`count.0`), say nothing of which is which.
bool is_numbered(std::string_view name) noexcept;
// A constant that is known by its content, whether it has a name or not: string literals, which assemblers may leave their
// private names (`.L.str`), and numbered ones.
inline bool is_nameless_constant(const Symbol& symbol) noexcept {
  return symbol.is_local() && symbol.type != SymbolType::function &&
         (is_numbered(symbol.name()) || symbol.name().starts_with(".L"));
}

// Jump tables and the like: they are their own version's, whatever their bytes are.
bool leads_into_code(const link::Module& module, std::uint32_t section);

// The definition that a symbol of the module stands for, or null.
Definition* provided_by(const ModuleDraft& draft, std::uint32_t symbol) noexcept;

// Whether the module's library lets its modules be replaced, and the engine's memory lets the change do it.
bool is_replaceable(const ChangeState& change, const ModuleDraft& draft) noexcept;

} // namespace tenon::engine

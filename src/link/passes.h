// The linker's passes over modules, in the order in which they run (see module.h for what each establishes).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"

#include <span>

namespace tenon::link {

// Gives every section that takes part a run (none for what is dropped, debug, or not loaded). `dropped[i]`: section i
// belongs to a COMDAT group that another module provides. Errors: malformed, unsupported.
Result<void> select_sections(Module& module, std::span<const std::uint8_t> dropped);

// Counts what the relocations need. May be run again with another reach. Errors: unsupported, malformed, needs_flag.
Result<void> survey(Module& module, const Reach& reach);

// Part of survey(): relocations need that of a symbol.
void note_need(Module& module, std::uint32_t symbol, std::uint8_t what);

// Part of survey(): what says how to unwind from thunks. Errors: malformed.
Result<void> describe_thunks(Module& module);

// Offsets in runs, for memory that keeps each run in one piece. Errors: malformed (sizes that overflow).
Result<void> lay_out(Module& module);

// Where each run was put; the sections follow.
struct RunPlace {
  std::uint64_t address = 0;
  std::byte* local = nullptr;
};
void set_runs(Module& module, std::span<const std::unique_ptr<Module>> modules, std::span<const RunPlace, runs> run_places);
// For the client's memory: one section at a time.
void set_section(Module& module, std::uint32_t section, std::uint64_t address, std::byte* local);

// Local-dynamic code takes all variables that it was compiled to own to lie in one block. Where a COMDAT copy of one was
// dropped for that of another module of the change, all modules of the change share one block: each is given its tls_base in
// it. Before settling. Errors: exhausted.
struct SharedTls {
  bool wanted = false;
  std::uint64_t size = 0, image_size = 0;
  std::uint32_t alignment = 1;
};
Result<SharedTls> share_tls(std::span<const std::unique_ptr<Module>> modules);
// Initial content, once all modules are fixed up.
void copy_shared_image(std::span<const std::unique_ptr<Module>> modules, std::span<std::byte> image);

// Final symbol addresses: first every module's own, then references among the modules of a change.
void settle_own(Module& module, std::span<const std::unique_ptr<Module>> modules);
void settle_references(Module& module, std::span<const std::unique_ptr<Module>> modules);

// Copies and relocates; writes GOT, stubs and their frames; collects frame entries. `low_2gib_hint`: whether to recommend
// that option where a 32-bit absolute field overflows. Errors: out_of_range, malformed, needs_flag.
struct FixUpOptions {
  bool low_2gib = false;
  std::uint64_t dso_handle_content[2] = {0, 0}; // written at __dso_handle
  std::uint64_t unresolved_slot = 0;            // what fresh slots hold until commit
  bool private_memory = true;                   // writable data is private anonymous memory of the engine's
};
Result<void> fix_up(Module& module, std::span<const std::unique_ptr<Module>> modules, const FixUpOptions& options);

// Frames of code that lies in another module's memory (NamedRun) are found there. Once all modules are fixed up.
void hand_over_frames(std::span<const std::unique_ptr<Module>> modules);
// How many, at most, `module` is handed.
std::uint32_t foreign_frames(const Module& module, std::span<const std::unique_ptr<Module>> modules);

// How a client's memory is cut: which sections go together, in blocks of upper-bound sizes.
Result<std::vector<BlockRequest>> client_blocks(const Module& module, ModuleId id, Granularity granularity);

} // namespace tenon::link

// What the generic passes ask of an architecture. One file per architecture implements it; relocation formulas in the
// psABI's letters stand only there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"

#include <string>

namespace tenon::link::arch {

// Marks in the targets what the relocations of `section` need, and adds thunks. Offsets are checked here.
Result<void> survey_section(Module& module, std::uint32_t section, const Reach& reach);

// Applies the relocations of `section` to its local bytes. `modules`: for TLS keys of other modules of the change.
Result<void> fix_section(Module& module, std::uint32_t section, std::span<const std::unique_ptr<Module>> modules,
                         bool low_2gib);

// Sizes of what the linker adds.
inline constexpr std::uint64_t stub_bytes = 8;      // jmp *cell(%rip)
inline constexpr std::uint64_t dso_stub_bytes = 16; // lea __dso_handle(%rip), %reg; jmp *cell(%rip)
inline constexpr std::uint64_t thunk_bytes = 24;
inline constexpr std::uint64_t stub_frames_bytes = 48; // one CIE, one FDE

// False: what they refer to is out of reach, which only a client's addresses can bring about.
[[nodiscard]] bool write_stub(std::byte* at, std::uint64_t address, std::uint64_t cell);
[[nodiscard]] bool write_dso_stub(std::byte* at, std::uint64_t address, std::uint64_t cell, std::uint64_t dso_handle,
                                  unsigned argument);
// All thunks of the module, and the jumps to them. Errors: out_of_range.
Result<void> write_thunks(Module& module);
// Call frame information for [begin, begin + size) of stubs, without thunks, to lie at `address`.
[[nodiscard]] bool write_stub_frames(std::byte* at, std::uint64_t address, std::uint64_t begin, std::uint64_t size);

// What stands in for a function that is not there yet: calls report(name), the name following the code.
inline constexpr std::uint64_t trap_bytes = 19;
void write_trap(std::byte* at, std::uint64_t report, std::string_view name);

// psABI name of a relocation type, for messages.
std::string relocation_name(std::uint32_t type);

// Entry points that TLS sequences are bound to.
struct TlsEntryPoints {
  std::uint64_t get_addr = 0;   // called instead of __tls_get_addr
  std::uint64_t descriptor = 0; // first word of a TLS descriptor whose second points to a TlsIndex
};
extern TlsEntryPoints tls_entry_points;

} // namespace tenon::link::arch

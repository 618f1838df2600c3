// What relocations are applied with: the bindings and addresses of a module that is being linked, or of a committed one
// whose sections move. Nothing of an object is needed any more then, and nothing is owned here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"

#include <span>

namespace tenon::link {

struct Bound {
  std::span<const Target> targets; // settled
  std::span<const Entry> entries;
  std::span<const TlsBinding> tls_bindings;
  std::span<const Thunk> thunks;                               // sorted by section, offset, symbol
  std::uint64_t got = 0, stubs = 0, slots = 0, dso_handle = 0; // addresses of the linker's own sections
  std::uint32_t tls_ld = none;                                 // in the GOT
  bool low_2gib = false;
  const Module* module = nullptr; // for messages; null: its object is gone

  Bound() = default;
  Bound(const Module& linked, bool low_2gib_)
      : targets(linked.targets), entries(linked.entries), tls_bindings(linked.tls_bindings), thunks(linked.thunks),
        got(linked.place(Synthetic::got).address), stubs(linked.place(Synthetic::stubs).address),
        slots(linked.place(Synthetic::slots).address), dso_handle(linked.place(Synthetic::dso_handle).address),
        tls_ld(linked.tls_ld), low_2gib(low_2gib_), module(&linked) {}
};

struct SectionBytes {
  std::uint32_t section = 0;
  std::uint64_t address = 0;
  std::byte* local = nullptr;
  Bytes original; // as in the object
  bool code = false, debug = false;
};

// The cells of a GOT that hold addresses of the module's own sections or of symbols; the others stay as they are.
void write_address_cells(const Bound& bound, std::byte* got);
// Errors: out_of_range.
Result<void> write_stubs(const Bound& bound, std::byte* stubs);

} // namespace tenon::link

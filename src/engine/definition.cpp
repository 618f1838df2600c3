// Redirecting running code: slots and call sites.
//
// Each store is atomic and lies inside one aligned 8-byte word, so that a thread that fetches the instruction meanwhile sees
// the old displacement or the new one, and either leads to a whole function (the linker gives sites to branches only whose
// displacement lies so). Threads need no serializing instruction: nothing but the displacement changes, and what it leads to
// was written, and published by an earlier release store, before. On x86-64 stores become visible in program order, so who
// sees the new displacement sees the new code.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/definition.h"

#include "base/check.h"
#include "engine/transition.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tenon::engine {

namespace {

// Sites are changed under commit_mutex only, so nobody else changes the word between the load and the store.
void store_displacement(memory::Space& space, std::uint64_t site, std::uint64_t body) noexcept {
  const std::uint64_t shift = (site & 7) * 8;
  TENON_CHECK(shift <= 32, "a call site whose displacement crosses an aligned word");
  std::atomic_ref<std::uint64_t> word(*reinterpret_cast<std::uint64_t*>(space.writable({site & ~std::uint64_t(7)})));
  const std::uint64_t displacement = std::uint32_t(body - (site + 4));
  const std::uint64_t mask = std::uint64_t(0xFFFFFFFF) << shift;
  word.store((word.load(std::memory_order_relaxed) & ~mask) | displacement << shift, std::memory_order_release);
}

[[noreturn]] void gone() {
  std::fputs("tenon: a function was called by its address whose module no longer has it\n", stderr);
  std::abort();
}

// Release: whoever jumps through the slot sees the code that it leads to.
void store_slot(memory::Space& space, const Definition& definition, std::uint64_t entry) noexcept {
  std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(space.writable({definition.stub.slot()})))
      .store(entry, std::memory_order_release);
}

} // namespace

void bind_sites(memory::Space& space, Use& use, std::uint64_t body) noexcept {
  for (std::uint64_t site : use.sites) store_displacement(space, site, body);
  use.bound = body;
}

void lead_nowhere(memory::Space& space, const Definition& definition) noexcept {
  memory::WriteGuard guard(space);
  store_slot(space, definition, reinterpret_cast<std::uint64_t>(&gone));
}

void link_use(Use& use) noexcept {
  use.previous = nullptr;
  use.next = use.definition->uses;
  if (use.next != nullptr) use.next->previous = &use;
  use.definition->uses = &use;
}

void unlink_use(Use& use) noexcept {
  if (use.definition == nullptr) return;
  if (use.previous != nullptr)
    use.previous->next = use.next;
  else if (use.definition->uses == &use)
    use.definition->uses = use.next;
  if (use.next != nullptr) use.next->previous = use.previous;
  use.previous = use.next = nullptr;
  use.definition = nullptr; // which may be freed before the use is
}

void lead_to(memory::Space& space, Definition& definition, std::uint64_t entry) noexcept {
  definition.entry = entry;
  memory::WriteGuard guard(space);
  store_slot(space, definition, entry);
  for (Use* use = definition.uses; use != nullptr; use = use->next)
    if (!use->frozen) bind_sites(space, *use, entry);
}

void retarget(memory::Space& space, Definition& definition, std::uint64_t body) noexcept {
  definition.address = body;
  if (definition.choice == nullptr) return lead_to(space, definition, body);
  // A switch leads there; when it goes, so do all who go through it. Those that were linked to the new set directly don't.
  const std::uint64_t before = definition.choice->after.exchange(body, std::memory_order_acq_rel);
  memory::WriteGuard guard(space);
  for (Use* use = definition.uses; use != nullptr; use = use->next)
    if (!use->frozen && !use->sites.empty() && use->bound == before) bind_sites(space, *use, body);
}

void catch_up(memory::Space& space, Use& use) noexcept {
  // While a set is being exchanged only its own members may call its new functions directly.
  const bool member = use.in_new_set && use.bound == use.definition->address;
  if (use.sites.empty() || member || use.bound == use.definition->entry) return;
  memory::WriteGuard guard(space);
  bind_sites(space, use, use.definition->entry);
}

} // namespace tenon::engine

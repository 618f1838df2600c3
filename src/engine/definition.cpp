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
#include "engine/module_state.h"
#include "engine/transition.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

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

void lead_nowhere(memory::Space& space, Definition& definition) noexcept {
  definition.ends_with_calls = false;
  for (const Use* use = definition.uses; use != nullptr; use = use->next) definition.ends_with_calls |= use->through_stub;
  if (definition.ends_with_calls) return;
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

namespace {

// A switch stands for it: slot and sites lead there until that is over, and it leads on. Those that were linked to the new
// set directly don't go through it.
void lead_switch(memory::Space& space, Definition& definition, std::uint64_t address, std::uint64_t for_sites) noexcept {
  for (Use* use = definition.uses; use != nullptr; use = use->next)
    if (!use->frozen && use->bound != definition.entry) bind_sites(space, *use, for_sites);
  definition.choice->after.store(address, std::memory_order_release);
}

// Slot and sites, and those of vanished definitions that go where this one goes. These can't form a circle: what they follow
// was there when they vanished.
void point(memory::Space& space, Definition& definition, std::uint64_t slot, std::uint64_t entry) noexcept {
  if (definition.led && definition.choice != nullptr) return lead_switch(space, definition, slot, entry);
  definition.entry = entry;
  // The slot last: a call that a site, or a follower's, has led to a trampoline goes on through the slot, and the next one
  // by the site again, which must not be behind.
  for (Definition* follower = definition.followers; follower != nullptr; follower = follower->next_follower)
    if (follower->led) point(space, *follower, entry, entry);
  for (Use* use = definition.uses; use != nullptr; use = use->next)
    if (!use->frozen) bind_sites(space, *use, entry);
  store_slot(space, definition, slot);
}

void link_follower(Definition& definition, Definition& leader) noexcept {
  definition.leader = &leader;
  definition.previous_follower = nullptr;
  definition.next_follower = leader.followers;
  if (leader.followers != nullptr) leader.followers->previous_follower = &definition;
  leader.followers = &definition;
}

} // namespace

void lead_to(memory::Space& space, Definition& definition, std::uint64_t entry) noexcept {
  definition.own = entry;
  memory::WriteGuard guard(space);
  // These first: see point().
  for (Definition* follower = definition.followers; follower != nullptr; follower = follower->next_follower)
    if (!follower->led) point(space, *follower, entry, entry);
  if (!definition.led && definition.leader == nullptr) point(space, definition, entry, entry);
}

void retarget(memory::Space& space, Definition& definition, std::uint64_t body) noexcept {
  definition.address = body;
  if (definition.choice == nullptr) return lead_to(space, definition, body);
  // A switch leads there; when it goes, so do all who go through it. Those that were linked to the new set directly don't.
  // As in point(): it leads there last.
  const std::uint64_t before = definition.choice->after.load(std::memory_order_relaxed);
  if (definition.leader == nullptr) {
    memory::WriteGuard guard(space);
    for (Use* use = definition.uses; use != nullptr; use = use->next)
      if (!use->frozen && !use->sites.empty() && use->bound == before) bind_sites(space, *use, body);
  }
  definition.choice->after.store(body, std::memory_order_release);
}

void catch_up(memory::Space& space, Use& use) noexcept {
  // While a set is being exchanged only its own members may call its new functions directly.
  const Definition& definition = *use.definition;
  const bool member = use.in_new_set && use.bound == definition.address && definition.leader == nullptr;
  if (use.sites.empty() || member || use.bound == definition.entry) return;
  memory::WriteGuard guard(space);
  bind_sites(space, use, definition.entry);
}

void follow(memory::Space& space, Definition& definition, Definition& leader, std::uint64_t body) noexcept {
  unfollow(definition);
  link_follower(definition, leader);
  definition.led = true;
  definition.ends_with_switch = definition.ends_with_calls = false;
  const std::uint64_t entry = body != 0 && leader.choice == nullptr ? body : leader.entry;
  memory::WriteGuard guard(space);
  point(space, definition, entry, entry);
}

void lead_away(memory::Space& space, Definition& definition, std::uint64_t address) noexcept {
  unfollow(definition);
  definition.led = true;
  definition.ends_with_switch = definition.ends_with_calls = false;
  if (definition.choice == nullptr) definition.own = address;
  // Branches reach 2 GiB: they go to the stub, and on through the slot.
  memory::WriteGuard guard(space);
  point(space, definition, address, definition.stub.address());
}

void leave_switch(memory::Space& space, Definition& definition) noexcept {
  const std::uint64_t after = definition.choice->after.load(std::memory_order_relaxed);
  definition.choice = nullptr;
  if (!definition.led) return lead_to(space, definition, after);
  definition.own = after;
  memory::WriteGuard guard(space);
  if (definition.leader != nullptr)
    point(space, definition, definition.leader->entry, definition.leader->entry);
  else
    point(space, definition, after, definition.stub.address());
}

Definition* go_by_leader(Definition& definition) noexcept {
  Definition* leader = definition.led ? definition.leader : nullptr;
  if (leader == nullptr) return nullptr;
  if (definition.choice != nullptr)
    definition.choice->after.store(leader->stub.address(), std::memory_order_release);
  else
    definition.own = leader->stub.address();
  return leader;
}

void unfollow(Definition& definition) noexcept {
  definition.led = false;
  const bool redirected = std::exchange(definition.redirector, nullptr) != nullptr;
  if (definition.leader == nullptr) return;
  if (redirected && definition.leader->module != definition.module) --definition.leader->module->users;
  if (definition.previous_follower != nullptr)
    definition.previous_follower->next_follower = definition.next_follower;
  else
    definition.leader->followers = definition.next_follower;
  if (definition.next_follower != nullptr) definition.next_follower->previous_follower = definition.previous_follower;
  definition.leader = definition.previous_follower = definition.next_follower = nullptr;
}

void redirect(memory::Space& space, Definition& definition, Definition& leader, const void* redirector) noexcept {
  if (definition.leader != &leader) {
    unfollow(definition);
    link_follower(definition, leader);
    if (leader.module != definition.module) ++leader.module->users;
  }
  definition.redirector = redirector;
  memory::WriteGuard guard(space);
  point(space, definition, leader.own, leader.own);
}

void back(memory::Space& space, Definition& definition) noexcept {
  unfollow(definition);
  memory::WriteGuard guard(space);
  point(space, definition, definition.own, definition.own);
}

void detach(Definition& definition) noexcept {
  unfollow(definition);
  while (definition.followers != nullptr) unfollow(*definition.followers);
}

} // namespace tenon::engine

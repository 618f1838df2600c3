// A Space that nobody has: emptied, out of reach, and back in use.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "base/align.h"
#include "memory/fork.h"
#include "memory/space_state.h"
#include "memory/system.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include <sys/mman.h>

namespace tenon::memory {

namespace {

constexpr std::array shared_areas = {AreaKind::rodata, AreaKind::frames, AreaKind::slots, AreaKind::code};
constexpr std::uint64_t little = std::uint64_t(4) << 20;   // emptying that is cheaper than mapping a new file
constexpr std::uint64_t kept_readable = system::page_size; // of the unwinder's table

} // namespace

bool Space::is_reusable() const noexcept {
  return state_ != nullptr && state_->registered && mapping_ == Mapping::dual && prefault_ == Prefault::none;
}

// Pages that a failed step has left beyond what counts as committed lie before the end of its huge page. An engine that has
// used much leaves page tables, too: then a new file costs less.
bool Space::State::empty_shared() {
  if (!touched.load(std::memory_order_relaxed)) return true;
  std::uint64_t used = 0;
  for (const AreaKind kind : shared_areas) used += area(kind).committed.load(std::memory_order_relaxed);
  const bool anew = used > little;
  if (anew) {
    system::unmap(std::exchange(alias, nullptr), alias_size);
    if (!map_dual()) return false;
  }
  for (const AreaKind kind : shared_areas) {
    Area& of = area(kind);
    const std::uint64_t committed = of.committed.load(std::memory_order_relaxed);
    const std::uint64_t end = base::align_down(of.begin + committed, system::huge_page_size) + system::huge_page_size;
    if (!anew && !system::punch(owner.writable({of.begin}), std::min(end - of.begin, of.size))) return false;
    of.committed.store(0, std::memory_order_relaxed);
  }
  if (!anew) system::advise(reinterpret_cast<void*>(owner.dual_begin_), alias_size, MADV_DONTDUMP);
  touched.store(false, std::memory_order_relaxed);
  return true;
}

bool Space::State::empty_private() {
  Area& of = area(AreaKind::data);
  if (of.accessible == 0) return true;
  if (!map_data()) return false;
  of.accessible = 0;
  of.committed.store(0, std::memory_order_relaxed);
  return true;
}

bool Space::rest() noexcept {
  State& state = *state_;
  fork::remove(state);
  state.registered = false;
  try {
    if (!state.empty_shared() || !state.empty_private() || !state.table.reset()) return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  state.place_areas();
  for (State::Area& of : state.areas) {
    of.forget_steps();
    of.live.store(0, std::memory_order_relaxed);
    of.slot_count.store(0, std::memory_order_relaxed);
    of.last_slots.store(0, std::memory_order_relaxed);
  }
  const Addr below{dual_begin_}, frames = area_begin(AreaKind::frames), above = frames + kept_readable;
  if (!system::deny_access(below.as<void*>(), frames - below) || !system::deny_access(above.as<void*>(), end() - above) ||
      !system::deny_access(state.alias, state.alias_size))
    return false;
  state.fork::Participant::copy_in_child = State::leave_to_parent;
  fork::set_resting(&state);
  return true;
}

bool Space::wake() noexcept {
  State& state = *state_;
  if (state.lost) return false;
  state.fork::Participant::copy_in_child = State::copy_in_child;
  const Addr shared{dual_begin_}, code = area_begin(AreaKind::code), code_end = area_end(AreaKind::code);
  try {
    if (!system::protect(shared.as<void*>(), end() - shared, PROT_READ, area_name(AreaKind::rodata)) ||
        !system::protect(code.as<void*>(), code_end - code, PROT_READ | PROT_EXEC, area_name(AreaKind::code)) ||
        !system::protect(state.alias, state.alias_size, PROT_READ | PROT_WRITE, "the writable alias") || !fork::add(state))
      return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  state.registered = true;
  return true;
}

// The child of a fork: the parent may use the file from now on. The child's views of it go; nobody had any use for them.
void Space::State::leave_to_parent(fork::Participant& self) noexcept {
  State& state = static_cast<State&>(self);
  if (state.lost) return; // this process is such a child itself
  state.lost = true;
  system::unmap(state.alias, state.alias_size);
  state.alias = nullptr;
  const Addr frames = state.owner.area_begin(AreaKind::frames);
  // Should the system refuse, the parent's new entries can be seen here, but they describe nothing that can run here.
  if (system::reserve_again(reinterpret_cast<void*>(state.owner.dual_begin_), state.alias_size))
    (void)system::allow_reading(frames.as<void*>(), kept_readable);
}

} // namespace tenon::memory

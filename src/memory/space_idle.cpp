// Free memory of the areas goes back to the system while the engine lives.
//
// In steps of 64 KiB: each is in use, idle (one free range holds all of it) or a hole (idle once, and its memory has gone).
// A freed block makes the steps that it touches idle if its range holds them now: a few instructions, whatever the range
// holds. Once there are more than may stay, all idle steps go, neighbours with one system call. What may stay begins at
// 128 KiB, grows (up to 16 MiB) by what had to be filled again since the last time and is halved where nothing had: a
// program that links and removes over and over soon keeps what it needs, one that shrinks keeps little.
//
// The free range at an area's end goes together with what was backed ahead behind it; `committed` is lowered there, so that
// this grows in large pages again.
//
// All of it happens under the area's mutex, as does backing new memory, which takes as long. Nobody who looks something up,
// runs code or unwinds waits for that. Inside of the gate, so fork() finds a step and its bit agree.
//
// What the program sees: shared memory in a hole reads as zeros, as memory does that was never handed out; traps are written
// when it is backed again. No live block has a part in a hole.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "memory/space_state.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>

#include <sys/mman.h>

namespace tenon::memory {

namespace {

constexpr std::uint64_t step_granules = small_step / granule;

bool has_bit(const std::unique_ptr<std::uint64_t[]>& bits, std::uint64_t at) noexcept {
  return (bits[at / 64] >> at % 64 & 1) != 0;
}
void flip(const std::unique_ptr<std::uint64_t[]>& bits, std::uint64_t at) noexcept {
  bits[at / 64] ^= std::uint64_t(1) << at % 64;
}

} // namespace

bool Space::State::gives_back(AreaKind kind) const noexcept {
  if (owner.prefault_ != Prefault::none) return false; // it was asked to be present
  return kind == AreaKind::data || (dual(kind) && kind != AreaKind::frames);
}

// Called when the area has grown: a small one has nothing to give back by itself.
void Space::State::watch_steps(AreaKind kind, std::uint64_t least_committed) noexcept {
  Area& of = area(kind);
  if (of.idle != nullptr || !gives_back(kind) || of.committed.load(std::memory_order_relaxed) < least_committed) return;
  const std::size_t words = of.size / small_step / 64 + 1; // of 2 GiB: 4 KiB
  of.holes.reset(new (std::nothrow) std::uint64_t[words]());
  if (of.holes == nullptr) return;
  of.idle.reset(new (std::nothrow) std::uint64_t[words]());
  mark_all_idle(kind);
}

void Space::State::mark_all_idle(AreaKind kind) noexcept {
  area(kind).space.for_each_range(
      [&](std::uint32_t begin, std::uint32_t end) { mark_idle(kind, begin * granule, end * granule); });
}

// The steps that lie in a part of a free range.
void Space::State::mark_idle(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept {
  Area& of = area(kind);
  if (of.idle == nullptr) return;
  end = std::min(end, of.committed.load(std::memory_order_relaxed));
  for (std::uint64_t step = (begin + small_step - 1) / small_step; (step + 1) * small_step <= end; ++step) {
    if (is_hole(of, step) || has_bit(of.idle, step)) continue;
    flip(of.idle, step);
    ++of.idle_steps;
  }
}

void Space::State::mark_used(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept {
  Area& of = area(kind);
  for (std::uint64_t step = begin / small_step; of.idle_steps != 0 && step * small_step < end; ++step) {
    if (!has_bit(of.idle, step)) continue;
    flip(of.idle, step);
    --of.idle_steps;
  }
}

void Space::State::put_back(AreaKind kind, const Piece& run) noexcept {
  Area& of = area(kind);
  const Piece range = of.space.give_back(run);
  if (range.slots != 0 && range.end() == of.space.used_end())
    of.last_slots.store(range.first_slot, std::memory_order_relaxed);
  if (range.size < step_granules || of.idle == nullptr) return;
  if (of.space.is_sparse()) of.space.pack_nodes();
  // Of the range only what the block has a part in was not idle before.
  const std::uint64_t first = base::align_down(run.begin, step_granules);
  const std::uint64_t last = base::align_up(run.end(), step_granules);
  mark_idle(kind, std::max<std::uint64_t>(first, range.begin) * granule,
            std::min<std::uint64_t>(last, range.end()) * granule);
  if (of.idle_steps == 0) return;
  const std::uint64_t committed = of.committed.load(std::memory_order_relaxed), used = of.space.used_end() * granule;
  const bool ends_it = dual(kind) && range.end() * granule == used && committed > used; // private memory comes by itself
  const std::uint64_t ahead = ends_it ? (committed - used) / small_step : 0;
  if (of.idle_steps + ahead > of.kept_steps) give_back_idle(kind, small_step);
}

void Space::State::give_back_idle(AreaKind kind, std::uint64_t least_free) noexcept {
  Area& of = area(kind);
  make_holes(kind);
  give_back_end(kind, least_free);
  of.kept_steps =
      of.refilled != 0 ? std::min(of.kept_steps + of.refilled, most_kept) : std::max(of.kept_steps / 2, least_kept);
  of.refilled = 0;
}

// What the system refuses to take (memory that mlockall has locked) stays, and is not asked for until it was in use again or
// somebody calls release_unused().
void Space::State::make_holes(AreaKind kind) noexcept {
  Area& of = area(kind);
  const std::uint64_t steps = of.committed.load(std::memory_order_relaxed) / small_step;
  for (std::uint64_t step = 0; of.idle_steps != 0 && step < steps;) {
    const std::uint64_t ahead = of.idle[step / 64] >> step % 64;
    if (ahead == 0) {
      step = (step / 64 + 1) * 64;
      continue;
    }
    step += static_cast<unsigned>(std::countr_zero(ahead));
    const std::uint64_t first = step;
    while (step < steps && has_bit(of.idle, step)) ++step;
    of.idle_steps -= static_cast<std::uint32_t>(step - first);
    std::byte* const bytes = owner.writable({of.begin + first * small_step});
    const bool gone =
        dual(kind) ? system::punch(bytes, (step - first) * small_step) : system::discard(bytes, (step - first) * small_step);
    for (std::uint64_t each = first; each < step; ++each) {
      flip(of.idle, each);
      if (gone) set_hole(of, each, true);
    }
    if (gone)
      of.space.forget_tags(static_cast<std::uint32_t>(first * step_granules),
                           static_cast<std::uint32_t>(step * step_granules));
  }
}

// Behind the last block no hole is worth being remembered. If too little of what was used is free there, growth is what
// happens: what was backed ahead of it stays.
void Space::State::give_back_end(AreaKind kind, std::uint64_t least_free) noexcept {
  Area& of = area(kind);
  const std::uint64_t live = of.space.live_end() * granule, used = of.space.used_end() * granule;
  const std::uint64_t begin = base::align_up(live, small_step), end = of.committed.load(std::memory_order_relaxed);
  if ((least_free != 0 && used < begin + least_free) || begin >= end) return;
  if (!dual(kind)) { // the rest of a large page whose front has gone
    const std::uint64_t rest = base::align_up(used, system::page_size);
    const std::uint64_t rest_end = std::min(base::align_up(of.begin + used, system::huge_page_size) - of.begin, end);
    if (rest < rest_end) (void)system::discard(reinterpret_cast<void*>(of.begin + rest), rest_end - rest);
    return;
  }
  // From here on it is no hole.
  const std::uint64_t last = std::clamp(base::align_down(used, small_step), begin, end);
  for (std::uint64_t step = begin / small_step; step * small_step < last; ++step)
    if (!is_hole(of, step)) return;
  if (last < end && !system::punch(owner.writable({of.begin + last}), end - last)) return;
  for (std::uint64_t step = begin / small_step; step * small_step < last; ++step) set_hole(of, step, false);
  of.space.forget_tags(static_cast<std::uint32_t>(begin / granule), of.space.used_end());
  system::advise(reinterpret_cast<void*>(of.begin + begin), end - begin, MADV_DONTDUMP);
  of.committed.store(begin, std::memory_order_relaxed);
}

void Space::release_unused(AreaKind kind) noexcept {
  if (!state_->gives_back(kind)) return;
  const fork::Inside inside;
  const std::lock_guard lock(state_->area(kind).mutex);
  state_->watch_steps(kind, 0);
  state_->mark_all_idle(kind); // what the system has refused before, too
  state_->give_back_idle(kind, 0);
}

// Who allocates code takes its area's lock first, and only then asks for frames: what a block has asked for, or will, is
// below the end that is seen here under both locks, and stays.
void Space::release_frames(void (*forget)(void* context, std::uint32_t end) noexcept, void* context) noexcept {
  // Filling so much again costs less than making its blocks, by far, and growth does not get ahead by more (commit_step()).
  const auto is_much = [](std::uint64_t kept, std::uint64_t of_all) {
    return of_all > kept + std::max(frame_step, of_all / 4);
  };
  State::Area& code = state_->area(AreaKind::code);
  State::Area& of = state_->area(AreaKind::frames);
  const auto bytes_of = [](std::uint64_t slots) {
    return base::align_up(frame_header_room + slots * frame_entry_size, frame_step);
  };
  if (!is_much(bytes_of(code.last_slots.load(std::memory_order_relaxed)), of.committed.load(std::memory_order_relaxed)))
    return;
  if (!state_->dual(AreaKind::frames) || prefault_ != Prefault::none) return;
  const fork::Inside inside;
  const std::lock_guard no_new_code(code.mutex);
  const std::lock_guard lock(of.mutex);
  const std::uint32_t end = code.space.live_slots_end();
  code.last_slots.store(end, std::memory_order_relaxed);
  const std::uint64_t kept = bytes_of(end), committed = of.committed.load(std::memory_order_relaxed);
  if (!is_much(kept, committed)) return;
  forget(context, end);
  if (!system::punch(writable({of.begin + kept}), committed - kept)) return;
  of.committed.store(kept, std::memory_order_release);
}

} // namespace tenon::memory

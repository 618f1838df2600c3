// Areas, their mappings and their growth.
//
// The kernel's mappings of a Space, however many blocks there are (dual mode): data in use, data to come; read-only data in
// use, the rest up to the code; code in use, code to come; frames; the alias; the allocator's table in use and to come. "In
// use" and "to come" differ for data by protection, and for the shared views only by whether core dumps hold them: a dump
// would otherwise touch, and so allocate, every page of the file. Frames and slots are not dumped, the alias never.
//
// Memory is backed ahead of use: an area's first 256 KiB in steps of 64 KiB, so that small engines stay small, then by huge
// pages. The kernel gives a memfd none of its own accord (that takes a system-wide setting), but MADV_COLLAPSE makes one for
// both views of any 2 MiB in which at least one page exists. Backing, writing and reading back 8 MiB for the first time, on
// an EPYC with Linux 6.18, median of 15: by faults 5.0 ms; MADV_POPULATE_WRITE in steps of 64 KiB to 2 MiB 5.0 to 5.3 (the
// allocation of pages dominates, not the faults); with MADV_POPULATE_READ on the program's view 5.4; collapse 1.05, of which
// 0.45 is backing. Filling the code with traps while it is in the cache costs less than can be measured. Private memory:
// 3.0 ms by faults, 2.3 populated, 0.27 with MADV_HUGEPAGE, which data has from its third MiB on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "base/align.h"
#include "base/check.h"
#include "base/fault.h"
#include "base/prefetch.h"
#include "memory/space_state.h"
#include "memory/system.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // Linux 6.1
#endif

namespace tenon::memory {

namespace {

constexpr std::uint64_t largest = std::uint64_t(1) << 31;
constexpr std::uint64_t smallest = std::uint64_t(1) << 20;
constexpr std::uint64_t largest_alignment = std::uint64_t(2) << 20;
constexpr int trap_byte = 0xCC; // int3
// Huge pages, where most of one is wanted at once or the area is so large that what may stay unused of one is little of it.
constexpr std::uint64_t much_at_once = std::uint64_t(256) << 10, large_area = std::uint64_t(8) << 20;
constexpr std::uint64_t first_data_step = std::uint64_t(256) << 10;
constexpr std::uint64_t first_huge_data = std::uint64_t(2) << 20; // data has huge pages from here on, or later
constexpr std::uint64_t last_data_step = std::uint64_t(16) << 20;

constexpr std::array blocks = {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data}; // not for frames

Error exhausted(AreaKind area, std::uint64_t size, std::uint64_t whole) {
  return {ErrorCode::exhausted,
          "the engine's memory for " + std::string(area_name(area)) + " has no " + std::to_string(size) +
              " bytes left: it is " + std::to_string(whole) +
              " bytes of the reservation (Options::reservation_bytes, at most 2 GiB); another engine has "
              "one of its own"};
}

// Without access at first: after mlockall(MCL_FUTURE) the kernel makes present at once whatever may be read, here all of the
// reservation. Access that is given later does not do that to shared memory.
Result<std::byte*> map_unread(std::uint64_t at, std::uint64_t size, int flags, int fd, const char* what) {
  return system::map(reinterpret_cast<void*>(at), size, PROT_NONE, MAP_SHARED | flags, fd, 0, what);
}

} // namespace

Result<void> Space::State::map_data() {
  const std::uint64_t begin = owner.area_begin(AreaKind::data).value, data_end = owner.area_end(AreaKind::data).value;
  const std::uint64_t end = owner.mapping_ == Mapping::dual ? owner.dual_begin_ : owner.end().value;
  Result<std::byte*> data =
      system::map(reinterpret_cast<void*>(begin), end - begin, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0, "the reservation of private memory");
  if (!data) return std::move(data).error();
  const std::uint64_t huge_begin = base::align_up(begin, system::huge_page_size) + system::huge_page_size;
  if (huge_begin < data_end) system::advise(reinterpret_cast<void*>(huge_begin), data_end - huge_begin, MADV_HUGEPAGE);
  // Small pages that are present would be absent for a moment while the kernel makes a huge one of them.
  if (owner.prefault_ != Prefault::none)
    system::advise(reinterpret_cast<void*>(begin), std::min(huge_begin, data_end) - begin, MADV_NOHUGEPAGE);
  return {};
}

// The program's views of the shared file at their fixed place. In the child of a fork they replace the old ones.
Result<void> Space::State::map_views(int fd) {
  const std::uint64_t code = owner.area_begin(AreaKind::code).value;
  const std::uint64_t readable = code - owner.dual_begin_;
  const std::uint64_t executable = owner.area_end(AreaKind::code).value - code;
  const std::uint64_t whole = owner.end().value - owner.dual_begin_;
  Result<std::byte*> view = map_unread(owner.dual_begin_, whole, MAP_FIXED, fd, "the view of shared memory");
  if (!view) return std::move(view).error();
  Result<void> done = system::protect(*view, whole, PROT_READ, "the view of read-only data");
  if (done) done = system::protect(*view + readable, executable, PROT_READ | PROT_EXEC, "the executable view of code");
  if (!done) return done;
  system::advise(reinterpret_cast<void*>(owner.dual_begin_), whole, MADV_DONTDUMP);
  return {};
}

// Both views at the same place within a huge page: nearly always there is room for that right below the reservation, which
// saves looking for it.
Result<std::byte*> Space::State::map_alias(int fd) {
  constexpr const char* what = "the writable alias";
  const std::uint64_t skew = owner.dual_begin_ % system::huge_page_size;
  const std::uint64_t distance = base::align_up(range.size, system::huge_page_size);
  const std::uint64_t near = owner.dual_begin_ < 2 * largest ? 0 : owner.dual_begin_ - distance; // low room is scarce
  Result<std::byte*> view = map_unread(near, alias_size, 0, fd, what);
  if (!view || reinterpret_cast<std::uint64_t>(*view) % system::huge_page_size == skew) return view;
  system::unmap(*view, alias_size);
  const std::uint64_t with_room = alias_size + system::huge_page_size;
  Result<std::byte*> room =
      system::map(nullptr, with_room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, what);
  if (!room) return room;
  const auto begin = reinterpret_cast<std::uint64_t>(*room);
  const std::uint64_t end = begin + with_room;
  const std::uint64_t at = base::align_up(begin - skew, system::huge_page_size) + skew;
  view = map_unread(at, alias_size, MAP_FIXED, fd, what);
  if (!view) {
    system::unmap(*room, with_room);
    return view;
  }
  if (at > begin) system::unmap(*room, at - begin);
  if (end > at + alias_size) system::unmap(*view + alias_size, end - at - alias_size);
  return view;
}

Result<void> Space::State::map_dual() {
  alias_size = owner.end() - Addr{owner.dual_begin_};
  Result<int> fd = system::memory_file(alias_size, "the engine's code and read-only data");
  if (!fd) return std::move(fd).error();
  Result<void> done = map_views(*fd);
  if (done) {
    Result<std::byte*> writable = map_alias(*fd);
    if (writable) {
      alias = *writable; // from here on it is unmapped with the rest
      done = system::protect(alias, alias_size, PROT_READ | PROT_WRITE, "the writable alias");
      system::advise(alias, alias_size, MADV_DONTDUMP);
      owner.alias_distance_[1] = alias - reinterpret_cast<std::byte*>(owner.dual_begin_);
    } else {
      done = std::move(writable).error();
    }
  }
  ::close(*fd);
  return done;
}

Result<void> Space::State::prepare_areas() {
  std::array<std::uint32_t, blocks.size()> capacities;
  for (std::size_t kind = 0; kind < area_kinds; ++kind) {
    areas[kind].begin = owner.bounds_[kind].begin.value;
    areas[kind].size = owner.bounds_[kind].end - owner.bounds_[kind].begin;
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) capacities[i] = static_cast<std::uint32_t>(area(blocks[i]).size / granule);
  Result<void> done = SideTable::create(capacities, table);
  if (!done) return done;
  place_areas();
  for (const AreaKind kind : blocks)
    if (paged(kind)) area(kind).pages = std::make_unique<Page[]>(area(kind).size / system::page_size);
  return {};
}

void Space::State::place_areas() noexcept {
  const std::uint64_t frames = area(AreaKind::frames).size;
  const auto slot_capacity = static_cast<std::uint32_t>((frames - std::min(frames, frame_header_room)) / frame_entry_size);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    Area& of = area(blocks[i]);
    of.index = static_cast<int>(i);
    of.space = FreeSpace();
    of.space.init(table, i, of.begin, static_cast<std::uint32_t>(of.size / granule),
                  blocks[i] == AreaKind::code ? slot_capacity : 0);
  }
}

Result<std::shared_ptr<Space>> Space::create(const SpaceOptions& options, AddressRange range) {
  struct Give {
    AddressRange* range;
    ~Give() {
      if (range != nullptr && range->release != nullptr) range->release(range->owner, range->begin, range->size);
    }
  } give{&range};
  const auto begin = reinterpret_cast<std::uint64_t>(range.begin);
  if (range.size < smallest || range.size > largest ||
      (begin | range.size | range.reserved_prefix) % system::page_size != 0 || range.reserved_prefix > range.size / 8)
    return Error{ErrorCode::invalid_argument, "a reservation has whole pages, between 1 MiB and 2 GiB"};

  std::shared_ptr<Space> space(new Space);
  space->state_ = std::make_unique<State>(*space);
  State& state = *space->state_;
  state.range = range;
  give.range = nullptr;
  space->mapping_ = options.mapping;
  space->prefault_ = options.prefault;
  const std::array<AreaBounds, area_kinds> layout = area_layout(range.size, range.reserved_prefix);
  for (std::size_t kind = 0; kind < area_kinds; ++kind)
    space->bounds_[kind] = {{begin + layout[kind].begin}, {begin + layout[kind].end}};
  space->dual_begin_ = space->area_begin(AreaKind::rodata).value;

  const fork::Inside inside; // no fork() sees half a Space
  if (Result<void> done = state.map_data(); !done) return std::move(done).error();
  if (options.mapping == Mapping::dual)
    if (Result<void> done = state.map_dual(); !done) return std::move(done).error();
  if (Result<void> done = state.prepare_areas(); !done) return std::move(done).error();
  // In single-mapping mode there is nothing to copy, but the gate must see to it that no lock is held at a fork.
  if (options.mapping == Mapping::dual) state.fork::Participant::copy_in_child = State::copy_in_child;
  if (Result<void> done = fork::add(state); !done) return std::move(done).error();
  state.registered = true;
  return space;
}

Space::~Space() {
  if (state_ == nullptr) return;
  const fork::Inside inside;
  if (state_->registered) fork::remove(*state_);
  state_.reset();
}

Addr Space::begin() const noexcept { return Addr::of(state_->range.begin); }
Addr Space::end() const noexcept { return begin() + state_->range.size; }

void Space::State::show_to_core_dumps(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept {
  if (kind == AreaKind::code || kind == AreaKind::rodata)
    system::advise(reinterpret_cast<void*>(begin), end - begin, MADV_DODUMP);
}

// Pages that are about to be handed out for the first time, or again in single-mapping mode. Shared ones have been written
// through the alias: what is left is the program's view of them.
Result<void> Space::State::prefault(AreaKind kind, std::uint64_t begin, std::uint64_t size) {
  void* const at = reinterpret_cast<void*>(begin);
  switch (owner.prefault_) {
  case Prefault::none: break;
  case Prefault::populate:
    return dual(kind) ? system::populate_for_read(at, size, area_name(kind))
                      : system::populate_for_write(at, size, area_name(kind));
  case Prefault::lock: return system::lock(at, size, area_name(kind));
  }
  return {};
}

// Under the area's mutex. `end` and all results are offsets in the area. A huge page is a hint that may fail for many
// reasons; populating afterwards costs nothing if it did not, and makes sure of the memory if it did.
Result<void> Space::State::commit_shared(AreaKind kind, std::uint64_t end) {
  Area& of = area(kind);
  const std::uint64_t old = of.committed.load(std::memory_order_relaxed);
  std::uint64_t grown = old;
  if (grown < end) touched.store(true, std::memory_order_relaxed);
  while (grown < end)
    if (Result<void> done = commit_step(kind, end, grown); !done) {
      // What nobody got must not count: locked memory is scarce.
      if (grown == old) return done;
      if (owner.prefault_ == Prefault::lock) system::unlock(reinterpret_cast<void*>(of.begin + old), grown - old);
      system::advise(owner.writable({of.begin + old}), grown - old, MADV_REMOVE);
      return done;
    }
  if (grown == old) return {};
  show_to_core_dumps(kind, of.begin + old, of.begin + grown);
  of.committed.store(grown, std::memory_order_release); // commit_frames() looks without the lock
  if (old < of.highest) of.refilled += static_cast<std::uint32_t>((std::min(of.highest, grown) - old) / small_step);
  of.highest = std::max(of.highest, grown);
  watch_steps(kind);
  // Of what was used before and is backed again.
  mark_idle(kind, std::max(old, of.space.live_end() * granule), std::min(grown, of.space.used_end() * granule));
  return {};
}

// Grows the area by one step from `at`, which moves on if it could.
Result<void> Space::State::commit_step(AreaKind kind, std::uint64_t end, std::uint64_t& at) {
  const Area& of = area(kind);
  const std::uint64_t huge_begin = base::align_down(of.begin + at, system::huge_page_size);
  const std::uint64_t huge_end = huge_begin + system::huge_page_size;
  std::uint64_t target = std::min({at + small_step, of.size, huge_end - of.begin});
  std::byte* const bytes = owner.writable({of.begin + at});
  // Making a huge page takes the small pages there out of the program's view for a moment: not if they have to stay present.
  const bool undisturbed = owner.prefault_ == Prefault::none || huge_begin == of.begin + at;
  const bool wanted = end - at > much_at_once || at >= large_area;
  if (wanted && undisturbed && huge_begin >= of.begin && huge_end <= of.begin + of.size) {
    if (Result<void> done = system::populate_for_write(bytes, system::page_size, area_name(kind)); !done) return done;
    // It would fill holes as well.
    if (!has_hole(kind, std::max(huge_begin, of.begin) - of.begin, at))
      system::advise(owner.writable({huge_begin}), system::huge_page_size, MADV_COLLAPSE);
    target = huge_end - of.begin;
  }
  if (Result<void> done = system::populate_for_write(bytes, target - at, area_name(kind)); !done) return done;
  if (kind == AreaKind::code) std::memset(bytes, trap_byte, target - at);
  if (Result<void> done = prefault(kind, of.begin + at, target - at); !done) {
    system::advise(bytes, target - at, MADV_REMOVE);
    return done;
  }
  at = target;
  return {};
}

void Space::expect(AreaKind kind, std::uint64_t bytes) noexcept {
  if (bytes <= much_at_once || !state_->dual(kind) || prefault_ != Prefault::none) return;
  const fork::Inside inside;
  State::Area& of = state_->area(kind);
  const std::lock_guard lock(of.mutex);
  const std::uint64_t used = of.space.used_end() * granule, free = used - of.live.load(std::memory_order_relaxed);
  if (free >= bytes || bytes - free > of.size - used) return;
  (void)state_->commit_shared(kind, used + (bytes - free)).ok(); // what fails will fail, with its message, for who needs it
}

Result<void> Space::State::commit_private(AreaKind kind, std::uint64_t end) {
  Area& of = area(kind);
  const std::uint64_t old = of.accessible;
  if (end <= old) return {};
  // What is present costs memory: no more of it than may be used soon, but whole huge pages where those are wanted.
  const bool ahead = owner.prefault_ == Prefault::none;
  const std::uint64_t step =
      ahead ? std::clamp(std::bit_ceil(old + 1) / 2, first_data_step, last_data_step) : first_data_step;
  const std::uint64_t rounding =
      ahead || kind != AreaKind::data || end <= first_huge_data ? system::page_size : system::huge_page_size;
  const std::uint64_t wanted = base::align_up(of.begin + std::max(end, old + step), rounding) - of.begin;
  const std::uint64_t target = std::min(wanted, of.size);
  Result<void> done =
      system::protect(reinterpret_cast<void*>(of.begin + old), target - old, PROT_READ | PROT_WRITE, area_name(kind));
  if (!done) return done;
  if (done = prefault(kind, of.begin + old, target - old); !done) {
    (void)system::discard(reinterpret_cast<void*>(of.begin + old), target - old);
    (void)system::deny_access(reinterpret_cast<void*>(of.begin + old), target - old);
    return done;
  }
  of.accessible = target;
  of.committed.store(target, std::memory_order_release);
  watch_steps(kind);
  return {};
}

Result<void> Space::State::commit(AreaKind kind, std::uint64_t end) {
  if (dual(kind)) return commit_shared(kind, end);
  if (!paged(kind)) return commit_private(kind, end);
  return {}; // block by block
}

// What came back may lie in what has gone back to the system since.
Result<Piece> Space::State::backed(AreaKind kind, const Piece& run) {
  Area& of = area(kind);
  if (!dual(kind) && of.idle == nullptr) return run;
  const std::uint64_t begin = run.begin * granule, end = run.end() * granule;
  mark_used(kind, begin, end);
  Result<void> done;
  if (of.hole_bytes.load(std::memory_order_relaxed) != 0)
    done = fill_holes(kind, begin, std::min(end, of.committed.load(std::memory_order_relaxed)));
  if (const std::uint64_t old = of.committed.load(std::memory_order_relaxed); done && dual(kind) && end > old) {
    done = commit(kind, end);
    if (done && begin > old) mark_idle(kind, old, begin); // free, and backed now, for the sake of the block's alignment
  }
  if (done) return run;
  put_back(kind, run);
  return std::move(done).error();
}

bool Space::State::has_hole(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept {
  const Area& of = area(kind);
  if (of.hole_bytes.load(std::memory_order_relaxed) == 0) return false;
  for (std::uint64_t step = begin / small_step; step * small_step < end; ++step)
    if (is_hole(of, step)) return true;
  return false;
}

Result<void> Space::State::fill_holes(AreaKind kind, std::uint64_t begin, std::uint64_t end) {
  Area& of = area(kind);
  for (std::uint64_t step = begin / small_step; step * small_step < end; ++step) {
    if (!is_hole(of, step)) continue;
    if (dual(kind)) { // private memory comes by itself
      std::byte* const bytes = owner.writable({of.begin + step * small_step});
      if (Result<void> done = system::populate_for_write(bytes, small_step, area_name(kind)); !done) return done;
      if (kind == AreaKind::code) std::memset(bytes, trap_byte, small_step);
    }
    set_hole(of, step, false);
    ++of.refilled;
  }
  return {};
}

// Under the area's mutex.
Result<Piece> Space::State::take(AreaKind kind, std::uint32_t size, std::uint32_t alignment, std::uint32_t slots) {
  Area& of = area(kind);
  if (const std::optional<Piece> run = of.space.take(size, alignment, slots)) return backed(kind, *run);
  const std::optional<FreeSpace::Fresh> place = of.space.plan_fresh(size, alignment, slots);
  if (!place) {
    if (const std::optional<Piece> run = of.space.take(size, alignment, slots, true)) return backed(kind, *run);
    return exhausted(kind, size * granule, of.size);
  }
  if (Result<void> done = table.grow(static_cast<std::size_t>(of.index), place->end); !done) return std::move(done).error();
  if (Result<void> done = commit(kind, place->end * granule); !done) return std::move(done).error();
  const std::uint32_t used = of.space.used_end(), live = place->begin > used ? of.space.live_end() : used;
  const Piece run = of.space.take_fresh(*place, slots);
  if (place->begin > used) // what alignment leaves free is backed from the start
    mark_idle(kind, std::max(live * granule, base::align_down(used * granule, small_step)), place->begin * granule);
  of.slot_count.store(of.space.slot_count(), std::memory_order_release);
  return backed(kind, run); // it may begin in what came back
}

Result<Block> Space::allocate(AreaKind kind, std::uint64_t size, std::uint64_t alignment, std::uint32_t slots) {
  if (!base::is_power_of_two(alignment) || alignment > largest_alignment)
    return Error{ErrorCode::invalid_argument, "an alignment is a power of two up to 2 MiB"};
  TENON_CHECK(kind != AreaKind::frames, "the unwinder's table is not allocated in blocks");
  TENON_CHECK(slots == 0 || kind == AreaKind::code, "only code has entries in the unwinder's table");
  State::Area& of = state_->area(kind);
  if (size > of.size) return exhausted(kind, size, of.size);
  const bool paged = state_->paged(kind);
  const std::uint64_t unit = paged ? system::page_size : granule;
  size = base::align_up(std::max<std::uint64_t>(size, 1), unit);
  alignment = std::max(alignment, unit);

  const fork::Inside inside;
  const std::lock_guard lock(of.mutex);
  Result<Piece> run =
      state_->take(kind, static_cast<std::uint32_t>(size / granule), static_cast<std::uint32_t>(alignment / granule), slots);
  if (!run) return std::move(run).error();
  const Block block{{of.begin + run->begin * granule}, run->size * granule, kind, run->first_slot, run->slots};
  if (paged) {
    Result<void> done = system::protect(block.begin.as<void*>(), block.size, PROT_READ | PROT_WRITE, area_name(kind));
    if (done) done = state_->prefault(kind, block.begin.value, block.size);
    if (!done) {
      (void)system::discard(block.begin.as<void*>(), block.size);
      (void)system::deny_access(block.begin.as<void*>(), block.size);
      of.space.give_back(*run);
      return std::move(done).error();
    }
    if (kind == AreaKind::code) std::memset(block.begin.as<void*>(), trap_byte, block.size);
    for (std::uint64_t page = run->begin * granule / system::page_size; page < run->end() * granule / system::page_size;
         ++page)
      of.pages[page] = {0, 0, system::page_size / granule};
    of.committed.store(of.space.used_end() * granule, std::memory_order_relaxed);
  }
  of.live.store(of.live.load(std::memory_order_relaxed) + block.size, std::memory_order_relaxed);
  return block;
}

Result<Block> Space::allocate_low(AreaKind kind, std::uint64_t size, std::uint64_t alignment, std::uint32_t slots,
                                  Addr below) {
  State::Area& of = state_->area(kind);
  TENON_CHECK(state_->dual(kind), "memory is chosen by address in dual mode only");
  TENON_CHECK(base::is_power_of_two(alignment) && alignment <= largest_alignment, "a block's alignment");
  if (size > of.size || below.value <= of.begin) return exhausted(kind, size, of.size);
  const std::uint64_t end = std::min(below.value - of.begin, of.size) / granule;
  const auto granules = static_cast<std::uint32_t>(base::align_up(std::max<std::uint64_t>(size, 1), granule) / granule);
  const auto step = static_cast<std::uint32_t>(std::max<std::uint64_t>(alignment, granule) / granule);
  const fork::Inside inside;
  const std::lock_guard lock(of.mutex);
  const std::optional<Piece> found = of.space.take_lowest(granules, step, slots, static_cast<std::uint32_t>(end));
  if (!found) return exhausted(kind, size, of.size);
  Result<Piece> run = state_->backed(kind, *found);
  if (!run) return std::move(run).error();
  const Block block{{of.begin + run->begin * granule}, run->size * granule, kind, run->first_slot, run->slots};
  of.live.store(of.live.load(std::memory_order_relaxed) + block.size, std::memory_order_relaxed);
  return block;
}

bool Space::has_room_before(AreaKind kind, std::uint64_t size, Addr below) const noexcept {
  State::Area& of = state_->area(kind);
  if (size > of.size || below.value <= of.begin) return false;
  const std::uint64_t end = std::min(below.value - of.begin, of.size) / granule;
  const fork::Inside inside;
  const std::lock_guard lock(of.mutex);
  return of.space.has_range(static_cast<std::uint32_t>(size / granule), static_cast<std::uint32_t>(end));
}

void Space::prefetch(const Block& block) const noexcept {
  const State::Area& of = state_->area(block.area);
  if (state_->paged(block.area)) return;
  if (block.area == AreaKind::code) base::prefetch_to_write(writable(block.begin)); // to be filled with traps
  of.space.prefetch(static_cast<std::uint32_t>((block.begin.value - of.begin) / granule),
                    static_cast<std::uint32_t>((block.end().value - of.begin) / granule));
}

void Space::prefetch_neighbours(const Block& block) const noexcept {
  const State::Area& of = state_->area(block.area);
  if (state_->paged(block.area)) return;
  of.space.prefetch_neighbours(static_cast<std::uint32_t>((block.begin.value - of.begin) / granule),
                               static_cast<std::uint32_t>((block.end().value - of.begin) / granule));
}

void Space::free(const Block& block) noexcept {
  if (block.size == 0) return;
  State::Area& of = state_->area(block.area);
  TENON_CHECK((block.begin.value | block.size) % granule == 0 && block.begin.value >= of.begin &&
                  block.end().value <= of.begin + of.size,
              "a block to free lies in its area, at whole granules");
  const fork::Inside inside;
  if (state_->paged(block.area)) {
    state_->give_back_pages(block.area, block);
    return;
  }
  // Before the lock: nobody else has this memory yet.
  if (block.area == AreaKind::code) std::memset(writable(block.begin), trap_byte, block.size);
  const std::lock_guard lock(of.mutex);
  state_->put_back(block.area, {static_cast<std::uint32_t>((block.begin.value - of.begin) / granule),
                                static_cast<std::uint32_t>(block.size / granule), block.first_slot, block.slots});
  of.live.store(of.live.load(std::memory_order_relaxed) - block.size, std::memory_order_relaxed);
}

// Gives back the pages of which nothing is live any more. Entries that come with the part go to the lowest such page, or
// wait on the part's first page: in either case parts in address order put their entries on pages in address order, so a
// page's entries are always adjacent.
void Space::State::give_back_pages(AreaKind kind, const Block& block) noexcept {
  constexpr std::uint64_t page_granules = system::page_size / granule;
  Area& of = area(kind);
  const std::lock_guard lock(of.mutex);
  const std::uint64_t begin = (block.begin.value - of.begin) / granule;
  const std::uint64_t end = begin + block.size / granule;
  const std::uint64_t first = begin / page_granules, last = (end - 1) / page_granules;
  for (std::uint64_t page = first; page <= last; ++page) {
    const std::uint64_t part = std::min(end, (page + 1) * page_granules) - std::max(begin, page * page_granules);
    TENON_CHECK(of.pages[page].live >= part, "a block is freed once");
    of.pages[page].live -= static_cast<std::uint32_t>(part);
  }
  std::uint64_t home = first;
  while (home < last && of.pages[home].live != 0) ++home;
  if (block.slots != 0) {
    Page& page = of.pages[of.pages[home].live == 0 ? home : first];
    if (page.slots == 0 || block.first_slot < page.first_slot) page.first_slot = block.first_slot;
    page.slots += block.slots;
  }
  for (std::uint64_t page = first; page <= last;) {
    Piece run{static_cast<std::uint32_t>(page * page_granules), 0, 0, 0};
    for (; page <= last && of.pages[page].live == 0; ++page) {
      if (run.slots == 0) run.first_slot = of.pages[page].first_slot;
      run.slots += of.pages[page].slots;
      run.size += page_granules;
    }
    if (run.size != 0)
      return_pages(kind, run);
    else
      ++page;
  }
}

// The pages lose their content and all access: a wild jump faults. If the kernel has no mapping left to split, they stay
// readable, but hold zeros, which do not run either.
void Space::State::return_pages(AreaKind kind, const Piece& run) noexcept {
  Area& of = area(kind);
  void* const at = reinterpret_cast<void*>(of.begin + run.begin * granule);
  if (owner.prefault_ == Prefault::lock) system::unlock(at, run.size * granule); // locked pages can't be discarded
  (void)system::discard(at, run.size * granule);
  (void)system::deny_access(at, run.size * granule);
  of.space.give_back(run);
  of.live.store(of.live.load(std::memory_order_relaxed) - run.size * granule, std::memory_order_relaxed);
}

Result<void> Space::publish(const Block& block) {
  if (!state_->paged(block.area)) return {};
  const int protection = block.area == AreaKind::code ? PROT_READ | PROT_EXEC : PROT_READ;
  return system::protect(block.begin.as<void*>(), block.size, protection, area_name(block.area));
}

AreaUsage Space::usage(AreaKind kind) const noexcept {
  const State::Area& of = state_->area(kind);
  return {of.size, of.committed.load(std::memory_order_relaxed) - of.hole_bytes.load(std::memory_order_relaxed),
          of.live.load(std::memory_order_relaxed)};
}

std::uint64_t Space::used(AreaKind kind) const noexcept {
  State::Area& of = state_->area(kind);
  const fork::Inside inside;
  const std::lock_guard lock(of.mutex);
  return of.space.live_end() * granule;
}

std::uint32_t Space::slot_count() const noexcept {
  return state_->area(AreaKind::code).slot_count.load(std::memory_order_acquire);
}

Result<void> Space::commit_frames(std::uint64_t bytes) {
  State::Area& of = state_->area(AreaKind::frames);
  if (bytes <= of.committed.load(std::memory_order_acquire)) return {};
  if (bytes > of.size) return exhausted(AreaKind::frames, bytes, of.size);
  const fork::Inside inside;
  const std::lock_guard lock(of.mutex);
  return state_->commit(AreaKind::frames, bytes);
}

void Space::enter_write() noexcept { fork::enter(); }
void Space::leave_write() noexcept { fork::leave(); }

// In the child the old alias still shows the parent's memory, which nobody changes until this is over: a new file gets what
// has been used, through the file interface (no page faults, no zeroing first), and takes the place of the old one in both
// views, at the same addresses.
void Space::State::copy_in_child(fork::Participant& self) noexcept {
  State& state = static_cast<State&>(self);
  try {
    Result<int> fd = system::memory_file(state.alias_size, "the child's code and read-only data");
    if (!fd) fork::give_up_in_child(fd.error().message.c_str());
    for (const AreaKind kind : {AreaKind::rodata, AreaKind::frames, AreaKind::slots, AreaKind::code}) {
      const Area& of = state.area(kind);
      std::uint64_t at = of.begin - state.owner.dual_begin_;
      const std::uint64_t end = at + of.committed.load(std::memory_order_relaxed);
      const std::uint64_t begin = at;
      while (at < end) {
        const std::uint64_t step = (at - begin) / small_step;
        const std::uint64_t next = begin + (step + 1) * small_step;
        if (is_hole(of, step)) {
          at = next;
          continue;
        }
        const std::uint64_t stop = of.hole_bytes.load(std::memory_order_relaxed) != 0 ? std::min(next, end) : end;
        const ssize_t written = base::fault::injected(base::fault::Call::pwrite)
                                    ? -1
                                    : ::pwrite(*fd, state.alias + at, stop - at, static_cast<off_t>(at));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fork::give_up_in_child("pwrite of the child's code and read-only data");
        at += static_cast<std::uint64_t>(written);
      }
    }
    if (Result<void> done = state.map_views(*fd); !done) fork::give_up_in_child(done.error().message.c_str());
    Result<std::byte*> writable = system::map(state.alias, state.alias_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                              *fd, 0, "the child's writable alias");
    if (!writable) fork::give_up_in_child(writable.error().message.c_str());
    system::advise(state.alias, state.alias_size, MADV_DONTDUMP);
    ::close(*fd);
    // Locks are not inherited, as with all memory: nobody has asked for the child's.
    if (state.owner.prefault_ == Prefault::lock) state.owner.prefault_ = Prefault::populate;
    for (const AreaKind kind : {AreaKind::rodata, AreaKind::frames, AreaKind::slots, AreaKind::code})
      if (const std::uint64_t size = state.area(kind).committed.load(std::memory_order_relaxed); size != 0)
        if (Result<void> done = state.prefault(kind, state.area(kind).begin, size); !done)
          fork::give_up_in_child(done.error().message.c_str());
  } catch (...) {
    errno = ENOMEM;
    fork::give_up_in_child("an error message");
  }
  for (const AreaKind kind : {AreaKind::rodata, AreaKind::code}) {
    const Area& of = state.area(kind);
    state.show_to_core_dumps(kind, of.begin, of.begin + of.committed.load(std::memory_order_relaxed));
  }
}

} // namespace tenon::memory

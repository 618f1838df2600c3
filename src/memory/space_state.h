// What a Space is made of, for the files that it is written in: space.cpp, and space_rest.cpp for when nobody has it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/quick_mutex.h"
#include "memory/fork.h"
#include "memory/free_space.h"
#include "memory/space.h"
#include "memory/system.h"

#include <atomic>
#include <memory>

namespace tenon::memory {

inline constexpr std::uint64_t frame_entry_size = 8;
inline constexpr std::uint64_t frame_header_room = 4096; // notify keeps a header in the frames area
inline constexpr std::uint64_t small_step = std::uint64_t(64) << 10;
inline constexpr std::uint32_t least_kept = 1, most_kept = 256; // small_steps

inline constexpr const char* area_name(AreaKind area) noexcept {
  switch (area) {
  case AreaKind::code: return "code";
  case AreaKind::rodata: return "read-only data";
  case AreaKind::slots: return "slots";
  case AreaKind::frames: return "frames";
  case AreaKind::data: return "data";
  }
  return "?";
}

struct Space::State : fork::Participant {
  // One page of code or read-only data in single-mapping mode: its parts come back one by one, the page when all of them
  // have.
  struct Page {
    std::uint32_t first_slot = 0; // entries that came back with parts of this page only
    std::uint32_t slots = 0;
    std::uint32_t live = 0; // granules
  };

  struct Area {
    base::QuickMutex mutex;
    FreeSpace space;
    std::uint64_t begin = 0, size = 0;
    std::unique_ptr<Page[]> pages;
    std::atomic<std::uint64_t> committed{0}; // bytes from the begin: backed
    std::atomic<std::uint64_t> live{0};
    std::atomic<std::uint32_t> slot_count{0};
    std::atomic<std::uint32_t> last_slots{0}; // where the last blocks' ended when somebody looked
    // A bit for each small_step below `committed`; null: there are none yet (or no memory to remember them).
    std::unique_ptr<std::uint64_t[]> holes; // not backed
    std::unique_ptr<std::uint64_t[]> idle;  // backed, and all of it in one free range
    std::atomic<std::uint64_t> hole_bytes{0};
    std::uint32_t idle_steps = 0;
    std::uint32_t kept_steps = least_kept; // how many idle ones may stay
    std::uint32_t refilled = 0;            // holes since the last steps went back
    std::uint64_t highest = 0;             // what was ever committed: growth below that was given back before
    std::uint64_t accessible = 0;          // data and single mode: bytes that are no longer PROT_NONE
    int index = -1;                        // in the side table

    void forget_steps() noexcept {
      holes.reset();
      idle.reset();
      hole_bytes.store(0, std::memory_order_relaxed);
      idle_steps = refilled = 0;
      kept_steps = least_kept;
      highest = 0;
    }
  };

  explicit State(Space& of) : owner(of) {}
  ~State() {
    if (alias != nullptr) system::unmap(alias, alias_size);
    if (range.release != nullptr) range.release(range.owner, range.begin, range.size);
  }

  Area& area(AreaKind kind) noexcept { return areas[std::size_t(kind)]; }
  bool dual(AreaKind kind) const noexcept { return owner.mapping_ == Mapping::dual && kind != AreaKind::data; }
  bool paged(AreaKind kind) const noexcept {
    return owner.mapping_ == Mapping::single && (kind == AreaKind::code || kind == AreaKind::rodata);
  }

  Result<void> map_data();
  Result<void> map_dual();
  Result<void> map_views(int fd);
  Result<std::byte*> map_alias(int fd);
  Result<void> prepare_areas();
  void place_areas() noexcept;
  Result<void> commit(AreaKind kind, std::uint64_t end);
  Result<void> commit_shared(AreaKind kind, std::uint64_t end);
  Result<void> commit_private(AreaKind kind, std::uint64_t end);
  Result<void> commit_step(AreaKind kind, std::uint64_t end, std::uint64_t& at);
  Result<void> prefault(AreaKind kind, std::uint64_t begin, std::uint64_t size);
  Result<Piece> take(AreaKind kind, std::uint32_t size, std::uint32_t alignment, std::uint32_t slots);
  Result<Piece> backed(AreaKind kind, const Piece& run);
  Result<void> fill_holes(AreaKind kind, std::uint64_t begin, std::uint64_t end);
  bool has_hole(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept;

  // space_idle.cpp. All under the area's mutex; offsets in bytes.
  bool gives_back(AreaKind kind) const noexcept;
  void watch_steps(AreaKind kind, std::uint64_t least_committed = (least_kept + 1) * small_step) noexcept;
  void mark_idle(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept;
  void mark_all_idle(AreaKind kind) noexcept;
  void mark_used(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept;
  void put_back(AreaKind kind, const Piece& run) noexcept;
  void give_back_idle(AreaKind kind, std::uint64_t least_free) noexcept;
  void make_holes(AreaKind kind) noexcept;
  void give_back_end(AreaKind kind, std::uint64_t least_free) noexcept;
  static bool is_hole(const Area& of, std::uint64_t step) noexcept {
    return of.holes != nullptr && (of.holes[step / 64] >> step % 64 & 1) != 0;
  }
  static void set_hole(Area& of, std::uint64_t step, bool hole) noexcept {
    of.holes[step / 64] ^= std::uint64_t(1) << step % 64;
    const std::uint64_t bytes = of.hole_bytes.load(std::memory_order_relaxed);
    of.hole_bytes.store(hole ? bytes + small_step : bytes - small_step, std::memory_order_relaxed);
  }
  void give_back_pages(AreaKind kind, const Block& block) noexcept;
  void return_pages(AreaKind kind, const Piece& run) noexcept;
  void show_to_core_dumps(AreaKind kind, std::uint64_t begin, std::uint64_t end) noexcept;
  static void copy_in_child(fork::Participant& self) noexcept;
  static void leave_to_parent(fork::Participant& self) noexcept;
  bool empty_shared(); // these two may throw std::bad_alloc
  bool empty_private();

  Space& owner;
  AddressRange range;
  std::byte* alias = nullptr;
  std::uint64_t alias_size = 0;
  bool registered = false;
  std::atomic<bool> touched{false}; // there was or is something in the shared file
  bool lost = false;                // resting, and the file is the parent's
  SideTable table;
  std::array<Area, area_kinds> areas;
};

} // namespace tenon::memory

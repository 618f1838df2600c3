// One engine's memory: one reservation of address space, areas per kind of content, byte-granular blocks.
//
// Code, read-only data, slots and the unwinder's table are backed by a memfd that is mapped twice for good: the view that
// the program sees (execute or read only) and a writable alias that only the linker uses. Writable data of modules is
// ordinary private memory, committed as it grows. The number of kernel mappings is constant however many blocks there are,
// and no published page ever changes its permissions.
//
// Layout of a reservation, from low to high addresses:
//
//     data | rodata | slots | code | frames
//
// Code lies high because the kernel hands out addresses downwards: the host's libraries lie above, and what code refers to
// PC-relatively there must be within 2 GiB. The unwinder's table lies above all code so that its memory can go: an entry in
// a page that has gone is zero, which says "behind all code" (notify/frames.cpp). Any two bytes of one reservation are
// within reach of each other.
//
// Single-mapping mode (`Mapping::single`) has no alias: emulators and Valgrind do not see writes through one, and some
// kernels forbid executable shared memory. There every block of code and read-only data takes whole pages, which are
// writable until `publish` and never after; slots and frames are plain data. The number of mappings then grows with the
// blocks.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/result.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tenon::memory {

enum class AreaKind : std::uint8_t {
  code,   // read + execute
  rodata, // read; GOTs and unwind information of modules live here too
  slots,  // read; pointer-sized cells that the engine stores to while the program runs
  frames, // read; the unwinder's sorted table, one per reservation, never allocated from in blocks
  data,   // read + write
};
inline constexpr std::size_t area_kinds = 5;

enum class Mapping : std::uint8_t { dual, single };

// Whether the program's view of memory is there before it is used, page tables included. `populate`: present. `lock`: and
// never swapped out. All of an area up to where it has grown, so that memory which is used again is present as well.
enum class Prefault : std::uint8_t { none, populate, lock };

// A piece of one area. A plain value: who holds it frees it. Any part of a block may be freed on its own, see free().
struct Block {
  Addr begin;
  std::uint64_t size : 48 = 0; // bytes, a multiple of the granule (16)
  AreaKind area : 8 = AreaKind::code;
  std::uint32_t first_slot = 0; // code only: this block's entries of the unwinder's table
  std::uint32_t slots = 0;

  Addr end() const noexcept { return begin + size; }
};

// Where a reservation's addresses come from. `release` gives the whole range back (and whatever is mapped there).
struct AddressRange {
  std::byte* begin = nullptr;
  std::size_t size = 0;
  void (*release)(void* owner, std::byte* begin, std::size_t size) noexcept = nullptr;
  void* owner = nullptr;
  std::size_t reserved_prefix = 0; // bytes at the start that belong to the range's maker (an ELF header), page-aligned
};

struct SpaceOptions {
  std::uint64_t size = std::uint64_t(1) << 31; // bytes of address space; at most 2 GiB
  bool low_2gib = false;                       // everything below 2^31, for objects with 32-bit absolute relocations
  Mapping mapping = Mapping::dual;
  Prefault prefault = Prefault::none;
};

// A place for a reservation of `size` bytes: near, and below, the host's libraries, or in the low 2 GiB. A hint: the range
// is free now. Zero if there is none.
Addr find_place(const SpaceOptions& options) noexcept;

// Where a reservation would be wanted again whatever has come and gone since: code, the top third of it, near libc.
bool is_good_place(Addr begin, std::uint64_t size) noexcept;

// Reading the process's mappings takes longer than all else about a reservation, so one that ends leaves its place to the
// next of its size. Without a lock, at most one is remembered: the highest. Zero: none is. Somebody may have mapped
// something there since: whoever takes it must see what he gets, and then look with find_place().
void give_back_place(Addr begin, std::uint64_t size) noexcept;
Addr take_given_back(std::uint64_t size) noexcept;

// Reserves plain address space at the hint or anywhere. Errors: exhausted (low_2gib and no room), system.
Result<AddressRange> reserve(const SpaceOptions& options);

// Where the areas of a reservation of `size` bytes lie, as offsets from its begin: fixed by the size alone, so that the
// maker of an anchor can name the place of the unwinder's table before there is a Space.
struct AreaBounds {
  std::uint64_t begin = 0, end = 0;
};
std::array<AreaBounds, area_kinds> area_layout(std::uint64_t size, std::uint64_t reserved_prefix) noexcept;

struct AreaUsage {
  std::uint64_t reserved = 0;  // address space
  std::uint64_t committed = 0; // bytes backed: all that were ever handed out, but for what was given back
  std::uint64_t live = 0;      // bytes in live blocks
};

class Space {
public:
  // Takes over `range`. Errors: system (names the call and errno), out_of_memory.
  static Result<std::shared_ptr<Space>> create(const SpaceOptions& options, AddressRange range);
  ~Space();
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  // A block of at least `size` bytes at `alignment` (a power of two up to 2 MiB). `slots` asks for that many entries of the
  // unwinder's table in address order with it (code only). Any thread. Contents are undefined (trap bytes in code), and all
  // of it is already committed. Errors: exhausted; system (commit or lock refused). Nothing changes on an error.
  Result<Block> allocate(AreaKind area, std::uint64_t size, std::uint64_t alignment, std::uint32_t slots = 0);

  // So much of an area is about to be allocated in small blocks: it is backed in large steps, huge pages where there are
  // any. A hint, which does nothing where it can't. Any thread.
  void expect(AreaKind area, std::uint64_t bytes) noexcept;

  // A block at the lowest free address before `below`, of what was in use before; it takes time for each free range. Dual
  // mode only. Errors: exhausted, too, if there is no room there.
  Result<Block> allocate_low(AreaKind area, std::uint64_t size, std::uint64_t alignment, std::uint32_t slots, Addr below);

  // Whether some free range of what was in use before has that many bytes and begins before `below`.
  bool has_room_before(AreaKind area, std::uint64_t size, Addr below) const noexcept;

  // Gives a block, or any granule-aligned part of one (with its share of the slots), back. Code is filled with trap bytes
  // first. Any thread. Never fails, never allocates.
  void free(const Block& block) noexcept;

  // Asks for the memory that free() will look at, of a block that somebody has; then for what that leads to.
  void prefetch(const Block& block) const noexcept;
  void prefetch_neighbours(const Block& block) const noexcept;

  // The linker's view of an address in code, rodata, slots or frames; for data the address itself. The pointer is used only
  // under a WriteGuard.
  std::byte* writable(Addr address) const noexcept {
    return address.as<std::byte*>() + alias_distance_[address.value >= dual_begin_ ? 1 : 0];
  }

  // Free memory of an area goes back to the system, in steps of 64 KiB; it is backed again before it is handed out. From a
  // certain amount on free() does that by itself (space_idle.cpp); this leaves nothing of it. Code, read-only data and slots
  // in dual mode only, and not what was asked to be present; elsewhere, and if the system refuses, nothing happens. Any
  // thread. Takes time for each step.
  void release_unused(AreaKind area) noexcept;

  // Single-mapping mode: makes the pages of a finished block read-only or executable. Dual: nothing to do.
  // Errors: system.
  Result<void> publish(const Block& block);

  // Address range of an area: nothing of it will ever lie outside.
  Addr area_begin(AreaKind area) const noexcept { return bounds_[std::size_t(area)].begin; }
  Addr area_end(AreaKind area) const noexcept { return bounds_[std::size_t(area)].end; }
  Addr begin() const noexcept;
  Addr end() const noexcept;
  bool contains(Addr address) const noexcept { return address >= begin() && address < end(); }

  Mapping mapping() const noexcept { return mapping_; }
  AreaUsage usage(AreaKind area) const noexcept;
  // Where its last block ends, in bytes from its begin.
  std::uint64_t used(AreaKind area) const noexcept;
  // Entries of the unwinder's table handed out so far, live or not: the table's length.
  std::uint32_t slot_count() const noexcept;

  // Makes sure that the first `bytes` of the frames area are backed (they are used from the front). Errors: system,
  // exhausted.
  Result<void> commit_frames(std::uint64_t bytes);
  // If much memory of the frames area lies behind the entries of the last block of code, it goes back to the system, after
  // a call of forget(context, end): from `end` on no entry belongs to a block, and nobody gets one before this is over.
  // `forget` may take locks that come after those of the areas. Never fails. Any thread; a look at two numbers most often.
  static constexpr std::uint64_t frame_step = std::uint64_t(64) << 10; // what stays is whole steps
  void release_frames(void (*forget)(void* context, std::uint32_t end) noexcept, void* context) noexcept;

  // For spare.h: whether it could serve another engine.
  bool is_reusable() const noexcept;
  // Empties it: nobody uses anything of its memory any more. Until wake() a wild jump, read or write faults as if nothing
  // were mapped, and mlockall() finds nothing to make present; but the first page of the unwinder's table can be read, and
  // says that there is none. The caller is inside of the gate, for both. False: it can only be destroyed.
  bool rest() noexcept;
  bool wake() noexcept;

  // Held, shared, by whoever writes through `writable`: fork() waits for all of them, and the parent's writers wait until
  // the child has its own copy.
  void enter_write() noexcept;
  void leave_write() noexcept;

private:
  struct State;
  struct Bounds {
    Addr begin, end;
  };

  Space() = default;

  std::uint64_t dual_begin_ = 0;                   // data lies below, everything that has an alias above
  std::array<std::ptrdiff_t, 2> alias_distance_{}; // [0] for data: 0; [1] for the rest
  Mapping mapping_ = Mapping::dual;
  Prefault prefault_ = Prefault::none;
  std::array<Bounds, area_kinds> bounds_{};
  std::unique_ptr<State> state_;
};

class WriteGuard {
public:
  explicit WriteGuard(Space& space) noexcept : space_(space) { space_.enter_write(); }
  ~WriteGuard() { space_.leave_write(); }
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;

private:
  Space& space_;
};

} // namespace tenon::memory

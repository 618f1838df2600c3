// The unwinder is told of published code: through one dlopen'ed "anchor" per engine, whose sorted table the engine owns.
//
// glibc's _dl_find_object and libgcc's dl_iterate_phdr walk find, for any PC in the reservation, the anchor's
// PT_GNU_EH_FRAME: a binary search table in the format of the LSB's .eh_frame_hdr (version 1, datarel|sdata4). Adding or
// removing a module's frames is a few stores, whatever the number of modules, with no call into libgcc and no lock of its
// own.
//
// Why a concurrent throw is safe: every block of code owns a contiguous run of entries (memory::Block::first_slot, slots),
// in address order, for as long as the address range exists, live or free. Entries of a run only ever hold locations inside
// the run's own address range. A search for a PC outside the range compares the same way whatever the run holds, and nobody
// executes inside the range while its entries are rewritten. So no entry ever moves under a search. Unused entries hold a
// location in the range and a frame description of no bytes. frames.cpp has the argument in full.
//
// The life of a block of code: allocate with slots_for(number of frames) slots (so at least one, also for code without any
// frames) -> prepare -> add -> publish -> nobody runs it any more -> remove -> free. A block that is dropped early is freed
// after prepare, or without it; only after add it needs remove.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/quick_mutex.h"
#include "memory/space.h"

#include <atomic>
#include <memory>
#include <span>
#include <utility>

namespace tenon::notify {

struct Frame {
  Addr pc;  // start of a function, in the code area
  Addr fde; // its frame description entry, in the rodata area
};

// Reserves address space by dlopen of a generated ELF file whose one PT_LOAD spans `options.size` bytes at the hint of
// memory::find_place (0: anywhere). The unwinder's table is where Space will have its frames area (the layout is fixed by
// Space, see frame_table.h). Errors: system (dlopen's text, memfd), exhausted (low_2gib and no room), invalid_argument
// (size).
Result<memory::AddressRange> reserve_anchor(const memory::SpaceOptions& options);

class Frames {
public:
  // For a Space over a range made by reserve_anchor, which must live as long as the Frames. The header and the empty frame
  // description are written when the first block is prepared: an engine without code has no memory for them.
  static Result<Frames> create(memory::Space& space);

  // How many slots a block with so many frames asks for: one more, for what lies before its first function. A search for a
  // PC of the block then always ends at one of the block's own entries.
  static constexpr std::uint32_t slots_for(std::size_t frames) noexcept { return static_cast<std::uint32_t>(frames) + 1; }

  // Once for every block of code, after it is allocated and before anything runs in it, frames or none: makes sure that
  // there is memory for its entries and takes them over from whoever had the addresses before. The only step that fails
  // (system, exhausted: then nothing has changed and the block may be freed). Any thread; takes a WriteGuard itself, whether
  // the caller is inside of the gate or not. Costs the block's slots, and those that the free range around it has left over.
  Result<void> prepare(const memory::Block& code);
  // `frames` sorted by pc, at most code.slots of them, each inside `code`; fewer than code.slots unless the first one starts
  // at code.begin. The caller holds a WriteGuard. Lock-free.
  void add(const memory::Block& code, std::span<const Frame> frames) noexcept;
  // After this no search finds a frame of `code`, which may be a part of a prepared block. The caller holds a WriteGuard.
  void remove(const memory::Block& code) noexcept;
  // After a block of code was freed: if that has left much of the table's end to nobody, its memory goes back to the system.
  // Any thread.
  void shrink() noexcept;
  // Asks for the entries that remove() will write.
  void prefetch(const memory::Block& code) const noexcept;
  // {first, number} of the slots of the part [begin, end) of a prepared block: what to put into a Block that removes and
  // frees just that part. Other parts may have been freed before, and be in use by other blocks.
  std::pair<std::uint32_t, std::uint32_t> slots_within(const memory::Block& code, Addr begin, Addr end) const noexcept;

private:
  struct Preparing { // in the heap so that Frames can move
    base::QuickMutex mutex;
    std::atomic<bool> begun{false}; // the header is there
  };

  Frames() = default;
  Result<void> begin_table();

  memory::Space* space_ = nullptr;
  Addr header_;
  Addr empty_fde_;
  std::unique_ptr<Preparing> preparing_;
};

// Unwind information of code that lies in the client's own memory, registered with libgcc the classic way. Its cost grows
// with the number of registrations alive: the unwinder has no other door for memory that somebody else mapped. From the
// first one on, libgcc before 13 takes its object_mutex for every look-up, and a fork may leave it locked in the child.
// `eh_frame` is a local pointer to relocated .eh_frame content that ends in a zero length.
class ForeignFrames {
public:
  ForeignFrames() = default;
  explicit ForeignFrames(const std::byte* eh_frame);
  ~ForeignFrames();
  ForeignFrames(ForeignFrames&& other) noexcept : eh_frame_(std::exchange(other.eh_frame_, nullptr)) {}
  ForeignFrames& operator=(ForeignFrames&& other) noexcept {
    std::swap(eh_frame_, other.eh_frame_);
    return *this;
  }

private:
  const std::byte* eh_frame_ = nullptr;
};

} // namespace tenon::notify

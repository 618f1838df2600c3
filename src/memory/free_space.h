// Which granules of an area are free: a bump pointer for what was never used, size-class bins for what came back.
//
// Live blocks have no headers and free memory holds no bookkeeping (it is full of trap bytes, and the program can see it),
// so all of it stands beside the area, in a SideTable. A free range is a 24-byte node from a dense pool; the tag (4 bytes)
// of its first and of its last granule names the node, which is how a freed block finds its neighbours. Tags are never
// cleared: a tag only counts if the node it names ends, or begins, at just this granule. So freeing any granule-aligned part
// of a block costs the same as freeing all of it: two tag reads, a bin operation or three, two tag writes.
//
// Bins follow two-level segregated fit (Masmano et al., "TLSF", ECRTS 2004): exact up to 15 granules, then eight per power
// of two, one bit each in a bitmap. A search looks at a few ranges per bin and gives up after a bounded number; then fresh
// memory is taken, and only when there is none left is every range looked at.
//
// Entries of the unwinder's table ("slots", see notify/frames.h) belong to address ranges, live or free, in address order.
// Fresh memory appends entries at the table's end, splitting shares them out, coalescing joins runs that are adjacent
// because nothing else can lie between.
//
// When few ranges are left of many, nodes move together, and their memory goes back; so does that of tags inside of free
// ranges whose own memory goes back. A tag that names a node beyond those in use is not believed either.
//
// Not thread-safe: the owner locks. Nothing here allocates or fails but for SideTable::grow.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include "base/prefetch.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

namespace tenon::memory {

inline constexpr std::uint64_t granule = 16;

// A stretch of granules, counted from the area's begin, with its entries of the unwinder's table.
struct Piece {
  std::uint32_t begin = 0;
  std::uint32_t size = 0;
  std::uint32_t first_slot = 0; // means nothing while `slots` is zero
  std::uint32_t slots = 0;

  std::uint32_t end() const noexcept { return begin + size; }
};

// Memory for tags and nodes of all areas of a Space: one private mapping, so that after fork() each process has its own.
//
// It is as large as the areas themselves (4 bytes of tag and 12 of node per granule: a free range needs at least one granule
// and a live one beside it, so this is never too little), but it is address space only. Resident are the tag pages in which
// free ranges begin or end (at worst a quarter of the area's used part) and one node per free range there ever was at a
// time. Accessible is only as much as the areas' bump pointers need, in stripes that serve an equal part of each area: under
// strict overcommit the kernel counts no more, and two kernel mappings do for all areas.
class SideTable {
public:
  static constexpr std::size_t max_areas = 4;

  // One table for areas of so many granules each.
  static Result<void> create(std::span<const std::uint32_t> capacities, SideTable& out);
  SideTable() = default;
  ~SideTable();
  SideTable(const SideTable&) = delete;
  SideTable& operator=(const SideTable&) = delete;

  // Makes sure that the first `granules` granules of an area have tags and nodes. Any thread. Errors: system.
  Result<void> grow(std::size_t area, std::uint32_t granules);

  // As it was made: what it held is gone, with its memory. No area uses it. False: the system refuses.
  bool reset() noexcept;

private:
  friend class FreeSpace;
  struct Part {
    unsigned shift = 0;           // a stripe serves 2^shift granules
    std::uint64_t tag_offset = 0; // in a stripe
    std::uint64_t node_offset = 0;
  };

  std::byte* begin_ = nullptr;
  std::uint64_t stride_ = 0;
  std::uint32_t stripes_ = 0;
  std::atomic<std::uint32_t> accessible_{0}; // stripes
  std::mutex mutex_;
  std::array<Part, max_areas> parts_{};
};

class FreeSpace {
public:
  // `address` is the area's first byte, for alignments.
  void init(SideTable& table, std::size_t area, std::uint64_t address, std::uint32_t capacity, std::uint32_t slot_capacity);

  // From what came back. `alignment` in granules, a power of two. `patient`: look at every range.
  std::optional<Piece> take(std::uint32_t size, std::uint32_t alignment, std::uint32_t slots, bool patient = false) noexcept;

  // The lowest that fits and begins before `below`; all ranges are looked at.
  std::optional<Piece> take_lowest(std::uint32_t size, std::uint32_t alignment, std::uint32_t slots,
                                   std::uint32_t below) noexcept;
  bool has_range(std::uint32_t size, std::uint32_t below) const noexcept;

  // Asks for what giving back a block will look at first; and, once that is there, for what it will look at then: its
  // neighbours, if they are free. The owner need not lock: what is found may be wrong, and is not used.
  void prefetch(std::uint32_t begin, std::uint32_t end) const noexcept {
    base::prefetch_to_write(&tag_at(begin));
    base::prefetch_to_write(&tag_at(end));
  }
  void prefetch_neighbours(std::uint32_t begin, std::uint32_t end) const noexcept {
    const std::uint32_t below = begin != 0 ? tag(begin - 1) : 0, above = tag(end);
    if (below != 0) base::prefetch_to_write(&node(below - 1));
    if (above != 0) base::prefetch_to_write(&node(above - 1));
  }

  // From fresh memory (together with a free range just below it, if there is one): where it would end, then the taking.
  // Between the two the owner grows the SideTable and backs the memory up to Fresh::end.
  struct Fresh {
    std::uint32_t begin = 0, end = 0;
  };
  std::optional<Fresh> plan_fresh(std::uint32_t size, std::uint32_t alignment, std::uint32_t slots) const noexcept;
  Piece take_fresh(Fresh place, std::uint32_t slots) noexcept;

  // The free range that it is a part of now.
  Piece give_back(const Piece& run) noexcept;

  // The memory of tags between these granules, which lie in one free range, goes back to the system.
  void forget_tags(std::uint32_t begin, std::uint32_t end) noexcept;
  // The same of nodes, when by far the most of many are unused: the others move to the front. It looks at each, so there
  // have been as many calls of give_back() since the last time.
  bool is_sparse() const noexcept { return node_count_ > most_sparse_nodes && free_ranges_ < node_count_ / 8; }
  void pack_nodes() noexcept;

  // Calls visit(begin, end) for each free range of what was used.
  template <class Visit> void for_each_range(Visit&& visit) const {
    for (std::uint32_t index = 0; index < node_count_; ++index)
      if (const Node& range = node(index); range.begin != none) visit(range.begin, range.end);
  }

  std::uint32_t used_end() const noexcept { return fresh_; } // granules below were handed out at least once
  // Where the last block ends: what is behind is free, if it was used.
  std::uint32_t live_end() const noexcept;
  std::uint32_t slot_count() const noexcept { return slot_count_; }
  // Where the last block's entries end: those behind belong to the free range at the end.
  std::uint32_t live_slots_end() const noexcept;
  std::uint32_t free_ranges() const noexcept { return free_ranges_; }

private:
  struct Node {
    std::uint32_t begin, end;
    std::uint32_t next, prev; // in the bin; `next` also links unused nodes
    std::uint32_t first_slot, slots;
  };
  static constexpr std::uint32_t none = ~std::uint32_t(0);
  static constexpr std::size_t bins = 256;
  static constexpr std::uint32_t most_sparse_nodes = 1024;

  std::uint32_t& tag_at(std::uint32_t at) const noexcept {
    const std::uint64_t within = at & ((std::uint64_t(1) << shift_) - 1);
    return reinterpret_cast<std::uint32_t*>(tags_ + (at >> shift_) * stride_)[within];
  }
  // Atomic because of prefetch_neighbours(); an ordinary load and store.
  std::uint32_t tag(std::uint32_t at) const noexcept {
    return std::atomic_ref<std::uint32_t>(tag_at(at)).load(std::memory_order_relaxed);
  }
  void set_tag(std::uint32_t at, std::uint32_t index) const noexcept {
    std::atomic_ref<std::uint32_t>(tag_at(at)).store(index + 1, std::memory_order_relaxed);
  }
  Node& node(std::uint32_t index) const noexcept {
    const unsigned shift = shift_ - 1;
    const std::uint64_t within = index & ((std::uint64_t(1) << shift) - 1);
    return reinterpret_cast<Node*>(nodes_ + (index >> shift) * stride_)[within];
  }
  std::uint32_t aligned(std::uint64_t at, std::uint32_t alignment) const noexcept;
  std::uint32_t ending_at(std::uint32_t at) const noexcept;
  std::uint32_t beginning_at(std::uint32_t at) const noexcept;
  bool fits(const Node& range, std::uint32_t size, std::uint32_t alignment, std::uint32_t slots) const noexcept;
  Piece carve(std::uint32_t index, std::uint32_t begin, std::uint32_t size, std::uint32_t slots) noexcept;
  void insert(const Piece& run) noexcept;
  void remove(std::uint32_t index) noexcept;
  void resize(std::uint32_t index, const Piece& to) noexcept;
  void move_node(std::uint32_t from, std::uint32_t to) noexcept;
  static std::size_t bin_of(std::uint32_t size) noexcept;

  // Tags and nodes, as SideTable laid them out.
  std::byte* tags_ = nullptr;
  std::byte* nodes_ = nullptr;
  std::uint64_t stride_ = 0;
  unsigned shift_ = 0;

  std::uint64_t origin_ = 0; // the area's address in granules
  std::uint32_t capacity_ = 0;
  std::uint32_t fresh_ = 0;
  std::uint32_t slot_capacity_ = 0;
  std::uint32_t slot_count_ = 0;
  std::uint32_t node_count_ = 0;
  std::uint32_t free_ranges_ = 0;
  std::uint32_t unused_node_ = none;
  std::array<std::uint32_t, bins> heads_{};
  std::array<std::uint64_t, bins / 64> filled_{};
};

} // namespace tenon::memory

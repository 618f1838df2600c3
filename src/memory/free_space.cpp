// Bins, tags and nodes; see the header for the idea.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/free_space.h"

#include "base/align.h"
#include "base/check.h"
#include "memory/system.h"

#include <algorithm>
#include <bit>

#include <sys/mman.h>

namespace tenon::memory {

namespace {

constexpr std::uint32_t max_stripes = 256;
constexpr unsigned probes_per_bin = 8;
constexpr unsigned probes = 48;
constexpr std::uint32_t granules_per_spare_slot = 16; // fresh memory brings an entry per 256 bytes even if none is asked for

} // namespace

Result<void> SideTable::create(std::span<const std::uint32_t> capacities, SideTable& out) {
  TENON_CHECK(capacities.size() <= max_areas, "a side table serves at most four areas");
  std::uint64_t stride = 0;
  for (std::size_t area = 0; area < capacities.size(); ++area) {
    Part& part = out.parts_[area];
    const std::uint32_t share = (capacities[area] + max_stripes - 1) / max_stripes;
    part.shift = std::max(11u, static_cast<unsigned>(std::bit_width(share > 1 ? share - 1 : 1u)));
    out.stripes_ = std::max(out.stripes_, (capacities[area] >> part.shift) + 1);
    part.tag_offset = stride;
    stride = base::align_up(stride + (sizeof(std::uint32_t) << part.shift), system::page_size);
    part.node_offset = stride;
    stride = base::align_up(stride + (std::uint64_t(24) << (part.shift - 1)), system::page_size);
  }
  Result<std::byte*> begin = system::map(nullptr, stride * out.stripes_, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "the allocator's side table");
  if (!begin) return std::move(begin).error();
  out.begin_ = *begin;
  out.stride_ = stride;
  return {};
}

SideTable::~SideTable() {
  if (begin_ != nullptr) system::unmap(begin_, stride_ * stripes_);
}

Result<void> SideTable::grow(std::size_t area, std::uint32_t granules) {
  // One granule more: the tag just past a range is read when the range comes back.
  const std::uint32_t needed = std::min((granules >> parts_[area].shift) + 1, stripes_);
  if (needed <= accessible_.load(std::memory_order_acquire)) return {};
  const std::lock_guard lock(mutex_);
  const std::uint32_t old = accessible_.load(std::memory_order_relaxed);
  if (needed <= old) return {};
  const std::uint32_t target = std::min(stripes_, std::max(needed, old + old / 4));
  Result<void> done = system::protect(begin_ + stride_ * old, stride_ * (target - old), PROT_READ | PROT_WRITE,
                                      "the allocator's side table");
  if (done) accessible_.store(target, std::memory_order_release);
  return done;
}

bool SideTable::reset() noexcept {
  if (accessible_.load(std::memory_order_acquire) == 0) return true;
  if (!system::reserve_again(begin_, stride_ * stripes_)) return false;
  accessible_.store(0, std::memory_order_release);
  return true;
}

void FreeSpace::init(SideTable& table, std::size_t area, std::uint64_t address, std::uint32_t capacity,
                     std::uint32_t slot_capacity) {
  static_assert(sizeof(Node) == 24, "the side table is laid out for nodes of this size");
  const SideTable::Part& part = table.parts_[area];
  tags_ = table.begin_ + part.tag_offset;
  nodes_ = table.begin_ + part.node_offset;
  stride_ = table.stride_;
  shift_ = part.shift;
  origin_ = address / granule;
  capacity_ = capacity;
  slot_capacity_ = slot_capacity;
  heads_.fill(none);
}

std::uint32_t FreeSpace::aligned(std::uint64_t at, std::uint32_t alignment) const noexcept {
  return static_cast<std::uint32_t>(base::align_up(origin_ + at, alignment) - origin_);
}

// Tags hold node index + 1, so that 0 names no node; what a tag says is believed only if the node agrees. Unused nodes begin
// and end at `none`.
inline std::uint32_t FreeSpace::ending_at(std::uint32_t at) const noexcept {
  if (at == 0) return none;
  const std::uint32_t index = tag(at - 1) - 1;
  return index < node_count_ && node(index).end == at ? index : none;
}

inline std::uint32_t FreeSpace::beginning_at(std::uint32_t at) const noexcept {
  if (at >= fresh_) return none;
  const std::uint32_t index = tag(at) - 1;
  return index < node_count_ && node(index).begin == at ? index : none;
}

inline std::size_t FreeSpace::bin_of(std::uint32_t size) noexcept {
  if (size < 16) return size;
  const unsigned power = static_cast<unsigned>(std::bit_width(size)) - 1;
  return 16 + (power - 4) * 8 + ((size >> (power - 3)) & 7);
}

void FreeSpace::insert(const Piece& run) noexcept {
  std::uint32_t index = unused_node_;
  if (index != none)
    unused_node_ = node(index).next;
  else
    index = node_count_++;
  const std::size_t bin = bin_of(run.size);
  const std::uint32_t head = heads_[bin];
  node(index) = {run.begin, run.end(), head, none, run.first_slot, run.slots};
  if (head != none) node(head).prev = index;
  heads_[bin] = index;
  filled_[bin / 64] |= std::uint64_t(1) << (bin % 64);
  set_tag(run.begin, index);
  set_tag(run.end() - 1, index);
  ++free_ranges_;
}

void FreeSpace::remove(std::uint32_t index) noexcept {
  Node& gone = node(index);
  if (gone.next != none) node(gone.next).prev = gone.prev;
  if (gone.prev != none) {
    node(gone.prev).next = gone.next;
  } else {
    const std::size_t bin = bin_of(gone.end - gone.begin);
    heads_[bin] = gone.next;
    if (gone.next == none) filled_[bin / 64] &= ~(std::uint64_t(1) << (bin % 64));
  }
  gone.begin = gone.end = none;
  gone.next = unused_node_;
  unused_node_ = index;
  --free_ranges_;
}

bool FreeSpace::fits(const Node& range, std::uint32_t size, std::uint32_t alignment, std::uint32_t slots) const noexcept {
  return slots <= range.slots && std::uint64_t(aligned(range.begin, alignment)) + size <= range.end;
}

std::optional<Piece> FreeSpace::take(std::uint32_t size, std::uint32_t alignment, std::uint32_t slots,
                                     bool patient) noexcept {
  unsigned tries = patient ? ~0u : probes;
  for (std::size_t bin = bin_of(size); bin < bins; ++bin) {
    std::size_t word = bin / 64;
    std::uint64_t bits = filled_[word] & (~std::uint64_t(0) << (bin % 64));
    while (bits == 0) {
      if (++word == filled_.size()) return std::nullopt;
      bits = filled_[word];
    }
    bin = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
    unsigned here = patient ? ~0u : probes_per_bin;
    for (std::uint32_t index = heads_[bin]; index != none && here != 0; index = node(index).next, --here) {
      if (fits(node(index), size, alignment, slots)) return carve(index, aligned(node(index).begin, alignment), size, slots);
      if (--tries == 0) return std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<Piece> FreeSpace::take_lowest(std::uint32_t size, std::uint32_t alignment, std::uint32_t slots,
                                            std::uint32_t below) noexcept {
  std::uint32_t best = none, best_begin = below;
  for (std::uint32_t index = 0; index < node_count_; ++index) {
    const Node& range = node(index);
    if (range.begin >= best_begin || !fits(range, size, alignment, slots)) continue; // unused nodes begin at `none`
    const std::uint32_t begin = aligned(range.begin, alignment);
    if (begin >= best_begin) continue;
    best = index;
    best_begin = begin;
  }
  if (best == none) return std::nullopt;
  return carve(best, best_begin, size, slots);
}

bool FreeSpace::has_range(std::uint32_t size, std::uint32_t below) const noexcept {
  for (std::uint32_t index = 0; index < node_count_; ++index)
    if (node(index).begin < below && node(index).end - node(index).begin >= size) return true;
  return false;
}

std::uint32_t FreeSpace::live_end() const noexcept {
  const std::uint32_t last = fresh_ == 0 ? none : ending_at(fresh_);
  return last == none ? fresh_ : node(last).begin;
}

std::uint32_t FreeSpace::live_slots_end() const noexcept {
  const std::uint32_t last = fresh_ == 0 ? none : ending_at(fresh_);
  return last == none || node(last).slots == 0 ? slot_count_ : node(last).first_slot;
}

// The block gets the entries it asked for and, by size, its share of those that are left; lower addresses get lower entries.
Piece FreeSpace::carve(std::uint32_t index, std::uint32_t begin, std::uint32_t size, std::uint32_t slots) noexcept {
  if (Node& whole = node(index); begin == whole.begin && bin_of(whole.end - begin) == bin_of(whole.end - begin - size)) {
    // Most often a small block is cut off a large range, which stays in its bin.
    const auto extra = static_cast<std::uint32_t>(std::uint64_t(whole.slots - slots) * size / (whole.end - begin));
    const Piece block{begin, size, whole.first_slot, slots + extra};
    whole.begin += size;
    whole.first_slot += block.slots;
    whole.slots -= block.slots;
    set_tag(whole.begin, index);
    return block;
  }
  const Node range = node(index);
  remove(index);
  const std::uint64_t whole = range.end - range.begin;
  const std::uint64_t excess = range.slots - slots;
  const auto share = [&](std::uint64_t part) { return static_cast<std::uint32_t>(excess * part / whole); };

  const Piece front{range.begin, begin - range.begin, range.first_slot, share(begin - range.begin)};
  Piece block{begin, size, front.first_slot + front.slots, slots + share(size)};
  if (block.end() == range.end) block.slots = range.slots - front.slots;
  const Piece rest{block.end(), range.end - block.end(), block.first_slot + block.slots,
                   range.slots - front.slots - block.slots};
  if (front.size != 0) insert(front);
  if (rest.size != 0) insert(rest);
  return block;
}

std::optional<FreeSpace::Fresh> FreeSpace::plan_fresh(std::uint32_t size, std::uint32_t alignment,
                                                      std::uint32_t slots) const noexcept {
  const std::uint32_t below = fresh_ == 0 ? none : ending_at(fresh_);
  const std::uint32_t begin = aligned(below == none ? fresh_ : node(below).begin, alignment);
  const std::uint64_t end = std::uint64_t(begin) + size;
  const std::uint32_t owned = below == none || begin >= fresh_ ? 0 : node(below).slots;
  if (end > capacity_ || slots > std::uint64_t(slot_capacity_ - slot_count_) + owned) return std::nullopt;
  return Fresh{begin, static_cast<std::uint32_t>(end)};
}

Piece FreeSpace::take_fresh(Fresh place, std::uint32_t slots) noexcept {
  const std::uint32_t below = fresh_ == 0 ? none : ending_at(fresh_);
  Piece front{fresh_, 0, 0, 0};
  std::uint32_t owned = 0; // entries that come with the free range below: the last ones of the table
  if (below != none) {
    Node& range = node(below);
    TENON_CHECK(range.slots == 0 || range.first_slot + range.slots == slot_count_, "the last range owns the table's end");
    if (place.end <= fresh_) { // it is large enough, but had too few entries, or `take` gave up before it came to it
      if (slots > range.slots) {
        if (range.slots == 0) range.first_slot = slot_count_;
        slot_count_ += slots - range.slots;
        range.slots = slots;
      }
      return carve(below, place.begin, place.end - place.begin, slots);
    }
    front = {range.begin, 0, range.first_slot, 0};
    owned = range.slots;
    if (place.begin >= fresh_) // alignment skipped the whole range: it keeps what it has
      front.slots = owned;
    else if (owned > slots)
      front.slots =
          static_cast<std::uint32_t>(std::uint64_t(owned - slots) * (place.begin - front.begin) / (fresh_ - front.begin));
    owned -= front.slots;
    remove(below);
  }
  front.size = place.begin - front.begin;

  Piece block{place.begin, place.end - place.begin, slot_count_ - owned, owned};
  if (slot_capacity_ != 0) {
    const std::uint32_t wanted = std::max(slots, block.size / granules_per_spare_slot);
    const std::uint32_t added = wanted > owned ? std::min(wanted - owned, slot_capacity_ - slot_count_) : 0;
    block.slots += added;
    slot_count_ += added;
  }
  fresh_ = place.end;
  if (front.size != 0) insert(front);
  return block;
}

namespace {

Piece join(const Piece& low, const Piece& high) noexcept {
  TENON_CHECK(low.slots == 0 || high.slots == 0 || low.first_slot + low.slots == high.first_slot,
              "neighbours own adjacent table entries");
  return {low.begin, low.size + high.size, low.slots != 0 ? low.first_slot : high.first_slot, low.slots + high.slots};
}

} // namespace

Piece FreeSpace::give_back(const Piece& run) noexcept {
  TENON_CHECK(run.size != 0 && run.end() <= fresh_, "a block lies in its area's used part");
  TENON_CHECK(beginning_at(run.begin) == none && ending_at(run.end()) == none, "a block is freed once");
  const std::uint32_t left = ending_at(run.begin);
  const std::uint32_t right = beginning_at(run.end());
  if (left == none && right == none) {
    insert(run);
    return run;
  }
  Piece joined = run;
  if (left != none) {
    const Node& range = node(left);
    joined = join({range.begin, range.end - range.begin, range.first_slot, range.slots}, run);
  }
  if (right != none) {
    const Node& range = node(right);
    joined = join(joined, {range.begin, range.end - range.begin, range.first_slot, range.slots});
    if (left != none) remove(right);
  }
  resize(left != none ? left : right, joined);
  return joined;
}

// Most often it stays in its bin.
void FreeSpace::resize(std::uint32_t index, const Piece& to) noexcept {
  Node& range = node(index);
  if (bin_of(range.end - range.begin) != bin_of(to.size)) {
    remove(index);
    return insert(to);
  }
  range.begin = to.begin;
  range.end = to.end();
  range.first_slot = to.first_slot;
  range.slots = to.slots;
  set_tag(to.begin, index);
  set_tag(to.end() - 1, index);
}

namespace {

// Whole pages of the entries [begin, end) of a part of the table. If the system refuses they stay as they are.
void discard_entries(std::byte* part, std::uint64_t stride, unsigned shift, std::size_t entry_size, std::uint32_t begin,
                     std::uint32_t end) noexcept {
  const std::uint64_t stripe_size = std::uint64_t(1) << shift;
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t stripe = at >> shift, stop = std::min<std::uint64_t>(end, (stripe + 1) << shift);
    const std::uint64_t first = base::align_up((at % stripe_size) * entry_size, system::page_size);
    const std::uint64_t last = base::align_down((stop - stripe * stripe_size) * entry_size, system::page_size);
    if (first < last) (void)system::discard(part + stripe * stride + first, last - first);
    at = stop;
  }
}

} // namespace

// What a range's first and last granule say is said anew: their pages may have gone, too.
void FreeSpace::forget_tags(std::uint32_t begin, std::uint32_t end) noexcept {
  const std::uint32_t first = beginning_at(begin), last = ending_at(end);
  discard_entries(tags_, stride_, shift_, sizeof(std::uint32_t), begin, end);
  if (first != none) set_tag(begin, first);
  if (last != none) set_tag(end - 1, last);
}

void FreeSpace::move_node(std::uint32_t from, std::uint32_t to) noexcept {
  const Node moved = node(from);
  node(to) = moved;
  set_tag(moved.begin, to);
  set_tag(moved.end - 1, to);
  (moved.prev != none ? node(moved.prev).next : heads_[bin_of(moved.end - moved.begin)]) = to;
  if (moved.next != none) node(moved.next).prev = to;
}

void FreeSpace::pack_nodes() noexcept {
  std::uint32_t to = 0;
  for (std::uint32_t index = free_ranges_; index < node_count_; ++index) {
    if (node(index).begin == none) continue;
    while (node(to).begin != none) ++to;
    move_node(index, to);
  }
  // What is behind them is written anew before it counts again.
  discard_entries(nodes_, stride_, shift_ - 1, sizeof(Node), free_ranges_, node_count_);
  node_count_ = free_ranges_;
  unused_node_ = none;
}

} // namespace tenon::memory

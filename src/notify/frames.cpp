// The unwinder's table: entries {location, frame description}, both relative to the header, in address order of the blocks.
//
// The invariant, for every live block B (prepared, not freed) with the run R of entries:
//     entries before R hold locations <= B.begin, entries of R ascend within [B.begin, B.end), entries after R hold
//     locations >= B.end.
// Space numbers runs in address order, so it can hold for all live blocks at once. It suffices: libgcc's search (and LLVM
// libunwind's) for a PC in B compares the PC with entries only, and finds the last one that is <= PC, which is one of R,
// even if entries that belong to no live block are not sorted among themselves. And because every store below keeps each
// entry on its side of every live block, two reads of one entry during one search compare alike: libgcc asserts just that.
//
// What moves entries:
//   - add and remove write only entries of the block itself, whose code nobody runs at that time. Each entry is one aligned
//     8-byte store (std::atomic_ref), so a location and a frame description of different times never meet within B.
//     remove keeps the locations: they stay where they were proved to be right.
//   - prepare takes a block over from the free state. Entries that belonged to a larger free range may lie on the wrong side
//     of it: those are pushed to its borders. They are in no live block's run, and live blocks end at or before B.begin or
//     begin at or after B.end, so a push never crosses one.
//     Where a push may stop: the entries of everything between two live blocks ascend, up to the number of entries. Those of
//     a live block do, so do those that it leaves behind when it dies, beside its neighbours'; pushing and filling keep it.
//     So the first entry on the right side, counted from the block, ends the search.
//   - the number of entries grows in prepare. Blocks may be prepared in another order than they were allocated in: runs
//     below a new one that nobody has prepared yet are filled with entries at B.begin, which satisfy the invariant for all
//     live blocks, those above included (there are none); their own prepare replaces them later. Entries below those, of
//     blocks that lay higher up before, may be on the wrong side of B nevertheless, so pushing begins below what was filled.
//     So the number never waits for a slow thread, and a block that is dropped before it is prepared leaves nothing behind.
//   - shrink lowers the number, and lets the memory behind it go: what is zero there compares as behind all code (see there).
//
// Within a run unused entries come first, not last: the search takes the last entry that is <= PC, so the first byte of the
// block, and everything up to its end, finds the entry of its function. An unused entry repeats the first function's if that
// begins the block (a search may stop at the first equal location), and is empty otherwise. A block without unused entries
// whose first function begins later would leave its first bytes to the block below: add refuses it (see slots_for).
//
// Memory order: the unwinder reads without barriers, and on x86-64 (TSO) sees stores in program order. Entries are written
// before the count that covers them (release). A thread that runs code of a block got to know it by a synchronized
// publication after add, so it sees the block's entries; about other blocks' entries it needs the invariant only, old or
// new.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "notify/frames.h"

#include "base/check.h"
#include "base/prefetch.h"
#include "notify/frame_table.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>

extern "C" void __register_frame(void*);
extern "C" void __deregister_frame(void*);

namespace tenon::notify {

namespace {

static_assert(std::endian::native == std::endian::little, "an entry is stored as one little-endian word");
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

// The table's empty frame description: a CIE as the LSB wants it and an FDE that covers no byte. No PC is ever unwound by
// it, so it has no instructions, and the return address column does not matter.
constexpr unsigned char empty_eh_frame[] = {
    16, 0, 0, 0, 0,  0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1B, 0, 0, 0, // CIE; 0x1B: pcrel, sdata4
    16, 0, 0, 0, 24, 0, 0, 0, 0, 0,   0,   0, 0, 0,    0,  0, 0,    0, 0, 0, // FDE: pc_begin 0, range 0
    0,  0, 0, 0,
};
static_assert(sizeof empty_eh_frame <= header_offset);

constexpr unsigned char header_encodings[] = {1, 0x1B, 0x03, 0x3B}; // version; pcrel|sdata4; udata4; datarel|sdata4

std::int32_t location_of(std::uint64_t entry) noexcept { return static_cast<std::int32_t>(entry); }
std::int32_t description_of(std::uint64_t entry) noexcept { return static_cast<std::int32_t>(entry >> 32); }
std::uint64_t make_entry(std::int32_t location, std::int32_t description) noexcept {
  return static_cast<std::uint32_t>(location) | static_cast<std::uint64_t>(static_cast<std::uint32_t>(description)) << 32;
}

// The table as one call sees it: the writable view of the entries, and addresses relative to the header.
struct Table {
  std::byte* entries;
  std::uint64_t header;

  static Table of(const memory::Space& space, Addr header) noexcept {
    return {space.writable(header) + (table_offset - header_offset), header.value};
  }

  std::atomic_ref<std::uint64_t> operator[](std::uint64_t index) const noexcept {
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(entries + index * table_entry_size));
  }
  std::uint64_t get(std::uint64_t index) const noexcept { return (*this)[index].load(std::memory_order_relaxed); }
  // Release costs nothing here and keeps entries in order for those who read with a dependency.
  void set(std::uint64_t index, std::uint64_t entry) const noexcept {
    (*this)[index].store(entry, std::memory_order_release);
  }

  // A reservation has at most 2 GiB, so every distance inside it fits.
  std::int32_t relative(Addr address) const noexcept { return static_cast<std::int32_t>(address.value - header); }

  std::atomic_ref<std::uint32_t> count() const noexcept {
    return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(entries - (table_offset - fde_count_offset)));
  }
};

// Entries of the free state that lie on the wrong side of `code`, which is about to live, go to its borders. Those from
// `count` on have just been filled with its begin.
void push_aside(const Table& table, std::uint64_t count, const memory::Block& code, std::int32_t empty) noexcept {
  const auto push = [&](std::uint64_t index, std::int32_t border) {
    TENON_CHECK(description_of(table.get(index)) == empty, "frames of a live block lie out of order, or were not removed");
    table.set(index, make_entry(border, empty));
  };
  const std::int32_t begin = table.relative(code.begin), end = table.relative(code.end());
  for (std::uint64_t i = std::min<std::uint64_t>(count, code.first_slot); i > 0 && location_of(table.get(i - 1)) > begin;
       --i)
    push(i - 1, begin);
  for (std::uint64_t i = std::uint64_t(code.first_slot) + code.slots; i < count && location_of(table.get(i)) < end; ++i)
    push(i, end);
}

} // namespace

Result<Frames> Frames::create(memory::Space& space) {
  Frames frames;
  frames.space_ = &space;
  const Addr area = space.area_begin(memory::AreaKind::frames);
  frames.header_ = area + header_offset;
  frames.empty_fde_ = area + empty_fde_offset;
  frames.preparing_ = std::make_unique<Preparing>();
  // A backtrace through a wild address may ask at any time. In dual mode it reads zeros then, which are no version of a
  // table; elsewhere nothing can be read before there is memory.
  if (space.mapping() != memory::Mapping::dual)
    if (auto begun = frames.begin_table(); !begun) return std::move(begun).error();
  return frames;
}

Result<void> Frames::begin_table() {
  if (auto committed = space_->commit_frames(table_offset); !committed) return committed;
  const memory::WriteGuard guard(*space_);
  const std::lock_guard lock(preparing_->mutex);
  if (preparing_->begun) return {};
  std::memcpy(space_->writable(space_->area_begin(memory::AreaKind::frames)), empty_eh_frame, sizeof empty_eh_frame);
  std::byte* header = space_->writable(header_);
  const std::int32_t to_eh_frame = -static_cast<std::int32_t>(header_offset + sizeof header_encodings);
  std::memcpy(header + sizeof header_encodings, &to_eh_frame, sizeof to_eh_frame);
  // The version comes last, as one store with its neighbours: until it is there the table counts for nothing.
  std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(header))
      .store(std::bit_cast<std::uint32_t>(header_encodings), std::memory_order_release);
  preparing_->begun.store(true, std::memory_order_release);
  return {};
}

Result<void> Frames::prepare(const memory::Block& code) {
  TENON_CHECK(code.area == memory::AreaKind::code && code.slots != 0, "every block of code has slots");
  const std::uint64_t end = std::uint64_t(code.first_slot) + code.slots;
  if (auto committed = space_->commit_frames(table_offset + end * table_entry_size); !committed) return committed;

  if (!preparing_->begun.load(std::memory_order_acquire))
    if (auto begun = begin_table(); !begun) return begun;

  // The guard comes first: fork() waits for guards, so in the child nobody holds the lock.
  const memory::WriteGuard guard(*space_);
  const std::lock_guard lock(preparing_->mutex);
  const Table table = Table::of(*space_, header_);
  const std::uint64_t count = table.count().load(std::memory_order_relaxed);
  const std::int32_t empty = table.relative(empty_fde_);
  const std::uint64_t at_begin = make_entry(table.relative(code.begin), empty);
  for (std::uint64_t i = std::min<std::uint64_t>(count, code.first_slot); i < end; ++i) table.set(i, at_begin);
  push_aside(table, count, code, empty);
  if (end > count) table.count().store(static_cast<std::uint32_t>(end), std::memory_order_release);
  return {};
}

void Frames::add(const memory::Block& code, std::span<const Frame> frames) noexcept {
  TENON_CHECK(frames.size() <= code.slots, "a block has more frames than slots");
  const bool starts_block = !frames.empty() && frames.front().pc == code.begin;
  const std::uint64_t unused = code.slots - frames.size();
  TENON_CHECK(unused != 0 || starts_block, "no slot is left for what lies before the first frame");

  const Table table = Table::of(*space_, header_);
  const Addr first_fde = starts_block ? frames.front().fde : empty_fde_;
  const std::uint64_t filler = make_entry(table.relative(code.begin), table.relative(first_fde));
  for (std::uint64_t i = 0; i < unused; ++i) table.set(code.first_slot + i, filler);
  Addr last = code.begin;
  for (std::uint64_t i = 0; i < frames.size(); ++i) {
    TENON_CHECK(frames[i].pc >= last && frames[i].pc < code.end(), "frames are sorted and lie inside their block");
    last = frames[i].pc;
    table.set(code.first_slot + unused + i, make_entry(table.relative(frames[i].pc), table.relative(frames[i].fde)));
  }
}

void Frames::remove(const memory::Block& code) noexcept {
  const Table table = Table::of(*space_, header_);
  const std::int32_t empty = table.relative(empty_fde_);
  for (std::uint64_t i = code.first_slot, end = i + code.slots; i < end; ++i)
    table.set(i, make_entry(location_of(table.get(i)), empty));
}

// The number is lowered to the end of the last block's run, then the memory behind it goes. What a search that has read a
// higher number before finds there is what was there, or zero. Zero is the header's own address, and the header lies above
// all code: so such an entry, too, is on the side of every live block B where it was, and B's last entry <= PC is still one
// of B's run. (This is why the frames area lies above the code, and why only the table's end can go: zeros below a live
// block's run would be on the wrong side of it.) Who searches for a PC in a block that was prepared after this has read the
// lower number or a later one; and prepare writes all entries between the number and the new one before it raises it, so
// whatever was left behind the number never counts again.
void Frames::shrink() noexcept {
  space_->release_frames(
      [](void* context, std::uint32_t end) noexcept {
        const Frames& frames = *static_cast<const Frames*>(context);
        const memory::WriteGuard guard(*frames.space_);
        const std::lock_guard lock(frames.preparing_->mutex); // others are preparing blocks below
        const Table table = Table::of(*frames.space_, frames.header_);
        if (table.count().load(std::memory_order_relaxed) > end) table.count().store(end, std::memory_order_release);
      },
      this);
}

void Frames::prefetch(const memory::Block& code) const noexcept {
  base::prefetch_to_write(Table::of(*space_, header_).entries + std::uint64_t(code.first_slot) * table_entry_size);
}

std::pair<std::uint32_t, std::uint32_t> Frames::slots_within(const memory::Block& code, Addr begin,
                                                             Addr end) const noexcept {
  TENON_CHECK(begin >= code.begin && begin <= end && end <= code.end(), "a part lies inside its block");
  // Only read: through the program's own view, so that no guard is needed.
  const Table table{header_.as<std::byte*>() + (table_offset - header_offset), header_.value};
  // A part that was freed earlier keeps its entries inside itself, whoever lives there now: what push_aside leaves at a
  // border belongs to a free range that begins there, and Space gives the last block of a free range all entries that are
  // left.
  const auto border = [&](Addr address) {
    std::uint32_t low = code.first_slot, high = code.first_slot + code.slots;
    if (address == code.begin) return low;
    if (address == code.end()) return high;
    const std::int32_t location = table.relative(address);
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (location_of(table.get(middle)) < location)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  const std::uint32_t first = border(begin);
  return {first, border(end) - first};
}

ForeignFrames::ForeignFrames(const std::byte* eh_frame) : eh_frame_(eh_frame) {
  if (eh_frame_ != nullptr) __register_frame(const_cast<std::byte*>(eh_frame_));
}

ForeignFrames::~ForeignFrames() {
  if (eh_frame_ != nullptr) __deregister_frame(const_cast<std::byte*>(eh_frame_));
}

} // namespace tenon::notify

// Packs and unpacks the blocks of a version.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/run_blocks.h"

#include "base/check.h"
#include "memory/free_space.h"

#include <algorithm>
#include <utility>

namespace tenon::engine {

memory::Block RunBlocks::block(std::size_t run) const noexcept {
  return packed_[run].size != 0 ? block(run, machinery_->space->begin()) : memory::Block();
}

memory::Block RunBlocks::block(std::size_t run, Addr origin) const noexcept {
  const Packed& packed = packed_[run];
  const bool code = link::Run(run) == link::Run::code;
  return {origin + std::uint64_t(packed.begin) * memory::granule, std::uint64_t(packed.size) * memory::granule,
          area_of(link::Run(run)), code ? first_slot_ : 0, code ? slots_ : 0};
}

void RunBlocks::prefetch() const noexcept {
  if (machinery_ == nullptr) return;
  const memory::Space& space = *machinery_->space;
  const Addr origin = space.begin();
  for (std::size_t run = 0; run < link::runs; ++run) {
    if (packed_[run].size == 0) continue;
    const memory::Block here = block(run, origin);
    space.prefetch(here);
    if (here.slots != 0 && machinery_->frames) machinery_->frames->prefetch(here);
  }
}

std::array<RunBlocks::View, link::runs> RunBlocks::all() const noexcept {
  std::array<View, link::runs> views;
  for (std::size_t run = 0; run < link::runs; ++run) views[run] = View(block(run));
  return views;
}

inline void RunBlocks::pack(std::size_t run, const memory::Space& space, const memory::Block& block) noexcept {
  packed_[run] = {std::uint32_t((block.begin - space.begin()) / memory::granule),
                  std::uint32_t(block.size / memory::granule)};
  if (run == std::size_t(link::Run::code)) std::tie(first_slot_, slots_) = std::tie(block.first_slot, block.slots);
}

Result<Addr> RunBlocks::allocate(const std::shared_ptr<Machinery>& machinery, link::Run run, const link::RunSize& size,
                                 std::uint32_t frames) {
  TENON_CHECK(packed_[std::size_t(run)].size == 0, "a block for a run that has one");
  memory::Space& space = *machinery->space;
  const bool registered = run == link::Run::code && machinery->frames;
  const std::uint32_t slots = registered ? notify::Frames::slots_for(frames) : 0;
  Result<memory::Block> block = space.allocate(area_of(run), size.size, size.alignment, slots);
  if (!block) return std::move(block).error();
  if (machinery_ == nullptr) {
    machinery_ = machinery.get();
    machinery_->enter(); // one count is enough for all
  }
  pack(std::size_t(run), space, *block);
  if (registered)
    if (Result<void> ready = machinery->frames->prepare(*block); !ready) return std::move(ready).error();
  return block->begin;
}

void RunBlocks::put(link::Run run, OwnedBlock&& given) noexcept {
  if (!given) return;
  const memory::Block block = *given;
  TENON_CHECK(packed_[std::size_t(run)].size == 0 && block.area == area_of(run),
              "a block for a run that has one, or of another area");
  Machinery* const machinery = given.give_up();
  if (machinery_ != nullptr) machinery->leave(); // one count is enough for all
  machinery_ = machinery;
  pack(std::size_t(run), *machinery->space, block);
}

void RunBlocks::prefetch_neighbours() const noexcept {
  if (machinery_ == nullptr) return;
  const memory::Space& space = *machinery_->space;
  const Addr origin = space.begin();
  for (std::size_t run = 0; run < link::runs; ++run)
    if (packed_[run].size != 0) space.prefetch_neighbours(block(run, origin));
}

OwnedBlock RunBlocks::take(link::Run run) noexcept {
  Packed& packed = packed_[std::size_t(run)];
  if (packed.size == 0) return {};
  OwnedBlock taken(*machinery_, block(std::size_t(run)));
  packed = {};
  if (std::all_of(packed_.begin(), packed_.end(), [](const Packed& other) { return other.size == 0; }))
    std::exchange(machinery_, nullptr)->leave();
  return taken;
}

void RunBlocks::reset() noexcept {
  if (machinery_ == nullptr) return;
  if (!machinery_->dropped.load(std::memory_order_relaxed)) { // set by the thread that drops all of them
    const memory::WriteGuard guard(*machinery_->space);       // once for all: it can be entered again
    const Addr origin = machinery_->space->begin();
    for (std::size_t run = 0; run < link::runs; ++run)
      if (packed_[run].size != 0) free_block(*machinery_, block(run, origin));
  }
  packed_ = {};
  std::exchange(machinery_, nullptr)->leave();
}

void RunBlocks::swap(RunBlocks& other) noexcept {
  std::swap(machinery_, other.machinery_);
  std::swap(packed_, other.packed_);
  std::swap(first_slot_, other.first_slot_);
  std::swap(slots_, other.slots_);
}

} // namespace tenon::engine

// Blocks of an engine's memory come and go together with their entries in the unwinder's table.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/machinery.h"

#include "base/align.h"
#include "memory/free_space.h"
#include "memory/spare.h"

#include <algorithm>
#include <tuple>

namespace tenon::engine {

Machinery::~Machinery() {
  if (frames) memory::spare::keep(std::move(space));
}

std::shared_ptr<Machinery> Machinery::make() {
  return {new Machinery, [](Machinery* machinery) { machinery->leave(); }};
}

std::vector<Stretch> whole_granules(std::vector<Stretch> stretches) {
  std::sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
  std::vector<Stretch> joined;
  for (const Stretch& stretch : stretches) {
    if (stretch.begin == stretch.end) continue;
    Addr begin{base::align_down(stretch.begin.value, memory::granule)};
    Addr end{base::align_up(stretch.end.value, memory::granule)};
    if (!joined.empty() && begin <= joined.back().end)
      joined.back().end = std::max(joined.back().end, end);
    else
      joined.push_back({begin, end});
  }
  return joined;
}

Result<OwnedBlock> OwnedBlock::allocate(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area,
                                        std::uint64_t size, std::uint64_t alignment, std::uint32_t frames) {
  bool registered = area == memory::AreaKind::code && machinery->frames;
  std::uint32_t slots = registered ? notify::Frames::slots_for(frames) : 0;
  return adopt(machinery, machinery->space->allocate(area, size, alignment, slots));
}

Result<OwnedBlock> OwnedBlock::allocate_low(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area,
                                            std::uint64_t size, std::uint64_t alignment, std::uint32_t frames, Addr below) {
  bool registered = area == memory::AreaKind::code && machinery->frames;
  std::uint32_t slots = registered ? notify::Frames::slots_for(frames) : 0;
  return adopt(machinery, machinery->space->allocate_low(area, size, alignment, slots, below));
}

Result<OwnedBlock> OwnedBlock::adopt(const std::shared_ptr<Machinery>& machinery, Result<memory::Block> block) {
  if (!block) return std::move(block).error();
  OwnedBlock owned(*machinery, *block);
  if (block->area == memory::AreaKind::code && machinery->frames)
    if (Result<void> ready = machinery->frames->prepare(*block); !ready) return std::move(ready).error();
  return owned;
}

void free_block(Machinery& machinery, const memory::Block& block) noexcept {
  if (block.area == memory::AreaKind::code && machinery.frames) {
    memory::WriteGuard guard(*machinery.space);
    machinery.frames->remove(block);
  }
  machinery.space->free(block);
  if (block.area == memory::AreaKind::code && machinery.frames) machinery.frames->shrink();
}

void OwnedBlock::reset() noexcept {
  if (block_.size == 0) return;
  if (!machinery_->dropped.load(std::memory_order_relaxed)) // set by the thread that drops all of them
    free_block(*machinery_, block_);
  leave();
}

// A part of the block with its share of the unwinder's entries.
memory::Block OwnedBlock::piece(Addr begin, Addr end) const noexcept {
  memory::Block piece{begin, end - begin, block_.area, 0, 0};
  if (block_.area == memory::AreaKind::code && machinery_->frames)
    std::tie(piece.first_slot, piece.slots) = machinery_->frames->slots_within(block_, begin, end);
  return piece;
}

template <class Blocks>
void OwnedBlock::divide(Blocks& blocks, std::size_t index, std::span<const Stretch> kept, std::vector<OwnedBlock>& freed) {
  if (!blocks[index]) return;
  const memory::Block whole = *blocks[index];
  std::vector<memory::Block> pieces, gaps;
  Addr at = whole.begin;
  for (const Stretch& stretch : kept) {
    Addr begin = std::max(stretch.begin, whole.begin), end = std::min(stretch.end, whole.end());
    if (begin >= end) continue;
    if (begin > at) gaps.push_back(blocks[index].piece(at, begin));
    pieces.push_back(blocks[index].piece(begin, end));
    at = end;
  }
  if (at < whole.end()) gaps.push_back(blocks[index].piece(at, whole.end()));
  if (gaps.empty()) return;
  blocks.reserve(blocks.size() + pieces.size());
  freed.reserve(freed.size() + gaps.size());

  Machinery& machinery = *blocks[index].machinery_;
  for (const memory::Block& piece : pieces) blocks.emplace_back(machinery, piece);
  for (const memory::Block& gap : gaps) freed.emplace_back(machinery, gap);
  blocks[index].leave();
}

void OwnedBlock::keep_only(std::vector<OwnedBlock>& blocks, std::size_t index, std::span<const Stretch> kept,
                           std::vector<OwnedBlock>& freed) {
  divide(blocks, index, kept, freed);
}

void OwnedBlock::keep_only(base::List<OwnedBlock>& blocks, std::size_t index, std::span<const Stretch> kept,
                           std::vector<OwnedBlock>& freed) {
  divide(blocks, index, kept, freed);
}

} // namespace tenon::engine

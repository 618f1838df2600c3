// Blocks of an engine's memory come and go together with their entries in the unwinder's table.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/machinery.h"

namespace tenon::engine {

Result<OwnedBlock> OwnedBlock::allocate(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area,
                                        std::uint64_t size, std::uint64_t alignment, std::uint32_t frames) {
  bool registered = area == memory::AreaKind::code && machinery->frames;
  std::uint32_t slots = registered ? notify::Frames::slots_for(frames) : 0;
  Result<memory::Block> block = machinery->space->allocate(area, size, alignment, slots);
  if (!block) return std::move(block).error();
  OwnedBlock owned(machinery, *block);
  if (registered)
    if (Result<void> ready = machinery->frames->prepare(*block); !ready) return std::move(ready).error();
  return owned;
}

void OwnedBlock::reset() noexcept {
  if (block_.size == 0) return;
  if (block_.area == memory::AreaKind::code && machinery_->frames) {
    memory::WriteGuard guard(*machinery_->space);
    machinery_->frames->remove(block_);
  }
  machinery_->space->free(block_);
  block_ = {};
  machinery_.reset();
}

} // namespace tenon::engine

// One spare reservation. Everything happens inside the gate: no fork() finds it half empty, nor the lock held.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/spare.h"

#include "memory/fork.h"

#include <mutex>
#include <utility>

namespace tenon::memory::spare {

namespace {

constexpr std::uint64_t usual_size = SpaceOptions().size;

struct Spare {
  std::mutex mutex;
  std::shared_ptr<Space> space;
};

// Never destroyed: the process's end takes the address space, and engines may end later than this file's statics.
union Lasting {
  constexpr Lasting() : spare() {}
  ~Lasting() {} // NOLINT: that is what it is for
  Spare spare;
};
constinit Lasting lasting;

} // namespace

std::shared_ptr<Space> take(const SpaceOptions& wanted, bool anchored) noexcept {
  const fork::Inside inside;
  std::shared_ptr<Space> space; // if it does not serve it is destroyed without the lock: that may call dlclose
  {
    const std::lock_guard lock(lasting.spare.mutex);
    space = std::move(lasting.spare.space);
    fork::set_resting(nullptr);
  }
  const bool usual = anchored && wanted.size == usual_size && !wanted.low_2gib && wanted.mapping == Mapping::dual &&
                     wanted.prefault == Prefault::none;
  return space != nullptr && usual && space->wake() ? space : nullptr;
}

void keep(std::shared_ptr<Space> space) noexcept {
  if (space == nullptr || space.use_count() != 1) return;
  const auto size = static_cast<std::uint64_t>(space->end() - space->begin());
  if (size != usual_size || !space->is_reusable() || !is_good_place(space->begin(), size)) return;
  const fork::Inside inside;
  {
    const std::lock_guard lock(lasting.spare.mutex);
    std::shared_ptr<Space>& kept = lasting.spare.space;
    if (kept == nullptr && space->rest()) kept = std::move(space);
  }
  space.reset();
}

} // namespace tenon::memory::spare

// Pages of stubs.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/stub_pool.h"

#include "base/check.h"
#include "link/arch/arch.h"

#include <algorithm>
#include <bit>
#include <list>
#include <mutex>

namespace tenon::engine {

namespace {
constexpr std::uint64_t stubs_per_page = 64;
constexpr std::uint64_t slot_bytes = 8;
constexpr std::uint64_t largest_group = 64;
constexpr std::uint64_t all_free = ~std::uint64_t(0);
using Pages = std::list<std::shared_ptr<StubPage>>;
} // namespace

// Pages come in groups, each as large as all before it: stubs never move, and the fewer places they lie at, the better the
// code around them can be packed.
struct StubGroup {
  std::uint64_t pages = 0;
  std::uint64_t busy = 0; // pages with a stub in use; under StubPoolState::mutex
  OwnedBlock frames;      // freed after the code that they describe
  OwnedBlock slots;
  OwnedBlock code;
};

struct StubPage {
  std::weak_ptr<StubPoolState> pool;
  std::shared_ptr<StubGroup> group;
  std::uint64_t code = 0, slots = 0;
  std::uint64_t free = all_free; // one bit for each stub; under StubPoolState::mutex, as is the next
  Pages::iterator self;
};

struct StubPoolState {
  std::shared_ptr<Machinery> machinery;
  std::mutex mutex;
  Pages open, full; // with room, those with none in use last; and without
  std::uint64_t in_use = 0;
};

namespace {

Result<void> allocate(const std::shared_ptr<Machinery>& machinery, StubGroup& group) {
  auto take = [&](OwnedBlock& block, memory::AreaKind area, std::uint64_t size, std::uint32_t frames) -> Result<void> {
    Result<OwnedBlock> made = OwnedBlock::allocate(machinery, area, size, 64, frames);
    if (!made) return std::move(made).error();
    block = std::move(*made);
    return {};
  };
  const std::uint64_t stubs = group.pages * stubs_per_page;
  Result<void> done = take(group.slots, memory::AreaKind::slots, stubs * slot_bytes, 0);
  if (done) done = take(group.code, memory::AreaKind::code, stubs * link::arch::stub_bytes, 1);
  if (done && machinery->frames)
    done = take(group.frames, memory::AreaKind::rodata, link::arch::frame_head_bytes + link::arch::stub_frame_bytes + 4, 0);
  return done;
}

void write(memory::Space& space, const StubGroup& group) {
  memory::WriteGuard guard(space);
  const std::uint64_t code = group.code->begin.value, slots = group.slots->begin.value;
  bool near = true;
  for (std::uint64_t i = 0; i < group.pages * stubs_per_page; ++i) {
    const std::uint64_t at = code + i * link::arch::stub_bytes;
    near &= link::arch::write_stub(space.writable({at}), at, slots + i * slot_bytes);
  }
  if (group.frames) {
    std::byte* frames = space.writable(group.frames->begin);
    const std::uint64_t description = link::arch::frame_head_bytes;
    link::arch::write_frame_head(frames);
    link::arch::write_stub_frame(frames + description, group.pages * stubs_per_page * link::arch::stub_bytes);
    near &= link::arch::set_frame_address(frames + description, group.frames->begin.value + description, code);
  }
  TENON_CHECK(near, "a reservation in which something is out of reach");
}

Result<void> publish(const Machinery& machinery, const StubGroup& group) {
  if (group.frames)
    if (Result<void> done = machinery.space->publish(*group.frames); !done) return done;
  if (Result<void> done = machinery.space->publish(*group.code); !done) return done;
  return {};
}

Result<void> add_group(StubPoolState& pool, const std::shared_ptr<StubPoolState>& shared) {
  auto group = std::make_shared<StubGroup>();
  group->pages = std::clamp<std::uint64_t>(pool.open.size() + pool.full.size(), 1, largest_group);
  Pages fresh;
  for (std::uint64_t i = 0; i < group->pages; ++i) fresh.push_back(std::make_shared<StubPage>());
  if (Result<void> done = allocate(pool.machinery, *group); !done) return done;
  write(*pool.machinery->space, *group);
  if (Result<void> done = publish(*pool.machinery, *group); !done) return done;
  if (pool.machinery->frames) {
    const notify::Frame frame{group->code->begin, group->frames->begin + link::arch::frame_head_bytes};
    memory::WriteGuard guard(*pool.machinery->space);
    pool.machinery->frames->add(*group->code, {&frame, 1});
  }
  std::uint64_t index = 0;
  for (auto page = fresh.begin(); page != fresh.end(); ++page, ++index) {
    (*page)->pool = shared;
    (*page)->self = page;
    (*page)->group = group;
    (*page)->code = group->code->begin.value + index * stubs_per_page * link::arch::stub_bytes;
    (*page)->slots = group->slots->begin.value + index * stubs_per_page * slot_bytes;
  }
  pool.open.splice(pool.open.begin(), fresh);
  return {};
}

} // namespace

StubPool::StubPool(std::shared_ptr<Machinery> machinery) : state_(std::make_shared<StubPoolState>()) {
  state_->machinery = std::move(machinery);
}
StubPool::~StubPool() = default;

Result<Stub> StubPool::take() {
  StubPoolState& pool = *state_;
  std::lock_guard lock(pool.mutex);
  if (pool.open.empty())
    if (Result<void> added = add_group(pool, state_); !added) return std::move(added).error();
  std::shared_ptr<StubPage> page = pool.open.front();
  if (page->free == all_free) ++page->group->busy;
  const auto index = std::uint64_t(std::countr_zero(page->free));
  page->free &= page->free - 1;
  ++pool.in_use;
  if (page->free == 0) pool.full.splice(pool.full.begin(), pool.open, page->self);
  const std::uint64_t code = page->code, slots = page->slots;
  return Stub(std::move(page), code + index * link::arch::stub_bytes, slots + index * slot_bytes);
}

Stub::~Stub() {
  if (page_ == nullptr) return;
  std::shared_ptr<StubPoolState> pool = page_->pool.lock();
  if (pool == nullptr) return; // the engine is gone: the page goes with its last stub
  Pages dead;                  // freed without the lock
  std::lock_guard lock(pool->mutex);
  if (page_->free == 0) pool->open.splice(pool->open.begin(), pool->full, page_->self);
  page_->free |= std::uint64_t(1) << (address_ - page_->code) / link::arch::stub_bytes;
  --pool->in_use;
  if (page_->free != all_free) return;
  pool->open.splice(pool->open.end(), pool->open, page_->self);
  if (--page_->group->busy != 0) return;
  for (auto page = pool->open.begin(); page != pool->open.end();)
    if (auto here = page++; (*here)->group == page_->group) dead.splice(dead.begin(), pool->open, here);
}

std::uint64_t StubPool::in_use() const noexcept {
  std::lock_guard lock(state_->mutex);
  return state_->in_use;
}

void StubPool::lock() noexcept { state_->mutex.lock(); }
void StubPool::unlock() noexcept { state_->mutex.unlock(); }

} // namespace tenon::engine

// Pages of stubs.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/stub_pool.h"

#include "base/check.h"
#include "link/arch/arch.h"

#include <bit>
#include <list>
#include <mutex>

namespace tenon::engine {

namespace {
constexpr std::uint64_t stubs_per_page = 64;
constexpr std::uint64_t slot_bytes = 8;
constexpr std::uint64_t all_free = ~std::uint64_t(0);
using Pages = std::list<std::shared_ptr<StubPage>>;
} // namespace

struct StubPage {
  std::weak_ptr<StubPoolState> pool;
  OwnedBlock frames; // freed after the code that they describe
  OwnedBlock slots;
  OwnedBlock code;
  std::uint64_t free = all_free; // one bit for each stub; under StubPoolState::mutex, as is the next
  Pages::iterator self;
};

struct StubPoolState {
  std::shared_ptr<Machinery> machinery;
  std::mutex mutex;
  Pages open, full; // with room, and without
  std::uint64_t in_use = 0;
};

namespace {

Result<void> allocate(const std::shared_ptr<Machinery>& machinery, StubPage& page) {
  auto take = [&](OwnedBlock& block, memory::AreaKind area, std::uint64_t size, std::uint32_t frames) -> Result<void> {
    Result<OwnedBlock> made = OwnedBlock::allocate(machinery, area, size, 64, frames);
    if (!made) return std::move(made).error();
    block = std::move(*made);
    return {};
  };
  Result<void> done = take(page.slots, memory::AreaKind::slots, stubs_per_page * slot_bytes, 0);
  if (done) done = take(page.code, memory::AreaKind::code, stubs_per_page * link::arch::stub_bytes, 1);
  if (done && machinery->frames)
    done = take(page.frames, memory::AreaKind::rodata, link::arch::frame_head_bytes + link::arch::stub_frame_bytes + 4, 0);
  return done;
}

void write(memory::Space& space, const StubPage& page) {
  memory::WriteGuard guard(space);
  const std::uint64_t code = page.code->begin.value, slots = page.slots->begin.value;
  bool near = true;
  for (std::uint64_t i = 0; i < stubs_per_page; ++i) {
    const std::uint64_t at = code + i * link::arch::stub_bytes;
    near &= link::arch::write_stub(space.writable({at}), at, slots + i * slot_bytes);
  }
  if (page.frames) {
    std::byte* frames = space.writable(page.frames->begin);
    const std::uint64_t description = link::arch::frame_head_bytes;
    link::arch::write_frame_head(frames);
    link::arch::write_stub_frame(frames + description, stubs_per_page * link::arch::stub_bytes);
    near &= link::arch::set_frame_address(frames + description, page.frames->begin.value + description, code);
  }
  TENON_CHECK(near, "a reservation in which something is out of reach");
}

Result<void> publish(const Machinery& machinery, const StubPage& page) {
  if (page.frames)
    if (Result<void> done = machinery.space->publish(*page.frames); !done) return done;
  if (Result<void> done = machinery.space->publish(*page.code); !done) return done;
  return {};
}

Result<void> add_page(StubPoolState& pool, const std::shared_ptr<StubPoolState>& shared) {
  Pages fresh(1, std::make_shared<StubPage>());
  StubPage& page = *fresh.front();
  if (Result<void> done = allocate(pool.machinery, page); !done) return done;
  write(*pool.machinery->space, page);
  if (Result<void> done = publish(*pool.machinery, page); !done) return done;
  if (pool.machinery->frames) {
    const notify::Frame frame{page.code->begin, page.frames->begin + link::arch::frame_head_bytes};
    memory::WriteGuard guard(*pool.machinery->space);
    pool.machinery->frames->add(*page.code, {&frame, 1});
  }
  page.pool = shared;
  page.self = fresh.begin();
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
    if (Result<void> added = add_page(pool, state_); !added) return std::move(added).error();
  std::shared_ptr<StubPage> page = pool.open.front();
  const auto index = std::uint64_t(std::countr_zero(page->free));
  page->free &= page->free - 1;
  ++pool.in_use;
  if (page->free == 0) pool.full.splice(pool.full.begin(), pool.open, page->self);
  const std::uint64_t code = page->code->begin.value, slots = page->slots->begin.value;
  return Stub(std::move(page), code + index * link::arch::stub_bytes, slots + index * slot_bytes);
}

Stub::~Stub() {
  if (page_ == nullptr) return;
  std::shared_ptr<StubPoolState> pool = page_->pool.lock();
  if (pool == nullptr) return; // the engine is gone: the page goes with its last stub
  Pages dead;                  // freed without the lock
  std::lock_guard lock(pool->mutex);
  if (page_->free == 0) pool->open.splice(pool->open.begin(), pool->full, page_->self);
  page_->free |= std::uint64_t(1) << (address_ - page_->code->begin.value) / link::arch::stub_bytes;
  --pool->in_use;
  if (page_->free == all_free) dead.splice(dead.begin(), pool->open, page_->self);
}

std::uint64_t StubPool::in_use() const noexcept {
  std::lock_guard lock(state_->mutex);
  return state_->in_use;
}

void StubPool::lock() noexcept { state_->mutex.lock(); }
void StubPool::unlock() noexcept { state_->mutex.unlock(); }

} // namespace tenon::engine

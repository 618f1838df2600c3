// The slow ways of a SpreadMutex, and its writers'; the header says why they are right.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/spread_mutex.h"

#include <algorithm>
#include <bit>
#include <thread>

namespace tenon::base {

namespace {

// Four for each processor: threads are given slots in turn, so that two that run at once seldom have the same one. A writer
// looks at all of them. Not a static under a guard: the child of a fork would wait for a thread that it does not have.
std::uint32_t slots_here() noexcept {
  static constinit std::atomic<std::uint32_t> known{0};
  std::uint32_t slots = known.load(std::memory_order_relaxed);
  if (slots == 0) {
    const std::size_t wanted = 4 * std::size_t(std::thread::hardware_concurrency());
    slots = std::uint32_t(std::bit_ceil(std::clamp<std::size_t>(wanted, 8, SpreadMutex::most_slots)));
    known.store(slots, std::memory_order_relaxed);
  }
  return slots;
}

constinit std::atomic<std::uint32_t> threads_numbered{0};

} // namespace

SpreadMutex::SpreadMutex() noexcept : mask_(slots_here() - 1) {}

std::uint32_t SpreadMutex::number_thread() noexcept {
  // Half the range: no number is ever 0, however many threads there have been.
  return (threads_numbered.fetch_add(1, std::memory_order_relaxed) & 0x7FFF'FFFF) + 1;
}

void SpreadMutex::wait_for_writer(Slot& slot) noexcept {
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  do {
    leave(slot);
    writing_.wait(1, std::memory_order_seq_cst);
    slot.readers.fetch_add(1, std::memory_order_seq_cst);
  } while (writing_.load(std::memory_order_seq_cst) != 0);
  if (waiting_.fetch_sub(1, std::memory_order_seq_cst) == 1) waiting_.notify_all();
}

void SpreadMutex::lock() {
  writers_.lock();
  // Those who waited for the writer before need no lock that this thread could hold to come in. Who saw the flag raised but
  // is not counted as waiting yet comes in after this writer.
  for (int n = waiting_.load(std::memory_order_seq_cst); n != 0; n = waiting_.load(std::memory_order_seq_cst))
    waiting_.wait(n, std::memory_order_seq_cst);
  writing_.store(1, std::memory_order_seq_cst);
  const Slot* const end = slots_.data() + mask_ + 1;
  for (Slot* slot = slots_.data(); slot != end; ++slot)
    for (int n = slot->readers.load(std::memory_order_seq_cst); n != 0; n = slot->readers.load(std::memory_order_seq_cst))
      slot->readers.wait(n, std::memory_order_seq_cst);
  ++times_held_;
}

void SpreadMutex::unlock() noexcept {
  writing_.store(0, std::memory_order_seq_cst);
  writing_.notify_all();
  writers_.unlock();
}

void SpreadMutex::unlock_in_child() noexcept {
  for (Slot& slot : slots_) slot.readers.store(0, std::memory_order_relaxed);
  waiting_.store(0, std::memory_order_relaxed);
  unlock();
}

} // namespace tenon::base

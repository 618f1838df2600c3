// A mutex that many hold shared, often and for a short time, and few exclusively: to hold it shared writes nothing that
// threads have in common, so that they don't take a cache line from each other.
//
// Each thread counts itself in one of several slots, which lie apart. Who wants the mutex exclusively raises a flag and
// waits until all slots are empty; who finds the flag raised takes its count back and waits. What it excludes is what a
// std::shared_mutex excludes. Differences: exclusive costs a look at each slot, and nobody starves. New readers don't pass a
// raised flag, and the next writer first lets those in who waited for the one before.
//
// Not to be taken again by a thread that holds it, shared neither: a writer may have come in between.
//
// Why a reader and a writer never pass each other: the reader adds to its slot, then reads the flag; the writer raises the
// flag, then reads the slots; all four sequentially consistent, so at least one of the two sees the other. Why each sees
// what the other has written: the writer reads 0 in a slot, which the last of its readers stored, and what others stored
// before leads up to it in an unbroken row of read-modify-writes; the reader reads the flag as the last writer lowered it.
// Why nobody sleeps for ever: who waits for a value looks at it again when it is already counted as asleep, and whoever
// changes it (a reader that leaves, under a flag; a writer that lowers it) wakes afterwards.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/quick_mutex.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tenon::base {

// Processors fetch lines of 64 bytes, some of them two at a time.
class alignas(128) SpreadMutex {
  struct alignas(128) Slot {
    std::atomic<int> readers{0};
  };

public:
  static constexpr std::size_t most_slots = 64;

  SpreadMutex() noexcept; // as many slots as suit the machine
  SpreadMutex(const SpreadMutex&) = delete;
  SpreadMutex& operator=(const SpreadMutex&) = delete;

  void lock_shared() noexcept { enter(mine()); }
  void unlock_shared() noexcept { leave(mine()); }

  // Holds it shared for as long as it lives, and finds its slot but once.
  class Shared {
  public:
    explicit Shared(SpreadMutex& mutex) noexcept : mutex_(mutex), slot_(mutex.mine()) { mutex_.enter(slot_); }
    ~Shared() { mutex_.leave(slot_); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;

  private:
    SpreadMutex& mutex_;
    Slot& slot_;
  };

  void lock();
  void unlock() noexcept;
  // How often it has been held exclusively. By who holds it, in either way: as long as this stays the same, so does what it
  // guards.
  std::uint64_t times_held() const noexcept { return times_held_; }
  // By the only thread of a child process, for the one that held it exclusively when it called fork(): others of the
  // parent's may have been counted, or be waiting.
  void unlock_in_child() noexcept;

private:
  // Counted from 1; 0: the thread has none yet. Initial-exec: found without a call.
  __attribute__((tls_model("initial-exec"),
                 visibility("hidden"))) static inline thread_local constinit std::uint32_t thread_ = 0;
  static std::uint32_t number_thread() noexcept;

  Slot& mine() noexcept {
    if (thread_ == 0) [[unlikely]]
      thread_ = number_thread();
    return slots_[thread_ & mask_];
  }
  void enter(Slot& slot) noexcept {
    slot.readers.fetch_add(1, std::memory_order_seq_cst);
    if (writing_.load(std::memory_order_seq_cst) != 0) [[unlikely]]
      wait_for_writer(slot);
  }
  void leave(Slot& slot) noexcept {
    if (slot.readers.fetch_sub(1, std::memory_order_seq_cst) == 1 && writing_.load(std::memory_order_seq_cst) != 0)
      slot.readers.notify_all();
  }
  void wait_for_writer(Slot& slot) noexcept;

  std::atomic<int> writing_{0}; // the flag; with the mask in a line that only writers write to
  const std::uint32_t mask_;
  std::array<Slot, most_slots> slots_;
  QuickMutex writers_;
  std::uint64_t times_held_ = 0; // guarded by this mutex
  std::atomic<int> waiting_{0};  // readers that found the flag raised, until they are in
};

} // namespace tenon::base

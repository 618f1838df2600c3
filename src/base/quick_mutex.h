// A mutex for what is locked several times for each module that comes or goes, mostly by one thread at a time: locking and
// unlocking it is one atomic operation each and no call, a tenth of the instructions of std::mutex's. Who finds it locked
// sleeps as std::mutex's callers do. Not recursive. fork() may be called with it locked: the child has it locked then, by
// the thread that it has, and may unlock it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#if defined(__SANITIZE_THREAD__)
#define TENON_ORDER_OF_LOCKS_IS_WATCHED
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TENON_ORDER_OF_LOCKS_IS_WATCHED
#endif
#endif

namespace tenon::base {

#ifdef TENON_ORDER_OF_LOCKS_IS_WATCHED
using QuickMutex = std::mutex; // ThreadSanitizer sees in which order these are taken
#else
class QuickMutex {
public:
  constexpr QuickMutex() noexcept = default;
  QuickMutex(const QuickMutex&) = delete;
  QuickMutex& operator=(const QuickMutex&) = delete;

  // Acquire: what was done under it before comes first.
  void lock() noexcept {
    if (!try_lock()) [[unlikely]]
      lock_slowly();
  }
  bool try_lock() noexcept {
    std::uint32_t expected = is_free;
    return word_.compare_exchange_strong(expected, is_held, std::memory_order_acquire, std::memory_order_relaxed);
  }
  // Release: what was done under it is seen by who locks it next. Whoever is about to sleep has left the word at
  // `is_awaited` or finds that it has changed.
  void unlock() noexcept {
    if (word_.exchange(is_free, std::memory_order_release) == is_awaited) [[unlikely]]
      wake_one();
  }

private:
  static constexpr std::uint32_t is_free = 0, is_held = 1, is_awaited = 2; // held, and somebody may sleep

  void lock_slowly() noexcept;
  void wake_one() noexcept;

  std::atomic<std::uint32_t> word_{is_free};
};
#endif

} // namespace tenon::base

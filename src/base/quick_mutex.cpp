// What happens when a mutex is wanted by two at once.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/quick_mutex.h"

#ifndef TENON_ORDER_OF_LOCKS_IS_WATCHED
namespace tenon::base {

// Who gets it here can't know that nobody else sleeps, and so leaves the word at `is_awaited`: its unlock() wakes the next
// one, or nobody. What is held is mostly held for less than a switch of threads takes: wait() looks a few times first.
void QuickMutex::lock_slowly() noexcept {
  while (word_.exchange(is_awaited, std::memory_order_acquire) != is_free)
    word_.wait(is_awaited, std::memory_order_relaxed); // the exchange acquires
}

void QuickMutex::wake_one() noexcept { word_.notify_one(); }

} // namespace tenon::base
#endif

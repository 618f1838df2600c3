// A value that is made when it is first needed, by whoever comes first. Without a lock, so that a fork finds none held; two
// threads may both make one, and the second goes away.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <memory>

namespace tenon::base {

template <class T> class SetOnce {
public:
  SetOnce() = default;
  SetOnce(const SetOnce&) = delete;
  SetOnce& operator=(const SetOnce&) = delete;
  ~SetOnce() { delete get(); }

  // Null: not set yet.
  const T* get() const noexcept { return value_.load(std::memory_order_acquire); }

  // What is there from now on.
  const T& set(std::unique_ptr<const T> value) noexcept {
    const T* before = nullptr;
    if (value_.compare_exchange_strong(before, value.get(), std::memory_order_acq_rel)) return *value.release();
    return *before;
  }

private:
  std::atomic<const T*> value_{nullptr};
};

} // namespace tenon::base

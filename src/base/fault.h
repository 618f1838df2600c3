// Every system call whose failure the engine must survive asks here first, so that a test can make the n-th one fail.
//
// In production the counter is zero and the question costs one relaxed load; system calls are rare (none per module once
// warm).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <cerrno>

namespace tenon::base::fault {

// Tests only: how many more questions are answered "go on" before one is answered "fail". Zero: never fail.
inline std::atomic<long> countdown{0};
// Questions asked since the start: lets a test know how many places there are.
inline std::atomic<long> asked{0};

// True if this system call is to fail as if with ENOMEM; errno is set.
inline bool injected() noexcept {
  asked.fetch_add(1, std::memory_order_relaxed);
  if (countdown.load(std::memory_order_relaxed) == 0) return false;
  if (countdown.fetch_sub(1, std::memory_order_relaxed) != 1) return false;
  errno = ENOMEM;
  return true;
}

} // namespace tenon::base::fault

// Every system call whose failure the engine must survive asks here first, so that a test can make the n-th one fail.
//
// In production the countdown is zero: the question costs one relaxed load of a word that nobody writes, and a branch.
// Counts are kept only while a test has armed it.
//
// These do not ask: close and munmap, which the kernel does not refuse for whole mappings of one's own; hints to madvise,
// after whose failure nothing is different (memory::system::advise); read, whose failures are those of open; and what the
// program, not the engine, can't go on without (a thread's key for its thread-local variables).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace tenon::base::fault {

enum class Call : unsigned char {
  mmap,
  mprotect,
  deny_access, // mprotect that takes all access away from what nobody uses any more
  madvise,
  mlock,
  memfd_create,
  ftruncate,
  pwrite,
  open,
  fstat,
  pipe,
  dlopen,
  dlinfo,
  pthread_atfork,
  pthread_create,
  pthread_key_create,
};

// Tests only: how many more questions there are until one is answered "fail", itself included. Zero: never fail.
inline std::atomic<long> countdown{0};
// That question and all after it: the countdown stays at one.
inline std::atomic<bool> lasting{false};
// While armed: how many questions there were, and a bit for each Call that was asked about, and that was told to fail.
inline std::atomic<long> asked{0};
inline std::atomic<std::uint64_t> met{0};
inline std::atomic<std::uint64_t> failed{0};

constexpr std::uint64_t bit(Call call) noexcept { return std::uint64_t(1) << unsigned(call); }

[[gnu::noinline, gnu::cold]] inline bool count_down(Call call) noexcept {
  asked.fetch_add(1, std::memory_order_relaxed);
  met.fetch_or(bit(call), std::memory_order_relaxed);
  long left = countdown.load(std::memory_order_relaxed);
  do {
    if (left == 0) return false;
  } while (!countdown.compare_exchange_weak(left, left == 1 && lasting.load(std::memory_order_relaxed) ? 1 : left - 1,
                                            std::memory_order_relaxed));
  if (left != 1) return false;
  failed.fetch_or(bit(call), std::memory_order_relaxed);
  errno = ENOMEM;
  return true;
}

// True if this system call is to fail as if with ENOMEM; errno is set.
inline bool injected(Call call) noexcept { return countdown.load(std::memory_order_relaxed) != 0 && count_down(call); }

} // namespace tenon::base::fault

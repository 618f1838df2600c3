// Code with known bounds, and threads that are somewhere in particular.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/stacks.h"

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#if defined(__SANITIZE_THREAD__)
#define TENON_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TENON_UNDER_TSAN 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#define TENON_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TENON_UNDER_ASAN 1
#endif
#endif

namespace tenon::reclaim::test {

// Its functions have large frames, most of which they don't write to: what an earlier call left there is inside a live
// frame, where it counts.
#if defined(TENON_UNDER_ASAN)
inline constexpr bool under_asan = true;
#else
inline constexpr bool under_asan = false;
#endif

#if defined(TENON_UNDER_TSAN)
inline constexpr bool under_tsan = true;
#else
inline constexpr bool under_tsan = false;
#endif

// Machine code made by hand, in a mapping of its own. A version holds `through`, which calls a function with an argument,
// and `spin`, which runs until a word becomes non-zero without calling anything.
class Code {
public:
  static constexpr std::size_t version_size = 64;

  explicit Code(std::size_t versions = 1);
  ~Code();
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  Range range(std::size_t version = 0) const;
  void make(std::size_t version);
  void fill_with_traps(std::size_t version);

  using Through = void (*)(void (*function)(void*), void* argument);
  using Spin = void (*)(const std::atomic<int>* until);
  Through through(std::size_t version = 0) const;
  Spin spin(std::size_t version = 0) const;

  // Calls `function` from inside the version.
  __attribute__((noinline)) void call(const std::function<void()>& function, std::size_t version = 0) const;

private:
  unsigned char* memory_ = nullptr;
  std::size_t size_ = 0;
};

// Pipes as gates: whoever waits is blocked in read().
class Gate {
public:
  Gate();
  ~Gate();
  void wait() const;
  void open(int times = 1) const;

private:
  int ends_[2] = {-1, -1};
};

// A thread that tells its number, and can be waited for until the kernel shows it blocked.
class Worker {
public:
  explicit Worker(std::function<void()> body, const char* name = "worker");
  ~Worker();
  pid_t tid() const;
  void wait_until_blocked() const;
  void join();

private:
  std::atomic<pid_t> tid_{0};
  std::thread thread_;
};

// A look at one thread for one range.
Look look(pid_t tid, Range range);
Look look(Stacks& stacks, pid_t tid, Range range);

std::uint64_t seed(); // of TENON_SEED, or from the clock; printed

} // namespace tenon::reclaim::test

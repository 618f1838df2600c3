// Threads that call a function without end while it is replaced, and a thread that replaces it without end.
//
// Callers do what a program with an event loop does: they register at the engine's border and enter for each outermost call.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "live.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace versus {

class Callers {
public:
  // `engine` null: no border to register at. Waits until each has called.
  Callers(int (*function)(int), unsigned count, tenon::Engine* engine);
  ~Callers() { stop(); }

  // What was wrong, or nothing: every result must be that of some version.
  std::string stop();

private:
  void call(int (*function)(int), tenon::Engine* engine);

  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> started_{0};
  std::atomic<std::uint64_t> wrong_{0};
  std::vector<std::thread> threads_;
};

class Swapper {
public:
  explicit Swapper(LiveFunction& live);
  ~Swapper() { (void)stop(); }

  Result<std::uint64_t> stop(); // how many swaps

private:
  std::atomic<bool> stopping_{false};
  std::uint64_t swaps_ = 0;
  Result<void> outcome_;
  std::thread thread_;
};

} // namespace versus

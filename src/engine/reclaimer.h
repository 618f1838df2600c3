// The engine's side of reclaiming: which removed and superseded code waits, a thread that looks after it, who delays it.
//
// Owner: EngineState. Locks: `mutex_` for one check at a time, outside of all the engine's locks; `wake_mutex_` innermost,
// for the thread's sleep only.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/border.h>

#include "reclaim/grace.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tenon::engine {

struct EngineState;
struct ModuleState;
struct Retirement;

// What waits, as a check has found it.
struct Waiting {
  std::shared_ptr<ModuleState> module;
  std::shared_ptr<Retirement> retirement; // null: it can't be freed yet, but threads inside of it are seen
  std::vector<reclaim::Range> ranges;     // of its code then
};

// What is known of the threads that may be inside of code that waits. Under Reclaimer::mutex_.
struct Retirement {
  static constexpr std::size_t none = ~std::size_t(0);
  std::vector<reclaim::Range> ranges;
  std::uint64_t epoch = 0;
  std::vector<reclaim::ThreadId> clear;
  std::size_t verdict = none; // scratch of a check: which one is about it
  // Those that share it are looked at together or not at all: `ranges` are all of theirs.
  std::size_t members = 0;    // under EngineState::commit_mutex
  std::size_t ready = 0;      // scratch of a check: how many of them can be looked at
  std::uint64_t ready_in = 0; // the number of that check
};

// Under EngineState::commit_mutex.
void join(ModuleState& module, const std::shared_ptr<Retirement>& retirement) noexcept;
void leave_retirement(ModuleState& module) noexcept;

class Reclaimer {
public:
  // `signal`: 0, or what running threads may be asked by. May throw std::bad_alloc. Errors: invalid_argument.
  static Result<std::unique_ptr<Reclaimer>> create(EngineState& engine, int signal);
  ~Reclaimer();

  // Frees what it can. The number of versions that still wait; `delays`: who delays them. `border`: the calling thread's
  // registration, if the library knows of one. The caller holds no lock. May throw std::bad_alloc. Errors: system.
  Result<std::size_t> check(std::vector<Delay>* delays = nullptr, reclaim::Borders::Thread* border = nullptr);
  // There is something new to look after: the thread is started, or woken.
  void wake() noexcept;
  void stop() noexcept;

  reclaim::Borders& borders() noexcept { return borders_; }
  reclaim::Stacks& stacks() noexcept { return stacks_; }

  // A check costs as much as making and removing a small module some times over, or more if there are many threads, and one
  // serves all that waits. So who removes now and then looks at once, and who does it all the time leaves most of it to the
  // thread: checks by callers have a part of the time, of which some can be saved up. With much in `removed` they have more,
  // so that the thread can't fall behind.
  bool has_time(std::size_t removed) const noexcept;
  // Around a check by a caller.
  class Payment {
  public:
    explicit Payment(Reclaimer& reclaimer) noexcept;
    ~Payment();
    Payment(const Payment&) = delete;
    Payment& operator=(const Payment&) = delete;

  private:
    Reclaimer& reclaimer_;
    std::chrono::steady_clock::time_point begin_;
  };

  void after_fork_in_child() noexcept;

private:
  using Clock = std::chrono::steady_clock;

  explicit Reclaimer(EngineState& engine) : engine_(engine) {}
  void run() noexcept;
  void collect_garbage(reclaim::Borders::Thread& self) noexcept;
  Result<bool> judge(std::size_t& left, std::vector<Delay>* delays, std::uint64_t own_frames);
  std::uint64_t begin_epoch(std::span<const Waiting> waiting) noexcept;

  EngineState& engine_;
  reclaim::Borders borders_;
  reclaim::Stacks stacks_;
  std::unique_ptr<reclaim::Signals> signals_;
  std::mutex mutex_;
  std::uint64_t checks_ = 0; // under mutex_
  std::mutex wake_mutex_;
  std::condition_variable woken_;
  bool work_ = false, stopping_ = false, running_ = false; // under wake_mutex_
  bool sleeps_ = false;                                    // under wake_mutex_: until it is woken
  std::thread thread_;
  // For has_time(). Several callers may lose one another's payments: it is an estimate.
  std::atomic<Clock::rep> paid_until_{0}, crowded_until_{0};
};

} // namespace tenon::engine

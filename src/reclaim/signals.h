// Asks running threads where they are, by a signal. Only if the client names one: by default no thread is ever signalled.
//
// The handler runs on the thread that was asked and scans its stack up to a bound that the asker found out before; it takes
// no lock, allocates nothing and waits for nobody. The thread is held up for a few system calls and the reading of its
// stack. A system call that the signal meets may return EINTR, where SA_RESTART does not apply (see signal(7)); only threads
// that were seen running are asked, so this is rare.
//
// Who must not be signalled is not known here: see `send` below, and Borders::unless_real_time.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/stacks.h"

#include <chrono>
#include <functional>

#include <csignal>

namespace tenon::reclaim {

class Signals {
public:
  // `signal`: one that the program does not use, preferably of those that are ignored by default (SIGURG) or a real-time
  // one. A handler found in place keeps being called for signals that are not ours. Errors: invalid_argument.
  static Result<std::unique_ptr<Signals>> create(int signal);
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Puts the old handler back, if this is the last one to use the signal. Not if a thread was asked that has not answered
  // yet (it blocks the signal, or is stopped): then the signal will still come, and could kill a program without a handler.
  ~Signals();

  // Asks all of these threads at once; a look for each, in their order. Threads that do not answer in time, or block the
  // signal, are unknown. `send` is called with each thread and what sends it the signal; it may leave that out.
  using Send = std::function<void(pid_t tid, const std::function<void()>& signal)>;
  Result<std::vector<Look>> ask(Round& round, std::span<const pid_t> threads, std::chrono::microseconds patience,
                                const Send& send);

private:
  explicit Signals(int signal) noexcept : signal_(signal) {}

  int signal_;
  bool installed_ = false;
};

} // namespace tenon::reclaim

// May superseded code be freed? Puts together what is known about threads: the border epochs of those that registered, looks
// at the stacks of the others and of those that linger, questions by signal where the client allows them.
//
// A thread that sleeps in old code delays that version only. A thread that was once seen clear of a version can't enter it
// any more and is not looked at again for it, so a version needs each thread to be out of it at some time, not all at once.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/borders.h"
#include "reclaim/signals.h"
#include "reclaim/stacks.h"

#include <functional>
#include <utility>

namespace tenon::reclaim {

// A version that was superseded.
struct Retired {
  std::span<const Range> ranges; // of its code
  std::uint64_t epoch = 0;       // from retire_epoch(), after it became unreachable
  // The threads seen clear of it since; sorted; the caller keeps it for the next check and never changes it. Null: there is
  // no question of freeing it yet, but who is inside may go on into others.
  std::vector<ThreadId>* clear = nullptr;
};

// Who may be inside a version.
struct Delay {
  pid_t tid = 0; // zero: a declared stack
  std::string name;
  bool inside = false; // it is; else it could not be looked at, and `why` says why
  Addr address;        // where it will go on in the version, if inside
  Why why = Why::none;
};

// "thread NAME (TID) is inside, at ADDRESS", "thread NAME (TID): running, can't be looked at"
std::string to_string(const Delay& delay);

struct Verdict {
  bool is_free = false;
  std::vector<Delay> delays; // none if free
};

// Sets reached[v] to 1 for each version v that threads inside of `version` may go on into, directly or through others. By a
// tail call they get there without a trace. May throw std::bad_alloc.
using LeadsTo = std::function<void(std::size_t version, std::span<std::uint8_t> reached)>;

struct GraceOptions {
  Signals* signals = nullptr; // null: nobody is signalled
  std::chrono::microseconds patience{20'000};
  // The calling thread's stack from here on is looked at: what lies below are the frames of those who ask, which hold stale
  // words, but no frame of linked code. 0: all of it.
  std::uint64_t own_frames = 0;
  LeadsTo leads_to; // empty: no version leads to another
};

class Grace {
public:
  Grace(Borders& borders, Stacks& stacks, GraceOptions options = {}) noexcept
      : borders_(borders), stacks_(stacks), options_(std::move(options)) {}

  // After code has become unreachable (calls and slots point elsewhere), once per batch. A membarrier: 10 µs or so.
  std::uint64_t retire_epoch() noexcept { return borders_.advance(); }

  // A verdict for each version. Before memory of those that are free is written to: process::sync_cores(), once per batch.
  // The calling thread is judged like the others, by its own stack. Errors: system (the threads can't be listed).
  Result<std::vector<Verdict>> check(std::span<const Retired> versions);

private:
  Borders& borders_;
  Stacks& stacks_;
  GraceOptions options_;
};

} // namespace tenon::reclaim

// Looks at the threads of this process from outside: may one of them still be inside certain ranges of code?
//
// The kernel says of a blocked thread where its stack pointer and its program counter are. Its stack is then scanned
// conservatively: a word that points into a range counts as a return address. A running thread tells nothing ("unknown");
// signals.h can ask it. Nothing is stopped, no signal is sent.
//
// Why a clear answer holds. The thread was blocked when its registers were read, and the kernel's count of how often it was
// put on a processor was the same before and after: so it did not run meanwhile, and stack and registers belong together.
// What is looked for: return addresses (on the stack), the program counter, and the arguments of a system call (vfork keeps
// its return address in a register). A call target in another register is not seen: nothing may hold the address of a body
// in a register between reading it and jumping to it, other than a single instruction `jmp *slot`.
//
// Once clear, always clear: who retires the ranges has made sure that nobody can newly enter them. A thread that is created
// later starts in new code. Only a stack that migrates between threads can carry old frames to a thread already seen clear:
// such stacks are declared, and scanned whole each time.
//
// What is below the stack pointer is not scanned if the thread is in a system call: there are no frames, but very often
// return addresses left over from calls that are finished, and a thread that sleeps in poll() would keep code alive for as
// long as it sleeps. If it was stopped elsewhere (a page fault, SIGSTOP), the red zone is scanned as well.
//
// Cost, measured on a virtual machine with two cores of an AMD EPYC (Zen 4), Linux 6.18, kernel entries of 0.3 to 0.5 µs,
// others running: one look at 8 blocked threads 150 µs, 19 µs for each (opening and closing files of /proc takes twelve of
// them), the caller's own stack 8 µs. How many ranges there are hardly matters: with 10,000 instead of one, 156 µs.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/process.h"
#include "reclaim/scan.h"
#include "reclaim/threads.h"

#include <mutex>

namespace tenon::reclaim {

enum class State : unsigned char {
  clear,   // in none of the ranges, and never again
  inside,  // in those that the hits name; clear of the others
  unknown, // `why` says why
};

enum class Why : unsigned char {
  none,
  running,    // and so can't be looked at from outside
  moved,      // ran while it was looked at
  unreadable, // the system does not show it, or its stack has no end
};
const char* to_string(Why why) noexcept;

struct Look {
  pid_t tid = 0; // zero: declared stacks
  State state = State::unknown;
  Why why = Why::none;
  std::vector<Hit> hits; // one for each range that it is inside of

  bool inside(std::size_t range) const noexcept;
};

class Stacks : public process::ForkParticipant {
public:
  Stacks();
  ~Stacks() override;

  // A stack that the kernel can't show: a coroutine's or a task's that is not running. Scanned whole, so what finished calls
  // left on it counts, too. It must be undeclared before its memory is given back. Any thread.
  //
  // Scanned twice, before and after the threads are looked at: one that is resumed by a thread that was looked at already
  // is seen by its return address, which stays where it is while the frame lives. (It could be missed only if both times a
  // function of old code were just running on it, between pushing arguments and the call that they are for.)
  void declare_stack(Addr begin, Addr end);
  void undeclare_stack(Addr begin);

private:
  friend class Round;
  void lock_for_fork() noexcept override { mutex_.lock(); }
  void unlock_after_fork() noexcept override { mutex_.unlock(); }
  void in_child() noexcept override {}

  std::mutex mutex_;
  std::vector<Range> declared_;
};

// One round of looking, by one thread, for one set of ranges (which must outlive it).
class Round {
public:
  static Result<Round> begin(Stacks& stacks, const RangeSet& ranges);

  const TaskFolder& tasks() const noexcept { return tasks_; }
  const RangeSet& ranges() const noexcept { return ranges_; }
  Result<std::vector<pid_t>> threads() const { return tasks_.list(); }

  // Another thread than the caller. One that has ended is clear.
  Look look_at(pid_t tid);

  // The caller: what called this function, or from there on, up to the begin of its stack.
  Look look_at_own(std::uint64_t from = 0);

  // All declared stacks.
  Look look_at_declared();

private:
  Round(TaskFolder tasks, const RangeSet& ranges, std::vector<Range> declared)
      : tasks_(std::move(tasks)), ranges_(ranges), workspace_(ranges), declared_(std::move(declared)) {}

  // Scans the stack at `sp`. False: it can't be read.
  bool scan(Scan& scan, std::uint64_t sp, Home home);
  Look result(pid_t tid) const;

  TaskFolder tasks_;
  const RangeSet& ranges_;
  Workspace workspace_;
  std::vector<Range> declared_; // as they were at the begin
};

} // namespace tenon::reclaim

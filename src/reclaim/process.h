// What is one for the whole process: fork(), and which cores have seen the newest code.
//
// fork() leaves only the calling thread, and memory as it was: also locks that other threads held. So all locks of this
// folder are taken before and given back after it, and the child forgets the threads that it does not have.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

namespace tenon::reclaim::process {

// Something with a lock. Construction and destruction of a participant must not be done while holding any participant's
// lock.
class ForkParticipant {
public:
  ForkParticipant(const ForkParticipant&) = delete;
  ForkParticipant& operator=(const ForkParticipant&) = delete;

protected:
  // `rank`: participants of a lower one are locked first.
  explicit ForkParticipant(int rank = 1);
  virtual ~ForkParticipant();

  void join_forks();  // at the end of the derived constructor
  void leave_forks(); // at the begin of the derived destructor

private:
  friend struct ForkList;
  virtual void lock_for_fork() noexcept = 0;
  virtual void unlock_after_fork() noexcept = 0;
  virtual void in_child() noexcept = 0; // still locked

  int rank_;
  ForkParticipant* next_ = nullptr;
};

// fork() takes locks in the reverse order of registration: who has handlers for locks that he holds while he calls into this
// folder calls this before he registers them. Else it is done when the first participant joins.
void register_fork_handlers();

// False in a child whose parent forked on another thread than its first: the child's first thread has that one's stack.
bool first_thread_has_first_stack() noexcept;

// How the cores of the other threads can be made to see what was written as code.
enum class Barrier : unsigned char {
  sync_core, // membarrier, PRIVATE_EXPEDITED_SYNC_CORE
  expedited, // membarrier orders memory, and a page's protection is changed for the interrupts that this causes
  page,      // only the latter: too weak for ordering on machines that need no interrupt for it
};

// Registers the process with membarrier. The first call is cheap only while there is one thread (otherwise it waits for an
// RCU grace period, 9 ms were seen): call it early.
Barrier barrier() noexcept;

// When it returns, every thread of this process has passed, or will pass before it runs another instruction of the program,
// a full memory barrier and a serializing instruction. Once per batch of changes: 10 µs with idle threads, 43 with busy
// ones.
void sync_cores() noexcept;

} // namespace tenon::reclaim::process

// What keeps a Space whole across fork().
//
// A shared mapping stays shared across fork: the child would see what its parent writes later, and write into its parent. So
// the child gets its own copy of all shared memory before fork() returns in it, and meanwhile nobody in the parent writes:
//
// - Whoever writes through an alias, or allocates, or frees, is inside the gate. fork() closes the gate and waits until
//   it is empty. So at the moment of forking no writer is half done and no lock of this folder is held: the child, in which
//   only the forking thread lives on, finds every structure consistent.
// - fork() returns in the parent at once. The first thread that wants to enter the gate waits on a pipe for the child's
//   word; a child that dies first gives end-of-file, which is as good. The child sends it when all Spaces have their copies.
// - The child cannot go on with memory that is not its own: if the system refuses the copy, it prints why and aborts.
//   A child that is to run another program is better made by posix_spawn or vfork, which run none of this.
//
// The gate and the list of Spaces are the only state of the process as a whole in this library: fork() is one call for all.
// A gate per Space would deadlock a thread that writes to two Spaces while fork() waits for one of them.
//
// A thread inside the gate may enter again, for any Space, and is never made to wait. It must not call fork() (checked).
// What the child's copying costs: about 0.4 ms per MiB used. Raw clone() runs no handlers and can't be served.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include "base/check.h"

#include <cstdint>

namespace tenon::memory::fork {

struct Thread {
  std::uint32_t depth = 0;
  std::uint32_t cell = 0; // plus one
};
// Initial-exec: found without a call.
__attribute__((tls_model("initial-exec"), visibility("hidden"))) extern constinit thread_local Thread this_thread;

// Two atomic additions and a load of one flag, whatever the number of threads: each thread counts in one of several cells.
// Inside of the gate: nothing but a count.
void enter_first() noexcept;
void leave_last() noexcept;
inline void enter() noexcept {
  if (this_thread.depth++ == 0) enter_first();
}
inline void leave() noexcept {
  TENON_CHECK(this_thread.depth != 0, "a thread leaves as often as it entered");
  if (--this_thread.depth == 0) leave_last();
}

class Inside {
public:
  Inside() noexcept { enter(); }
  ~Inside() { leave(); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

// A Space, which has locks inside the gate and perhaps shared memory: then `copy_in_child` runs in the child, alone. It does
// not fail.
struct Participant {
  void (*copy_in_child)(Participant& self) noexcept = nullptr;
  Participant* next = nullptr;
  Participant* previous = nullptr;
};

// From `add` to `remove` (both inside the gate) every child gets its copy. Errors: system.
Result<void> add(Participant& participant);
void remove(Participant& participant) noexcept;
// One that is not in the list, or null: nobody waits for it, and its copy_in_child runs in every child. Inside the gate, one
// thread at a time.
void set_resting(Participant* participant) noexcept;

// Prints "tenon: WHAT: REASON" with errno's text and aborts: in the child, where there is nobody to return an Error to.
[[noreturn]] void give_up_in_child(const char* what) noexcept;

} // namespace tenon::memory::fork

// Epochs at the engine's border: which of the threads that registered may have been inside linked code since before an
// epoch began. It costs a thread a few nanoseconds at the outermost entry and no system call, lock or allocation.
//
// The contract. A registered thread runs linked code only between enter() and leave(), or, in quiescent mode, has no
// frame of linked code at its calls of quiescent(). The engine makes code unreachable first and calls advance() then. Code
// that became unreachable before advance() returned E is left for good by a thread that is outside, or entered (or was
// quiescent) in E or later.
//
// Why that holds (memory order). The thread, entering:            The engine, retiring:
//     e1  s = epoch, acquire                                        a1  calls and slots are redirected
//     e2  state = s, release; then a compiler barrier               a2  membarrier SYNC_CORE
//     e3  runs calls, reads slots                                   a3  epoch = E, release
//     e4  leaving: state = 0, release                               a4  (any time later) reads state, acquire
// - a4 reads 0 though the thread is inside: then e2 was not yet visible at a4. a2 puts a full barrier into the thread at
// some
//   point of its program between a1 and a3. If e3 came before that point, so did e2, and a4 would have seen it. So e3 comes
//   after it and sees a1: the thread is inside, but in new code. This is the asymmetric barrier: a store and a later load in
//   the thread need a full fence between them, and the engine executes that for all threads, once per retirement.
// - a4 reads E or more: then e1 read a3 (acquire, release), which comes after a2. The thread has passed a serializing
// instruction
//   after a1, so neither its data nor the instructions it fetched from then on are older than a1.
// - a4 reads 0 or E or more after the thread left old code: it reads from e4 (or a later e2, which is a release, too), so
//   everything the thread did in old code happens before the memory is given back.
// - leave() needs no more than release, quiescent() is e1 and e2.
// Where the kernel lacks membarrier, e2 is followed by a full fence in the thread.
//
// Measured (the machine of stacks.h, GCC 12 -O2, a pair of enter and leave): 1.9 to 2.2 ns, and with a fence in the thread
// the same within 0.1 ns, as long as no store is on its way; after one that misses the first cache 2.2 to 4.8 ns, with a
// fence 4.7 to 5.2. So this machine would hardly mind the fence. The barrier is the engine's all the same: it is needed for
// the instructions anyway (a3 after a2), and where a fence is dear the thread is spared it. advance() takes 0.7 µs while
// nobody else runs, 15 µs and more with busy threads.
//
// longjmp over frames of linked code, past a leave(), does no harm: enter() notes where on the stack the outermost Mark is.
// An enter() whose stack pointer is above that knows that the frame of that mark is gone. As long as no such enter() comes,
// the thread counts as inside, and a look at its stack (stacks.h) finds it clear.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/process.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <pthread.h>
#include <sys/types.h>

#if defined(__SANITIZE_ADDRESS__)
#define TENON_MARKS_LIE_ELSEWHERE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TENON_MARKS_LIE_ELSEWHERE 1
#endif
#endif

namespace tenon::reclaim {

class Borders : public process::ForkParticipant {
public:
  class Thread;

  // How threads order their entry before what they do inside.
  enum class Fence : unsigned char {
    automatic,  // by the engine's membarrier if there is one
    in_threads, // by a fence of their own: for measuring, and for trying what other kernels get
  };
  explicit Borders(Fence fence = Fence::automatic);
  ~Borders() override; // all threads must be unregistered

  // Begins a new epoch and returns it. What is to be retired with it must be unreachable by now. Any thread.
  std::uint64_t advance() noexcept;

  // The second half of advance(), after process::sync_cores(): stores the number of the epoch before any thread can enter in
  // it. One caller at a time, and not beside advance().
  std::uint64_t next_epoch(std::atomic<std::uint64_t>* announced = nullptr) noexcept;

  // Whether the thread can't be in code any more that was unreachable when `epoch` began.
  bool has_left(const Thread& thread, std::uint64_t epoch) const noexcept;

  // A registered thread as it was just now.
  struct Standing {
    pid_t tid = 0;
    std::uint64_t state = 0; // zero: outside; else the epoch of its entry
    bool real_time = false;
    std::string name;

    bool has_left(std::uint64_t epoch) const noexcept { return state == 0 || state >= epoch; }
  };
  std::vector<Standing> threads() const; // by tid

  // The threads that may have been inside since before the epoch. `visit` may call anything.
  void for_each_lingering(std::uint64_t epoch, const std::function<void(const Standing&)>& visit) const;

  // Calls `action` unless the thread is declared real-time; it can't be declared so until the call is over.
  bool unless_real_time(pid_t tid, const std::function<void()>& action) const;

private:
  void lock_for_fork() noexcept override { mutex_.lock(); }
  void unlock_after_fork() noexcept override { mutex_.unlock(); }
  void in_child() noexcept override;

  alignas(64) std::atomic<std::uint64_t> epoch_{1};
  const bool fence_in_threads_;
  alignas(64) mutable std::mutex mutex_;
  Thread* first_ = nullptr;
};

// The registration of the thread that constructs it; only that thread may use and destroy it, outside of linked code, or in
// a scope that a longjmp left. In a child of fork() only the calling thread's registrations live on.
class alignas(64) Borders::Thread {
public:
  explicit Thread(Borders& borders, std::string_view name = {}); // the thread's own name, if empty
  ~Thread();
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  // An entry: a local variable of the function that calls linked code (of the frame that is there as long as the entry
  // lasts).
  struct Mark {
    char byte = 0;
  };

  // [rt] Wait-free. Entries nest; only the outermost one counts, so code that runs in one long entry lingers for as long. A
  // stack that is switched away inside leaves on the thread on which it entered.
  __attribute__((always_inline)) void enter(Mark& mark) noexcept {
    const std::uintptr_t sp = stack_pointer();
    if (outermost_ != nullptr && outermost_ != &mark && !is_gone(sp)) return;
    outermost_ = &mark;
    place_ = place_of(mark);
    begin();
  }
  void leave(Mark& mark) noexcept {
    if (outermost_ != &mark) return; // not the outermost, or in quiescent mode
    outermost_ = nullptr;
    state_.store(0, std::memory_order_release);
  }

  // For threads that are inside for good and would rather say when they hold no frame of linked code. Entries mean
  // nothing while it is on. Turning it on or off is a quiescent point, too; off is outside (before a long sleep, say).
  void set_quiescent_mode(bool on) noexcept;
  // [rt] Wait-free.
  void quiescent() noexcept {
    if (outermost_ == always()) begin();
  }

  // Zero, or the epoch in which it entered.
  const std::atomic<std::uint64_t>& state() const noexcept { return state_; }

  // A thread declared real-time is never signalled: not from the moment this returns. Not [rt] itself.
  void set_real_time(bool on) noexcept;

private:
  friend class Borders;

  static std::uintptr_t stack_pointer() noexcept {
#if defined(__x86_64__)
    std::uintptr_t sp = 0;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    return sp;
#elif defined(__aarch64__)
    std::uintptr_t sp = 0;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
#else
    return 0; // no entry is ever known to be jumped over
#endif
  }

  // An address in the frame of the mark. ASan keeps local variables elsewhere.
  static __attribute__((always_inline)) inline std::uintptr_t place_of([[maybe_unused]] const Mark& mark) noexcept {
#if defined(TENON_MARKS_LIE_ELSEWHERE)
    return reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
#else
    return reinterpret_cast<std::uintptr_t>(&mark);
#endif
  }

  // Has the frame of the outermost mark ended, seen from a frame with this stack pointer? Only addresses on the thread's own
  // stack can be compared: a signal handler's or a coroutine's stack may lie anywhere.
  bool is_gone(std::uintptr_t sp) const noexcept { return place_ < sp && place_ - low_ < size_ && sp - low_ < size_; }

  void begin() noexcept {
    // Read again once it is said, so that an epoch that begins meanwhile is not missed: the atomic commits of transition.h
    // decide by the epoch what a thread sees, and count on nobody entering in an earlier one after they have looked.
    for (std::uint64_t epoch = borders_.epoch_.load(std::memory_order_acquire);;) {
      state_.store(epoch, std::memory_order_release);
      if (borders_.fence_in_threads_) {
        std::atomic_thread_fence(std::memory_order_seq_cst);
      } else {
        std::atomic_signal_fence(std::memory_order_seq_cst);
      }
      const std::uint64_t now = borders_.epoch_.load(std::memory_order_acquire);
      if (now == epoch) return;
      epoch = now;
    }
  }

  // An outermost mark that no leave() can take away.
  static const Mark* always() noexcept {
    static constexpr Mark mark;
    return &mark;
  }

  // What the reclaimer reads stands in the first line, with what the thread itself writes when it enters.
  std::atomic<std::uint64_t> state_{0}; // zero: outside; else the epoch in which it entered
  const Mark* outermost_ = nullptr;
  std::uintptr_t place_ = 0;
  std::uintptr_t low_ = 0, size_ = 0; // the thread's own stack
  Borders& borders_;

  // Under the Borders' lock.
  Thread* next_ = nullptr;
  bool real_time_ = false;
  pid_t tid_ = 0;
  pthread_t self_{};
  std::string name_;
};

// A scope in which a thread may run linked code.
class Inside {
public:
  __attribute__((always_inline)) explicit Inside(Borders::Thread& thread) noexcept : thread_(thread) {
    thread_.enter(mark_);
  }
  __attribute__((always_inline)) ~Inside() { thread_.leave(mark_); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

private:
  Borders::Thread& thread_;
  Borders::Thread::Mark mark_;
};

} // namespace tenon::reclaim

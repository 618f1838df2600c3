// The engine's border: what threads may say of themselves, so that code that was removed or superseded can be freed without
// anybody waiting, and what the engine says of threads that delay it.
//
// None of this is needed. A thread that never says anything is looked at from outside once it blocks; one that runs without
// ever blocking delays what it might be inside of, unless Options::reclaim_signal allows to ask it. Nothing is interposed,
// and no signal handler is installed unasked.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/result.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace tenon {

// A thread that delays the freeing of a version.
struct Delay {
  std::string thread;  // its name
  int tid = 0;         // zero: a declared stack
  bool inside = false; // it is inside; else it may be, and `why` says why: it could not be looked at, for example
  std::string module;
  std::string function; // of the version that waits, if it is inside and the function has a name
  Addr address;         // where it will go on, if inside
  const char* why = "";
};

// The registration of the thread that makes it. From then on the thread promises to run linked code of the engine only
// inside of entries, or, in quiescent mode, to have no frame of linked code at its quiescent points; so it is never looked
// at from outside while it is outside. Only that thread uses and destroys it, before it ends.
class Border {
public:
  class Entry;

  // Instead of entries: for threads that are inside for good. Switching is a quiescent point, too; off is outside.
  void set_quiescent_mode(bool on) noexcept;
  // [rt] This thread holds no frame of linked code now. Wait-free.
  void quiescent() noexcept;
  // A real-time thread is never signalled, from the moment this returns; it delays what it may be inside of, by its entries
  // or quiescent points, and nothing else. Takes a lock: before the time-critical part.
  //
  // What such a thread may do without ever waiting: make entries, call quiescent(), call linked code through stubs, call
  // sites, `Function`s and the switches of atomic commits, and use thread-local variables of linked modules that it has
  // used before. None of it takes a lock, allocates or makes a system call, and a commit, removal or reclaiming that goes on
  // meanwhile in other threads does not change that. What does wait:
  // - the first execution of each page of code, and first access to each page of data and constants, unless the engine has
  //   Options::prefault, which is for the whole engine and can't be asked for by a thread later;
  // - the first access of a thread to the thread-local variables of a module, which Module::touch_thread_locals() does
  //   beforehand, with one call for all variables of all versions (a module that comes later is touched later);
  // - a throw that passes linked code allocates, and takes the C library's locks, as everywhere;
  // - a commit or the reclaimer interrupts each core that runs the process for about a microsecond (membarrier): no signal,
  //   nothing runs in the thread.
  void set_real_time(bool on) noexcept;

  struct State; // the engine's
  explicit Border(std::unique_ptr<State> state) noexcept;
  Border(Border&&) noexcept;
  Border& operator=(Border&&) noexcept;
  ~Border();

private:
  std::unique_ptr<State> state_;
};

// [rt] A scope in which the thread runs linked code: a local variable of the function that calls it. Entries nest.
// Wait-free, no system call, about 2 ns. A longjmp past its end does no harm.
class Border::Entry {
public:
  explicit Entry(Border& border) noexcept;
  ~Entry();
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

private:
  State& state_;
  char mark_ = 0;
};

} // namespace tenon

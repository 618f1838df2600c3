// The engine: owns libraries, modules and memory. As many per process as wanted. What is process-wide serves the process's
// own lists: fork handlers, the keys of thread-local storage, quick-exit handlers, the compiler's support library.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/border.h>
#include <tenon/change.h>
#include <tenon/library.h>
#include <tenon/redirect.h>

namespace tenon {

enum class Mapping : unsigned char {
  dual,   // code is written through a second mapping of the same memory; no page is ever writable and executable
  single, // for emulators, Valgrind, and kernels that forbid executable shared memory: each block takes whole pages
};

// Whether linked code and data are in memory before they are first used, for threads that may not wait (border.h).
enum class Prefault : unsigned char {
  none,
  populate, // every page of the engine's memory is present, and in the page tables, before a commit leads anything to it
  lock,     // and locked (mlock), so that it stays; counts against RLIMIT_MEMLOCK
};

struct Options {
  std::uint64_t reservation_bytes = std::uint64_t(1) << 31; // address space, at most 2 GiB; memory is used as it is needed
  bool low_2gib = false; // everything below 2^31: for objects that were not compiled as PIC (32-bit absolute relocations)
  Mapping mapping = Mapping::dual;
  // A signal by which threads that run without blocking may be asked whether they are inside of code that is to be freed; 0:
  // none is ever sent. One that the program does not use otherwise (SIGURG, or a real-time one).
  int reclaim_signal = 0;
  // Costs time and memory only where the engine's memory grows: in steps of 64 KiB to 2 MiB of each kind. Serves the
  // engine's memory alone: a Memory of the client's, the heap, stacks and the program's own code are the program's
  // (mlockall, with MCL_FUTURE before engines are created: MCL_CURRENT alone makes all of a living engine's reservation
  // present, 1.5 GiB of 2, unless MCL_ONFAULT is given). Where RLIMIT_MEMLOCK is exceeded, create(), place() or whatever
  // else needed the memory says so (`system`) and nothing has changed. Freed memory is used again and stays present until
  // the engine ends; with Mapping::single its pages are unlocked and given back. Where nothing is said, it is the kernel's:
  // its page migration may make a page absent for a moment (vm.compact_unevictable_allowed, numa_balancing). After a fork
  // the parent's first write to each page of data copies it, as with all private memory; the child's memory is present, and
  // not locked.
  Prefault prefault = Prefault::none;
  bool unwinding = true; // exceptions and backtraces through linked code; off saves the registration
};

struct EngineUsage {
  std::uint64_t reserved = 0;    // bytes of address space
  std::uint64_t committed = 0;   // bytes backed by memory
  std::uint64_t live = 0;        // bytes in blocks of modules
  std::uint64_t bookkeeping = 0; // bytes on the heap for modules and symbols
  std::uint64_t modules = 0, symbols = 0, frames = 0;
  std::uint64_t superseded = 0; // earlier versions, and places that code was moved away from, that are not freed yet
};

// What Engine::move has done.
struct Moved {
  std::uint64_t bytes = 0; // of code
  std::uint64_t functions = 0;
  std::uint64_t sections_kept = 0; // sections that were asked for, but can't move
  std::string why_kept;            // the first of them
};

// What Engine::compact has done, and what became of the memory for code.
struct Compaction {
  std::uint64_t bytes = 0;                                 // of code that was moved; twice, if it was moved twice
  std::uint64_t functions = 0;                             // likewise
  std::uint64_t used_before = 0, used_after = 0;           // bytes from the area's begin to the end of its last block
  std::uint64_t committed_before = 0, committed_after = 0; // bytes backed by memory
};

// A counted handle; the engine ends with the last handle on it and on its libraries, and with every change that is under
// way. At its end finalizers run, in the reverse order of commits. Any thread.
//
// fork(): the child has a copy of everything and may go on linking; what either does later does not reach the other. A
// thread may not fork from inside a Memory callback. A raw clone(2) that bypasses fork handlers can't be served. Once code
// with unwind information has been committed to a Memory of the client's, libgcc before 13 takes a lock for every throw of
// the process, and no fork handler: a child that throws hangs if another thread was throwing at the moment of the fork. That
// is libgcc's (__register_frame) and can't be mended from outside; memory of the engine's own does not bring it about.
class Engine {
public:
  // The process keeps the address space of one ended engine of the usual options for the next, empty: no memory, one file
  // descriptor and some mappings (docs/LINKING.md). Errors: system, exhausted (low_2gib: no room there).
  static Result<Engine> create(const Options& options = {});

  // The library of that name, made if there is none yet; a new anonymous one if the name is empty. A new library searches
  // Source::process() unless told otherwise. Errors: invalid_argument (there is one of that name, with other options).
  Result<Library> library(std::string_view name = {}, const LibraryOptions& options = {});

  // A new, empty change. If there is no memory for it, its draft() says so.
  Change change() noexcept;

  // Many at once, one after the other: as Redirect::to and back, the lock taken once. Any thread. On an error, as of
  // Redirect::to, none of them has been redirected.
  Result<void> redirect(std::span<const Redirection> batch);

  // Collects what nobody can reach (LibraryOptions::collected), and frees what was collected, removed or superseded and no
  // thread can be inside of any more; a thread of the engine's own does both, too, within milliseconds; it takes no signals
  // that the program handles. Who delays the rest.
  // Runs the finalizers of what it collects. Errors: system.
  Result<std::vector<Delay>> collect();

  // Moves a module's code, or that of one of its functions and what it is tied to, to the lowest free address, while threads
  // run it: new calls go there, frames that are under way finish at the old place, which is freed like a version that was
  // replaced. Addresses of functions, pointers and variables stay as they are. Only modules of replaceable libraries, in the
  // engine's memory. What stays where it is: code whose address something may hold (labels that are no functions, computed
  // gotos), read-only data that can be referred to. Any thread. Errors: unsupported (nothing of it can move, and why),
  // undefined (no such function), conflict (removed meanwhile, or part of an atomic commit that is under way), exhausted,
  // out_of_range, system; then nothing has changed.
  Result<Moved> move(const Module& module);
  Result<Moved> move(const Module& module, std::string_view function);
  // After many removals: packs live code of replaceable libraries towards the lowest addresses, while threads run it, and
  // gives memory behind it back to the system. Code that threads are inside of is moved, but its old place can be filled by
  // a later call only. Takes time for each module and free range. Any thread. Errors: unsupported (Mapping::single), system;
  // then what was moved until then is.
  Result<Compaction> compact();

  // Registers the calling thread at the engine's border (see border.h).
  Result<Border> border(std::string_view thread_name = {});
  // A stack that the system does not know, of a coroutine or a task that is switched out: it is looked at like a thread's.
  // Until it is undeclared, which must be before its memory is given back.
  Result<void> declare_stack(Addr begin, Addr end);
  void undeclare_stack(Addr begin) noexcept;

  EngineUsage usage() const noexcept;

  // Options as they are in force (reservation_bytes may have shrunk for low_2gib).
  const Options& options() const noexcept;

  explicit Engine(std::shared_ptr<engine::EngineState> state) noexcept : state_(std::move(state)) {}
  const std::shared_ptr<engine::EngineState>& state() const noexcept { return state_; }

private:
  std::shared_ptr<engine::EngineState> state_;
};

} // namespace tenon

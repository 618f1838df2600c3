// Reads the stack of a thread, word by word, and notes which ranges of code its words point into.
//
// All memory is read with process_vm_readv on our own process, in pieces: a stack may be unmapped at any moment because its
// thread ended, and then the call fails where a load would crash. It also finds the end of a stack without asking for the
// mappings: reading goes up from the stack pointer to the first page that can't be read, or to a bound that is known (the
// thread's own control block, see Home), whichever comes first. Where mappings touch each other, more is read than needed,
// never less.
//
// What is on the stack of a signal handler that runs on an alternate stack? The kernel's frame, with all registers of what
// was interrupted. It is recognized by the word that holds the segment registers (0x002b0000'00000033 on x86-64: always the
// same, and hardly ever anything else), and the interrupted stack is read, too. A word that only looks like it costs time
// and at worst delays a version. Where an alternate stack ends is not believed of the frame, which may be a stale one: one
// that lies on the heap is read together with the heap above it, where other threads' alternate stacks may lie.
//
// A word counts as a return address only if a call instruction stands before the place it points at. That tells frames from
// pointers to functions and from the numbers of whoever keeps books on ranges, the engine's own frames among them. Program
// counters (of the thread, of signal frames) count wherever they point.
//
// Nothing here allocates, locks or fails but by its return value: the handler in signals.cpp uses it as well.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/ranges.h"

#include <array>
#include <atomic>
#include <memory>

namespace tenon::reclaim {

// A word that points into a range; `address` is the word (a return address or a program counter).
struct Hit {
  std::uint32_t range = 0;
  Addr address;
};

struct Registers {
  std::uint64_t sp = 0, pc = 0;
};

// The stack that a thread was started on: where it ends (exclusive; zero if not known), and where its mapping begins, if
// that was asked for. A thread that runs on another stack (a coroutine's, an alternate one) has frames there, too.
struct Home {
  std::uint64_t begin = 0, end = 0;
};

// Code of the process in which a thread has chosen a version but is not in it yet: where it will go on, neither its program
// counter nor a return address tells. Who was interrupted there may be inside of anything. Set once, before such code runs.
struct Transit {
  static inline std::atomic<std::uint64_t> begin{0}, end{0};
};

// What a scan writes into: a buffer and one hit per range, made beforehand.
class Workspace {
public:
  explicit Workspace(const RangeSet& ranges);

  void clear() noexcept; // of hits
  std::span<const Hit> hits() const noexcept { return {hits_.get(), count_}; }
  bool in_transit() const noexcept { return in_transit_; } // see Transit

private:
  friend class Scan;
  static constexpr std::size_t words = 8192;
  static constexpr std::size_t carried = 3; // words kept from the piece before, to recognize a signal frame

  std::unique_ptr<Hit[]> hits_;
  std::unique_ptr<std::uint32_t[]> stamps_; // per range: noted in the current round?
  std::unique_ptr<std::uint64_t[]> buffer_;
  std::size_t size_ = 0;
  std::size_t count_ = 0;
  std::uint32_t round_ = 1;
  bool in_transit_ = false;
};

class Scan {
public:
  Scan(const RangeSet& ranges, Workspace& workspace) noexcept : ranges_(ranges), workspace_(workspace) {}

  // A program counter.
  void pc(std::uint64_t word) noexcept;

  // A register or a word of a stack.
  void word(std::uint64_t word) noexcept;

  enum class Outcome : unsigned char {
    complete,
    home_unseen, // everything from SP up is read, but the thread is on another stack: its home is to be read as well
    unreadable,  // there is nothing readable at SP, or there is no end to it
  };

  // From the stack pointer up, and the stacks that signal frames lead to. `bound`: where the stack is known to end, or zero.
  Outcome stack(std::uint64_t sp, const Home& home, std::uint64_t bound = 0) noexcept;

  // Everything in there that can be read.
  void whole(std::uint64_t begin, std::uint64_t end) noexcept;

private:
  struct Extent {
    std::uint64_t begin, end;
  };
  static constexpr std::size_t max_extents = 8;
  static constexpr std::uint64_t longest = std::uint64_t(256) << 20;

  // Scans up from there; the address at which it stopped.
  std::uint64_t stretch(std::uint64_t begin, std::uint64_t end) noexcept;
  void words(const std::uint64_t* begin, const std::uint64_t* end) noexcept;
  void push(std::uint64_t sp) noexcept;
  bool returns_to(std::uint64_t address) const noexcept;

  const RangeSet& ranges_;
  Workspace& workspace_;
  std::array<std::uint64_t, max_extents> pending_{}; // stack pointers, the first `done_` of them read
  std::array<Extent, max_extents> extents_{};        // what was read for them
  std::size_t pending_count_ = 0, done_ = 0;
  bool too_many_ = false;
};

} // namespace tenon::reclaim

// Memory for what is kept of each module: small pieces, many of them, that come and go in any order.
//
// Why not malloc: its header costs a small piece a tenth of its size, and what is freed among pieces that stay goes back to
// the system only from the heap's end, behind which the next change's temporaries lie. Here pieces of one size lie together
// in slabs of 32 KiB without headers of their own; slabs that are empty give their pages back, up to 64 of them at a time.
// How many may wait for that: a sixteenth of those in use, and no fewer than 4; beside them one of each size, until others
// go, so that a program that replaces a module over and over does not pay for it. By as many as are wanted again before the
// next time, more may wait, 512 at most (16 MiB), and until an engine ends: nor does who links and removes much over and
// over. Of chunks of 2 MiB of address space that have nothing in use, one is kept then.
//
// Process-wide, because modules may outlive their engine. Any thread; the lock is inside of all others. Under
// AddressSanitizer and ThreadSanitizer every piece is operator new's, so that they see what they are there for.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

namespace tenon::base::pool {

// What a piece of that size really takes up: all of it may be used. Sizes beyond the largest are operator new's.
std::size_t rounded(std::size_t size) noexcept;

// Aligned to 16 bytes. May throw std::bad_alloc.
void* allocate(std::size_t size);
// `size`: as it was asked for, or anything that rounded() takes for the same.
void deallocate(void* piece, std::size_t size) noexcept;

// What giving back a piece will look at beside the piece itself.
void prefetch(const void* piece) noexcept;

// Between the two, which may be nested, what this thread gives back is gathered and goes in lots: one lock for many pieces.
void begin_gathering() noexcept;
void end_gathering() noexcept;
struct Gathering {
  Gathering() noexcept { begin_gathering(); }
  ~Gathering() { end_gathering(); }
  Gathering(const Gathering&) = delete;
  Gathering& operator=(const Gathering&) = delete;
};

// Whoever used it has ended. If nothing is in use any more, no more than a chunk is kept, however soon that was wanted again
// before.
void end() noexcept;
// Gives back the pages of all that is not in use, and forgets what was wanted again.
void release_unused() noexcept;
// Calls end() at that of a scope.
struct Ending {
  Ending() = default;
  ~Ending() { end(); }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;
};

struct Usage {
  std::size_t live = 0;   // bytes in pieces, operator new's not among them
  std::size_t mapped = 0; // address space
};
Usage usage() noexcept;

// Around fork(), inside of all other locks (memory/fork.cpp): the child finds it whole.
void lock() noexcept;
void unlock() noexcept;

// Tests only: asked before each piece is made (true), which fails if the answer is false, and told when one goes (false).
inline std::atomic<bool (*)(bool made) noexcept> watch{nullptr};

} // namespace tenon::base::pool

namespace tenon::base {

// For std::allocate_shared.
template <class T> struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class Other> constexpr PoolAllocator(const PoolAllocator<Other>&) noexcept {} // NOLINT: allocators convert
  T* allocate(std::size_t count) {
    static_assert(alignof(T) <= 16);
    return static_cast<T*>(pool::allocate(count * sizeof(T)));
  }
  void deallocate(T* piece, std::size_t count) noexcept { pool::deallocate(piece, count * sizeof(T)); }
  friend bool operator==(const PoolAllocator&, const PoolAllocator&) = default;
};

} // namespace tenon::base

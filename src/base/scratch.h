// Memory for what lives as long as a change: pieces are cut off one after another, and go back all together.
//
// Why: a small change makes fifty small tables and drops them all before it is over; with malloc that was a quarter of its
// instructions. Here a piece costs an addition when it is made and a subtraction when it goes. Each thread cuts from a chunk
// of its own; once nothing that was cut from it is in use, it is cut from the beginning again, so that one change after
// another works in the same few pages, which stay in the cache. A thread keeps a few empty chunks for itself. What is large
// is operator new's: its pages are better given back.
//
// Any thread may give back what another has made, during and after that one's life. Not for what clients may keep in
// numbers: a piece keeps its whole chunk. Under AddressSanitizer and ThreadSanitizer every piece is operator new's.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/pool.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TENON_SCRATCH_IS_PLAIN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define TENON_SCRATCH_IS_PLAIN
#endif
#endif

namespace tenon::base::scratch {

#ifdef TENON_SCRATCH_IS_PLAIN
inline constexpr bool is_plain = true;
#else
inline constexpr bool is_plain = false;
#endif

inline constexpr std::size_t chunk_size = std::size_t(32) << 10, largest = 2048;

struct Thread;

// At the begin of each chunk, which lies at a multiple of its size.
struct Chunk {
  std::atomic<Thread*> owner{nullptr}; // constant until the thread ends; then null
  std::int32_t live = 0;               // the owner's only: what it has made less what it has given back
  // What other threads have given back; once the owner has ended, less `live`: who brings it to zero frees the chunk.
  std::atomic<std::int32_t> gone{0};
  Chunk* next = nullptr; // in the owner's ring of chunks that it does not cut from
  Chunk* previous = nullptr;
};
inline constexpr std::size_t chunk_head = 64;
static_assert(sizeof(Chunk) <= chunk_head);

struct Thread {
  std::uintptr_t at = 0; // what is left of `current`
  std::uintptr_t end = 0;
  Chunk* current = nullptr;
  Chunk* ring = nullptr;  // full ones, some of which others may have emptied
  Chunk* spare = nullptr; // empty ones
  std::uint32_t spares = 0;
  bool ended = false;
};

// Initial-exec: found without a call.
__attribute__((tls_model("initial-exec"), visibility("hidden"))) extern constinit thread_local Thread self;

inline std::uintptr_t first_piece(const Chunk* chunk) noexcept {
  return reinterpret_cast<std::uintptr_t>(chunk) + chunk_head;
}
inline std::uintptr_t align(std::uintptr_t at, std::size_t alignment) noexcept {
  return (at + alignment - 1) & ~std::uintptr_t(alignment - 1);
}

// In a new chunk. May throw std::bad_alloc.
void* allocate_in_another(std::size_t size, std::size_t alignment);
// The last piece of a chunk that is not cut from, or one of another thread's.
void give_back_elsewhere(Chunk* chunk) noexcept;
// As operator new's pieces are by those who replace that (pool::watch). May throw std::bad_alloc.
void watch_allocation();
void watch_deallocation() noexcept;

// May throw std::bad_alloc.
inline void* allocate(std::size_t size, std::size_t alignment) {
  if (is_plain || size > largest) {
    if (alignment > 16) return ::operator new(size, std::align_val_t(alignment));
    return ::operator new(size);
  }
  if (pool::watch.load(std::memory_order_relaxed) != nullptr) [[unlikely]]
    watch_allocation();
  Thread& mine = self;
  const std::uintptr_t piece = alignment > 16 ? align(mine.at, alignment) : mine.at;
  const std::uintptr_t after = piece + align(size, 16);
  if (after > mine.end) [[unlikely]] // as in a thread without a chunk
    return allocate_in_another(size, alignment);
  mine.at = after;
  ++mine.current->live;
  return reinterpret_cast<void*>(piece);
}

// `size` and `alignment`: as it was asked for.
inline void deallocate(void* piece, std::size_t size, std::size_t alignment) noexcept {
  if (piece == nullptr) return;
  if (is_plain || size > largest) { // of a conditional expression in place of `if` Clang 22 runs both
    if (alignment > 16) return ::operator delete(piece, std::align_val_t(alignment));
    return ::operator delete(piece);
  }
  if (pool::watch.load(std::memory_order_relaxed) != nullptr) [[unlikely]]
    watch_deallocation();
  auto* chunk = reinterpret_cast<Chunk*>(reinterpret_cast<std::uintptr_t>(piece) & ~std::uintptr_t(chunk_size - 1));
  Thread& mine = self;
  if (chunk != mine.current) return give_back_elsewhere(chunk);
  // Acquire: what others have done with their pieces comes before they are cut anew.
  if (--chunk->live != chunk->gone.load(std::memory_order_acquire)) return;
  chunk->live = 0;
  chunk->gone.store(0, std::memory_order_relaxed); // all that others could give back, they have
  mine.at = first_piece(chunk);
}

} // namespace tenon::base::scratch

namespace tenon::base {

template <class T> struct ScratchAllocator {
  using value_type = T;
  ScratchAllocator() = default;
  template <class Other> constexpr ScratchAllocator(const ScratchAllocator<Other>&) noexcept {} // NOLINT: they convert
  T* allocate(std::size_t count) {
    if (count > std::size_t(PTRDIFF_MAX) / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(scratch::allocate(count * sizeof(T), alignof(T)));
  }
  void deallocate(T* piece, std::size_t count) noexcept { scratch::deallocate(piece, count * sizeof(T), alignof(T)); }
  friend bool operator==(const ScratchAllocator&, const ScratchAllocator&) = default;
};

// A list that lives no longer than a change.
template <class T> using Vector = std::vector<T, ScratchAllocator<T>>;

// For a class whose objects live no longer than a change.
#define TENON_IN_SCRATCH                                                                                                    \
  static void* operator new(std::size_t size) { return tenon::base::scratch::allocate(size, 16); }                          \
  static void operator delete(void* object, std::size_t size) noexcept {                                                    \
    tenon::base::scratch::deallocate(object, size, 16);                                                                     \
  }

} // namespace tenon::base

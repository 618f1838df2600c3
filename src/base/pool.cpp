// Slabs of pieces of one size, in chunks of address space.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/pool.h"

#include "base/pool_chunks.h"
#include "base/prefetch.h"
#include "base/quick_mutex.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <mutex>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TENON_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define TENON_SANITIZED
#endif
#endif

namespace tenon::base::pool {

namespace {

#ifdef TENON_SANITIZED
constexpr bool is_plain = true;
#else
constexpr bool is_plain = false;
#endif

// Steps of 16 bytes up to 512, then eight for each power of two.
constexpr std::size_t step = 16, small = 512, largest = 4096;
constexpr std::size_t small_classes = small / step, classes = small_classes + 24;
constexpr std::size_t slab_size = std::size_t(32) << 10;
constexpr std::size_t slabs_in_chunk = chunk_size / slab_size;
static_assert(slabs_in_chunk == 64); // a bit each

constexpr std::size_t class_of(std::size_t size) noexcept {
  if (size <= small) return size <= step ? 0 : (size + step - 1) / step - 1;
  const auto power = std::size_t(std::bit_width(size - 1)) - 1; // 2^power < size <= 2^(power+1)
  return small_classes + (power - 9) * 8 + ((size - 1) >> (power - 3)) - 8;
}
constexpr std::size_t size_of(std::size_t which) noexcept {
  if (which < small_classes) return (which + 1) * step;
  const std::size_t above = which - small_classes;
  return (std::size_t(9) + above % 8) << (9 + above / 8 - 3);
}
static_assert(size_of(class_of(1)) == 16 && size_of(class_of(513)) == 576 && size_of(class_of(largest)) == largest);

struct Piece {
  Piece* next;
};

// At the begin of each slab that is in use.
struct Slab {
  Slab* next = nullptr; // of those of its size that have room
  Slab* previous = nullptr;
  Piece* free = nullptr;
  std::uint32_t live = 0, fresh = 0, capacity = 0; // fresh: pieces from here on were never used
  std::uint32_t which = 0;
};
constexpr std::size_t slab_head = 64;
static_assert(sizeof(Slab) <= slab_head);

// At the begin of each chunk, in place of its first slab.
struct Chunk {
  std::uint64_t free = ~std::uint64_t(1); // slabs; not this one
  std::uint64_t dirty = 0;                // of these, those that have pages
  std::uint64_t gone = 0;                 // those whose pages were given back
  Chunk* next = nullptr;                  // of those that have free ones
};

// MADV_POPULATE_WRITE, which older headers lack.
constexpr int populate_write = 23;
// Slabs of a size that are filled page by page.
constexpr std::uint32_t few = 4;
// Slabs out of use whose pages are given back as one, a few calls for all of them; where as many were soon wanted again,
// more.
constexpr std::uint32_t least_dirty = 4, most_dirty = 64, most_missed = 512;
constexpr std::uint64_t all_slabs = ~std::uint64_t(1); // of a chunk but the first

struct Pool {
  QuickMutex mutex;
  std::array<Slab*, classes> with_room{};     // the first is the one to take from
  std::array<Slab*, classes> empty{};         // one of each size, its pages still there
  std::array<std::uint32_t, classes> taken{}; // slabs of that size in use
  Chunk* chunks = nullptr;                    // with free slabs
  std::uint32_t dirty = 0;                    // slabs that are free and have pages
  std::uint32_t in_use = 0;                   // slabs
  std::uint32_t may_wait = least_dirty;       // of dirty ones, at least so many; more by those that were missed
  std::uint32_t missed = 0;                   // slabs taken whose pages had been given back, since the last time
  std::uint32_t unmapped = 0;                 // chunks that were given back, and not mapped again
  std::size_t live = 0, mapped = 0;
};

constinit Pool the_pool; // never destroyed: trivial members only

Slab* slab_of(void* piece) noexcept {
  auto* at = static_cast<std::byte*>(piece);
  return reinterpret_cast<Slab*>(at - reinterpret_cast<std::uintptr_t>(piece) % slab_size);
}

struct Fresh {
  std::byte* at;
  bool present; // its pages are there
};

Fresh take_slab(Pool& pool) {
  if (pool.chunks == nullptr) {
    pool.chunks = new (open_chunk()) Chunk;
    pool.mapped += chunk_size;
    if (pool.unmapped != 0) {
      --pool.unmapped;
      pool.chunks->gone = all_slabs;
    }
  }
  Chunk* chunk = pool.chunks;
  const bool present = chunk->dirty != 0;
  const auto index = std::size_t(std::countr_zero(present ? chunk->dirty : chunk->free));
  const std::uint64_t bit = std::uint64_t(1) << index;
  chunk->free &= ~bit;
  chunk->dirty &= ~bit;
  pool.dirty -= present ? 1 : 0;
  ++pool.in_use;
  pool.missed += (chunk->gone & bit) != 0 ? 1 : 0;
  chunk->gone &= ~bit;
  if (chunk->free == 0) pool.chunks = chunk->next;
  return {reinterpret_cast<std::byte*>(chunk) + index * slab_size, present};
}

// Neighbours together: slabs that are filled in one order are mostly emptied in it.
void give_pages_back(Chunk& chunk) noexcept {
  while (chunk.dirty != 0) {
    const auto first = std::size_t(std::countr_zero(chunk.dirty));
    const auto count = std::size_t(std::countr_one(chunk.dirty >> first));
    // If the kernel refuses (memory that mlockall has locked), the pages stay; nothing relies on their being zero.
    ::madvise(reinterpret_cast<std::byte*>(&chunk) + first * slab_size, count * slab_size, MADV_DONTNEED);
    const std::uint64_t rest = chunk.dirty & (chunk.dirty + (std::uint64_t(1) << first)); // carries over the run
    chunk.gone |= chunk.dirty & ~rest;
    chunk.dirty = rest;
  }
}

// What was given back before, and wanted again, may wait from now on; twice as much, since slabs that never had pages were
// in use with it.
void learn(Pool& pool) noexcept {
  pool.may_wait =
      pool.missed != 0 ? std::min(pool.may_wait + 2 * pool.missed, most_missed) : std::max(pool.may_wait / 2, least_dirty);
  pool.missed = 0;
}

void set_free(Pool& pool, Slab* slab) noexcept {
  --pool.taken[slab->which];
  const std::size_t offset = reinterpret_cast<std::uintptr_t>(slab) % chunk_size;
  auto* chunk = reinterpret_cast<Chunk*>(reinterpret_cast<std::byte*>(slab) - offset);
  if (chunk->free == 0) {
    chunk->next = pool.chunks;
    pool.chunks = chunk;
  }
  chunk->free |= std::uint64_t(1) << (offset / slab_size);
  chunk->dirty |= std::uint64_t(1) << (offset / slab_size);
  --pool.in_use;
  ++pool.dirty;
}

// Those kept of each size, too: what is emptied by the dozen goes, and one that is wanted again counts as missed.
void set_kept_free(Pool& pool) noexcept {
  for (Slab*& slab : pool.empty)
    if (Slab* kept = std::exchange(slab, nullptr); kept != nullptr) set_free(pool, kept);
}

// Chunks are gone over once for as many slabs as a sixteenth of all, or 4.
void give_all_pages_back(Pool& pool) noexcept {
  set_kept_free(pool);
  bool kept = false;
  for (Chunk** at = &pool.chunks; *at != nullptr;) {
    Chunk* const chunk = *at;
    if (chunk->free == all_slabs && std::exchange(kept, true)) {
      *at = chunk->next;
      close_chunk(chunk);
      pool.mapped -= chunk_size;
      ++pool.unmapped;
      continue;
    }
    give_pages_back(*chunk);
    at = &chunk->next;
  }
  pool.dirty = 0;
  learn(pool);
}

void give_back(Pool& pool, Slab* slab) noexcept {
  set_free(pool, slab);
  if (pool.dirty > std::max(pool.may_wait, std::min(pool.in_use / 16, most_dirty))) give_all_pages_back(pool);
}

void list(Pool& pool, Slab* slab) noexcept {
  Slab*& first = pool.with_room[slab->which];
  slab->next = first;
  slab->previous = nullptr;
  if (first != nullptr) first->previous = slab;
  first = slab;
}

void delist(Pool& pool, Slab* slab) noexcept {
  (slab->previous != nullptr ? slab->previous->next : pool.with_room[slab->which]) = slab->next;
  if (slab->next != nullptr) slab->next->previous = slab->previous;
}

Slab* slab_with_room(Pool& pool, std::size_t which) {
  if (Slab* slab = pool.with_room[which]; slab != nullptr) return slab;
  Slab* slab = pool.empty[which];
  if (slab == nullptr) {
    const Fresh fresh = take_slab(pool);
    // A program that makes many pieces of a size will use all of it: its pages come at once, for an eighth of the faults.
    // Kernels before 5.14 refuse, and they come one by one.
    if (++pool.taken[which] > few && !fresh.present) ::madvise(fresh.at, slab_size, populate_write);
    slab = new (fresh.at) Slab;
    slab->which = std::uint32_t(which);
    slab->capacity = std::uint32_t((slab_size - slab_head) / size_of(which));
  }
  pool.empty[which] = nullptr;
  list(pool, slab);
  return slab;
}

void* take(Pool& pool, std::size_t which) {
  Slab* slab = slab_with_room(pool, which);
  void* piece = slab->free;
  if (slab->free != nullptr)
    slab->free = slab->free->next;
  else
    piece = reinterpret_cast<std::byte*>(slab) + slab_head + slab->fresh++ * size_of(which);
  if (++slab->live == slab->capacity) delist(pool, slab);
  pool.live += size_of(which);
  return piece;
}

void put(Pool& pool, void* piece) noexcept {
  Slab* slab = slab_of(piece);
  pool.live -= size_of(slab->which);
  slab->free = new (piece) Piece{slab->free};
  if (slab->live-- == slab->capacity) list(pool, slab);
  if (slab->live != 0) return;
  delist(pool, slab);
  slab->free = nullptr; // all of it is fresh again
  slab->fresh = 0;
  Slab*& kept = pool.empty[slab->which];
  if (kept == nullptr)
    kept = slab;
  else
    give_back(pool, slab);
}

// Nothing is in use any more: one chunk stays.
void give_up_chunks(Pool& pool) noexcept {
  set_kept_free(pool);
  while (pool.chunks->next != nullptr) { // all are listed, since all have free slabs
    close_chunk(std::exchange(pool.chunks, pool.chunks->next));
    pool.mapped -= chunk_size;
    ++pool.unmapped;
  }
  give_pages_back(*pool.chunks);
  pool.dirty = 0;
  learn(pool);
}

// All of it stays where as much was wanted again before.
void look_whether_unused(Pool& pool) noexcept {
  if (pool.live != 0 || pool.mapped <= chunk_size) return;
  if (pool.may_wait == least_dirty || pool.dirty + pool.in_use > pool.may_wait) give_up_chunks(pool);
}

} // namespace

namespace {

// What a thread has gathered. Initial-exec: found without a call.
struct Gathered {
  Piece* first = nullptr;
  std::uint32_t count = 0, depth = 0;
};
__attribute__((tls_model("initial-exec"), visibility("hidden"))) constinit thread_local Gathered gathered;
constexpr std::uint32_t most_gathered = 64; // they are in the cache still

void give_back_gathered() noexcept {
  if (gathered.first == nullptr) return;
  std::lock_guard lock(the_pool.mutex);
  for (Piece* piece = std::exchange(gathered.first, nullptr); piece != nullptr;) {
    Piece* const next = piece->next;
    put(the_pool, piece);
    piece = next;
  }
  gathered.count = 0;
  look_whether_unused(the_pool);
}

} // namespace

void prefetch(const void* piece) noexcept {
  if (!is_plain)
    base::prefetch_to_write(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(piece) & ~(slab_size - 1)));
}

void begin_gathering() noexcept { ++gathered.depth; }
void end_gathering() noexcept {
  if (--gathered.depth == 0) give_back_gathered();
}

std::size_t rounded(std::size_t size) noexcept { return size > largest ? size : size_of(class_of(size)); }

// operator new's pieces are not watched: who replaces that sees them there.
void* allocate(std::size_t size) {
  if (is_plain || size > largest) return ::operator new(size);
  auto* const watching = watch.load(std::memory_order_relaxed);
  if (watching != nullptr && !watching(true)) throw std::bad_alloc();
  try {
    std::lock_guard lock(the_pool.mutex);
    return take(the_pool, class_of(size));
  } catch (...) {
    if (watching != nullptr) watching(false);
    throw;
  }
}

void deallocate(void* piece, std::size_t size) noexcept {
  if (piece == nullptr) return;
  if (is_plain || size > largest) return ::operator delete(piece);
  if (auto* watching = watch.load(std::memory_order_relaxed); watching != nullptr) watching(false);
  if (gathered.depth != 0) {
    gathered.first = new (piece) Piece{gathered.first};
    if (++gathered.count == most_gathered) give_back_gathered();
    return;
  }
  std::lock_guard lock(the_pool.mutex);
  put(the_pool, piece);
  look_whether_unused(the_pool);
}

namespace {

void forget(Pool& pool) noexcept {
  for (Chunk* chunk = pool.chunks; chunk != nullptr; chunk = chunk->next) chunk->gone = 0;
  pool.unmapped = pool.missed = 0;
  pool.may_wait = least_dirty;
}

} // namespace

void end() noexcept {
  std::lock_guard lock(the_pool.mutex);
  if (the_pool.live != 0 || the_pool.mapped <= chunk_size) return;
  give_up_chunks(the_pool);
  forget(the_pool);
}

void release_unused() noexcept {
  std::lock_guard lock(the_pool.mutex);
  if (the_pool.live != 0)
    give_all_pages_back(the_pool);
  else if (the_pool.mapped != 0)
    give_up_chunks(the_pool);
  forget(the_pool);
}

Usage usage() noexcept {
  std::lock_guard lock(the_pool.mutex);
  return {the_pool.live, the_pool.mapped};
}

void lock() noexcept { the_pool.mutex.lock(); }
void unlock() noexcept { the_pool.mutex.unlock(); }

} // namespace tenon::base::pool

// What happens at the end of a chunk, and at the end of a thread.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/scratch.h"

#include <cstdlib>
#include <utility>

namespace tenon::base::scratch {

constinit thread_local Thread self;

namespace {

constexpr std::uint32_t most_spares = 1;
// How many chunks of the ring are looked at for each new one: others may have emptied them.
constexpr int looks = 4;

// malloc's, not operator new's: pieces are what those who count allocations are told of.
Chunk* make_chunk(Thread* owner) {
  void* memory = std::aligned_alloc(chunk_size, chunk_size);
  if (memory == nullptr) throw std::bad_alloc();
  auto* chunk = new (memory) Chunk;
  chunk->owner.store(owner, std::memory_order_relaxed);
  return chunk;
}

bool is_empty(const Chunk& chunk) noexcept { return chunk.live == chunk.gone.load(std::memory_order_acquire); }

void enlist(Thread& thread, Chunk* chunk) noexcept {
  if (thread.ring == nullptr) {
    chunk->next = chunk->previous = chunk;
    thread.ring = chunk;
    return;
  }
  chunk->next = thread.ring;
  chunk->previous = thread.ring->previous;
  chunk->previous->next = chunk->next->previous = chunk;
}

void delist(Thread& thread, Chunk* chunk) noexcept {
  if (thread.ring == chunk) thread.ring = chunk->next != chunk ? chunk->next : nullptr;
  chunk->previous->next = chunk->next;
  chunk->next->previous = chunk->previous;
}

void keep_empty(Thread& thread, Chunk* chunk) noexcept {
  if (thread.spares == most_spares) return std::free(chunk);
  chunk->live = 0;
  chunk->gone.store(0, std::memory_order_relaxed);
  chunk->next = std::exchange(thread.spare, chunk);
  ++thread.spares;
}

// The owner ends: whoever gives back the last piece frees the chunk. Release: what the owner has done comes before that;
// acquire: what others have done, if it is the owner who frees it.
void abandon(Chunk* chunk) noexcept {
  const std::int32_t live = chunk->live;
  chunk->owner.store(nullptr, std::memory_order_relaxed);
  if (chunk->gone.fetch_sub(live, std::memory_order_acq_rel) == live) std::free(chunk);
}

struct End {
  bool begun = false;
  ~End() {
    Thread& mine = self;
    if (mine.current != nullptr) abandon(mine.current);
    while (mine.ring != nullptr) {
      Chunk* chunk = mine.ring;
      delist(mine, chunk);
      abandon(chunk);
    }
    while (mine.spare != nullptr) std::free(std::exchange(mine.spare, mine.spare->next));
    mine = {};
    mine.ended = true;
  }
};
thread_local End at_end;

void begin_chunk(Thread& mine) {
  at_end.begun = true; // from now on its destructor runs at the thread's end
  if (mine.current != nullptr && is_empty(*mine.current)) {
    mine.current->live = 0;
    mine.current->gone.store(0, std::memory_order_relaxed);
    mine.at = first_piece(mine.current);
    return;
  }
  for (int i = 0; i < looks && mine.ring != nullptr; ++i) {
    Chunk* chunk = mine.ring;
    mine.ring = chunk->next;
    if (!is_empty(*chunk)) continue;
    delist(mine, chunk);
    keep_empty(mine, chunk);
  }
  Chunk* chunk = mine.spare;
  if (chunk != nullptr) {
    mine.spare = chunk->next;
    --mine.spares;
  } else {
    chunk = make_chunk(&mine);
  }
  if (mine.current != nullptr) enlist(mine, mine.current);
  mine.current = chunk;
  mine.at = first_piece(chunk);
  mine.end = reinterpret_cast<std::uintptr_t>(chunk) + chunk_size;
}

} // namespace

void* allocate_in_another(std::size_t size, std::size_t alignment) {
  Thread& mine = self;
  if (mine.ended) { // what runs this late, as destructors of static objects do, has a chunk for each piece
    Chunk* chunk = nullptr;
    try {
      chunk = make_chunk(nullptr);
    } catch (...) {
      watch_deallocation();
      throw;
    }
    chunk->gone.store(-1, std::memory_order_relaxed);
    return reinterpret_cast<void*>(align(first_piece(chunk), alignment));
  }
  try {
    begin_chunk(mine);
  } catch (...) {
    watch_deallocation();
    throw;
  }
  const std::uintptr_t piece = align(mine.at, alignment);
  mine.at = piece + align(size, 16);
  ++mine.current->live;
  return reinterpret_cast<void*>(piece);
}

void give_back_elsewhere(Chunk* chunk) noexcept {
  Thread& mine = self;
  if (chunk->owner.load(std::memory_order_relaxed) == &mine) {
    --chunk->live;
    if (!is_empty(*chunk)) return;
    delist(mine, chunk);
    keep_empty(mine, chunk);
    return;
  }
  // Release: what this thread has done with the piece comes before it is used again; acquire: for who frees the chunk. Until
  // the owner ends this only counts up from zero.
  if (chunk->gone.fetch_add(1, std::memory_order_acq_rel) == -1) std::free(chunk);
}

void watch_allocation() {
  if (auto* watching = pool::watch.load(std::memory_order_relaxed); watching != nullptr && !watching(true))
    throw std::bad_alloc();
}

void watch_deallocation() noexcept {
  if (auto* watching = pool::watch.load(std::memory_order_relaxed); watching != nullptr) watching(false);
}

} // namespace tenon::base::scratch

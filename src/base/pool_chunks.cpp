// Regions that double in size: each begins inaccessible, and chunks of it are made accessible from its begin on, so that it
// is two mappings. A chunk that was closed stays accessible, without memory, and is the next to be opened.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/pool_chunks.h"

#include "base/check.h"
#include "base/fault.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <new>

namespace tenon::base::pool {

namespace {

constexpr std::size_t first_chunks = 512, most_chunks = 4096; // of a region: 1 GiB, 8 GiB

struct Region {
  std::byte* begin = nullptr;
  std::uint32_t chunks = 0;  // that it has room for
  std::uint32_t reached = 0; // those below have been open
  std::uint32_t open = 0;
  std::array<std::uint64_t, most_chunks / 64> closed{}; // of those below `reached`, a bit each
};

// As many as an address space of 47 bits has room for is many more: these are 200 GiB.
constinit std::array<Region, 32> regions;

// More than `chunks`, so that they can begin where they must; what is too much goes back.
std::byte* reserve(std::size_t chunks) noexcept {
  const std::size_t size = chunks * chunk_size;
  void* const mapped = ::mmap(nullptr, size + chunk_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const std::size_t before = chunk_size - reinterpret_cast<std::uintptr_t>(begin) % chunk_size;
  ::munmap(begin, before);
  if (before != chunk_size) ::munmap(begin + before + size, chunk_size - before);
  ::madvise(begin + before, size, MADV_NOHUGEPAGE);
  return begin + before;
}

// Under a limit of address space a smaller one may still be had.
bool reserve(Region& region, std::size_t chunks) noexcept {
  for (; chunks != 0; chunks /= 2)
    if (std::byte* const begin = reserve(chunks); begin != nullptr) {
      region = {begin, std::uint32_t(chunks), 0, 0, {}};
      return true;
    }
  return false;
}

std::byte* open_in(Region& region) noexcept {
  for (std::uint32_t word = 0; word * 64 < region.reached; ++word) {
    std::uint64_t& closed = region.closed[word];
    if (closed == 0) continue;
    const auto bit = std::uint32_t(std::countr_zero(closed));
    closed &= closed - 1;
    ++region.open;
    return region.begin + std::size_t(word * 64 + bit) * chunk_size;
  }
  std::byte* const chunk = region.begin + std::size_t(region.reached) * chunk_size;
  if (::mprotect(chunk, chunk_size, PROT_READ | PROT_WRITE) != 0) return nullptr;
  ++region.reached;
  ++region.open;
  return chunk;
}

} // namespace

std::byte* open_chunk() {
  if (fault::injected(fault::Call::mmap)) throw std::bad_alloc();
  std::size_t wanted = first_chunks;
  Region* free = nullptr;
  for (Region& region : regions) {
    if (region.begin == nullptr) {
      if (free == nullptr) free = &region;
      continue;
    }
    if (region.open < region.chunks) {
      if (std::byte* const chunk = open_in(region); chunk != nullptr) return chunk;
      throw std::bad_alloc();
    }
    if (region.chunks >= wanted) wanted = std::min(std::size_t(region.chunks) * 2, most_chunks);
  }
  if (free == nullptr || !reserve(*free, wanted)) throw std::bad_alloc();
  if (std::byte* const chunk = open_in(*free); chunk != nullptr) return chunk;
  ::munmap(free->begin, free->chunks * chunk_size);
  *free = {};
  throw std::bad_alloc();
}

void close_chunk(void* chunk) noexcept {
  auto* const at = static_cast<std::byte*>(chunk);
  for (Region& region : regions) {
    if (region.begin == nullptr || at < region.begin || at >= region.begin + region.chunks * chunk_size) continue;
    if (--region.open == 0) {
      ::munmap(region.begin, region.chunks * chunk_size);
      region = {};
      return;
    }
    ::madvise(at, chunk_size, MADV_DONTNEED);
    const auto index = std::size_t(at - region.begin) / chunk_size;
    region.closed[index / 64] |= std::uint64_t(1) << (index % 64);
    return;
  }
  TENON_CHECK(false, "a chunk lies in a region");
}

} // namespace tenon::base::pool

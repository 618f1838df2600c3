// Pages for large tables.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/pages.h"

#include "base/fault.h"

#include <sys/mman.h>

#include <atomic>

namespace tenon::base {

namespace {
std::atomic<std::size_t> mapped{0}; // a count, which orders nothing
} // namespace

void* map_pages(std::size_t size) {
  void* const at = fault::injected(fault::Call::mmap)
                       ? MAP_FAILED
                       : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  mapped.fetch_add(size, std::memory_order_relaxed);
  return at;
}

void unmap_pages(void* at, std::size_t size) noexcept {
  ::munmap(at, size);
  mapped.fetch_sub(size, std::memory_order_relaxed);
}

void touch_pages(void* at, std::size_t size) noexcept {
  constexpr int populate_write = 23; // MADV_POPULATE_WRITE, which older headers lack; kernels before 5.14 refuse
  if (size >= PageAllocator<std::byte>::large) ::madvise(at, size, populate_write);
}

std::size_t mapped_table_bytes() noexcept { return mapped.load(std::memory_order_relaxed); }

} // namespace tenon::base

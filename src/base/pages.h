// Memory for tables that grow with the number of modules: from 16 KiB on they are pages of their own.
//
// Left to malloc, a large table that is freed raises the size from which on malloc asks the system for pages, and twice that
// much of its heap's end stays with the process from then on, whatever is freed. One that grows step by step leaves as much
// again behind, which is resident from then on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace tenon::base {

// May throw std::bad_alloc. Zeros, aligned to pages.
void* map_pages(std::size_t size);
void unmap_pages(void* at, std::size_t size) noexcept;
// Of a table that is about to be written from end to end: with one call for many page faults.
void touch_pages(void* at, std::size_t size) noexcept;
// Bytes that are mapped by it now: what a count of the heap must not forget. Any thread.
std::size_t mapped_table_bytes() noexcept;

template <class T> struct PageAllocator {
  using value_type = T;
  static constexpr std::size_t large = std::size_t(16) << 10;

  PageAllocator() = default;
  template <class Other> constexpr PageAllocator(const PageAllocator<Other>&) noexcept {} // NOLINT: allocators convert
  T* allocate(std::size_t count) {
    if (count > std::size_t(-1) / 2 / sizeof(T)) throw std::bad_alloc();
    const std::size_t size = count * sizeof(T);
    return static_cast<T*>(size < large ? ::operator new(size) : map_pages(size));
  }
  void deallocate(T* at, std::size_t count) noexcept {
    const std::size_t size = count * sizeof(T);
    if (size < large)
      ::operator delete(at);
    else
      unmap_pages(at, size);
  }
  friend bool operator==(const PageAllocator&, const PageAllocator&) = default;
};

template <class T> using PageVector = std::vector<T, PageAllocator<T>>;

// Whether by far the most of a large table is unused: as many elements have gone as moving the others takes several times.
template <class T> bool is_sparse(const PageVector<T>& table) noexcept {
  return table.capacity() > 4096 && table.size() * 32 < table.capacity();
}

} // namespace tenon::base

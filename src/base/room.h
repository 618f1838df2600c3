// Room for numbers whose count is known only afterwards: as many as there can be, on the stack if they are few, and without
// having been set to zero before they are written.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/scratch.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace tenon::base {

template <class T, std::size_t near> class Room {
  static_assert(std::is_trivial_v<T>);

public:
  explicit Room(std::size_t count)
      : count_(std::max(count, near)), begin_(count <= near ? near_ : ScratchAllocator<T>().allocate(count)) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() { release(); }

  T* begin() noexcept { return begin_; }
  T* end() noexcept { return begin_ + count_; }

  // Twice the room, for the first `used` that stay. May throw std::bad_alloc.
  void grow(std::size_t used) {
    const std::size_t count = 2 * count_;
    T* const more = ScratchAllocator<T>().allocate(count);
    std::memcpy(more, begin_, used * sizeof(T));
    release();
    begin_ = more;
    count_ = count;
  }

private:
  void release() noexcept {
    if (begin_ != near_) ScratchAllocator<T>().deallocate(begin_, count_);
  }

  std::size_t count_;
  T* begin_;
  T near_[near]; // not initialized: only what has been written is read
};

} // namespace tenon::base

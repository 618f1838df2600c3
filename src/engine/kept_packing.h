// Where what is kept of a module is put together, before its size is known: words one after another, on the stack if they
// are few.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/room.h"

#include <cstddef>
#include <cstdint>

namespace tenon::engine {

class Packing {
public:
  explicit Packing(std::size_t expected) : room_(expected) {}

  std::size_t size() const noexcept { return size_; }
  std::uint64_t* begin() noexcept { return room_.begin(); }
  // Room for so many more: where the first goes. What has been put there may move. May throw std::bad_alloc.
  std::uint64_t* reserve(std::size_t more) {
    if (std::size_t(room_.end() - room_.begin()) < size_ + more) [[unlikely]]
      grow(more);
    return room_.begin() + size_;
  }
  // All before `end` has been written.
  void end_at(const std::uint64_t* end) noexcept { size_ = std::size_t(end - room_.begin()); }
  // The same to a byte. The rest of its word is zero.
  void end_at(std::uint8_t* end) noexcept {
    auto* const first = reinterpret_cast<std::uint8_t*>(room_.begin());
    while (std::size_t(end - first) % sizeof(std::uint64_t) != 0) *end++ = 0;
    size_ = std::size_t(end - first) / sizeof(std::uint64_t);
  }

private:
  __attribute__((noinline)) void grow(std::size_t more) {
    while (std::size_t(room_.end() - room_.begin()) < size_ + more) room_.grow(size_);
  }

  base::Room<std::uint64_t, 256> room_;
  std::size_t size_ = 0;
};

} // namespace tenon::engine

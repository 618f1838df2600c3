// Members that few of the many objects of a kind have, put aside: the object has a pointer, and a piece of base::pool that
// is made when the first of them is needed.
//
// Who has none is read as if all of them were as a new one's: there is one such for all, in memory that can't be written.
// Whoever writes has made the piece before, at a place where memory may be wanting; writing without ends the program.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/pool.h"

#include <utility>

namespace tenon::base {

// Constant, and never destroyed: others may end later than static objects do.
template <class T> union NothingOf {
  char unused;
  T value;
  constexpr NothingOf() noexcept : value() {}
  constexpr ~NothingOf() {} // NOLINT: not the same as the default
};
template <class T> inline constexpr NothingOf<T> nothing_of{};

template <class T> class Aside {
public:
  Aside() = default;
  Aside(Aside&& other) noexcept : piece_(std::exchange(other.piece_, nullptr)) {}
  // What it had is gone.
  Aside& operator=(Aside&& other) noexcept {
    Aside taken(std::move(other));
    std::swap(piece_, taken.piece_);
    return *this;
  }
  ~Aside() {
    if (piece_ == nullptr) return;
    piece_->~T();
    pool::deallocate(piece_, sizeof(T));
  }

  bool made() const noexcept { return piece_ != nullptr; }
  const T& get() const noexcept { return piece_ != nullptr ? *piece_ : nothing_of<T>.value; }
  T& get() noexcept { return piece_ != nullptr ? *piece_ : const_cast<T&>(nothing_of<T>.value); }
  // May throw std::bad_alloc.
  T& make() {
    if (piece_ == nullptr) piece_ = new (pool::allocate(sizeof(T))) T();
    return *piece_;
  }

private:
  T* piece_ = nullptr;
};

} // namespace tenon::base

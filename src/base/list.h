// A vector as large as a pointer, for structures that have many of which most are empty: size and capacity stand before the
// elements, in memory of base::pool or what else Pieces stands for. What it has is like std::vector's, of the same meaning.
//
// Elements are moved without throwing. reserve() takes exactly what it is asked for, rounded up to a piece of the pool.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/pool.h"

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace tenon::base {

struct PoolPieces {
  static std::size_t rounded(std::size_t bytes) noexcept { return pool::rounded(bytes); }
  static void* allocate(std::size_t bytes) { return pool::allocate(bytes); }
  static void deallocate(void* piece, std::size_t bytes) noexcept { pool::deallocate(piece, bytes); }
};

template <class T, class Pieces = PoolPieces> class List {
public:
  using value_type = T;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;
  using reference = T&;
  using const_reference = const T&;
  using pointer = T*;
  using const_pointer = const T*;
  using iterator = T*;
  using const_iterator = const T*;

  List() = default;
  List(std::initializer_list<T> from) { assign(from.begin(), from.end()); }
  template <std::forward_iterator From> List(From first, From last) { assign(first, last); }
  List(const List& other) { assign(other.begin(), other.end()); }
  List(List&& other) noexcept : head_(std::exchange(other.head_, nullptr)) {}
  List& operator=(const List& other) {
    if (this != &other) assign(other.begin(), other.end());
    return *this;
  }
  // What it had is gone, with its room.
  List& operator=(List&& other) noexcept {
    List taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~List() { release(); }

  void swap(List& other) noexcept { std::swap(head_, other.head_); }
  friend void swap(List& a, List& b) noexcept { a.swap(b); }

  T* begin() noexcept { return data(); }
  T* end() noexcept { return data() + size(); }
  const T* begin() const noexcept { return data(); }
  const T* end() const noexcept { return data() + size(); }
  // Of an empty list it leads nowhere, and may not be null: nobody has to ask which it is.
  T* data() noexcept { return after(head_); }
  const T* data() const noexcept { return after(head_); }
  std::size_t size() const noexcept { return head_ != nullptr ? head_->size : 0; }
  std::size_t capacity() const noexcept { return head_ != nullptr ? head_->capacity : 0; }
  bool empty() const noexcept { return size() == 0; }
  // Of memory, its head included.
  std::size_t bytes() const noexcept { return head_ != nullptr ? bytes_for(capacity()) : 0; }

  T& operator[](std::size_t i) noexcept { return elements(head_)[i]; }
  const T& operator[](std::size_t i) const noexcept { return elements(head_)[i]; }
  T& front() noexcept { return elements(head_)[0]; }
  const T& front() const noexcept { return elements(head_)[0]; }
  T& back() noexcept { return elements(head_)[size() - 1]; }
  const T& back() const noexcept { return elements(head_)[size() - 1]; }

  // May throw std::bad_alloc, and then nothing has changed.
  void reserve(std::size_t wanted) {
    if (wanted > capacity()) move_to(make(wanted));
  }
  template <class... Arguments> T& emplace_back(Arguments&&... arguments) {
    if (size() == capacity()) {
      // The new element may be made of one that is about to move.
      List grown;
      grown.head_ = make(std::max<std::size_t>(size() * 2, 1));
      T* at = make_at(elements(grown.head_) + size(), std::forward<Arguments>(arguments)...);
      std::uninitialized_move(begin(), end(), elements(grown.head_));
      grown.head_->size = std::uint32_t(size() + 1);
      swap(grown);
      return *at;
    }
    T* at = make_at(end(), std::forward<Arguments>(arguments)...);
    ++head_->size;
    return *at;
  }
  void push_back(const T& value) { emplace_back(value); }
  void push_back(T&& value) { emplace_back(std::move(value)); }
  void pop_back() noexcept {
    std::destroy_at(&back());
    --head_->size;
  }
  // Keeps the room.
  void clear() noexcept { cut(0); }
  void resize(std::size_t wanted) {
    if (wanted < size()) return cut(wanted);
    if (wanted == size()) return;
    reserve(wanted);
    std::uninitialized_value_construct(end(), begin() + wanted);
    head_->size = std::uint32_t(wanted);
  }
  // What is added is not set to zero: for numbers that are written at once.
  void resize_for_overwrite(std::size_t wanted) {
    static_assert(std::is_trivial_v<T>);
    if (wanted < size()) return cut(wanted);
    if (wanted == size()) return;
    reserve(wanted);
    head_->size = std::uint32_t(wanted);
  }
  template <std::forward_iterator From> void assign(From first, From last) {
    const auto count = std::size_t(std::distance(first, last));
    if (count > capacity()) {
      List made;
      made.head_ = make(count);
      made.fill(first, last, count);
      return swap(made);
    }
    cut(0);
    if (count != 0) fill(first, last, count);
  }
  void assign(std::size_t count, const T& value) {
    cut(0);
    if (count > capacity()) {
      List made;
      made.head_ = make(count);
      swap(made);
    }
    std::uninitialized_fill_n(begin(), count, value);
    if (head_ != nullptr) head_->size = std::uint32_t(count);
  }
  // At the end only.
  template <std::forward_iterator From> void append(From first, From last) {
    const auto count = std::size_t(std::distance(first, last));
    if (count == 0) return;
    if (size() + count > capacity()) reserve(std::max(size() + count, size() * 2));
    std::uninitialized_copy(first, last, end());
    head_->size += std::uint32_t(count);
  }
  T* erase(T* first, T* last) noexcept {
    if (first != last) cut(std::size_t(std::move(last, end(), first) - begin()));
    return first;
  }
  T* erase(T* one) noexcept { return erase(one, one + 1); }

private:
  struct Head {
    std::uint32_t size, capacity;
  };
  static_assert(alignof(T) <= 8); // pieces are aligned to 16
  static constexpr std::size_t head_bytes = 8;

  static std::size_t bytes_for(std::size_t count) noexcept { return head_bytes + count * sizeof(T); }
  static T* elements(Head* head) noexcept { return reinterpret_cast<T*>(head + 1); }
  static T* after(Head* head) noexcept { // of null, too
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(head) + head_bytes);
  }

  static Head* make(std::size_t wanted) {
    if (wanted > std::size_t(0x7FFF'FFFF)) throw std::bad_alloc();
    const std::size_t count = (Pieces::rounded(bytes_for(wanted)) - head_bytes) / sizeof(T);
    return new (Pieces::allocate(bytes_for(count))) Head{0, std::uint32_t(count)};
  }
  template <class... Arguments> static T* make_at(T* at, Arguments&&... arguments) {
    if constexpr (std::is_constructible_v<T, Arguments...>)
      return new (at) T(std::forward<Arguments>(arguments)...);
    else
      return new (at) T{std::forward<Arguments>(arguments)...};
  }
  template <class From> void fill(From first, From last, std::size_t count) {
    std::uninitialized_copy(first, last, begin());
    head_->size = std::uint32_t(count);
  }
  void move_to(Head* made) noexcept {
    static_assert(std::is_nothrow_move_constructible_v<T>);
    List moved;
    moved.head_ = made;
    std::uninitialized_move(begin(), end(), elements(made));
    moved.head_->size = std::uint32_t(size());
    swap(moved);
  }
  void cut(std::size_t count) noexcept {
    if (size() == count) return;
    std::destroy(begin() + count, end());
    head_->size = std::uint32_t(count);
  }
  void release() noexcept {
    if (head_ == nullptr) return;
    std::destroy(begin(), end());
    Pieces::deallocate(head_, bytes_for(capacity()));
  }

  Head* head_ = nullptr;
};

template <class T, class Pieces, class Gone> void erase_if(List<T, Pieces>& list, Gone gone) noexcept {
  list.erase(std::remove_if(list.begin(), list.end(), gone), list.end());
}

} // namespace tenon::base

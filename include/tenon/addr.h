// An executor address: where code or data lies in the process that runs it.
//
// It is a type of its own because the linker's process and the executing one need not be the same: an Addr can be computed
// with, compared and printed, but only a client that knows that it runs in the executing process turns it into a pointer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <compare>
#include <cstdint>

namespace tenon {

struct Addr {
  std::uint64_t value = 0;

  friend constexpr auto operator<=>(Addr, Addr) = default;
  explicit constexpr operator bool() const noexcept { return value != 0; }
  friend constexpr Addr operator+(Addr a, std::uint64_t n) noexcept { return {a.value + n}; }
  friend constexpr std::uint64_t operator-(Addr a, Addr b) noexcept { return a.value - b.value; }

  // In the executing process only: T is a pointer type, to data or to a function.
  template <class T> T as() const noexcept { return reinterpret_cast<T>(static_cast<std::uintptr_t>(value)); }
  template <class T> static Addr of(T* pointer) noexcept { return {reinterpret_cast<std::uintptr_t>(pointer)}; }
};

} // namespace tenon

// Reading and checking raw bytes: every number of an input file goes through here, because files are untrusted and not
// aligned.
//
// Loads are memcpy of a fixed size, which compilers turn into one plain load whatever the alignment. Range checks subtract
// instead of adding, so that no offset + size of a malicious file can wrap around.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace tenon::base {

// Linking happens on hosts of this byte order only; tables of the file are viewed in place.
static_assert(std::endian::native == std::endian::little, "a little-endian host is assumed");

// Whether [offset, offset + size) lies inside [0, total).
constexpr bool range_fits(std::uint64_t offset, std::uint64_t size, std::uint64_t total) noexcept {
  return offset <= total && size <= total - offset;
}

// Whether the two ranges, both known to fit some total, share a byte.
constexpr bool ranges_overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) noexcept {
  return a_size != 0 && b_size != 0 && a < b + b_size && b < a + a_size;
}

// The caller has checked the range.
template <class T> T load_le(const std::byte* from) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T> T load_be(const std::byte* from) noexcept {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i)
    value = static_cast<T>((std::uint64_t(value) << 8) | std::to_integer<std::uint64_t>(from[i]));
  return value;
}
template <class T> void store_le(std::byte* to, T value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof value);
}

} // namespace tenon::base

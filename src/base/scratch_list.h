// Lists as large as a pointer that live no longer than a change: a module has some twenty while it is linked, most of them
// empty, and of all of a change every stage goes over each.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/list.h"
#include "base/scratch.h"

namespace tenon::base {

struct ScratchPieces {
  static std::size_t rounded(std::size_t bytes) noexcept { return (bytes + 15) & ~std::size_t(15); }
  static void* allocate(std::size_t bytes) { return scratch::allocate(bytes, 16); }
  static void deallocate(void* piece, std::size_t bytes) noexcept { scratch::deallocate(piece, bytes, 16); }
};

template <class T> using ScratchList = List<T, ScratchPieces>;

} // namespace tenon::base

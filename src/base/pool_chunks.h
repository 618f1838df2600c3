// Where the pool's chunks lie: in few regions of address space, so that however many there are, they are few mappings to the
// kernel. Mapped one by one they would lie among all else that is mapped meanwhile, tables above all, each of them a
// mapping.
//
// Not thread-safe: called under the pool's lock.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>

namespace tenon::base::pool {

inline constexpr std::size_t chunk_size = std::size_t(2) << 20;

// Zeros, at a multiple of its size, never in huge pages: pages go back one by one. Throws std::bad_alloc.
std::byte* open_chunk();
// Its memory goes back; so does a region's address space with the last of its chunks.
void close_chunk(void* chunk) noexcept;

} // namespace tenon::base::pool

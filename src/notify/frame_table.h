// Where the unwinder's table lies inside the frames area, and its format: agreed on between the anchor, which names the
// place in its program header before there is memory, and Frames, which fills it.
//
//     offset  0  one CIE and one FDE of no bytes, then the zero length that ends an .eh_frame
//            52  the header: version, three encodings, pointer to the .eh_frame, number of entries
//            64  the entries, 8 bytes each
//
// The header stands at 4 modulo 8, so that the entries, 12 bytes on, are naturally aligned and one store writes one.
// Format: Linux Standard Base 5.0, Core, 10.6 (Exception Frames).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>

namespace tenon::notify {

inline constexpr std::uint64_t empty_fde_offset = 20;
inline constexpr std::uint64_t header_offset = 52;
inline constexpr std::uint64_t fde_count_offset = header_offset + 8;
inline constexpr std::uint64_t table_offset = header_offset + 12;
inline constexpr std::uint64_t table_entry_size = 8;
static_assert(table_offset % table_entry_size == 0);

} // namespace tenon::notify

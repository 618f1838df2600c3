// What the process itself uses, as the kernel and the C library count it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>

namespace versus {

// Bytes of memory that only this process has: anonymous, and shared memory that it alone maps. A page that is mapped twice
// counts once, which the plain resident size would count twice. The code of shared objects is not in it, so other processes
// do not change it.
std::int64_t resident_bytes();

// The lines of /proc/self/maps.
std::size_t mapping_count();

// Bytes that malloc has handed out, of all its arenas.
std::int64_t heap_bytes();

// What malloc holds free goes back to the kernel, so that what comes next is seen in resident_bytes().
void give_back_free_memory();

} // namespace versus

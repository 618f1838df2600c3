// Asking the processor for memory that is about to be used.
//
// GCC takes a function that does nothing else for one without effects, and leaves out calls of it, loops and all, unless
// they were inlined by then. The empty asm statement is an effect.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

namespace tenon::base {

inline void prefetch(const void* at) noexcept {
  __builtin_prefetch(at);
  asm volatile("");
}

// The same for what will be written.
inline void prefetch_to_write(const void* at) noexcept {
  __builtin_prefetch(at, 1);
  asm volatile("");
}

} // namespace tenon::base

// A function as machine code, written, published and called the way the linker does it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "memory/space.h"

#include <cstdint>
#include <cstring>

// Functions made at run time carry no type hash before their first instruction, where -fsanitize=function would look.
#ifdef __clang__
#define TENON_CALLS_FOREIGN_CODE __attribute__((no_sanitize("function")))
#else
#define TENON_CALLS_FOREIGN_CODE
#endif

namespace tenon::memory {

// mov eax, VALUE; ret
inline void write_function(Space& space, const Block& block, std::uint32_t value) {
  const WriteGuard guard(space);
  std::byte* const to = space.writable(block.begin);
  to[0] = std::byte{0xB8};
  std::memcpy(to + 1, &value, 4);
  to[5] = std::byte{0xC3};
}

TENON_CALLS_FOREIGN_CODE inline std::uint32_t call(Addr function) { return function.as<std::uint32_t (*)()>()(); }

} // namespace tenon::memory

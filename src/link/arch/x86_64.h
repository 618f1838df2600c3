// What the files of this architecture share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/arch/arch.h"

#include <cstring>
#include <string_view>

namespace tenon::link::arch {

template <class T> void put(std::byte* at, T value) { std::memcpy(at, &value, sizeof value); }
inline bool fits_32(std::int64_t value) { return value == std::int32_t(value); }

// "relocation R_X86_64_PC32 at offset 0x12 against 'f' (at S) is out of range: ...". `module` is null once its object is
// gone.
Error out_of_range(const Module* module, const Relocation& r, std::uint64_t S, std::int64_t value, std::string_view hint);

} // namespace tenon::link::arch

// What the files of this architecture share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/arch/arch.h"

#include <cstring>
#include <string_view>

namespace tenon::link::arch {

// psABI, table 4.9.
enum Type : std::uint32_t {
  R_NONE = 0,
  R_64 = 1,
  R_PC32 = 2,
  R_GOT32 = 3,
  R_PLT32 = 4,
  R_COPY = 5,
  R_GLOB_DAT = 6,
  R_JUMP_SLOT = 7,
  R_RELATIVE = 8,
  R_GOTPCREL = 9,
  R_32 = 10,
  R_32S = 11,
  R_16 = 12,
  R_PC16 = 13,
  R_8 = 14,
  R_PC8 = 15,
  R_DTPMOD64 = 16,
  R_DTPOFF64 = 17,
  R_TPOFF64 = 18,
  R_TLSGD = 19,
  R_TLSLD = 20,
  R_DTPOFF32 = 21,
  R_GOTTPOFF = 22,
  R_TPOFF32 = 23,
  R_PC64 = 24,
  R_GOTOFF64 = 25,
  R_GOTPC32 = 26,
  R_GOT64 = 27,
  R_GOTPCREL64 = 28,
  R_GOTPC64 = 29,
  R_GOTPLT64 = 30,
  R_PLTOFF64 = 31,
  R_SIZE32 = 32,
  R_SIZE64 = 33,
  R_GOTPC32_TLSDESC = 34,
  R_TLSDESC_CALL = 35,
  R_TLSDESC = 36,
  R_IRELATIVE = 37,
  R_RELATIVE64 = 38,
  R_GOTPCRELX = 41,
  R_REX_GOTPCRELX = 42,
  type_count = 43,
};

template <class T> void put(std::byte* at, T value) { std::memcpy(at, &value, sizeof value); }
inline bool fits_32(std::int64_t value) { return value == std::int32_t(value); }

// "relocation R_X86_64_PC32 at offset 0x12 against 'f' (at S) is out of range: ...". `module` is null once its object is
// gone.
Error out_of_range(const Module* module, const Relocation& r, std::uint64_t S, std::int64_t value, std::string_view hint);

} // namespace tenon::link::arch

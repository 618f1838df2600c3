// Fields as they stand in linked code, for moving it.
//
// A field is not computed anew but shifted, by as much as what it leads to moves and, if it is a distance, less what it
// moves itself. So nothing has to be known of how it was bound: to the symbol, its stub or a GOT cell, relaxed or not. What
// it leads to now is read off it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64.h"

#include <limits>

namespace tenon::link::arch {

namespace {

template <class T> T get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// The bytes before a displacement of four bytes. Those of branches and the ModRM byte of `disp32(%rip)` have no value in
// common.
FieldUse use_at(const std::byte* local, std::uint64_t offset) {
  auto before = [&](std::uint64_t n) { return offset >= n ? std::to_integer<std::uint8_t>(local[offset - n]) : 0U; };
  if (before(1) == 0xE8 || before(1) == 0xE9) return FieldUse::branch;
  if (before(2) == 0x0F && (before(1) & 0xF0) == 0x80) return FieldUse::branch;
  if ((before(1) & 0xC7) != 0x05) return FieldUse::other;
  return before(2) == 0x8D ? FieldUse::address : FieldUse::load;
}

} // namespace

LinkedField field_shape(const Relocation& r) {
  LinkedField field;
  field.offset = r.offset;
  switch (r.type) {
  case R_GOTPCREL:
  case R_GOTPCRELX:
  case R_REX_GOTPCRELX:
  case R_GOTPC32:
  case R_TLSGD:
  case R_TLSLD:
  case R_GOTTPOFF:
  case R_GOTPC32_TLSDESC: field.to_got = true; [[fallthrough]];
  case R_PC32:
  case R_PLT32:
    field.width = 4;
    field.relative = true;
    return field;
  case R_GOTPCREL64:
  case R_GOTPC64: field.to_got = true; [[fallthrough]];
  case R_PC64:
    field.width = 8;
    field.relative = true;
    return field;
  case R_64:
  case R_GOTOFF64:
  case R_PLTOFF64: field.width = 8; return field;
  case R_32: field.unsigned_32 = true; [[fallthrough]];
  case R_32S: field.width = 4; return field;
  case R_16:
  case R_8:
  case R_PC16:
  case R_PC8: field.odd = true; return field;
  default: return field; // no address: sizes, offsets in the GOT and in thread-local blocks
  }
}

LinkedField linked_field(const std::byte* local, std::uint64_t address, std::uint64_t got, const Relocation& r, bool code) {
  LinkedField field = field_shape(r);
  if (field.width == 0) return field;
  std::uint64_t addend = std::uint64_t(r.addend);
  const bool relaxable = r.type == R_GOTPCRELX || r.type == R_REX_GOTPCRELX;
  if (code && relaxable && r.offset >= 2 && local[r.offset - 2] == std::byte{0xE9}) --field.offset; // jmp f; nop
  const std::byte* at = local + field.offset;
  const std::uint64_t value = field.width == 8    ? get<std::uint64_t>(at)
                              : field.unsigned_32 ? get<std::uint32_t>(at)
                                                  : std::uint64_t(std::int64_t(get<std::int32_t>(at)));
  const bool from_got = r.type == R_GOTOFF64 || r.type == R_PLTOFF64;
  field.symbol = value - addend + (field.relative ? address + field.offset : from_got ? got : 0);
  if (code && field.relative && field.width == 4) field.use = use_at(local, field.offset);
  return field;
}

bool shift_field(std::byte* local, const LinkedField& field, std::int64_t by) {
  std::byte* at = local + field.offset;
  if (field.width == 8) {
    put(at, get<std::uint64_t>(at) + std::uint64_t(by));
    return true;
  }
  const std::int64_t value = (field.unsigned_32 ? std::int64_t(get<std::uint32_t>(at)) : get<std::int32_t>(at)) + by;
  put(at, std::int32_t(value));
  return field.unsigned_32 ? value >= 0 && value <= std::numeric_limits<std::uint32_t>::max() : fits_32(value);
}

bool shift_stub(std::byte* stub, std::int64_t by) {
  constexpr std::uint64_t displacement = 2; // jmp *cell(%rip)
  const std::int64_t value = get<std::int32_t>(stub + displacement) + by;
  put(stub + displacement, std::int32_t(value));
  return fits_32(value);
}

} // namespace tenon::link::arch

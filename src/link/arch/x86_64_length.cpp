// Lengths of instructions, by what is known of their kind.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64_length.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

namespace tenon::link::arch {

namespace {

constexpr std::size_t longest = 15; // SDM, volume 2, 2.3.11

// What follows the opcode of a kind: bytes of immediates, and whether there is a ModRM byte. 0: not known.
constexpr std::uint8_t is_known = 0x20, has_modrm = 0x10, tail_bits = 0x0F;
// Relaxed: each byte is a fact of its own, the same whoever finds it.
constinit std::array<std::atomic<std::uint8_t>, std::size_t(1) << 16> known{};

struct Kind {
  std::size_t opcode_end = 0; // from the instruction's first byte
  std::size_t index = 0;      // into `known`
};

bool is_plain_prefix(std::uint8_t byte) noexcept {
  return byte == 0x66 || byte == 0xF2 || byte == 0xF3 || byte == 0x64 || byte == 0x65 ||
         (byte & 0xE7) == 0x26; // 26, 2E, 36, 3E: segments
}

// Whether more than the kind decides if there is such an instruction (SDM, volume 2, appendix A), or how long it is.
bool varies(bool map_0f, std::uint8_t opcode) noexcept {
  if (!map_0f) // moves of segment registers, VEX, EVEX, XOP, x87, address size
    return opcode == 0x8C || opcode == 0x8E || opcode == 0xC4 || opcode == 0xC5 || opcode == 0x62 || opcode == 0x8F ||
           (opcode >= 0xD8 && opcode <= 0xDF) || opcode == 0x67 || opcode == 0xF0 || opcode == 0xD5 ||
           (opcode & 0xF0) == 0x40 || is_plain_prefix(opcode);
  return opcode <= 0x01 || opcode == 0x0F || (opcode >= 0x18 && opcode <= 0x1E) || (opcode >= 0x20 && opcode <= 0x27) ||
         opcode == 0x38 || opcode == 0x3A || opcode == 0xAE || opcode == 0xC7 || opcode == 0xA6 || opcode == 0xA7;
}

// False: ask Zydis.
bool find_kind(const std::uint8_t* code, std::size_t size, Kind& kind) noexcept {
  std::size_t at = 0, prefix = 0;
  for (; at < size && is_plain_prefix(code[at]); ++at) {
    const std::size_t found = code[at] == 0x66 ? 1 : code[at] == 0xF2 ? 2 : code[at] == 0xF3 ? 3 : 0;
    if (found != 0 && prefix != 0 && found != prefix) return false;
    if (found != 0) prefix = found;
  }
  bool wide = false;
  if (at < size && (code[at] & 0xF0) == 0x40) wide = (code[at++] & 8) != 0;
  if (at + 3 > size) return false; // 0F, the opcode, ModRM
  const bool map_0f = code[at] == 0x0F;
  if (map_0f) ++at;
  const std::uint8_t opcode = code[at++], modrm = code[at];
  if (varies(map_0f, opcode)) return false;
  if (!map_0f && (opcode & 0xFE) == 0xC6 && modrm >= 0xF8) return false; // xabort and xbegin: one ModRM byte only
  if (at + 2 > size) return false;                                       // there may be a SIB byte
  kind.opcode_end = at;
  kind.index = std::size_t(map_0f) << 15 | std::size_t(opcode) << 7 | prefix << 5 | std::size_t(wide) << 4 |
               std::size_t(modrm >> 6 == 3) << 3 | (modrm >> 3 & 7);
  return true;
}

// Bytes of ModRM, SIB and displacement (SDM, volume 2, 2.1.5).
std::size_t modrm_bytes(const std::uint8_t* modrm) noexcept {
  const unsigned mod = modrm[0] >> 6, rm = modrm[0] & 7;
  if (mod == 3) return 1;
  const bool sib = rm == 4;
  const bool no_base = mod == 0 && (sib ? (modrm[1] & 7) == 5 : rm == 5); // %rip, or none at all
  return std::size_t(1) + sib + (mod == 1 ? 1 : mod == 2 || no_base ? 4 : 0);
}

} // namespace

std::size_t instruction_length(const ZydisDecoder& decoder, const std::byte* at, std::size_t size) noexcept {
  const auto* code = reinterpret_cast<const std::uint8_t*>(at);
  Kind kind;
  const bool has_kind = find_kind(code, std::min(size, longest), kind);
  if (has_kind)
    if (const std::uint8_t shape = known[kind.index].load(std::memory_order_relaxed); shape != 0) {
      const std::size_t fields = (shape & has_modrm) != 0 ? modrm_bytes(code + kind.opcode_end) : 0;
      const std::size_t length = kind.opcode_end + fields + (shape & tail_bits);
      return length <= std::min(size, longest) ? length : 0;
    }
  ZydisDecodedInstruction instruction;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code, size, &instruction))) return 0;
  if (has_kind) {
    const bool modrm = (instruction.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    const std::size_t fields = modrm ? modrm_bytes(code + kind.opcode_end) : 0;
    const std::size_t tail = instruction.length - kind.opcode_end - fields;
    known[kind.index].store(std::uint8_t(is_known | (modrm ? has_modrm : 0) | tail), std::memory_order_relaxed);
  }
  return instruction.length;
}

} // namespace tenon::link::arch

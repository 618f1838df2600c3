// Machine code that the linker writes on x86-64, and its unwind information: stubs, thunks, traps.
//
// A thunk stands in for an instruction `mov sym(%rip), %reg` or `lea sym(%rip), %reg` whose data lies out of its reach: a
// jump takes the instruction's place, the thunk loads the address as 64 bits and jumps back. A jump, not a call: the red
// zone below the stack pointer is live. It runs in the frame of the function that jumps to it, and so is described as that
// function is at the instruction (thunk_frames.cpp): a signal, a sampler or a fault in its load sees the function's callers,
// with their registers. Only the function's personality is left out: it looks addresses up in tables of the function, which
// the thunk is outside of. So an exception that a signal handler throws (-fnon-call-exceptions) while the thunk runs goes
// past the handlers of that one function.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64.h"
#include "link/arch/x86_64_length.h"
#include "link/frame_rows.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

namespace tenon::link::arch {

bool write_stub(std::byte* at, std::uint64_t address, std::uint64_t cell) {
  static constexpr std::uint8_t code[stub_bytes] = {0xFF, 0x25, 0, 0, 0, 0, 0xCC, 0xCC}; // jmp *cell(%rip)
  std::memcpy(at, code, sizeof code);
  std::int64_t distance = std::int64_t(cell - (address + 6));
  put(at + 2, std::int32_t(distance));
  return fits_32(distance);
}

bool write_dso_stub(std::byte* at, std::uint64_t address, std::uint64_t cell, std::uint64_t dso_handle, unsigned argument) {
  // lea __dso_handle(%rip), %rsi | %rcx; jmp *cell(%rip): the second or fourth integer argument (psABI 3.2.3).
  const std::uint8_t code[13] = {0x48, 0x8D, std::uint8_t(argument == 2 ? 0x35 : 0x0D), 0, 0, 0, 0, 0xFF, 0x25, 0, 0, 0, 0};
  std::memcpy(at, code, sizeof code);
  std::int64_t to_dso = std::int64_t(dso_handle - (address + 7)), to_cell = std::int64_t(cell - (address + 13));
  put(at + 3, std::int32_t(to_dso));
  put(at + 9, std::int32_t(to_cell));
  return fits_32(to_dso) && fits_32(to_cell);
}

namespace {

// Finds instructions by decoding from the start of the function around them: bytes before a field alone don't tell a prefix
// from the end of the instruction before. Asked in the order of sections and offsets, it goes over the code once.
class Decoder {
public:
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  std::uint64_t begin = 0; // of `instruction`

  explicit Decoder(const Module& module) : module_(module) {
    for (const Symbol& symbol : module.symbols())
      if (symbol.type == SymbolType::function && symbol.section < module.object_sections())
        functions_.emplace_back(symbol.section, symbol.value);
    std::sort(functions_.begin(), functions_.end());
    ready_ = ZYAN_SUCCESS(ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
  }

  // The instruction whose displacement is the field at `offset`.
  bool find(std::uint32_t section, std::uint64_t offset) {
    Bytes content = module_.sections()[section].content;
    std::uint64_t at = function_around(section, offset);
    if (section == section_ && begin >= at && begin <= offset) at = begin;
    section_ = section;
    while (ready_ && at <= offset && at < content.size()) {
      begin = at;
      const std::size_t length = instruction_length(decoder_, content.data() + at, content.size() - at);
      if (length == 0) return false;
      at += length;
      if (at > offset)
        return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, content.data() + begin, content.size() - begin, &instruction,
                                                   operands)) &&
               instruction.raw.disp.size == 32 && begin + instruction.raw.disp.offset == offset;
    }
    return false;
  }

private:
  std::uint64_t function_around(std::uint32_t section, std::uint64_t offset) const {
    auto after = std::upper_bound(functions_.begin(), functions_.end(), std::pair(section, offset));
    return after != functions_.begin() && std::prev(after)->first == section ? std::prev(after)->second : 0;
  }

  const Module& module_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> functions_; // section, offset; sorted
  ZydisDecoder decoder_;
  bool ready_ = false;
  std::uint32_t section_ = 0; // where `begin` lies
};

// mov disp(%rip), %r32/%r64 -> loads; lea -> only the address.
struct Load {
  std::uint8_t reg = 0; // 0 to 15
  bool wide = false, address_only = false;

  std::uint8_t pack() const noexcept { return std::uint8_t(reg | wide << 4 | address_only << 5); }
  static Load unpack(std::uint8_t packed) noexcept {
    return {std::uint8_t(packed & 15), (packed & 16) != 0, (packed & 32) != 0};
  }
};

bool load_of(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands, Load& load) {
  if ((instruction.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) != 0) return false;
  if (instruction.length < 6 || operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
  // Nothing but %rip: not 32 bits of it, and no base or index whose value the field is added to.
  if (operands[1].type != ZYDIS_OPERAND_TYPE_MEMORY || operands[1].mem.base != ZYDIS_REGISTER_RIP ||
      operands[1].mem.index != ZYDIS_REGISTER_NONE)
    return false;
  bool mov = instruction.mnemonic == ZYDIS_MNEMONIC_MOV && instruction.opcode == 0x8B;
  load.address_only = instruction.mnemonic == ZYDIS_MNEMONIC_LEA;
  load.wide = operands[0].size == 64;
  if ((!mov && !load.address_only) || (!load.wide && (load.address_only || operands[0].size != 32))) return false;
  ZyanI8 id = ZydisRegisterGetId(operands[0].reg.value);
  load.reg = std::uint8_t(id);
  return id >= 0 && id < 16 && id != 4; // never the stack pointer
}

std::size_t encode_load(std::uint8_t* code, const Load& load, std::uint64_t address) {
  std::uint8_t high = load.reg >> 3, low = load.reg & 7;
  std::size_t n = 0;
  code[n++] = std::uint8_t(0x48 | high); // movabs $address, %reg
  code[n++] = std::uint8_t(0xB8 + low);
  std::memcpy(code + n, &address, 8);
  n += 8;
  if (load.address_only) return n;
  code[n++] = std::uint8_t(0x40 | (load.wide ? 8 : 0) | (high << 2) | high); // mov 0(%reg), %reg
  code[n++] = 0x8B;
  code[n++] = std::uint8_t(0x40 | (low << 3) | low);
  if (low == 4) code[n++] = 0x24; // r12 as a base takes a SIB byte
  code[n++] = 0;
  return n;
}

std::int64_t distance_of(const Bound& bound, const Thunk& thunk, std::uint64_t section) noexcept {
  const Target& target = bound.targets[thunk.symbol];
  std::uint64_t S = target.kind == TargetKind::null ? 0 : target.address;
  return std::int64_t(S + std::uint64_t(thunk.addend) - (section + thunk.offset));
}

Error too_far(const Bound& bound, const Thunk& thunk, std::uint64_t S, std::int64_t value, std::string_view hint) {
  return out_of_range(bound.module, {thunk.offset, thunk.type, thunk.symbol, thunk.addend}, S, value, hint);
}

} // namespace

bool thunk_is_used(const Bound& bound, const Thunk& thunk, std::uint64_t section) noexcept {
  return !fits_32(distance_of(bound, thunk, section)); // else the instruction is relocated as it stands
}

Result<void> write_thunk(const Bound& bound, const Thunk& thunk, std::uint64_t section, std::byte* to) {
  std::uint8_t code[thunk_bytes];
  std::memset(code, 0xCC, sizeof code);
  std::uint64_t begin = section + thunk.offset - thunk.before, end = begin + thunk.length;
  std::uint64_t at = bound.stubs + thunk.stub;
  // The field's value is counted from the end of the instruction.
  std::size_t n = encode_load(code, Load::unpack(thunk.load), end + std::uint64_t(distance_of(bound, thunk, section)));
  code[n++] = 0xE9;
  std::int64_t back = std::int64_t(end - (at + n + 4));
  if (!fits_32(back)) return too_far(bound, thunk, at, back, "its thunk is too far");
  std::int32_t back_32 = std::int32_t(back);
  std::memcpy(code + n, &back_32, 4);
  std::memcpy(to, code, sizeof code);
  return {};
}

Result<void> write_thunk_site(const Bound& bound, const Thunk& thunk, std::uint64_t section, std::byte* bytes) {
  if (thunk.length == 0)
    return too_far(bound, thunk, section + thunk.offset, distance_of(bound, thunk, section),
                   "it was in reach where the section lay before");
  std::uint64_t begin = section + thunk.offset - thunk.before, at = bound.stubs + thunk.stub;
  std::int64_t there = std::int64_t(at - (begin + 5));
  if (!fits_32(there)) return too_far(bound, thunk, at, there, "its thunk is too far");
  std::byte* site = bytes + thunk.offset - thunk.before;
  site[0] = std::byte{0xE9};
  put(site + 1, std::int32_t(there));
  std::memset(site + 5, 0x90, thunk.length - 5U);
  return {};
}

Result<void> write_thunks(Module& module, const Bound& bound) {
  std::optional<Decoder> decoder;
  for (Thunk& thunk : module.thunks) {
    const SectionPlace& place = module.places[thunk.section];
    // Decoding takes longer than all else: what is in reach after all is not looked at, and can't move out of reach.
    if (!thunk_is_used(bound, thunk, place.address)) continue;
    if (!decoder) decoder.emplace(module);
    Load load;
    bool known = decoder->find(thunk.section, thunk.offset) && load_of(decoder->instruction, decoder->operands, load);
    thunk.load = load.pack();
    thunk.before = known ? std::uint8_t(thunk.offset - decoder->begin) : 0;
    thunk.length = known ? decoder->instruction.length : 0;
    auto within = [&](Error error) { return std::move(error).within(module.sections()[thunk.section].name); };
    if (!known) {
      std::int64_t direct = distance_of(bound, thunk, place.address);
      return within(too_far(
          bound, thunk, place.address + thunk.offset + std::uint64_t(direct) - std::uint64_t(thunk.addend), direct,
          "data of the host that far can be reached by `mov` to a general register and `lea` only: compile with -fPIC "
          "and without copy relocations (-fno-direct-access-external-data)"));
    }
    Result<void> done = write_thunk(bound, thunk, place.address, module.place(Synthetic::stubs).local + thunk.stub);
    if (done) done = write_thunk_site(bound, thunk, place.address, place.local);
    if (!done) return within(std::move(done).error());
    if (module.rewritten.empty() || module.rewritten.back() != thunk.section) module.rewritten.push_back(thunk.section);
  }
  return {};
}

void write_frame_head(std::byte* at) {
  // A CIE. A stub has pushed nothing: the return address is on top of the stack (DWARF 5, 6.4; CFA = rsp + 8, return
  // address at CFA - 8).
  static constexpr std::uint8_t cie[frame_head_bytes] = {20, 0,    0,  0, 0,    0,    0, 0, 1,    'z', 'R', 0,
                                                         1,  0x78, 16, 1, 0x1B, 0x0C, 7, 8, 0x90, 1,   0,   0};
  std::memcpy(at, cie, sizeof cie);
}

namespace {

// The beginning of an FDE: length, distance to the CIE, address, size, no augmentation data.
constexpr std::uint32_t fde_begin_bytes = 17;

void write_fde_begin(std::byte* at, std::uint32_t bytes, std::uint32_t from_head, std::uint32_t size) {
  put(at, bytes - 4);
  put(at + 4, from_head + 4);
  put(at + 8, std::uint32_t(0));
  put(at + 12, size);
  at[16] = std::byte{0};
}

} // namespace

void write_stub_frame(std::byte* at, std::uint64_t size) {
  std::memset(at, 0, stub_frame_bytes);
  write_fde_begin(at, stub_frame_bytes, frame_head_bytes, std::uint32_t(size));
}

bool set_frame_address(std::byte* description, std::uint64_t at, std::uint64_t to) {
  std::int64_t distance = std::int64_t(to - (at + frame_address_field));
  put(description + frame_address_field, std::int32_t(distance));
  return fits_32(distance);
}

bool append_thunk_frame(std::vector<std::byte>& to, std::uint32_t offset, std::uint32_t size, const FrameRow& row) {
  const std::size_t begin = to.size();
  to.resize(begin + fde_begin_bytes);
  if (!append_row(to, row, -8)) { // the data alignment factor of the head
    to.resize(begin);
    return false;
  }
  to.resize((to.size() + 7) / 8 * 8); // DW_CFA_nop is 0
  write_fde_begin(to.data() + begin, std::uint32_t(to.size() - begin), offset, size);
  return true;
}

bool write_switch(std::byte* at, std::uint64_t address, std::uint64_t choices, std::uint64_t chooser) {
  // push *choices(%rip); jmp *chooser(%rip): no register is touched, as callers that were compiled together with the callee
  // may count on any.
  static constexpr std::uint8_t code[switch_bytes] = {0xFF, 0x35, 0, 0, 0,    0,    0xFF, 0x25,
                                                      0,    0,    0, 0, 0xCC, 0xCC, 0xCC, 0xCC};
  std::memcpy(at, code, sizeof code);
  std::int64_t to_choices = std::int64_t(choices - (address + 6)), to_chooser = std::int64_t(chooser - (address + 12));
  put(at + 2, std::int32_t(to_choices));
  put(at + 8, std::int32_t(to_chooser));
  return fits_32(to_choices) && fits_32(to_chooser);
}

void write_switch_frame(std::byte* at, std::uint64_t size) {
  // As procedure linkage tables have it: CFA = rsp + 8, and 8 more from the sixth byte of each 16 on (DWARF 5, 2.5).
  static constexpr std::uint8_t row[] = {0x0F, 11,               // DW_CFA_def_cfa_expression
                                         0x77, 8,    0x80, 0,    // breg7 (rsp) 8; breg16 (rip) 0
                                         0x3F, 0x1A, 0x36, 0x2A, // lit15; and; lit6; ge
                                         0x33, 0x24, 0x22};      // lit3; shl; plus
  std::memset(at, 0, switch_frame_bytes);
  write_fde_begin(at, switch_frame_bytes, frame_head_bytes, std::uint32_t(size));
  std::memcpy(at + fde_begin_bytes, row, sizeof row);
}

bool write_recall(std::byte* at, std::uint64_t address, std::uint64_t cell, const void* entry) {
  static constexpr std::uint8_t code[recall_bytes - 8] = {0xFF, 0x15, 0, 0, 0, 0, 0xCC, 0xCC}; // call *cell(%rip)
  static_assert(sizeof code == 6 + recall_entry);
  std::memcpy(at, code, sizeof code);
  std::memcpy(at + sizeof code, &entry, sizeof entry);
  const std::int64_t distance = std::int64_t(cell - (address + 6));
  put(at + 2, std::int32_t(distance));
  return fits_32(distance);
}

void write_trap(std::byte* at, std::uint64_t report, std::string_view name) {
  std::uint8_t code[trap_bytes] = {0x48, 0x8D, 0x3D, trap_bytes - 7,
                                   0,    0,    0, // lea name(%rip), %rdi
                                   0x48, 0xB8, 0,    0,
                                   0,    0,    0,    0,
                                   0,    0,     // movabs $report, %rax
                                   0xFF, 0xE0}; // jmp *%rax
  std::memcpy(code + 9, &report, sizeof report);
  std::memcpy(at, code, sizeof code);
  std::memcpy(at + trap_bytes, name.data(), name.size());
  at[trap_bytes + name.size()] = std::byte{0};
}

} // namespace tenon::link::arch

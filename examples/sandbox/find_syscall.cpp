// Decodes one instruction after another; see the header for what that can and can't find.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "find_syscall.h"

namespace sandbox {

namespace {

bool enters_kernel(const tenon::Disassembler::Instruction& instruction, tenon::Bytes code) {
  if (instruction.opcode == "SYSCALL" || instruction.opcode == "SYSENTER") return true;
  // Any other interrupt traps into a signal handler of the process itself.
  return instruction.opcode == "INT" && code[instruction.offset + instruction.size - 1] == std::byte{0x80};
}

} // namespace

std::optional<std::uint64_t> find_syscall(tenon::Disassembler& disassembler, tenon::Bytes code) {
  for (std::uint64_t offset = 0; offset < code.size();) {
    const auto instruction = disassembler.decode(code, offset, {}, tenon::Disassembler::Detail::opcode);
    if (instruction && enters_kernel(*instruction, code)) return offset;
    offset += instruction ? instruction->size : 1;
  }
  return std::nullopt;
}

} // namespace sandbox

// How long instructions are: for those who go over code to find the few that they look at.
//
// Zydis takes 500 instructions for one, and whoever wants to know which instruction a field belongs to has to begin at the
// function's first. An instruction's length follows from its prefixes, its opcode and its ModRM and SIB bytes; of all these
// only what the opcode asks for needs knowledge. So Zydis is asked once for each kind (opcode, REX.W and operand-size or
// repeat prefix, ModRM.reg, whether ModRM names a register), and its answer is kept for the process: a byte each. Where
// validity depends on more than the kind, and for what is rare (VEX and later, other maps than 0F), it is asked every time.
// tests/link/x86_64_length_test.cpp compares with Zydis over all of it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <Zydis/Zydis.h>

#include <cstddef>

namespace tenon::link::arch {

// 0: not an instruction, or it reaches beyond `size` bytes. Any thread.
std::size_t instruction_length(const ZydisDecoder& decoder, const std::byte* at, std::size_t size) noexcept;

} // namespace tenon::link::arch

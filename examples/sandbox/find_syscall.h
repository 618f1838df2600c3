// Looks for instructions that enter the kernel.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <cstdint>
#include <optional>

namespace sandbox {

// The offset of the first `syscall`, `sysenter` or `int $0x80` in `code`, decoded one instruction after another from its
// start. Bytes that are no instruction (tables in the code, say) are stepped over one at a time.
//
// A linear sweep sees the instructions that a compiler put there. It does not see one that hides in the bytes of another and
// is reached by a jump into its middle: a sandbox against hostile code has to check jump targets, too, or refuse the bytes
// 0F 05, 0F 34 and CD 80 wherever they stand.
std::optional<std::uint64_t> find_syscall(tenon::Disassembler& disassembler, tenon::Bytes code);

} // namespace sandbox

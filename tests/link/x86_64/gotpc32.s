# R_X86_64_GOTPC32: GOT + A - P in 32 bits, from -2^31 to 2^31 - 1.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90000010 --at text=0x18000000 -o %t/out %t/test.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x4
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_base
# jitlink-check: decode_operand(test_base, 4) = (0x40000000) - next_pc(test_base)
test_base:
        leaq    _GLOBAL_OFFSET_TABLE_(%rip), %rbx

# RANGE: test.o: .text: relocation R_X86_64_GOTPC32 at offset 0x3 against '_GLOBAL_OFFSET_TABLE_' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x80000009
# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTPC32 at offset 0x4 against {{.*}}lies outside of its section

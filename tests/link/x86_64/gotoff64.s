# R_X86_64_GOTOFF64: S + A - GOT in 64 bits. Every value fits; the symbol needs no entry of the GOT.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x3
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_offset
# jitlink-check: *{8}(test_offset + 2) = 0xffffffffe0000004
test_offset:
        movabsq $variable@GOTOFF + 4, %rax
        .data
        .globl  variable
variable:
        .quad   0

# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTOFF64 at offset 0x3 against {{.*}}lies outside of its section

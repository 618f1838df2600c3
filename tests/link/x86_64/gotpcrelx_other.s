# R_X86_64_GOTPCRELX and R_X86_64_REX_GOTPCRELX in test and in arithmetic: these could become immediates only where
# addresses fit in 31 bits, which no module may count on: they keep the GOT.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define near=0x10000100 \
# RUN:   --check %s %t/test.o

        .text
        .globl  test_test, test_add, test_cmp
# jitlink-check: decode_operand(test_test, 3) = got_addr(test.o, near) - next_pc(test_test)
# jitlink-check: *{2}test_test = 0x8548
test_test:
        testq   %rax, near@GOTPCREL(%rip)
# jitlink-check: *{2}test_add = 0x0348
# jitlink-check: *{4}(test_add + 3) = (got_addr(test.o, near) - (test_add + 7))[31:0]
test_add:
        .byte   0x48, 0x03
        .byte   0x05
        .reloc  ., R_X86_64_REX_GOTPCRELX, near - 4
        .long   0
# jitlink-check: *{1}test_cmp = 0x3b
# jitlink-check: *{4}(test_cmp + 2) = (got_addr(test.o, near) - (test_cmp + 6))[31:0]
test_cmp:
        cmpl    near@GOTPCREL(%rip), %eax
# jitlink-check: *{8}(got_addr(test.o, near)) = 0x10000100

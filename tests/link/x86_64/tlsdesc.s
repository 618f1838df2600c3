# R_X86_64_GOTPC32_TLSDESC: G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1. The entry is a descriptor: a function and its
# argument, which only commit can tell.
# R_X86_64_TLSDESC_CALL: marks the call through the descriptor; no field, nothing changes.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90010000 --at text=0x18000000 -o %t/out %t/test.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x10
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_lea, test_call, test_again
# jitlink-check: *{2}test_lea = 0x8d48
# jitlink-check: (next_pc(test_lea) + decode_operand(test_lea, 4) - section_addr(test.o, .tenon.got)) >> 5 = 0
test_lea:
        leaq    first@tlsdesc(%rip), %rax
# jitlink-check: *{2}test_call = 0x10ff
test_call:
        call    *first@tlscall(%rax)
# jitlink-check: next_pc(test_again) + decode_operand(test_again, 4) = next_pc(test_lea) + decode_operand(test_lea, 4)
test_again:
        leaq    first@tlsdesc(%rip), %rax
        call    *first@tlscall(%rax)

        .section .tdata,"awT",@progbits
        .globl  first, second
        .type   first, @object
        .size   first, 8
first:  .quad   1
        .type   second, @object
        .size   second, 8
second: .quad   2
        .section .tbss,"awT",@nobits
        .globl  zeroed
        .type   zeroed, @object
        .size   zeroed, 4
zeroed: .zero   4

# RANGE: test.o: .text: relocation {{R_X86_64_[A-Z0-9_]+}} at offset 0x3 against 'first'
# MALFORMED: bad1.o: .text: relocation {{R_X86_64_[A-Z0-9_]+}} at offset 0x10 against {{.*}}lies outside of its section

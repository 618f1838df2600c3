# R_X86_64_GOTPC32_TLSDESC: G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1. The entry is a descriptor: a function, the same for
# all, and its argument, the address of the variable's pair of a key, which has its top bit set, and an offset.
# R_X86_64_TLSDESC_CALL: marks the call through the descriptor; no field, nothing changes.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90010000 --at text=0x18000000 -o %t/out %t/test.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x18
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_lea, test_call, test_again, test_second
# jitlink-check: *{2}test_lea = 0x8d48
# jitlink-check: next_pc(test_lea) + decode_operand(test_lea, 4) = section_addr(test.o, .tenon.got) + 16
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 24) = section_addr(test.o, .tenon.got)
# jitlink-check: *{1}(section_addr(test.o, .tenon.got) + 7) = 0x80
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 8) = 0
test_lea:
        leaq    first@tlsdesc(%rip), %rax
# jitlink-check: *{2}test_call = 0x10ff
test_call:
        call    *first@tlscall(%rax)
# jitlink-check: next_pc(test_again) + decode_operand(test_again, 4) = next_pc(test_lea) + decode_operand(test_lea, 4)
test_again:
        leaq    first@tlsdesc(%rip), %rax
        call    *first@tlscall(%rax)
# jitlink-check: next_pc(test_second) + decode_operand(test_second, 4) = section_addr(test.o, .tenon.got) + 48
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 48) = *{8}(section_addr(test.o, .tenon.got) + 16)
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 56) = section_addr(test.o, .tenon.got) + 32
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 32) = *{8}(section_addr(test.o, .tenon.got))
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 40) = 8
test_second:
        leaq    second@tlsdesc(%rip), %rax
        call    *second@tlscall(%rax)

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

# RANGE: test.o: .text: relocation R_X86_64_GOTPC32_TLSDESC at offset 0x3 against 'first' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x80010009
# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTPC32_TLSDESC at offset 0x18 against {{.*}}lies outside of its section

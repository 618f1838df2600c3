# R_X86_64_GOTPCREL: G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1. Not one of the relocations that may be relaxed: the
# instruction stays, even if the target is near. Entries are shared by all references of a module to one symbol.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc -x86-relax-relocations=false %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define target=0xfedcba9876543210 --define near=0x10000100 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x90000100 --at text=0x18000000 \
# RUN:   --define target=0xfedcba9876543210 --define near=0x10000100 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x10
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define target=0xfedcba9876543210 --define near=0x10000100 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  test_push, test_again, test_mov
# jitlink-check: decode_operand(test_push, 3) = got_addr(test.o, target) - next_pc(test_push)
# jitlink-check: *{8}(got_addr(test.o, target)) = 0xfedcba9876543210
test_push:
        pushq   target@GOTPCREL(%rip)
# jitlink-check: decode_operand(test_again, 3) = got_addr(test.o, target) - next_pc(test_again)
test_again:
        pushq   target@GOTPCREL(%rip)
# jitlink-check: *{1}(test_mov + 1) = 0x8b
# jitlink-check: decode_operand(test_mov, 4) = got_addr(test.o, near) - next_pc(test_mov)
# jitlink-check: *{8}(got_addr(test.o, near)) = 0x10000100
test_mov:
        movq    near@GOTPCREL(%rip), %rax
        .data
        .globl  field
# jitlink-check: *{4}field = ((got_addr(test.o, target)) - field + 4)[31:0]
field:  .long   target@GOTPCREL + 4

# RANGE: test.o: .text: relocation R_X86_64_GOTPCREL at offset 0x2 against 'target' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x800000fa
# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTPCREL at offset 0x10 against {{.*}}lies outside of its section

# R_X86_64_REX_GOTPCRELX: G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1, in an instruction with a REX prefix. Where
# the target itself is in reach (by one byte less than a lea has) mov becomes lea. Beyond the load stays.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define edge=0x90000013 --define past=0x9000001c --define far=0xfedcba9876543210 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0xa0000100 --at text=0x18000000 \
# RUN:   --define edge=0x90000013 --define past=0x9000001c --define far=0xfedcba9876543210 -o %t/out %t/test.o 2>&1 \
# RUN:   | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x20
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define edge=0x90000013 --define past=0x9000001c --define far=0xfedcba9876543210 -o %t/out %t/bad1.o 2>&1 \
# RUN:   | FileCheck %s --check-prefix=MALFORMED
# RUN: python3 %S/../patch_object.py %t/test.o %t/cut.o rela:.rela.text:0:offset=1
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define edge=0x90000013 --define past=0x9000001c --define far=0xfedcba9876543210 --map %t/cut.o | \
# RUN:   FileCheck %s --check-prefix=CUT

        .text
        .globl  test_mov, test_r15, edge_mov, past_mov, far_mov, absolute_mov
# jitlink-check: *{2}test_mov = 0x8d48
# jitlink-check: decode_operand(test_mov, 4) = (0x20000000) - next_pc(test_mov)
test_mov:
        movq    variable@GOTPCREL(%rip), %rax
# jitlink-check: *{2}test_r15 = 0x8d4c
# jitlink-check: decode_operand(test_r15, 4) = (0x20000000) - next_pc(test_r15)
test_r15:
        movq    variable@GOTPCREL(%rip), %r15
# jitlink-check: *{2}edge_mov = 0x8d48
# jitlink-check: decode_operand(edge_mov, 4) = 0x7ffffffe
edge_mov:
        movq    edge@GOTPCREL(%rip), %rax
# jitlink-check: *{2}past_mov = 0x8b48
# jitlink-check: decode_operand(past_mov, 4) = got_addr(test.o, past) - next_pc(past_mov)
# jitlink-check: *{8}(got_addr(test.o, past)) = 0x9000001c
past_mov:
        movq    past@GOTPCREL(%rip), %rax
# jitlink-check: *{2}far_mov = 0x8b48
# jitlink-check: *{8}(got_addr(test.o, far)) = 0xfedcba9876543210
far_mov:
        movq    far@GOTPCREL(%rip), %rax
        .data
        .globl  variable
variable:
        .quad   0

# RANGE: test.o: .text: relocation R_X86_64_REX_GOTPCRELX at offset 0x18 against 'past' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x900000f4
# MALFORMED: bad1.o: .text: relocation R_X86_64_REX_GOTPCRELX at offset 0x20 against {{.*}}lies outside of its section
# CUT: got  {{.*}} variable

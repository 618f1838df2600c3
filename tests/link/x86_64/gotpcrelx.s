# R_X86_64_GOTPCRELX: G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1, in an instruction without a REX prefix. Where the
# target itself is in reach the load goes (psABI, "Optimize GOTPCRELX relocations"): mov becomes lea, call * becomes addr32
# call, and jmp * becomes jmp and a nop. An instruction that is none of these, or not a whole one, keeps the GOT.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define near=0x10000100 \
# RUN:   --define far=0xfedcba9876543210 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90000100 --at text=0x18000000 --define \
# RUN:   near=0x10000100 --define far=0xfedcba9876543210 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x21
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   near=0x10000100 --define far=0xfedcba9876543210 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED
# RUN: python3 %S/../patch_object.py %t/test.o %t/cut.o rela:.rela.text:0:offset=0
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define near=0x10000100 \
# RUN:   --define far=0xfedcba9876543210 --map %t/cut.o | FileCheck %s --check-prefix=CUT

        .text
        .globl  test_mov, test_call, test_jmp, test_add, far_mov, far_call, far_jmp
# jitlink-check: *{1}test_mov = 0x8d
# jitlink-check: decode_operand(test_mov, 4) = (0x10000100) - next_pc(test_mov)
test_mov:
        movl    near@GOTPCREL(%rip), %eax
# jitlink-check: *{2}test_call = 0xe867
# jitlink-check: *{4}(test_call + 2) = ((0x10000100) - test_call - 6)[31:0]
test_call:
        call    *near@GOTPCREL(%rip)
# jitlink-check: *{1}test_jmp = 0xe9
# jitlink-check: *{4}(test_jmp + 1) = ((0x10000100) - test_jmp - 5)[31:0]
# jitlink-check: *{1}(test_jmp + 5) = 0x90
test_jmp:
        jmp     *near@GOTPCREL(%rip)
# jitlink-check: *{1}far_mov = 0x8b
# jitlink-check: decode_operand(far_mov, 4) = got_addr(test.o, far) - next_pc(far_mov)
# jitlink-check: *{8}(got_addr(test.o, far)) = 0xfedcba9876543210
far_mov:
        movl    far@GOTPCREL(%rip), %eax
# jitlink-check: *{2}far_call = 0x15ff
# jitlink-check: decode_operand(far_call, 3) = got_addr(test.o, far) - next_pc(far_call)
far_call:
        call    *far@GOTPCREL(%rip)
# jitlink-check: *{2}far_jmp = 0x25ff
# jitlink-check: decode_operand(far_jmp, 3) = got_addr(test.o, far) - next_pc(far_jmp)
far_jmp:
        jmp     *far@GOTPCREL(%rip)

# RANGE: test.o: .text: relocation R_X86_64_GOTPCRELX at offset 0x14 against 'far' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x800000f0
# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTPCRELX at offset 0x21 against {{.*}}lies outside of its section
# CUT: got  {{.*}} near

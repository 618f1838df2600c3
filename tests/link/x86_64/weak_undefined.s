# Undefined weak symbols are 0: absolute and GOT references see null, and a call that can't reach address 0 goes through a
# stub whose slot holds 0, so that it stops where a null pointer would.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at text=0x7f0010000000 --check %s %t/test.o

        .text
        .weak   absent
        .globl  test_call, test_load
# jitlink-check: decode_operand(test_call, 0) = stub_addr(test.o, absent) - next_pc(test_call)
test_call:
        call    absent@PLT
# jitlink-check: *{2}test_load = 0x8b48
# jitlink-check: decode_operand(test_load, 4) = got_addr(test.o, absent) - next_pc(test_load)
# jitlink-check: *{8}(got_addr(test.o, absent)) = 0
test_load:
        movq    absent@GOTPCREL(%rip), %rax
        .data
        .globl  field
# jitlink-check: *{8}field = 0
field:  .quad   absent

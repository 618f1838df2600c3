# The expression language of --check: every function of it, at addresses that nothing is mapped at here.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link %t/test.o --define near=0x20000000 --define far=0x7f0000001230 --at text=0x10000000 --at data=0x18000000 \
# RUN:   --check %s
# RUN: not %tenon link %t/test.o --define near=0x20000000 --define far=0x7f0000001230 --check %s --check-prefix '# wrong:' \
# RUN:   2>&1 | FileCheck %s
# RUN: not %tenon link %t/test.o --define near=0x20000000 --define far=0x7f0000001230 --check %s --check-prefix '# none:' \
# RUN:   2>&1 | FileCheck %s --check-prefix=NONE
# RUN: not %tenon link %t/test.o --define near=0x20000000 --define far=0x7f0000001230 --check %t/none.s 2>&1 \
# RUN:   | FileCheck %s --check-prefix=MISSING

# CHECK: Expression {{.*}} is false
# CHECK: tenon: error: {{.*}}link_check.s: a check does not hold
# NONE: tenon: error: {{.*}}: no line begins with '# {{none}}:' (hint: see --check-prefix)
# MISSING: tenon: error: {{.*}}none.s: No such file or directory

        .text
        .globl  start
        .type   start, @function
start:
# jitlink-check: section_addr(test.o, .text) = 0x10000000
# jitlink-check: start = section_addr(test.o, .text)
# jitlink-check: next_pc(to_near) = start + 5
# jitlink-check: decode_operand(to_near, 0) = near - next_pc(to_near)
# wrong: decode_operand(to_near, 0) = near
to_near:
        callq   near
# jitlink-check: decode_operand(to_far, 0) = stub_addr(test.o, far) - next_pc(to_far)
to_far:
        callq   far@PLT
# jitlink-check: decode_operand(load_got, 4) = \
# jitlink-check:   got_addr(test.o, far) - next_pc(load_got)
# jitlink-check: *{8}(got_addr(test.o, far)) = far
load_got:
        movq    far@GOTPCREL(%rip), %rax
        retq
        .size   start, .-start

        .data
        .globl  pointer
# jitlink-check: section_addr(test.o, .data) = 0x18000000
# jitlink-check: *{8}pointer = far + 8
# jitlink-check: (*{8}pointer)[47:32] = 0x7f00
# jitlink-check: *{4}(pointer + 4) = 0x7f00
pointer:
        .quad   far + 8
# jitlink-check: *{8}zeroes = 0
        .bss
zeroes: .quad   0

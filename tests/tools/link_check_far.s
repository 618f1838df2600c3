# Checks hold at addresses that can't be mapped here, the kernel's half; where they can, loaded and computed addresses can be
# followed; and a load from anywhere else is an error, not a crash.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link %t/test.o --at text=0xffffffff80001000 --check %s
# RUN: %tenon link %t/test.o --at text=0x20000000 --check %s
# RUN: %tenon link %t/test.o --at text=0x20000000 --check %s --check-prefix '# followed:'
# RUN: %status 1 %tenon link %t/test.o --at text=0xffffffff80001000 --check %s --check-prefix '# followed:' 2>&1 | FileCheck %s
# RUN: %status 1 %tenon link %t/test.o --check %s --check-prefix '# wild:' 2>&1 | FileCheck %s

# CHECK: tenon: error: {{.*}}link_check_far.s: a check loads from an address outside of the image

        .text
        .globl  start
start:
# jitlink-check: decode_operand(load, 4) = value - next_pc(load)
# jitlink-check: 4 - 1 = 3
# followed: *{4}(next_pc(load) + decode_operand(load, 4)) = 42
load:   movl    value(%rip), %eax
        retq

        .data
value:  .long   42
        .p2align 3
# jitlink-check: *{8}pointer = value
# followed: *{4}(*{8}pointer) = 42
# wild: *{8}(pointer + 0x7000000000000) = 0
pointer:
        .quad   value

# An absolute symbol has one value wherever its module lies.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: %tenon link --at .text=0x7f0000000000 --check %s %t/a.o %t/b.o
# RUN: %tenon link --at .text=0x10000 --check %s %t/b.o %t/a.o

# jitlink-check: *{8}use_a = 0x12345678
# jitlink-check: *{8}use_b = 0x12345680
# jitlink-check: *{8}use_local = 0x99
# jitlink-check: decode_operand(load, 1) = 0x12345678
#--- a.s
        .globl  constant, use_a, use_local
        .set    constant, 0x12345678
        .set    local_constant, 0x99
        .data
use_a:  .quad   0
        .reloc  use_a, R_X86_64_64, constant
use_local:
        .quad   0
        .reloc  use_local, R_X86_64_64, local_constant
#--- b.s
        .text
        .globl  load
load:   movq    $constant, %rax
        .data
        .globl  use_b
use_b:  .quad   constant + 8

# References to a section symbol with an addend, as assemblers make them for local labels, go to that offset of that
# section, also when several sections have one name.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: llvm-readobj -r %t/test.o | FileCheck %s
# RUN: %tenon link --check %s %t/test.o

# CHECK: R_X86_64_64 .data.part 0x8
# CHECK: R_X86_64_64 .data.part 0x10
        .section .data.part,"aw",@progbits
        .globl  first_part
first_part:
        .quad   1
.Lfirst:
        .quad   2
        .section .data.part,"aw",@progbits,unique,7
        .globl  second_part
second_part:
        .quad   3, 4
.Lsecond:
        .quad   5
        .data
        .globl  use
# jitlink-check: *{8}use = first_part + 8
# jitlink-check: *{8}(first_part + 8) = 2
# jitlink-check: *{8}(use + 8) = second_part + 16
# jitlink-check: *{8}(second_part + 16) = 5
use:    .quad   .Lfirst, .Lsecond

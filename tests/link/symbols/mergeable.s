# Mergeable strings and constants are kept as they are: merging is allowed, not required, and a module must be quick to
# link. All offsets into such a section hold.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --check %s %t/test.o

        .section .rodata.str1.1,"aMS",@progbits,1
        .globl  strings
strings:
        .asciz  "same"
.Lagain:
        .asciz  "same"
.Ltail: .asciz  "me"
        .section .rodata.cst8,"aM",@progbits,8
        .globl  constants
constants:
        .quad   5, 5
        .data
        .globl  use
# jitlink-check: *{8}use = strings + 5
# jitlink-check: *{4}(strings + 5) = 0x656d6173
# jitlink-check: *{8}(use + 8) = strings + 10
# jitlink-check: *{2}(strings + 10) = 0x656d
# jitlink-check: *{8}(use + 16) = constants + 8
use:    .quad   .Lagain, .Ltail, constants + 8

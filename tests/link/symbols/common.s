# Common symbols of one name become one zero-filled object with the largest size and the largest alignment of all; a
# definition proper wins over them.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o && %llvm_mc %t/c.s -o %t/c.o
# RUN: %tenon link --check %t/ab.check %t/a.o %t/b.o
# RUN: %tenon link --check %t/ab.check %t/b.o %t/a.o
# RUN: %tenon link --check %t/c.check %t/a.o %t/b.o %t/c.o
# RUN: %tenon link --map %t/a.o %t/b.o | FileCheck %s --check-prefix=MAP

# MAP: buffer

#--- ab.check
# jitlink-check: *{8}use_a = *{8}use_b
# jitlink-check: *{8}use_a = buffer
# jitlink-check: (buffer & 63) = 0
# jitlink-check: (alone & 15) = 0
# jitlink-check: *{8}use_alone = alone + 8
#--- c.check
# jitlink-check: *{8}use_a = *{8}use_b
# jitlink-check: *{8}use_a = real_buffer
# jitlink-check: *{1}real_buffer = 42
#--- a.s
        .comm   buffer, 8, 8
        .comm   alone, 24, 16
        .data
        .globl  use_a, use_alone
use_a:  .quad   buffer
use_alone:
        .quad   alone + 8
#--- b.s
        .comm   buffer, 256, 64
        .data
        .globl  use_b
use_b:  .quad   buffer
#--- c.s
        .data
        .globl  buffer, real_buffer
        .type   buffer, @object
        .size   buffer, 256
buffer:
real_buffer:
        .byte   42
        .zero   255

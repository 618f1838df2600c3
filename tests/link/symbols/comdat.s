# Of COMDAT groups with one signature the first is kept and the others are dropped with all their sections; references to the
# symbols of a dropped one go to the kept one.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: %tenon link --at .text.use_b=0x10000 --check %s %t/a.o %t/b.o
# RUN: %tenon link --map %t/a.o %t/b.o | FileCheck %s --check-prefix=MAP

# jitlink-check: *{4}(kept + 1) = 1
# jitlink-check: *{8}use_a = kept
# jitlink-check: *{8}use_b = kept
# jitlink-check: decode_operand(call_b, 0) = kept - next_pc(call_b)
# jitlink-check: *{8}use_data = kept_data
# jitlink-check: *{8}kept_data = 1
# MAP:     .data.inline_data
# MAP-NOT: .data.inline_data
#--- a.s
        .section .text.inline_function,"axG",@progbits,inline_function,comdat
        .weak   inline_function
        .globl  kept
inline_function:
kept:   movl    $1, %eax
        ret
        .section .data.inline_data,"awG",@progbits,inline_function,comdat
        .weak   inline_data
        .globl  kept_data
inline_data:
kept_data:
        .quad   1
        .data
        .globl  use_a
use_a:  .quad   inline_function
#--- b.s
        .section .text.inline_function,"axG",@progbits,inline_function,comdat
        .weak   inline_function
inline_function:
        movl    $2, %eax
        ret
        .section .data.inline_data,"awG",@progbits,inline_function,comdat
        .weak   inline_data
inline_data:
        .quad   2
        .section .text.use_b,"ax",@progbits
        .globl  call_b
call_b: call    inline_function
        .data
        .globl  use_b, use_data
use_b:  .quad   inline_function
use_data:
        .quad   inline_data

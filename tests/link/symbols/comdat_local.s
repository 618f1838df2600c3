# A reference from outside to a local symbol of a dropped COMDAT group can't be served: an error that names it. Debug and
# unwind sections, which refer to every copy, are no such reference.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o && %llvm_mc %t/c.s -o %t/c.o
# RUN: %tenon link --check %s %t/a.o %t/b.o
# RUN: not %tenon link -o %t/out %t/a.o %t/c.o 2>&1 | FileCheck %s

# jitlink-check: *{8}use_a = kept
# CHECK-DAG: c.o
# CHECK-DAG: {{\.data\+0x0|local_part|\.text\.inline_function}}
#--- a.s
        .section .text.inline_function,"axG",@progbits,inline_function,comdat
        .weak   inline_function
        .globl  kept
inline_function:
kept:   .cfi_startproc
        ret
        .cfi_endproc
        .data
        .globl  use_a
use_a:  .quad   inline_function
#--- b.s
        .section .text.inline_function,"axG",@progbits,inline_function,comdat
        .weak   inline_function
inline_function:
        .cfi_startproc
        ret
        .cfi_endproc
#--- c.s
        .section .text.inline_function,"axG",@progbits,inline_function,comdat
        .weak   inline_function
inline_function:
        nop
local_part:
        ret
        .data
        .quad   local_part

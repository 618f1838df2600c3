# Of two weak definitions the one of the first module is taken, by both.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: %tenon link --check %s %t/a.o %t/b.o

# jitlink-check: *{8}use_a = first_value
# jitlink-check: *{8}use_b = first_value
#--- a.s
        .data
        .weak   value
        .globl  use_a, first_value
use_a:  .quad   value
first_value:
value:  .quad   1
#--- b.s
        .data
        .weak   value
        .globl  use_b
use_b:  .quad   value
value:  .quad   2

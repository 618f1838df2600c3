# Two strong definitions of one symbol are an error that names the symbol and both modules; so are two in one change with a
# protected one. All duplicates are named at once.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: not %tenon link -o %t/out %t/a.o %t/b.o 2>&1 | FileCheck %s
# RUN: not test -e %t/out

# CHECK-DAG: twice
# CHECK-DAG: {{[/ ]a\.o}}
# CHECK-DAG: {{[/ ]b\.o}}
#--- a.s
        .data
        .globl  twice
twice:  .quad   1
#--- b.s
        .data
        .globl  twice
twice:  .quad   2

# What is missing is reported all at once, each with the modules and places that need it.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: not %tenon link -o %t/out %t/a.o %t/b.o 2>&1 | FileCheck %s
# RUN: not test -e %t/out
# RUN: %tenon link --allow-undefined -o %t/out %t/a.o %t/b.o
# RUN: not %tenon link --define missing_one=1 --define missing_two=2 -o %t/out %t/a.o %t/b.o 2>&1 | FileCheck %s --check-prefix=REST

# CHECK-DAG: missing_one
# CHECK-DAG: missing_two
# CHECK-DAG: missing_three
# CHECK-DAG: {{a\.o: \.data\+0x8}}
# CHECK-DAG: {{b\.o: \.text\+0x1}}
# REST-NOT: missing_one
# REST-NOT: missing_two
# REST: missing_three
#--- a.s
        .data
        .globl  present
        .quad   present
        .quad   missing_one
present:
        .quad   missing_two
#--- b.s
        .text
        .globl  caller
caller: call    missing_three
        jmp     missing_one

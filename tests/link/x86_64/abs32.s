# R_X86_64_32: S + A in 32 bits, from 0 to 2^32 - 1: the value is zero-extended where it is used.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define target=0xffffffff --define zero=0 --check %s %t/test.o
# RUN: not %tenon link --define target=0x100000000 --define zero=0 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE1
# RUN: not %tenon link --define target=0xffffffff --define zero=0xffffffffffffffff -o %t/out %t/test.o 2>&1 | \
# RUN:   FileCheck %s --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x5
# RUN: not %tenon link --define target=0xffffffff --define zero=0 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  load
# jitlink-check: *{4}(load + 1) = 0xffffffff
load:   movl    $target, %eax
        .data
        .globl  field
# jitlink-check: *{4}field = 0xfffffff0
field:  .long   target - 15
# jitlink-check: *{4}low = 0
        .globl  low
low:    .long   zero

# RANGE1-DAG: test.o
# RANGE1-DAG: {{\.text\+0x1}}
# RANGE1-DAG: target
# RANGE2-DAG: test.o
# RANGE2-DAG: {{\.data\+0x4}}
# RANGE2-DAG: zero
# MALFORMED-DAG: bad1.o
# MALFORMED-DAG: .data+0x5

# R_X86_64_32S: S + A in 32 bits, from -2^31 to 2^31 - 1: the value is sign-extended where it is used.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define high=0x7fffffff --define low=0xffffffff80000000 --check %s %t/test.o
# RUN: not %tenon link --define high=0x80000000 --define low=0xffffffff80000000 -o %t/out %t/test.o 2>&1 | FileCheck \
# RUN:   %s --check-prefix=RANGE1
# RUN: not %tenon link --define high=0x7fffffff --define low=0xffffffff7fffffff -o %t/out %t/test.o 2>&1 | FileCheck \
# RUN:   %s --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x13
# RUN: not %tenon link --define high=0x7fffffff --define low=0xffffffff80000000 -o %t/out %t/bad1.o 2>&1 | FileCheck \
# RUN:   %s --check-prefix=MALFORMED

        .text
        .globl  load
# jitlink-check: decode_operand(load, 1) = 0x7fffffff
load:   movq    $high, %rax
        .globl  load_low
# jitlink-check: *{4}(load_low + 3) = 0x80000000
load_low:
        movq    $low, %rax
# jitlink-check: *{4}(indexed + 4) = 0x7ffffff7
        .globl  indexed
indexed:
        movq    high - 8(,%rax,8), %rax

# RANGE1-DAG: test.o
# RANGE1-DAG: {{\.text\+0x3}}
# RANGE1-DAG: high
# RANGE2-DAG: test.o
# RANGE2-DAG: {{\.text\+0xa}}
# RANGE2-DAG: low
# MALFORMED-DAG: bad1.o
# MALFORMED-DAG: .text+0x13

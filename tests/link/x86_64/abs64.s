# R_X86_64_64: S + A in 64 bits. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define target=0xfedcba9876543210 --define zero=0 --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x11
# RUN: not %tenon link --define target=0xfedcba9876543210 --define zero=0 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .data
        .globl  field
# jitlink-check: *{8}field = 0xfedcba9876543218
field:  .quad   target + 8
# jitlink-check: *{8}local_field = field
        .globl  local_field
local_field:
        .quad   field
# jitlink-check: *{8}negative = 0xfffffffffffffff0
        .globl  negative
negative:
        .quad   zero - 16

# MALFORMED: bad1.o: .data: relocation R_X86_64_64 at offset 0x11 against {{.*}}lies outside of its section

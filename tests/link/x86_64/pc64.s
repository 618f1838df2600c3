# R_X86_64_PC64: S + A - P in 64 bits. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .data=0x20000000 --define high=0x7ffffffffffffff0 --define low=0 --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x9
# RUN: not %tenon link --at .data=0x20000000 --define high=0x7ffffffffffffff0 --define low=0 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .data
        .globl  field, backward
# jitlink-check: *{8}field = 0x7fffffffdffffff0
field:  .quad   high - .
# jitlink-check: *{8}backward = 0xffffffffdffffff8
backward:
        .quad   low - .

# MALFORMED: bad1.o: .data: relocation R_X86_64_PC64 at offset 0x9 against {{.*}}lies outside of its section

# R_X86_64_GOTPC64: GOT + A - P in 64 bits. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x7ff040000000 --at text=0x18000000 --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x3
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x7ff040000000 --at text=0x18000000 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_base
# jitlink-check: *{8}(test_base + 2) = 0x7ff030000000
test_base:
        movabsq $_GLOBAL_OFFSET_TABLE_ - test_base, %rbx

# MALFORMED: bad1.o: .text: relocation R_X86_64_GOTPC64 at offset 0x3 against {{.*}}lies outside of its section

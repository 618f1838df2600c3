# R_X86_64_GOTPCREL64: G + GOT - P + A in 64 bits. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .data=0x20000000 --at .tenon.got=0x7ff040000000 --define target=0xfedcba9876543210 --check \
# RUN:   %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x1
# RUN: not %tenon link --at .data=0x20000000 --at .tenon.got=0x7ff040000000 --define target=0xfedcba9876543210 -o \
# RUN:   %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .data
        .globl  field
# jitlink-check: *{8}field = got_addr(test.o, target) - field + 8
field:  .quad   0
        .reloc  field, R_X86_64_GOTPCREL64, target + 8
# jitlink-check: *{8}(got_addr(test.o, target)) = 0xfedcba9876543210

# MALFORMED: bad1.o: .data: relocation R_X86_64_GOTPCREL64 at offset 0x1 against {{.*}}lies outside of its section

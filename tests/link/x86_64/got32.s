# R_X86_64_GOT32: G + A in 32 bits, from -2^31 to 2^31 - 1: the distance of the entry from the start of the GOT.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .data=0x20000000 --at .tenon.got=0x40000000 --define target=0xfedcba9876543210 --check %s \
# RUN:   %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x1
# RUN: not %tenon link --at .data=0x20000000 --at .tenon.got=0x40000000 --define target=0xfedcba9876543210 -o %t/out \
# RUN:   %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED1
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad2.o rela:.rela.data:0:addend=0x80000000
# RUN: not %tenon link --at .data=0x20000000 --at .tenon.got=0x40000000 --define target=0xfedcba9876543210 -o %t/out \
# RUN:   %t/bad2.o 2>&1 | FileCheck %s --check-prefix=MALFORMED2

        .data
        .globl  field
# jitlink-check: *{4}field = (got_addr(test.o, target) - section_addr(test.o, .tenon.got) + 4)[31:0]
field:  .long   target@GOT + 4
# jitlink-check: *{8}(got_addr(test.o, target)) = 0xfedcba9876543210

# MALFORMED1: bad1.o: .data: relocation R_X86_64_GOT32 at offset 0x1 against {{.*}}lies outside of its section
# MALFORMED2: bad2.o: .data: relocation R_X86_64_GOT32 at offset 0x0 against 'target' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x80000000

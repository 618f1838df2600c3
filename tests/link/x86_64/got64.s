# R_X86_64_GOT64: G + A in 64 bits: the distance of the entry from the start of the GOT. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   target=0xfedcba9876543210 --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x3
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   target=0xfedcba9876543210 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_load
# jitlink-check: *{8}(test_load + 2) = got_addr(test.o, target) - 0x40000000
test_load:
        movabsq $target@GOT, %rax
# jitlink-check: *{8}(got_addr(test.o, target)) = 0xfedcba9876543210

# MALFORMED: bad1.o: .text: relocation R_X86_64_GOT64 at offset 0x3 against {{.*}}lies outside of its section

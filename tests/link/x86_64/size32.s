# R_X86_64_SIZE32: Z + A in 32 bits, from 0 to 2^32 - 1. Z is the size of the symbol.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: printf '.data\n.globl outside\n.type outside,@object\n.size outside,40\noutside: .zero 40\n' > %t/outside.s
# RUN: %llvm_mc %t/outside.s -o %t/outside.o
# RUN: %tenon link --check %s %t/test.o %t/outside.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x1d
# RUN: not %tenon link  -o %t/out %t/bad1.o %t/outside.o 2>&1 | FileCheck %s --check-prefix=MALFORMED1
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad2.o symbol:object:size=0x100000000
# RUN: not %tenon link  -o %t/out %t/bad2.o %t/outside.o 2>&1 | FileCheck %s --check-prefix=MALFORMED2

        .data
        .globl  field, object, other_field
# jitlink-check: *{4}field = 28
field:  .long   object@SIZE + 4
# The definition's, not the reference's, in another object.
# jitlink-check: *{4}other_field = 43
other_field:
        .long   outside@SIZE + 3
        .type   object, @object
        .size   object, 24
object: .zero   24

# MALFORMED1: bad1.o: .data: relocation R_X86_64_SIZE32 at offset 0x1d against {{.*}}lies outside of its section
# MALFORMED2: bad2.o: .data: relocation R_X86_64_SIZE32 at offset 0x0 against 'object' {{.*}}is out of range: the field of 32 bits

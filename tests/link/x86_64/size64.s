# R_X86_64_SIZE64: Z + A in 64 bits. Z is the size of the symbol. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: printf '.data\n.globl outside\n.type outside,@object\n.size outside,40\noutside: .zero 40\n' > %t/outside.s
# RUN: %llvm_mc %t/outside.s -o %t/outside.o
# RUN: %tenon link --check %s %t/test.o %t/outside.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x21
# RUN: not %tenon link  -o %t/out %t/bad1.o %t/outside.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .data
        .globl  field, object, other_field
# jitlink-check: *{8}field = 16
field:  .quad   object@SIZE - 8
# The definition's, not the reference's, in another object.
# jitlink-check: *{8}other_field = 43
other_field:
        .quad   outside@SIZE + 3
        .type   object, @object
        .size   object, 24
object: .zero   24

# MALFORMED: bad1.o: .data: relocation R_X86_64_SIZE64 at offset 0x21 against {{.*}}lies outside of its section

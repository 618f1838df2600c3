# R_X86_64_SIZE64: Z + A in 64 bits. Z is the size of the symbol. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x19
# RUN: not %tenon link  -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .data
        .globl  field, object
# jitlink-check: *{8}field = 16
field:  .quad   object@SIZE - 8
        .type   object, @object
        .size   object, 24
object: .zero   24

# MALFORMED: bad1.o: .data: relocation {{R_X86_64_[A-Z0-9_]+}} at offset 0x19 against {{.*}}lies outside of its section

# R_X86_64_NONE: nothing. It only says that the symbol is needed.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define target=0xfedcba9876543210 --check %s %t/test.o

        .data
        .globl  field
# jitlink-check: *{8}field = 0x1122334455667788
field:  .quad   0x1122334455667788
        .reloc  field, R_X86_64_NONE, target

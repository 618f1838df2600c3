# More than 65,280 sections: their number stands in the first section header, symbols say in SHT_SYMTAB_SHNDX where they are.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: llvm-readelf -S %t/test.o | FileCheck %s
# RUN: %tenon link --check %s %t/test.o

# CHECK: There are 66{{[0-9]*}} section headers
# CHECK: .symtab_shndx
# jitlink-check: *{8}use = last
# jitlink-check: *{8}last = 0x1122334455667788
# jitlink-check: *{8}(use + 8) = first
# jitlink-check: decode_operand(caller, 0) = last_function - next_pc(caller)
        .section .data.first,"aw",@progbits
        .globl  first, use, last, last_function, caller
first:  .quad   1
        .altmacro
        .macro  part number
        .section .data.p\number,"aw",@progbits
        .byte   1
        .endm
        .set    number, 0
        .rept   66000
        part    %number
        .set    number, number + 1
        .endr
        .section .data.last,"aw",@progbits
last:   .quad   0x1122334455667788
        .section .text.last,"ax",@progbits
        .type   last_function, @function
last_function:
        ret
        .section .text.caller,"ax",@progbits
caller: call    last_function
        .section .data.use,"aw",@progbits
use:    .quad   last, first

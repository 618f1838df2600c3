# R_X86_64_PLTOFF64: L - GOT + A in 64 bits. Every value fits. GOT is the start of the module's GOT, which is there for its
# address even if it has no entry.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --define function=0x12348005fffc --check %s \
# RUN:   %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x3
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --define function=0x12348005fffc -o %t/out \
# RUN:   %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_offset
# jitlink-check: *{8}(test_offset + 2) = 0x12344005fffc
test_offset:
        movabsq $function@PLTOFF, %rax

# MALFORMED-DAG: bad1.o
# MALFORMED-DAG: .text+0x3

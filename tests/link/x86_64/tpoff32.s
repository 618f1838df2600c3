# R_X86_64_TPOFF32: local exec, the offset from the thread pointer + A in 32 bits. Variables of a module that comes at run
# time have no place at a fixed distance from the thread pointer: using one so is an error that names the flag to compile
# with. (Variables of the host work: see tests/programs.)
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: not %tenon link -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=FLAG
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x100
# RUN: not %tenon link -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

# FLAG: test.o: .text: relocation R_X86_64_TPOFF32 at offset 0x5 against 'first' {{.*}}-ftls-model=global-dynamic
# MALFORMED: bad1.o: .text: relocation R_X86_64_TPOFF32 at offset 0x100 against 'first' lies outside of its section

        .text
        .globl  test_load
test_load:
        movq    %fs:first@TPOFF, %rax
        .section .tdata,"awT",@progbits
        .globl  first, second
        .type   first, @object
        .size   first, 8
first:  .quad   1
        .type   second, @object
        .size   second, 8
second: .quad   2
        .section .tbss,"awT",@nobits
        .globl  zeroed
        .type   zeroed, @object
        .size   zeroed, 4
zeroed: .zero   4

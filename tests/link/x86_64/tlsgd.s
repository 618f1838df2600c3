# R_X86_64_TLSGD: general dynamic, G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1. The entry is a pair: what __tls_get_addr
# knows the module by, which only commit can tell, and the variable's offset in the module's block.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --define __tls_get_addr=0x10001000 --check %s \
# RUN:   %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90010000 --define __tls_get_addr=0x10001000 -o %t/out \
# RUN:   %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x26
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --define __tls_get_addr=0x10001000 -o %t/out \
# RUN:   %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_first, test_second, test_zeroed
# jitlink-check: *{8}(next_pc(test_first) + decode_operand(test_first, 4) + 8) = 0
test_first:
        data16
        leaq    first@TLSGD(%rip), %rdi
        data16
        data16
        rex64
        call    __tls_get_addr@PLT
# jitlink-check: *{8}(next_pc(test_second) + decode_operand(test_second, 4) + 8) = 8
test_second:
        leaq    second@TLSGD(%rip), %rdi
        call    __tls_get_addr@PLT
# jitlink-check: *{8}(next_pc(test_zeroed) + decode_operand(test_zeroed, 4) + 8) = 16
test_zeroed:
        leaq    zeroed@TLSGD(%rip), %rdi
        call    __tls_get_addr@PLT

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

# RANGE-DAG: test.o
# RANGE-DAG: {{\.text\+0x4}}
# RANGE-DAG: first
# MALFORMED-DAG: bad1.o
# MALFORMED-DAG: .text+0x26

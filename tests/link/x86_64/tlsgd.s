# R_X86_64_TLSGD: general dynamic, G + GOT + A - P in 32 bits, from -2^31 to 2^31 - 1. The entry is a pair: what
# __tls_get_addr knows the module by, which only commit can tell, and the variable's offset in the module's block.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   __tls_get_addr=0x10001000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x90010000 --at text=0x18000000 --define \
# RUN:   __tls_get_addr=0x10001000 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x26
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   __tls_get_addr=0x10001000 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_first, test_second, test_zeroed
# jitlink-check: decode_operand(test_first, 4) = stub_addr(test.o, first, tls) - next_pc(test_first)
# jitlink-check: *{8}(stub_addr(test.o, first, tls) + 8) = 0
test_first:
        data16
        leaq    first@TLSGD(%rip), %rdi
        data16
        data16
        rex64
        call    __tls_get_addr@PLT
# jitlink-check: decode_operand(test_second, 4) = stub_addr(test.o, second, tls) - next_pc(test_second)
# jitlink-check: *{8}(stub_addr(test.o, second, tls) + 8) = 8
test_second:
        leaq    second@TLSGD(%rip), %rdi
        call    __tls_get_addr@PLT
# jitlink-check: decode_operand(test_zeroed, 4) = stub_addr(test.o, zeroed, tls) - next_pc(test_zeroed)
# jitlink-check: *{8}(stub_addr(test.o, zeroed, tls) + 8) = 16
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

# RANGE: test.o: .text: relocation R_X86_64_TLSGD at offset 0x4 against 'first' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x8000fff8
# MALFORMED: bad1.o: .text: relocation R_X86_64_TLSGD at offset 0x26 against {{.*}}lies outside of its section

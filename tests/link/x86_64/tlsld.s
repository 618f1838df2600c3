# R_X86_64_TLSLD: local dynamic, the address of the module's own pair in the GOT, in 32 bits, from -2^31 to 2^31 - 1; its
# second word is zero. All references of a module share it.
# R_X86_64_DTPOFF32: the variable's offset in the module's block + A, in 32 bits.
# R_X86_64_DTPOFF64: the same in 64 bits. Every value fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define __tls_get_addr=0x10001000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x90010000 --at text=0x18000000 \
# RUN:   --define __tls_get_addr=0x10001000 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x24
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define __tls_get_addr=0x10001000 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED1
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad2.o rela:.rela.text:4:addend=0x80000000
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define __tls_get_addr=0x10001000 -o %t/out %t/bad2.o 2>&1 | FileCheck %s --check-prefix=MALFORMED2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad3.o rela:.rela.data:0:offset=0x1
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at .tenon.got=0x40000000 --at text=0x18000000 \
# RUN:   --define __tls_get_addr=0x10001000 -o %t/out %t/bad3.o 2>&1 | FileCheck %s --check-prefix=MALFORMED3

        .text
        .globl  test_base, test_again, test_second, test_zeroed, field
# jitlink-check: (next_pc(test_base) + decode_operand(test_base, 4) - section_addr(test.o, .tenon.got)) >> 4 = 0
# jitlink-check: *{8}(section_addr(test.o, .tenon.got) + 16) = 0
test_base:
        leaq    first@TLSLD(%rip), %rdi
        call    __tls_get_addr@PLT
# jitlink-check: next_pc(test_again) + decode_operand(test_again, 4) = next_pc(test_base) + decode_operand(test_base, 4)
test_again:
        leaq    second@TLSLD(%rip), %rdi
        call    __tls_get_addr@PLT
# jitlink-check: decode_operand(test_second, 4) = 8
test_second:
        movq    second@DTPOFF(%rax), %rcx
# jitlink-check: decode_operand(test_zeroed, 4) = 18
test_zeroed:
        movzwl  zeroed@DTPOFF + 2(%rax), %ecx
        .data
# jitlink-check: *{8}field = 16
field:  .quad   zeroed@DTPOFF

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

# RANGE: test.o: .text: relocation R_X86_64_TLSLD at offset 0x3 against {{.*}}is out of range: the field of 32 bits can't hold the distance 0x80010001
# MALFORMED1: bad1.o: .text: relocation R_X86_64_TLSLD at offset 0x24 against {{.*}}lies outside of its section
# MALFORMED2: bad2.o: .text: relocation R_X86_64_DTPOFF32 at offset 0x1b against 'second' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x80000008
# MALFORMED3: bad3.o: .data: relocation R_X86_64_DTPOFF64 at offset 0x1 against {{.*}}lies outside of its section

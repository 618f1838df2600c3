# R_X86_64_PLT32: L + A - P in 32 bits, from -2^31 to 2^31 - 1. L is the target itself where it is in reach, and a stub of
# the module's otherwise; two calls to one target share the stub, and stubs out of reach are an error.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.stubs=0x30000000 --at text=0x18000000 --define near=0x90000004 \
# RUN:   --define far=0x123456789abc --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.stubs=0x90000010 --at text=0x18000000 --define \
# RUN:   near=0x90000004 --define far=0x123456789abc -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x18
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.stubs=0x30000000 --at text=0x18000000 --define \
# RUN:   near=0x90000004 --define far=0x123456789abc -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  test_near, test_far, test_far_again, test_jump, test_branch
# jitlink-check: decode_operand(test_near, 0) = (0x90000004) - next_pc(test_near)
test_near:
        call    near@PLT
# jitlink-check: decode_operand(test_far, 0) = stub_addr(test.o, far) - next_pc(test_far)
# jitlink-check: section_addr(test.o, .tenon.stubs) = 0x30000000
test_far:
        call    far@PLT
# jitlink-check: decode_operand(test_far_again, 0) = stub_addr(test.o, far) - next_pc(test_far_again)
test_far_again:
        call    far@PLT
# jitlink-check: decode_operand(test_jump, 0) = stub_addr(test.o, far) - next_pc(test_jump)
test_jump:
        jmp     far@PLT
# jitlink-check: decode_operand(test_branch, 0) = stub_addr(test.o, far) - next_pc(test_branch)
test_branch:
        jne     far@PLT

# RANGE: test.o: .text: relocation R_X86_64_PLT32 at offset 0x6 against 'far' {{.*}}is out of range: the field of 32 bits can't hold the distance 0x8000000e
# MALFORMED: bad1.o: .text: relocation R_X86_64_PLT32 at offset 0x18 against {{.*}}lies outside of its section

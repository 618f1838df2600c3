# R_X86_64_PLTOFF64: L - GOT + A in 64 bits. Every value fits. L is the symbol's stub: whether the target itself will be in
# reach of the GOT is not known when stubs are counted.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define near=0x10000100 \
# RUN:   --define far=0x12348005fffc --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0xd
# RUN: not %tenon link --at .text=0x10000000 --at .tenon.got=0x40000000 --at text=0x18000000 --define \
# RUN:   near=0x10000100 --define far=0x12348005fffc -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  test_near, test_far
# jitlink-check: *{8}(test_near + 2) = stub_addr(test.o, near) - section_addr(test.o, .tenon.got)
test_near:
        movabsq $near@PLTOFF, %rax
# jitlink-check: *{8}(test_far + 2) = stub_addr(test.o, far) - section_addr(test.o, .tenon.got)
test_far:
        movabsq $far@PLTOFF, %rax
# jitlink-check: *{8}(got_addr(test.o, far)) = 0x12348005fffc

# MALFORMED: bad1.o: .text: relocation R_X86_64_PLTOFF64 at offset 0xd against {{.*}}lies outside of its section

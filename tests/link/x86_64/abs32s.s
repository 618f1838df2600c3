# R_X86_64_32S: S + A in 32 bits, from -2^31 to 2^31 - 1: the value is sign-extended where it is used.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x7fffffff \
# RUN:   --define low=0xffffffff80000000 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x80000008 --at text=0x18000000 --define high=0x7fffffff \
# RUN:   --define low=0xffffffff80000000 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE1
# RUN: not %tenon link --at .text=0x10000000 --at .data=0xffffffff80000000 --at text=0x18000000 --define \
# RUN:   high=0x7fffffff --define low=0xffffffff80000000 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.text:0:offset=0x13
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x7fffffff \
# RUN:   --define low=0xffffffff80000000 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  load, load_low, indexed
# jitlink-check: decode_operand(load, 1) = 0x7fffffff
load:   movq    $high, %rax
# jitlink-check: *{4}(load_low + 3) = 0x80000000
load_low:
        movq    $low, %rax
# jitlink-check: *{4}(indexed + 4) = 0x1ffffff8
indexed:
        movq    own - 8(,%rax,8), %rax
        .data
        .globl  own
own:    .quad   0

# RANGE1: test.o: .text: relocation R_X86_64_32S at offset 0x12 against 'own' {{.*}}is out of range: {{.*}}distance 0x80000000
# RANGE2: test.o: .text: relocation R_X86_64_32S at offset 0x12 against 'own' {{.*}}is out of range: {{.*}}distance -0x80000008
# MALFORMED: bad1.o: .text: relocation R_X86_64_32S at offset 0x13 against {{.*}}lies outside of its section

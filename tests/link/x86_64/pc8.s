# R_X86_64_PC8: S + A - P in 8 bits, from -2^7 to 2^7 - 1.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x2000007f \
# RUN:   --define low=0x1fffff81 --define near=0x10000012 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x20000080 \
# RUN:   --define low=0x1fffff81 --define near=0x10000012 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE1
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x2000007f \
# RUN:   --define low=0x1fffff80 --define near=0x10000012 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x2
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x2000007f \
# RUN:   --define low=0x1fffff81 --define near=0x10000012 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  short_jump
# jitlink-check: *{1}(short_jump + 1) = 0x10
short_jump:
        jrcxz   near
        .data
        .globl  field, backward
# jitlink-check: *{1}field = 0x7f
field:  .byte   high - .
# jitlink-check: *{1}backward = 0x80
backward:
        .byte   low - .

# RANGE1: test.o: .data: relocation R_X86_64_PC8 at offset 0x0 against 'high' {{.*}}is out of range: {{.*}}distance 0x80
# RANGE2: test.o: .data: relocation R_X86_64_PC8 at offset 0x1 against 'low' {{.*}}is out of range: {{.*}}distance -0x81
# MALFORMED: bad1.o: .data: relocation R_X86_64_PC8 at offset 0x2 against {{.*}}lies outside of its section

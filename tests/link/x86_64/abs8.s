# R_X86_64_8: S + A in 8 bits, from -2^7 to 2^8 - 1: both readings of the field are in use.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define high=0xff --define low=0xffffffffffffff80 --check %s %t/test.o
# RUN: not %tenon link --define high=0x100 --define low=0xffffffffffffff80 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE1
# RUN: not %tenon link --define high=0xff --define low=0xffffffffffffff7f -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x2
# RUN: not %tenon link --define high=0xff --define low=0xffffffffffffff80 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .data
        .globl  field, low_field
# jitlink-check: *{1}field = 0xff
field:  .byte   high
# jitlink-check: *{1}low_field = 0x80
low_field:
        .byte   low

# RANGE1: test.o: .data: relocation R_X86_64_8 at offset 0x0 against 'high' {{.*}}is out of range: {{.*}}distance 0x100
# RANGE2: test.o: .data: relocation R_X86_64_8 at offset 0x1 against 'low' {{.*}}is out of range: {{.*}}distance -0x81
# MALFORMED: bad1.o: .data: relocation R_X86_64_8 at offset 0x2 against {{.*}}lies outside of its section

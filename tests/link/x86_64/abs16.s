# R_X86_64_16: S + A in 16 bits, from -2^15 to 2^16 - 1: both readings of the field are in use.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define high=0xffff --define low=0xffffffffffff8000 --check %s %t/test.o
# RUN: not %tenon link --define high=0x10000 --define low=0xffffffffffff8000 -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE1
# RUN: not %tenon link --define high=0xffff --define low=0xffffffffffff7fff -o %t/out %t/test.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x3
# RUN: not %tenon link --define high=0xffff --define low=0xffffffffffff8000 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .data
        .globl  field, low_field
# jitlink-check: *{2}field = 0xffff
field:  .short  high
# jitlink-check: *{2}low_field = 0x8000
low_field:
        .short  low

# RANGE1: test.o: .data: relocation R_X86_64_16 at offset 0x0 against 'high' {{.*}}is out of range: {{.*}}distance 0x10000
# RANGE2: test.o: .data: relocation R_X86_64_16 at offset 0x2 against 'low' {{.*}}is out of range: {{.*}}distance -0x8001
# MALFORMED: bad1.o: .data: relocation R_X86_64_16 at offset 0x3 against {{.*}}lies outside of its section

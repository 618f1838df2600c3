# R_X86_64_PC16: S + A - P in 16 bits, from -2^15 to 2^15 - 1.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .data=0x20000000 --define high=0x20007fff --define low=0x1fff8002 --check %s %t/test.o
# RUN: not %tenon link --at .data=0x20000000 --define high=0x20008000 --define low=0x1fff8002 -o %t/out %t/test.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=RANGE1
# RUN: not %tenon link --at .data=0x20000000 --define high=0x20007fff --define low=0x1fff8001 -o %t/out %t/test.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x3
# RUN: not %tenon link --at .data=0x20000000 --define high=0x20007fff --define low=0x1fff8002 -o %t/out %t/bad1.o \
# RUN:   2>&1 | FileCheck %s --check-prefix=MALFORMED

        .data
        .globl  field, backward
# jitlink-check: *{2}field = 0x7fff
field:  .short  high - .
# jitlink-check: *{2}backward = 0x8000
backward:
        .short  low - .

# RANGE1: test.o: .data: relocation R_X86_64_PC16 at offset 0x0 against 'high' {{.*}}is out of range: {{.*}}distance 0x8000
# RANGE2: test.o: .data: relocation R_X86_64_PC16 at offset 0x2 against 'low' {{.*}}is out of range: {{.*}}distance -0x8001
# MALFORMED: bad1.o: .data: relocation R_X86_64_PC16 at offset 0x3 against {{.*}}lies outside of its section

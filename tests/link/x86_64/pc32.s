# R_X86_64_PC32: S + A - P in 32 bits, from -2^31 to 2^31 - 1.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x9fffffff \
# RUN:   --define low=0xffffffffa0000004 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0xa0000000 \
# RUN:   --define low=0xffffffffa0000004 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE1
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x9fffffff \
# RUN:   --define low=0xffffffffa0000003 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x5
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define high=0x9fffffff \
# RUN:   --define low=0xffffffffa0000004 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=MALFORMED

        .text
        .globl  test_load
# jitlink-check: decode_operand(test_load, 4) = (0x20000000) - next_pc(test_load)
test_load:
        movl    field(%rip), %eax
        .data
        .globl  field, backward
# jitlink-check: *{4}field = 0x7fffffff
field:  .long   high - .
# jitlink-check: *{4}backward = 0x80000000
backward:
        .long   low - .

# RANGE1: test.o: .data: relocation R_X86_64_PC32 at offset 0x0 against 'high' {{.*}}is out of range: {{.*}}distance 0x80000000
# RANGE2: test.o: .data: relocation R_X86_64_PC32 at offset 0x4 against 'low' {{.*}}is out of range: {{.*}}distance -0x80000001
# MALFORMED: bad1.o: .data: relocation R_X86_64_PC32 at offset 0x5 against {{.*}}lies outside of its section

# R_X86_64_32: S + A in 32 bits, from 0 to 2^32 - 1: the value is zero-extended where it is used. Of a function outside that
# is beyond, the address is that of a stub of the module's, if that fits.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define target=0xffffffff \
# RUN:   --define zero=0 --define far=0x7f0012345678 --check %s %t/test.o
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x100001000 --at text=0x18000000 --define target=0xffffffff \
# RUN:   --define zero=0 --define far=0x7f0012345678 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE1
# RUN: not %tenon link --at .text=0x10000000 --at .data=0xff8 --at text=0x18000000 --define target=0xffffffff \
# RUN:   --define zero=0 --define far=0x7f0012345678 -o %t/out %t/test.o 2>&1 | FileCheck %s --check-prefix=RANGE2
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o rela:.rela.data:0:offset=0x9
# RUN: not %tenon link --at .text=0x10000000 --at .data=0x20000000 --at text=0x18000000 --define target=0xffffffff \
# RUN:   --define zero=0 --define far=0x7f0012345678 -o %t/out %t/bad1.o 2>&1 | FileCheck %s \
# RUN:   --check-prefix=MALFORMED

        .text
        .globl  load, far_load
# jitlink-check: *{4}(load + 1) = 0xffffffff
load:   movl    $target, %eax
# jitlink-check: *{4}(far_load + 1) = stub_addr(test.o, far)
far_load:
        movl    $far, %eax
        .data
        .globl  field, low, own
# jitlink-check: *{4}field = 0xfffffff0
field:  .long   target - 15
# jitlink-check: *{4}low = 0
low:    .long   zero
# jitlink-check: *{4}own = 0x1ffff000
own:    .long   own - 0x1008

# RANGE1: test.o: .data: relocation R_X86_64_32 at offset 0x8 against 'own' {{.*}}is out of range: {{.*}}distance 0x100000000
# RANGE2: test.o: .data: relocation R_X86_64_32 at offset 0x8 against 'own' {{.*}}is out of range: {{.*}}distance -0x8
# MALFORMED: bad1.o: .data: relocation R_X86_64_32 at offset 0x9 against {{.*}}lies outside of its section

# Relocations that only executables and shared libraries have, R_X86_64_COPY and its like, and numbers that the psABI does
# not define: each is an error that names it and the place.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --define target=0x1000 --check %s %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/COPY.o rela:.rela.data:0:type=5
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/COPY.o 2>&1 | FileCheck %s --check-prefix=COPY
# RUN: python3 %S/../patch_object.py %t/test.o %t/GLOB_DAT.o rela:.rela.data:0:type=6
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/GLOB_DAT.o 2>&1 | FileCheck %s --check-prefix=GLOB_DAT
# RUN: python3 %S/../patch_object.py %t/test.o %t/JUMP_SLOT.o rela:.rela.data:0:type=7
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/JUMP_SLOT.o 2>&1 | FileCheck %s --check-prefix=JUMP_SLOT
# RUN: python3 %S/../patch_object.py %t/test.o %t/RELATIVE.o rela:.rela.data:0:type=8
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/RELATIVE.o 2>&1 | FileCheck %s --check-prefix=RELATIVE
# RUN: python3 %S/../patch_object.py %t/test.o %t/DTPMOD64.o rela:.rela.data:0:type=16
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/DTPMOD64.o 2>&1 | FileCheck %s --check-prefix=DTPMOD64
# RUN: python3 %S/../patch_object.py %t/test.o %t/TLSDESC.o rela:.rela.data:0:type=36
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/TLSDESC.o 2>&1 | FileCheck %s --check-prefix=TLSDESC
# RUN: python3 %S/../patch_object.py %t/test.o %t/IRELATIVE.o rela:.rela.data:0:type=37
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/IRELATIVE.o 2>&1 | FileCheck %s --check-prefix=IRELATIVE
# RUN: python3 %S/../patch_object.py %t/test.o %t/RELATIVE64.o rela:.rela.data:0:type=38
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/RELATIVE64.o 2>&1 | FileCheck %s --check-prefix=RELATIVE64
# RUN: python3 %S/../patch_object.py %t/test.o %t/200.o rela:.rela.data:0:type=200
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/200.o 2>&1 | FileCheck %s --check-prefix=200
# RUN: python3 %S/../patch_object.py %t/test.o %t/65537.o rela:.rela.data:0:type=65537
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/65537.o 2>&1 | FileCheck %s --check-prefix=65537

        .data
        .globl  field
# jitlink-check: *{8}field = 0x1000
field:  .quad   target

# COPY: COPY.o: .data: relocation R_X86_64_COPY at offset 0x0 against 'target'
# GLOB_DAT: GLOB_DAT.o: .data: relocation R_X86_64_GLOB_DAT at offset 0x0 against 'target'
# JUMP_SLOT: JUMP_SLOT.o: .data: relocation R_X86_64_JUMP_SLOT at offset 0x0 against 'target'
# RELATIVE: RELATIVE.o: .data: relocation R_X86_64_RELATIVE at offset 0x0 against 'target'
# DTPMOD64: DTPMOD64.o: .data: relocation R_X86_64_DTPMOD64 at offset 0x0 against 'target'
# TLSDESC: TLSDESC.o: .data: relocation R_X86_64_TLSDESC at offset 0x0 against 'target'
# IRELATIVE: IRELATIVE.o: .data: relocation R_X86_64_IRELATIVE at offset 0x0 against 'target'
# RELATIVE64: RELATIVE64.o: .data: relocation R_X86_64_RELATIVE64 at offset 0x0 against 'target'
# 200: 200.o: .data: relocation {{.*200.*}} at offset 0x0 against 'target'
# 65537: 65537.o: .data: relocation {{.*65537.*}} at offset 0x0 against 'target'

# Relocations that only executables and shared libraries have, R_X86_64_COPY and its like, and numbers that the psABI does not
# define: each is an error that names it and the place.
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

# COPY-DAG: COPY.o
# COPY-DAG: {{\.data\+0x0}}
# COPY-DAG: R_X86_64_COPY
# GLOB_DAT-DAG: GLOB_DAT.o
# GLOB_DAT-DAG: {{\.data\+0x0}}
# GLOB_DAT-DAG: R_X86_64_GLOB_DAT
# JUMP_SLOT-DAG: JUMP_SLOT.o
# JUMP_SLOT-DAG: {{\.data\+0x0}}
# JUMP_SLOT-DAG: R_X86_64_JUMP_SLOT
# RELATIVE-DAG: RELATIVE.o
# RELATIVE-DAG: {{\.data\+0x0}}
# RELATIVE-DAG: R_X86_64_RELATIVE
# DTPMOD64-DAG: DTPMOD64.o
# DTPMOD64-DAG: {{\.data\+0x0}}
# DTPMOD64-DAG: R_X86_64_DTPMOD64
# TLSDESC-DAG: TLSDESC.o
# TLSDESC-DAG: {{\.data\+0x0}}
# TLSDESC-DAG: R_X86_64_TLSDESC
# IRELATIVE-DAG: IRELATIVE.o
# IRELATIVE-DAG: {{\.data\+0x0}}
# IRELATIVE-DAG: R_X86_64_IRELATIVE
# RELATIVE64-DAG: RELATIVE64.o
# RELATIVE64-DAG: {{\.data\+0x0}}
# RELATIVE64-DAG: R_X86_64_RELATIVE64
# 200-DAG: 200.o
# 200-DAG: {{\.data\+0x0}}
# 200-DAG: {{(relocation|type).* 200}}
# 65537-DAG: 65537.o
# 65537-DAG: {{\.data\+0x0}}
# 65537-DAG: {{(relocation|type).* 65537}}

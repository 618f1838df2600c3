# Relocations without addends (SHT_REL) do not exist on x86-64: an error that names the section, whatever it claims to hold.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad1.o header:.rela.data:type=9,entsize=16,size=16
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/bad1.o 2>&1 | FileCheck %s --check-prefix=REL
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad2.o header:.rela.data:entsize=20
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/bad2.o 2>&1 | FileCheck %s --check-prefix=ENTSIZE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad3.o header:.rela.data:size=23
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/bad3.o 2>&1 | FileCheck %s --check-prefix=SIZE
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad4.o rela:.rela.data:0:symbol=99
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/bad4.o 2>&1 | FileCheck %s --check-prefix=SYMBOL
# RUN: python3 %S/../patch_object.py %t/test.o %t/bad5.o header:.rela.data:info=77
# RUN: not %tenon link --define target=0x1000 -o %t/out %t/bad5.o 2>&1 | FileCheck %s --check-prefix=INFO

        .data
        .globl  field
field:  .quad   target

# REL-DAG: bad1.o
# REL-DAG: .rela.data
# ENTSIZE-DAG: bad2.o
# ENTSIZE-DAG: .rela.data
# SIZE-DAG: bad3.o
# SIZE-DAG: .rela.data
# SYMBOL-DAG: bad4.o
# SYMBOL-DAG: 99
# INFO-DAG: bad5.o
# INFO-DAG: 77

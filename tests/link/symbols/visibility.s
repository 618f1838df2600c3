# Hidden and internal symbols are seen inside their module only; protected ones are seen by others, and the module itself uses its
# own definition.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o && %llvm_mc %t/c.s -o %t/c.o && %llvm_mc %t/d.s -o %t/d.o
# RUN: %tenon link --check %s %t/a.o %t/b.o
# RUN: not %tenon link -o %t/out %t/a.o %t/c.o 2>&1 | FileCheck %s --check-prefix=HIDDEN

# jitlink-check: *{8}use_a = own_hidden
# jitlink-check: *{8}(use_a + 8) = own_internal
# jitlink-check: *{8}(use_a + 16) = own_protected
# jitlink-check: *{8}use_b = own_protected
# jitlink-check: *{8}(use_b + 8) = b_hidden
# HIDDEN-DAG: c.o
# HIDDEN-DAG: only_hidden
# HIDDEN-DAG: only_internal
#--- a.s
        .data
        .globl  hidden_value, internal_value, protected_value, own_hidden, own_internal, own_protected, use_a
        .globl  only_hidden, only_internal
        .hidden hidden_value, only_hidden
        .internal internal_value, only_internal
        .protected protected_value
hidden_value:
own_hidden:
        .quad   1
internal_value:
own_internal:
        .quad   2
protected_value:
own_protected:
        .quad   3
only_hidden:
        .quad   4
only_internal:
        .quad   5
use_a:  .quad   hidden_value, internal_value, protected_value
#--- b.s
        .data
        .globl  hidden_value, b_hidden, use_b
        .hidden hidden_value
hidden_value:
b_hidden:
        .quad   6
use_b:  .quad   protected_value, hidden_value
#--- c.s
        .data
        .quad   only_hidden, only_internal
#--- d.s
        .data
        .quad   0

# The modules of one change are linked as the objects of one shared library are: hidden and internal symbols of one are
# seen by the others, and defining one twice is an error as with any other. A protected one is used by its module itself,
# too.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o && %llvm_mc %t/c.s -o %t/c.o
# RUN: %tenon link --check %s %t/a.o %t/b.o
# RUN: %tenon link --check %s %t/b.o %t/a.o
# RUN: not %tenon link -o %t/out %t/a.o %t/c.o 2>&1 | FileCheck %s

# jitlink-check: *{8}use_a = own_hidden
# jitlink-check: *{8}(use_a + 8) = own_internal
# jitlink-check: *{8}(use_a + 16) = own_protected
# jitlink-check: *{8}use_b = own_hidden
# jitlink-check: *{8}(use_b + 8) = own_internal
# jitlink-check: *{8}(use_b + 16) = own_protected
# jitlink-check: decode_operand(call_b, 0) = own_function - next_pc(call_b)
# CHECK: 'hidden_value' is defined twice: in {{.*}}a.o and in {{.*}}c.o
#--- a.s
        .text
        .globl  hidden_function, own_function
        .hidden hidden_function
hidden_function:
own_function:
        ret
        .data
        .globl  hidden_value, internal_value, protected_value, own_hidden, own_internal, own_protected, use_a
        .hidden hidden_value
        .internal internal_value
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
use_a:  .quad   hidden_value, internal_value, protected_value
#--- b.s
        .text
        .globl  call_b
        .hidden hidden_function, hidden_value
call_b: call    hidden_function
        .data
        .globl  use_b
use_b:  .quad   hidden_value, internal_value, protected_value
#--- c.s
        .data
        .globl  hidden_value
        .hidden hidden_value
hidden_value:
        .quad   6

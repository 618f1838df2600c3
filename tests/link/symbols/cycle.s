# Modules of one change may refer to each other in cycles.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o
# RUN: %tenon link --check %s %t/a.o %t/b.o
# RUN: %tenon link --check %s %t/b.o %t/a.o

# jitlink-check: decode_operand(function_a, 0) = function_b - next_pc(function_a)
# jitlink-check: decode_operand(function_b, 0) = function_a - next_pc(function_b)
# jitlink-check: *{8}data_a = data_b
# jitlink-check: *{8}data_b = data_a
#--- a.s
        .text
        .globl  function_a, data_a
function_a:
        call    function_b@PLT
        .data
data_a: .quad   data_b
#--- b.s
        .text
        .globl  function_b, data_b
function_b:
        call    function_a@PLT
        .data
data_b: .quad   data_a

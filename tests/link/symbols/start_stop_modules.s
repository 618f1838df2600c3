# __start_NAME and __stop_NAME span the sections NAME of all objects, which lie next to each other in the order of the objects.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/a.s -o %t/a.o && %llvm_mc %t/b.s -o %t/b.o && %llvm_mc %t/c.s -o %t/c.o
# RUN: %tenon link --check %s %t/a.o %t/b.o %t/c.o
# RUN: %tenon link --at .data=0x10000000 --check %s %t/a.o %t/b.o %t/c.o

# jitlink-check: second_hook = first_hook + 8
# jitlink-check: aligned_hook = first_hook + 16
# jitlink-check: third_hook = first_hook + 24
# jitlink-check: *{8}begin = first_hook
# jitlink-check: *{8}end = third_hook + 8
# jitlink-check: *{8}other_end = third_hook + 8
# jitlink-check: *{8}first_hook = 1
# jitlink-check: *{8}second_hook = 2
# jitlink-check: *{8}aligned_hook = other
# jitlink-check: *{8}third_hook = 3

#--- a.s
        .data
        .globl  begin, end
begin:  .quad   __start_hooks
end:    .quad   __stop_hooks
#--- b.s
        .section hooks,"aw",@progbits
        .globl  first_hook, second_hook
first_hook:
        .quad   1
        .data
        .globl  other
other:  .quad   7
        .section hooks,"aw",@progbits,unique,1
second_hook:
        .quad   2
#--- c.s
        .data
        .globl  other_end
other_end:
        .quad   __stop_hooks
        .section hooks,"aw",@progbits
        .p2align 4
        .globl  aligned_hook, third_hook
aligned_hook:
        .quad   other
third_hook:
        .quad   3

# __start_NAME and __stop_NAME delimit all sections called NAME, if NAME is a C identifier; they are weak when
# nothing has such a section.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --check %s %t/test.o

        .section hooks,"aw",@progbits
        .globl  first_hook
first_hook:
        .quad   1
        .section .data.other,"aw",@progbits
        .globl  other
other:  .quad   7
        .section hooks,"aw",@progbits,unique,1
        .globl  second_hook
second_hook:
        .quad   2
        .data
        .weak   __start_nothing, __stop_nothing
        .globl  begin, end, no_begin, no_end
# jitlink-check: *{8}begin = first_hook
begin:  .quad   __start_hooks
# jitlink-check: *{8}end = second_hook + 8
# jitlink-check: second_hook = first_hook + 8
end:    .quad   __stop_hooks
# jitlink-check: *{8}no_begin = 0
no_begin:
        .quad   __start_nothing
# jitlink-check: *{8}no_end = 0
no_end: .quad   __stop_nothing

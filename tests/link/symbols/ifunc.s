# An IFUNC of the module is called through a slot that commit fills with what its resolver answers: calls go to a stub,
# never to the resolver itself, and so do pointers to it.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: mkdir -p %t && %llvm_mc %s -o %t/test.o
# RUN: %tenon link --check %s %t/test.o

        .text
        .globl  chosen, resolver, implementation, test_call, field
        .type   chosen, @gnu_indirect_function
        .set    chosen, resolver
implementation:
        ret
resolver:
        leaq    implementation(%rip), %rax
        ret
# jitlink-check: decode_operand(test_call, 0) = stub_addr(test.o, chosen) - next_pc(test_call)
test_call:
        call    chosen@PLT
        .data
# jitlink-check: *{8}field = stub_addr(test.o, chosen)
field:  .quad   chosen

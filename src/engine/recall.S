// Where the trampolines of an unloaded module lead (recall.h): has the function made again, and goes on into it.
//
// Entered by a trampoline's call, with the trampoline's address on the stack on top of the caller's return address. Leaves to
// the function's stub, or back to the call, with the stack and all registers as the caller had them, vector state included:
// arguments may be in any register, a caller that was compiled together with the function may count on more than the calling
// convention says, and variadic functions are told in %al how many vector registers are used. Only flags are lost, which no
// convention keeps.
// XSAVE, because fxsave lacks the upper halves of vector registers, in which arguments of 32 and 64 bytes are passed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/call_preserving_vectors.inc"

    .text
    .globl  tenon_recall
    .hidden tenon_recall
    .type   tenon_recall, @function
tenon_recall:
    .cfi_startproc
    pushq   %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    movq    %rsp, %rbp
    .cfi_def_cfa_register %rbp
    pushq   %rbx
    .cfi_offset %rbx, -24               // callee-saved, and changed below
    pushq   %rax
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    movq    8(%rbp), %rdi
    movq    2(%rdi), %rdi               // link::arch::recall_entry
    movq    16(%rbp), %rsi              // the caller's return address
    call_preserving_vectors tenon_recall_function, "8(%rbp)" // what the last instruction leaves to
    movq    8(%rbp), %rax
    addq    $5, %rax
    cmpq    16(%rbp), %rax              // the call itself, once more? Nothing below changes flags
    leaq    -80(%rbp), %rsp
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rax
    popq    %rbx
    .cfi_restore %rbx
    popq    %rbp
    .cfi_restore %rbp
    .cfi_def_cfa %rsp, 8
    je      .Lagain
    ret
.Lagain:
    ret     $8                          // which pushes its return address itself
    .cfi_endproc
    .size   tenon_recall, . - tenon_recall
    .section .note.GNU-stack, "", @progbits

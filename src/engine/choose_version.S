// Where the switches of an atomic commit lead (transition.h): chooses the old or the new version of a function by the epoch in
// which the calling thread entered.
//
// Entered with the address of a Choice pushed on the stack, on top of the return address. Leaves to the chosen function by
// `ret`, with the stack and all registers as the caller had them; only flags are lost, which no calling convention keeps.
// Loads are acquire on x86-64: who sees an announced epoch sees what was written before.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

    .text
    .globl  tenon_choose_version
    .hidden tenon_choose_version
    .type   tenon_choose_version, @function
tenon_choose_version:
    .cfi_startproc
    .cfi_def_cfa_offset 16
    pushq   %rax
    .cfi_adjust_cfa_offset 8
    pushq   %rcx
    .cfi_adjust_cfa_offset 8
    pushq   %rdx
    .cfi_adjust_cfa_offset 8
    pushq   %rsi
    .cfi_adjust_cfa_offset 8
    pushq   %rdi
    .cfi_adjust_cfa_offset 8
    movq    40(%rsp), %rsi              // the Choice
    movq    16(%rsi), %rax              // its Transition
    movq    (%rax), %rcx                // the epoch from which on threads see the new versions
    movq    8(%rax), %rax               // whose borders
    movq    tenon_thread_borders@gottpoff(%rip), %rdx
    movq    %fs:(%rdx), %rdx
.Lnext:
    testq   %rdx, %rdx
    jz      .Loutside
    cmpq    8(%rdx), %rax
    jne     .Lskip
    movq    16(%rdx), %rdi
    movq    (%rdi), %rdi                // the epoch in which this thread entered; 0: by this registration it is outside
    testq   %rdi, %rdi
    jz      .Lskip
    cmpq    %rcx, %rdi
    jb      .Lold                       // the oldest entry decides
.Lskip:
    movq    (%rdx), %rdx
    jmp     .Lnext
.Lnew:
    movq    8(%rsi), %rsi
    jmp     .Lleave
.Loutside:                              // no entry of before: either one of the new epoch, or the call is one of its own
    cmpq    $-1, %rcx
    jne     .Lnew
.Lold:
    movq    (%rsi), %rsi
.Lleave:
    movq    %rsi, 40(%rsp)
    popq    %rdi
    .cfi_adjust_cfa_offset -8
    popq    %rsi
    .cfi_adjust_cfa_offset -8
    popq    %rdx
    .cfi_adjust_cfa_offset -8
    popq    %rcx
    .cfi_adjust_cfa_offset -8
    popq    %rax
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size   tenon_choose_version, . - tenon_choose_version
    .globl  tenon_choose_version_end
    .hidden tenon_choose_version_end
tenon_choose_version_end:
    .section .note.GNU-stack, "", @progbits

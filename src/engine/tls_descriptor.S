// The entry point of TLS descriptors (x86-64 TLSDESC ABI, https://www.fsfla.org/~lxoliva/writeups/TLS/RFC-TLSDESC-x86.txt).
//
// Called with the descriptor's address in rax; returns in rax the variable's distance from the thread pointer; every other
// register, vector state included, is as it was. The first word of a descriptor points here, the second to a TlsIndex.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/call_preserving_vectors.inc"

    .text
    .globl  tenon_tls_descriptor
    .hidden tenon_tls_descriptor
    .type   tenon_tls_descriptor, @function
tenon_tls_descriptor:
    .cfi_startproc
    pushq   %rcx
    .cfi_adjust_cfa_offset 8
    pushq   %rdx
    .cfi_adjust_cfa_offset 8
    movq    8(%rax), %rax               // the TlsIndex
    movq    (%rax), %rcx
    testq   %rcx, %rcx
    jns     .Lslow                      // the C library's module
    movq    tenon_tls_blocks@gottpoff(%rip), %rdx
    movl    %ecx, %ecx
    cmpq    %fs:8(%rdx), %rcx
    jae     .Lslow
    movq    %fs:(%rdx), %rdx
    movq    (%rdx,%rcx,8), %rdx
    testq   %rdx, %rdx
    jz      .Lslow
    addq    8(%rax), %rdx
    movq    %rdx, %rax
    subq    %fs:0, %rax
    popq    %rdx
    .cfi_remember_state
    .cfi_adjust_cfa_offset -8
    popq    %rcx
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_restore_state
.Lslow:
    pushq   %rdi
    .cfi_adjust_cfa_offset 8
    pushq   %rsi
    .cfi_adjust_cfa_offset 8
    pushq   %r8
    .cfi_adjust_cfa_offset 8
    pushq   %r9
    .cfi_adjust_cfa_offset 8
    pushq   %r10
    .cfi_adjust_cfa_offset 8
    pushq   %r11
    .cfi_adjust_cfa_offset 8
    pushq   %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0             // callee-saved, and changed below
    pushq   %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    movq    %rsp, %rbp
    .cfi_def_cfa_register %rbp
    movq    %rax, %rdi
    call_preserving_vectors tenon_tls_get_addr, %rdi
    movq    %rdi, %rax
    subq    %fs:0, %rax
    movq    %rbp, %rsp
    .cfi_def_cfa_register %rsp
    popq    %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
    popq    %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    popq    %r11
    .cfi_adjust_cfa_offset -8
    popq    %r10
    .cfi_adjust_cfa_offset -8
    popq    %r9
    .cfi_adjust_cfa_offset -8
    popq    %r8
    .cfi_adjust_cfa_offset -8
    popq    %rsi
    .cfi_adjust_cfa_offset -8
    popq    %rdi
    .cfi_adjust_cfa_offset -8
    popq    %rdx
    .cfi_adjust_cfa_offset -8
    popq    %rcx
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size   tenon_tls_descriptor, . - tenon_tls_descriptor
    .section .note.GNU-stack, "", @progbits

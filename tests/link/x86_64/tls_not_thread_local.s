# A thread-local access to what is no thread-local variable, an ordinary one of another module or an address from outside,
# is an error that names the symbol.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/user.s -o %t/user.o && %llvm_mc %t/plain.s -o %t/plain.o
# RUN: %status 1 %tenon link --define variable=0x1000 --define __tls_get_addr=0x10001000 -o %t/out %t/user.o 2>&1 | FileCheck %s
# RUN: %status 1 %tenon link --define __tls_get_addr=0x10001000 -o %t/out %t/user.o %t/plain.o 2>&1 | FileCheck %s

# CHECK: tenon: error: {{.*}}'variable'
#--- user.s
        .text
        leaq    variable@TLSGD(%rip), %rdi
        call    __tls_get_addr@PLT
#--- plain.s
        .data
        .globl  variable
variable:
        .quad   1

# A strong definition wins over weak ones, whatever the order of the modules; of several weak ones the first is taken.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && split-file %s %t
# RUN: %llvm_mc %t/weak.s -o %t/weak.o && %llvm_mc %t/strong.s -o %t/strong.o && %llvm_mc %t/user.s -o %t/user.o
# RUN: %tenon link --check %s %t/weak.o %t/strong.o %t/user.o
# RUN: %tenon link --check %s %t/user.o %t/strong.o %t/weak.o

# jitlink-check: *{8}use_shared = strong_shared
# jitlink-check: *{8}use_from_weak = strong_shared
# jitlink-check: *{8}use_only = weak_only
# jitlink-check: *{8}strong_shared = 2
#--- weak.s
        .data
        .weak   shared, only
        .globl  weak_only, use_from_weak
use_from_weak:
        .quad   shared
shared: .quad   1
only:
weak_only:
        .quad   3
#--- strong.s
        .data
        .globl  shared, strong_shared
shared:
strong_shared:
        .quad   2
#--- user.s
        .data
        .globl  use_shared, use_only
use_shared:
        .quad   shared
use_only:
        .quad   only

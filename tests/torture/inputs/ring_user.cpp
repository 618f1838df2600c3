// Keeps the first cycle while it is there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
extern "C" unsigned long ring_0_1(unsigned long depth, unsigned long x);
extern "C" unsigned long ring_user(unsigned long depth, unsigned long x) { return ring_0_1(depth, x) + 1; }

// The sandbox example's detector, so that it is tested here; the example as a whole is a test of its own.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "examples/sandbox/find_syscall.cpp"

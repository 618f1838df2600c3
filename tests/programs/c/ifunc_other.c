// Uses an IFUNC of another module.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
int chosen(int x);
int chosen_elsewhere(int x) { return chosen(x) * 2; }
int (*pointer_elsewhere(void))(int) { return chosen; }

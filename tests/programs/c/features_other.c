// Overrides a weak function of features.c and shares a common variable with it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
int common_variable;
int weak_overridden(void) { return 2; }
__attribute__((constructor)) static void set(void) { common_variable = 37; }

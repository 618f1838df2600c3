// The shared object of tls_host.c.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
__thread int library_variable __attribute__((tls_model("initial-exec"))) = 7;
__thread int library_array[4] __attribute__((tls_model("initial-exec"))) = {1, 2, 3, 4};
int library_read(void) { return library_variable + library_array[2]; }

/* Prints the name of the processor that it runs on.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
#include <cpuid.h>
#include <stdio.h>

int main(void) {
  unsigned name[12] = {0};
  for (unsigned i = 0; i < 3; i++)
    __get_cpuid(0x80000002 + i, name + 4 * i, name + 4 * i + 1, name + 4 * i + 2, name + 4 * i + 3);
  printf("%.48s\n", (const char *)name);
  return 0;
}

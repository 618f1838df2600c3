/* Copies standard input to standard output.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
#include <stdio.h>

int main(void) {
  for (int c; (c = getchar()) != EOF;)
    putchar(c);
  return 0;
}

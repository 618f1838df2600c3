/* Prints its arguments and one variable of the environment; the status is the number of arguments.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv, char **envp) {
  int variables = 0;
  while (envp[variables])
    variables++;
  for (int i = 1; i < argc; i++)
    printf("argv[%d]=%s\n", i, argv[i]);
  printf("end=%s some=%d WORD=%s\n", argv[argc] ? argv[argc] : "null", variables > 0, getenv("WORD"));
  fprintf(stderr, "name=%s\n", argv[0]);
  return argc;
}

#include "deep/link.h"
#include "number.h"

#include <stdio.h>

static void say(void) { printf("number %d real %d\n", NUMBER, REAL); }

int main(void) {
  char line[64];
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof line, stdin) && line[0] != 'q') say();
  return 0;
}

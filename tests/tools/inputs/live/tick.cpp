#include "words.h"

#include <cstdio>

static int file_count = 10;

static int twice(int number) { return 2 * number; }

void tick() {
  static int local_count = 20;
  ++file_count;
  ++local_count;
  ++shared_count;
  std::printf("%s: file %d local %d shared %d twice %d %s\n", WORD, file_count, local_count, shared_count, twice(file_count),
              ending());
}

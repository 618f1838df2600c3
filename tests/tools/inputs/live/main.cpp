#include "words.h"

#include <cstdio>

// Speaks when the program ends, once.
struct Farewell {
  ~Farewell() { std::printf("destroyed after %d, %s\n", shared_count, ending()); }
};

Farewell farewell;
int shared_count = 40;

const char* ending() { return "ending " WORD; }

// One line for each that is read: nothing depends on how fast it all is.
int main(int argc, char** argv) {
  std::printf("ready with %d arguments, the last is %s\n", argc, argv[argc - 1]);
  char line[64];
  while (std::fgets(line, sizeof line, stdin)) {
    if (line[0] == 'q') return 7;
    tick();
  }
  return 1;
}

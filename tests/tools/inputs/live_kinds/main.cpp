#include <cstdio>

extern "C" int answer();
extern "C" int extra();

struct Noisy {
  Noisy(const char* name) : name(name) { std::printf("begin %s\n", name); }
  ~Noisy() { std::printf("end %s\n", name); }
  const char* name;
};

Noisy one("one");
int table[2] = {5, 6};

void say() { std::printf("answer %d extra %d table %zu: %d\n", answer(), extra(), sizeof table, table[0]++); }

int main() {
  char line[64];
  while (std::fgets(line, sizeof line, stdin) && line[0] != 'q') say();
  return 3;
}

// Prints the order in which everything begins and ends; ends by return, exit() or _Exit(), as its argument says.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>

struct Noisy {
  const char* name;
  explicit Noisy(const char* n) : name(n) { std::printf("+%s\n", name); }
  ~Noisy() { std::printf("-%s\n", name); }
};

Noisy first("first");
Noisy late __attribute__((init_priority(2000))) ("priority 2000");
Noisy early __attribute__((init_priority(200))) ("priority 200");
thread_local Noisy per_thread("thread_local");
extern Noisy other_file;

__attribute__((constructor)) static void constructor() { std::puts("constructor"); }
__attribute__((destructor)) static void destructor() { std::puts("destructor"); }
__attribute__((constructor(300))) static void constructor300() { std::puts("constructor 300"); }
__attribute__((destructor(300))) static void destructor300() { std::puts("destructor 300"); }

static void local_static() { static Noisy local("local static"); }

int main(int argc, char** argv) {
  std::atexit([] { std::puts("atexit 1"); });
  local_static();
  std::atexit([] { std::puts("atexit 2"); });
  std::cout << "main " << per_thread.name << " " << other_file.name << "\n"; // stays in the buffer until the very end
  if (argc > 1 && std::strcmp(argv[1], "exit") == 0) std::exit(5);
  if (argc > 1 && std::strcmp(argv[1], "_Exit") == 0) std::fflush(stdout), std::_Exit(6);
  return 7;
}

// The second file of order.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>

struct Noisy {
  const char* name;
  explicit Noisy(const char* n) : name(n) { std::printf("+%s\n", name); }
  ~Noisy() { std::printf("-%s\n", name); }
};

Noisy other_file("other file");

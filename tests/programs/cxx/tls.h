// What the modules of the thread_local program share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <string>

struct Noisy {
  explicit Noisy(const char* n);
  ~Noisy();
  const char* name;
  int uses = 0;
};

extern thread_local int shared_counter;
extern thread_local Noisy shared_noisy;
extern __thread long plain[4];

int* counter_address();
int gnu_bump(int by);
std::string gnu_text();
int local_dynamic_sum();

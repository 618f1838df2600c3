// thread_local across modules: constructors, destructors at the end of each thread, addresses that differ between threads,
// and an object of another compiler (tls_gnu.cpp) that uses the same variables.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tls.h"
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

thread_local int shared_counter = 100;
thread_local Noisy shared_noisy("shared");
__thread long plain[4] = {1, 2, 3, 4};

namespace {
std::mutex output;
thread_local std::vector<int> history{1, 2, 3};
thread_local char zeroed[5000];
} // namespace

Noisy::Noisy(const char* n) : name(n) {}
Noisy::~Noisy() {
  std::lock_guard lock(output);
  std::printf("~%s uses %d\n", name, uses);
}

int* counter_address() { return &shared_counter; }

int main() {
  shared_counter += gnu_bump(5);
  std::printf("main %d %d %s\n", shared_counter, *counter_address(), gnu_text().c_str());
  int* main_address = counter_address();
  for (int i = 0; i < 4; ++i) {
    std::thread([i, main_address] {
      shared_noisy.uses += i;
      history.push_back(i);
      zeroed[4999] += static_cast<char>(i);
      plain[3] += i;
      int bumped = gnu_bump(i);
      std::lock_guard lock(output);
      std::printf("thread %d: %d %d %zu %d %ld %d %d\n", i, bumped, shared_counter, history.size(), zeroed[4999], plain[3],
                  counter_address() == main_address, local_dynamic_sum());
    }).join();
  }
  std::vector<std::thread> threads;
  long sums[16] = {};
  for (int i = 0; i < 16; ++i)
    threads.emplace_back([i, &sums] {
      for (int j = 0; j < 10000; ++j) shared_counter += i;
      sums[i] = shared_counter;
    });
  for (auto& thread : threads) thread.join();
  for (long sum : sums) std::printf("%ld ", sum);
  std::printf("\nend %d %zu %ld\n", shared_counter, history.size(), plain[0]);
  shared_noisy.uses = 77;
}

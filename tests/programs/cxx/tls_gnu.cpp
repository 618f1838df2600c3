// The part of the thread_local program that g++ compiles: general dynamic and local dynamic accesses as GCC emits them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tls.h"

namespace {
thread_local int first = 10;
thread_local int second = 20;
thread_local int third;
thread_local Noisy own("gnu");
} // namespace

int gnu_bump(int by) {
  own.uses += by;
  shared_counter += by;
  plain[0] += by;
  third += by;
  return shared_counter;
}

std::string gnu_text() { return std::string(own.name) + " " + std::to_string(own.uses) + " " + std::to_string(plain[0]); }

int local_dynamic_sum() { return first++ + second++ + third++; }

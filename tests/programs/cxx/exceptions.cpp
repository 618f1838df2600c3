// Exceptions thrown across modules, through frames of the host (qsort, bsearch, std::call_once, threads) and back, nested,
// rethrown, stored and passed between threads; the last one ends the program through std::terminate's handler.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "exceptions.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

namespace {

int throwing_compare(const void* a, const void* b) {
  if (*static_cast<const int*>(a) == 5) throw AppError("from qsort", 5);
  return *static_cast<const int*>(a) - *static_cast<const int*>(b);
}

void print_nested(const std::exception& e, int level) {
  std::printf("%*s%s\n", level, "", e.what());
  try {
    std::rethrow_if_nested(e);
  } catch (const std::exception& inner) {
    print_nested(inner, level + 1);
  }
}

void function_try() try { throw_by_kind(2); } catch (int) {
  throw std::string("translated");
}

} // namespace

int main() {
  int total = 0;
  for (int kind = 0; kind <= 11; ++kind) total += guarded([kind] { throw_by_kind(kind); });
  total += guarded([] { through_many(50, [] { throw_by_kind(0); }); });
  total += guarded([] {
    int values[] = {9, 3, 7, 5, 1, 2};
    std::qsort(values, 6, sizeof(int), throwing_compare);
  });
  total += guarded([] {
    int values[] = {1, 5, 7}, key = 5;
    std::bsearch(&key, values, 3, sizeof(int), throwing_compare);
  });
  total += guarded([] {
    std::once_flag flag;
    std::call_once(flag, [] { throw_by_kind(5); });
  });
  total += guarded([] { std::async(std::launch::async, [] { throw_by_kind(1); }).get(); });
  total += guarded(function_try);
  try {
    rethrow_nested();
  } catch (const std::exception& e) {
    print_nested(e, 0);
  }
  std::exception_ptr stored;
  std::thread([&stored] {
    try {
      throw_by_kind(4);
    } catch (...) {
      stored = std::current_exception();
    }
  }).join();
  total += guarded([&stored] { std::rethrow_exception(stored); });
  std::printf("uncaught %d, depth %d\n", std::uncaught_exceptions(), through_many(3, [] {}));
  long caught = 0;
  for (int i = 0; i < 2000; ++i) {
    try {
      through_many(i % 10, [i] { throw i; });
    } catch (int value) {
      caught += value;
    }
  }
  std::printf("total %d caught %ld\n", total, caught);
  std::set_terminate([] {
    std::printf("terminate\n");
    std::fflush(stdout);
    std::_Exit(9);
  });
  []() noexcept { throw_by_kind(0); }();
}

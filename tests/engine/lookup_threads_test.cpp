// Look-ups by several threads while others define, commit and remove: each finds names as they were at one moment, in tables
// that grow and lose names meanwhile.
//
// TENON_SEED replays a run's choices (not its interleaving).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace tenon::test {
namespace {

unsigned seed() {
  const char* given = std::getenv("TENON_SEED");
  const unsigned value = given != nullptr ? unsigned(std::strtoul(given, nullptr, 10)) : std::random_device()();
  std::printf("TENON_SEED=%u\n", value);
  return value;
}

struct LookupThreads : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("names"));
  std::atomic<bool> done{false};

  // `change(n)`, n = 0, 1, ..., so often, and until the readers have looked so often meanwhile.
  template <class Look, class Change> void run(std::uint64_t changes, std::uint64_t looks, Look look, Change change) {
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> looked{0};
    for (int i = 0; i < 3; ++i)
      threads.emplace_back([&] {
        for (; !done; ++looked) look();
      });
    std::string failure; // of a change: the threads end first
    try {
      for (std::uint64_t n = 0; n < changes || looked < looks; ++n) change(n);
    } catch (const std::exception& thrown) {
      failure = thrown.what();
    }
    done = true;
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(failure, "");
  }
};

TEST_F(LookupThreads, ABatchIsOfOneMoment) {
  constexpr std::array<std::string_view, 3> names{"first", "second", "third"};
  auto define = [&](std::uint64_t value) {
    Absolute all[] = {{"first", {value}, true}, {"second", {value}, true}, {"third", {value}, true}};
    expect(library.define(all));
  };
  define(1);
  std::atomic<int> torn{0};
  std::uint64_t last = 0;
  run(
      2000, 20'000,
      [&] {
        std::array<Addr, 3> found{};
        if (library.find(names, found) != names.size() || found[0] != found[1] || found[1] != found[2]) ++torn;
      },
      [&, random = std::mt19937(seed())](std::uint64_t n) mutable {
        define(last = n);
        if (n >= 4000 || random() % 2 != 0) return;
        const std::string name = "more" + std::to_string(n); // the table grows now and then
        Absolute more[] = {{name, {n}, false}};
        expect(library.define(more));
      });
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(library.find("third"), Addr{last});
}

TEST_F(LookupThreads, WhatStaysIsFoundWhileOthersComeAndGo) {
  commit(engine, library, compile_c("int stays(void) { return 1; }"));
  const std::optional<Addr> there = library.find("stays");
  ASSERT_TRUE(there);
  const Object pair = compile_c("int left(void) { return 2; } int right(void) { return 3; }");
  constexpr std::array<std::string_view, 2> names{"left", "right"};
  std::atomic<int> lost{0}, halves{0};
  run(
      100, 1000,
      [&] {
        if (library.find("stays") != there) ++lost;
        std::array<Addr, 2> found{};
        if (library.find(names, found) == 1) ++halves;
        Result<Kept> kept = library.keep("left"); // there or not, and to be called as long as it is kept
        if (kept && reinterpret_cast<int (*)()>(kept->address().value)() != 2) ++lost;
      },
      [&](std::uint64_t) {
        Module module = commit(engine, library, pair);
        expect(try_remove(engine, {module}));
      });
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(halves, 0);
  EXPECT_FALSE(library.find("left"));
}

} // namespace
} // namespace tenon::test

// Sets of functions are exchanged as a whole: no entry sees an old one together with a new one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

namespace tenon::test {
namespace {

struct Atomic : ReplaceFixture {
  static Object pair(int version) {
    const std::string v = std::to_string(version);
    return compile_c("int f(void) { return " + v + "; } int g(void) { return " + v +
                         "; } int both(void) { return f() == g(); }",
                     replaceable_clang);
  }
  void swap(const Module& module, Object object, Switch how = Switch::atomic) { replace(module, std::move(object), how); }
};

TEST_F(Atomic, AnEntryOfBeforeGoesOnSeeingTheOldSet) {
  Module module = commit(engine, library, pair(1));
  commit(engine, library,
         compile_c("int f(void); int g(void); int outside(void) { return f() * 10 + g(); }", replaceable_clang));
  auto* f = function<int()>(library, "f");
  auto* outside = function<int()>(library, "outside");
  Border border = expect(engine.border());
  {
    Border::Entry entry(border);
    EXPECT_EQ(outside(), 11);
    std::thread([&] { swap(module, pair(2)); }).join();
    EXPECT_EQ(outside(), 11) << "by call sites";
    EXPECT_EQ(f(), 1) << "by pointer";
    std::thread([&] { EXPECT_EQ(outside(), 22) << "a thread without entries"; }).join();
    std::thread([&] { swap(module, pair(3)); }).join();
    EXPECT_EQ(outside(), 11) << "through two switches";
    std::thread([&] {
      Border other = expect(engine.border());
      Border::Entry second(other);
      EXPECT_EQ(outside(), 33);
    }).join();
  }
  {
    Border::Entry entry(border);
    EXPECT_EQ(outside(), 33);
  }
  settle();
  EXPECT_EQ(outside(), 33);
  EXPECT_EQ(f(), 3);
  swap(module, pair(4), Switch::each);
  EXPECT_EQ(outside(), 44);
}

TEST_F(Atomic, WhoIsStillInsideOfTheOldSetIsNamed) {
  Module module = commit(engine, library, pair(1));
  Border border = expect(engine.border());
  std::vector<Delay> delays;
  {
    Border::Entry entry(border);
    std::thread([&] { swap(module, pair(2)); }).join();
    delays = expect(engine.collect());
  }
  ASSERT_EQ(delays.size(), 1U);
  EXPECT_EQ(delays[0].tid, gettid());
  EXPECT_EQ(delays[0].module, module.name());
  EXPECT_STREQ(delays[0].why, "its entry began before the exchange");
  settle();
}

TEST_F(Atomic, APlainReplacementDuringATransition) {
  Module module = commit(engine, library, pair(1));
  auto* f = function<int()>(library, "f");
  Border border = expect(engine.border());
  {
    Border::Entry entry(border);
    std::thread([&] { swap(module, pair(2)); }).join();
    std::thread([&] { swap(module, pair(3), Switch::each); }).join();
    EXPECT_EQ(f(), 1);
    std::thread([&] { EXPECT_EQ(f(), 3); }).join();
  }
  settle();
  EXPECT_EQ(f(), 3);
}

// TENON_ATOMIC_CALLS: how many pairs of calls each thread makes; a hundred million in the long run.
TEST_F(Atomic, ThreadsCheckAnInvariantWhileAnotherSwapsTheSet) {
  const char* wanted = std::getenv("TENON_ATOMIC_CALLS");
  const long calls = wanted != nullptr ? std::atol(wanted) : 3'000'000;
  Module module = commit(engine, library, pair(0));
  // The invariant is checked by linked code outside of the set, by call sites, and by the host through pointers.
  commit(
      engine, library,
      compile_c(
          "int f(void); int g(void); int check(long n) { int wrong = 0; for (long i = 0; i < n; ++i) wrong += f() != g(); "
          "return wrong; }",
          replaceable_clang));
  auto* check = function<int(long)>(library, "check");
  auto* f = function<int()>(library, "f");
  auto* g = function<int()>(library, "g");
  std::vector<Object> versions;
  for (int i = 0; i < 8; ++i) versions.push_back(pair(i + 1));
  std::atomic<int> running{2};
  std::atomic<long> wrong{0}, swaps{0};
  auto work = [&] {
    Border border = expect(engine.border());
    for (long done = 0; done < calls || swaps <= 3; done += 10) {
      Border::Entry entry(border);
      wrong += check(9);
      wrong += f() != g();
    }
    --running;
  };
  std::thread first(work), second(work);
  for (; running != 0; ++swaps) swap(module, versions[std::size_t(swaps % 8)]);
  first.join();
  second.join();
  EXPECT_EQ(wrong, 0) << "after " << swaps << " swaps";
  EXPECT_GT(swaps, 3);
  RecordProperty("swaps", std::to_string(swaps.load()));
  settle();
}

} // namespace
} // namespace tenon::test

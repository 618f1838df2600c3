// After fork() both processes go on with what they have: the child runs, throws, commits and removes, and neither sees what
// the other does.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/host_cache.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace tenon::test {
namespace {

// The child's verdict: 0, or which step went wrong. A child that hangs is ended by its alarm.
template <class Body> int in_child(Body&& body, pid_t& child) {
  child = fork();
  if (child != 0) return 0;
  alarm(20);
  int verdict = 99;
  try {
    verdict = body();
  } catch (const std::exception& thrown) {
    std::fprintf(stderr, "in the child: %s\n", thrown.what());
  }
  _exit(verdict);
}

int verdict_of(pid_t child) {
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

constexpr const char* program = R"(
thread_local int mine = 5;
extern "C" {
int data = 7;
int get() { return data; }
void set(int value) { data = value; }
int bump() { return ++mine; }
int thrown(int value) { try { throw value; } catch (int caught) { return caught; } }
}
)";

struct Fork : testing::TestWithParam<Mapping> {
  Engine engine = make_engine([] {
    Options options;
    options.mapping = GetParam();
    return options;
  }());
  Library library = expect(engine.library());
  Object first = compile_cpp(program);
  Object more =
      compile_cpp("extern \"C\" { int get(); int more() { try { throw get(); } catch (int i) { return i + 1; } } }");
  Object other = compile_cpp("extern \"C\" int other() { try { throw 40; } catch (int i) { return i + 2; } }");
  int call(const char* name) { return function<int()>(library, name)(); }
};

TEST_P(Fork, TheChildRunsAndCommits) {
  Module module = commit(engine, library, first);
  EXPECT_EQ(call("bump"), 6);
  pid_t child;
  in_child(
      [&] {
        if (call("get") != 7 || call("bump") != 7 || function<int(int)>(library, "thrown")(3) != 3) return 1;
        function<void(int)>(library, "set")(8);
        commit(engine, library, more);
        if (call("more") != 9) return 2;
        int in_thread = 0;
        std::thread([&] { in_thread = call("bump"); }).join();
        if (in_thread != 6) return 3;
        if (!try_remove(engine, expect(library.modules())) || engine.usage().live != 0) return 4;
        commit(engine, library, first);
        return call("get") == 7 && call("bump") == 6 ? 0 : 5;
      },
      child);
  EXPECT_EQ(verdict_of(child), 0);
  EXPECT_EQ(call("get"), 7);
  EXPECT_EQ(call("bump"), 7);
  EXPECT_FALSE(library.find("more"));
  commit(engine, library, more);
  EXPECT_EQ(call("more"), 8);
  EXPECT_TRUE(module.linked());
}

TEST_P(Fork, WhatTheParentDoesLaterDoesNotReachTheChild) {
  Module module = commit(engine, library, first);
  Absolute symbol[] = {{"target", address_of(library, "get"), true}};
  Library slots = expect(engine.library());
  expect(slots.define(symbol));
  commit(engine, slots, compile_c("int target(void); int through(void) { return target(); }"));
  auto get = function<int()>(library, "get");
  auto through = function<int()>(slots, "through");
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  pid_t child;
  in_child(
      [&] {
        char byte;
        close(pipe_ends[1]);
        if (read(pipe_ends[0], &byte, 1) != 1) return 1;
        // By now the parent has removed the module, linked others into its place and rebound the slot.
        if (get() != 7 || through() != 7 || function<int(int)>(library, "thrown")(4) != 4) return 2;
        commit(engine, library, more);
        return call("more") == 8 ? 0 : 3;
      },
      child);
  static auto replaced = +[]() -> int { return -1; };
  symbol[0].address = Addr::of(replaced);
  expect(slots.define(symbol));
  ASSERT_TRUE(try_remove(engine, {module}));
  for (int i = 0; i < 20; ++i) {
    Library own = expect(engine.library("own" + std::to_string(i)));
    commit(engine, own, other);
    EXPECT_EQ(function<int()>(own, "other")(), 42);
  }
  EXPECT_EQ(through(), -1);
  ASSERT_EQ(write(pipe_ends[1], "x", 1), 1);
  EXPECT_EQ(verdict_of(child), 0);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST_P(Fork, WhatTheChildDoesDoesNotReachTheParent) {
  Module module = commit(engine, library, first);
  pid_t child;
  in_child(
      [&] {
        if (!try_remove(engine, {module})) return 1;
        for (int i = 0; i < 20; ++i) {
          Library own = expect(engine.library("own" + std::to_string(i)));
          commit(engine, own, other);
          if (function<int()>(own, "other")() != 42) return 2;
        }
        return 0;
      },
      child);
  for (int i = 0; i < 2000; ++i)
    if (call("get") != 7 || function<int(int)>(library, "thrown")(i) != i) FAIL() << "call " << i;
  EXPECT_EQ(verdict_of(child), 0);
  EXPECT_EQ(call("get"), 7);
}

struct ForkAmongThreads : Fork {
  void run();
};

void ForkAmongThreads::run() {
  commit(engine, library, first);
  std::atomic<bool> stop{false};
  std::atomic<int> commits{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      function<int()>(library, "bump")();
      while (!stop) {
        Library own = expect(engine.library());
        commit(engine, own, other);
        if (function<int()>(own, "other")() != 42) std::abort();
        ++commits;
      }
    });
  for (int i = 0; i < 10; ++i) {
    pid_t child;
    in_child(
        [&] {
          Library own = expect(engine.library());
          commit(engine, own, other);
          if (function<int()>(own, "other")() != 42) return 1;
          int got = 0;
          std::thread([&] { got = call("bump"); }).join();
          return got == 6 && call("get") == 7 ? 0 : 2;
        },
        child);
    EXPECT_EQ(verdict_of(child), 0) << i;
  }
  while (commits < 10) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// In a process of its own, in which no frames of a client's memory were ever registered: libgcc before 13 takes a lock of
// its own for every throw from then on, which a child of a thread that forks beside one that throws finds locked for good.
TEST_P(ForkAmongThreads, WhileOtherThreadsCommit) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        run();
        std::exit(HasFailure() ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

// glibc makes no new lock for a child of what goes over the shared objects: it must be free when somebody forks.
TEST(ForkInTheHost, WhileAnotherThreadGoesOverSharedObjects) {
  Engine engine = make_engine(); // whose fork handlers see to it
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) engine::HostGeneration::now();
  });
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    pid_t child;
    in_child(
        [] {
          engine::HostGeneration::now();
          return 0;
        },
        child);
    EXPECT_EQ(verdict_of(child), 0) << i;
  }
  stop = true;
  busy.join();
}

TEST_P(Fork, GrandchildrenToo) {
  commit(engine, library, first);
  pid_t child;
  in_child(
      [&] {
        commit(engine, library, more);
        pid_t grandchild;
        in_child(
            [&] {
              commit(engine, library, other);
              return call("other") == 42 && call("more") == 8 ? 0 : 1;
            },
            grandchild);
        int verdict = verdict_of(grandchild);
        return verdict != 0 ? verdict : library.find("other") ? 2 : 0;
      },
      child);
  EXPECT_EQ(verdict_of(child), 0);
}

std::string name_of(const testing::TestParamInfo<Mapping>& mapping) {
  return mapping.param == Mapping::dual ? "dual" : "single";
}
INSTANTIATE_TEST_SUITE_P(Mappings, Fork, testing::Values(Mapping::dual, Mapping::single), name_of);
INSTANTIATE_TEST_SUITE_P(Mappings, ForkAmongThreads, testing::Values(Mapping::dual, Mapping::single), name_of);

} // namespace
} // namespace tenon::test

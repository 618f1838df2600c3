// Modules that a client says nobody is inside of are removed while other threads look up, keep and call them, draft against
// them and fork: what is kept stays callable, what refers to it is refused or linked, and nothing is left in the end.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/engine_state.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace tenon::test {
namespace {

class AtOnce : public testing::Test {
protected:
  static constexpr int rounds = 1500;

  Object named(int number) {
    return assemble(".globl come, always\ncome: movl $" + std::to_string(number) +
                    ", %eax\n jmp back\nback: ret\n.data\nalways: .quad come\n");
  }
  Result<void> remove_quietly(const Module& module) {
    Change change = engine_.change();
    change.remove(module, Quiet::caller_guarantees);
    if (Result<Committed> done = try_commit(std::move(change)); !done) return std::move(done).error();
    return {};
  }
  // Modules come and go beside `others`, until these have done something often enough.
  void come_and_go(const std::vector<std::function<bool()>>& others) {
    const std::vector<Object> objects = {named(1), named(2), named(3)};
    std::vector<std::thread> threads;
    for (const auto& other : others)
      threads.emplace_back([&] {
        while (!over_) turns_ += other() ? 1U : 0U;
      });
    const std::size_t enough = 30 * others.size();
    for (int i = 0; (i < rounds || turns_ < enough) && !HasFailure(); ++i) {
      const Module module = commit(engine_, library_, objects[std::size_t(i % 3)]);
      if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
      Result<void> removed = remove_quietly(module);
      while (!removed && removed.error().code == ErrorCode::still_used) {
        std::this_thread::yield();
        removed = remove_quietly(module);
      }
      ASSERT_TRUE(removed.ok()) << removed.error().message;
    }
    over_ = true;
    for (std::thread& thread : threads) thread.join();
  }
  // What was kept has gone by now.
  void expect_nothing_left(std::size_t modules = 0) {
    const std::shared_ptr<engine::EngineState>& state = library_.handle().engine;
    EXPECT_TRUE(state->removed.empty());
    EXPECT_EQ(state->modules_leaving, 0U);
    EXPECT_EQ(state->module_count, modules);
  }

  Engine engine_ = make_engine();
  Library library_ = expect(engine_.library("main"));
  std::atomic<bool> over_{false};
  std::atomic<std::size_t> turns_{0};
};

TEST_F(AtOnce, WhatIsKeptStaysCallable) {
  const auto keep_and_call = [&] {
    Result<Kept> kept = library_.keep("come");
    if (!kept) return false;
    std::this_thread::yield();
    const int answer = kept->address().as<int (*)()>()();
    EXPECT_TRUE(answer >= 1 && answer <= 3) << answer;
    return true;
  };
  const auto look = [&] {
    bool any = false;
    if (Result<std::vector<Module>> modules = library_.modules())
      for (const Module& module : *modules) {
        (void)module.usage();
        (void)module.linked();
        Result<Kept> kept = library_.keep(module);
        any |= kept.ok() && library_.find("come").has_value();
      }
    return any;
  };
  come_and_go({keep_and_call, keep_and_call, look});
  expect_nothing_left();
}

TEST_F(AtOnce, WhoReferToItAreLinkedOrRefused) {
  Library users = expect(engine_.library("users"));
  expect(users.search({Source::library(library_)}));
  const Object user = assemble(".globl use\nuse: subq $8, %rsp\n call come\n addq $8, %rsp\n ret\n");
  const auto link_and_call = [&] {
    Result<Committed> committed = try_commit(engine_, users, {user});
    if (!committed) {
      const ErrorCode code = committed.error().code;
      EXPECT_TRUE(code == ErrorCode::undefined || code == ErrorCode::conflict) << describe(committed.error());
      return false;
    }
    const int answer = function<int()>(users, "use")();
    EXPECT_TRUE(answer >= 1 && answer <= 3) << answer;
    expect(remove_quietly(committed->modules()[0]));
    return true;
  };
  come_and_go({link_and_call});
  expect_nothing_left();
}

TEST_F(AtOnce, ChildrenOfForksFindTheEngineWhole) {
  const auto fork_and_remove = [&] {
    const pid_t child = fork();
    EXPECT_GE(child, 0);
    if (child == 0) {
      alarm(60);
      bool right = true;
      const std::vector<Module> modules = expect(library_.modules());
      for (const Module& module : modules) right &= remove_quietly(module).ok();
      right &= !library_.find("come").has_value();
      right &= try_commit(engine_, library_, {named(2)}).ok() && function<int()>(library_, "come")() == 2;
      _exit(right ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return true;
  };
  come_and_go({fork_and_remove});
  expect_nothing_left();
}

} // namespace
} // namespace tenon::test

// fork() while other threads look at the engine's border under its locks: who forks takes the border's locks inside of the
// engine's, as everybody else does.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

namespace tenon::test {
namespace {

struct ForkAtTheBorder : ReplaceFixture {};

// An entry that began before an atomic exchange: whoever collects asks the border, under commit_mutex, whether it is over.
TEST_F(ForkAtTheBorder, WhileOthersAskWhetherATransitionIsOver) {
  Module module = commit(engine, library, c("int f(void) { return 1; }"));
  Border border = expect(engine.border());
  Border::Entry entry(border);
  std::thread([&] { replace(module, c("int f(void) { return 2; }"), Switch::atomic); }).join();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      while (!stop) (void)engine.collect();
    });
  alarm(60); // a deadlock ends the test program
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(engine.collect() ? 0 : 1);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "in child " << i;
  }
  alarm(0);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

} // namespace
} // namespace tenon::test

// QuickMutex: that it excludes, that who sleeps for it is woken, and what a child of fork() has.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/quick_mutex.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

namespace tenon::base {
namespace {

TEST(QuickMutex, LetsOneInAtATime) {
  constexpr int rounds = 20'000, threads_at_once = 4;
  QuickMutex mutex;
  long count = 0; // not atomic: lost additions and TSan would tell
  std::vector<std::thread> threads;
  for (int t = 0; t < threads_at_once; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < rounds; ++i) {
        const std::lock_guard lock(mutex);
        const long before = count;
        if (i % 64 == 0) std::this_thread::yield(); // others come to wait
        count = before + 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, long(rounds) * threads_at_once);
  EXPECT_TRUE(mutex.try_lock());
  EXPECT_FALSE(mutex.try_lock());
  mutex.unlock();
}

// Each unlock() wakes one; all of them come in without the holder's doing anything more.
TEST(QuickMutex, WakesThoseWhoSleep) {
  QuickMutex mutex;
  mutex.lock();
  std::atomic<int> begun{0}, in{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      ++begun;
      const std::lock_guard lock(mutex);
      ++in;
    });
  while (begun != 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(50)); // asleep, most likely
  EXPECT_EQ(in, 0);
  alarm(60); // a lost wake-up ends the test program
  mutex.unlock();
  for (std::thread& thread : threads) thread.join();
  alarm(0);
  EXPECT_EQ(in, 3);
}

TEST(QuickMutex, IsUnlockedByTheChildOfAForkThatHeldIt) {
  QuickMutex mutex;
  mutex.lock();
  std::atomic<bool> begun{false};
  std::thread sleeper([&] { // that the child does not have
    begun = true;
    const std::lock_guard lock(mutex);
  });
  while (!begun) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    const bool held = !mutex.try_lock();
    mutex.unlock();
    mutex.lock();
    mutex.unlock();
    _exit(held ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  mutex.unlock();
  sleeper.join();
}

} // namespace
} // namespace tenon::base

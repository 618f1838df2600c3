// SpreadMutex: what it excludes and what it lets in together, that neither side starves, and what a child of fork() has.
//
// TENON_SEED replays the choices of a run (not its interleaving).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/spread_mutex.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <random>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

namespace tenon::base {
namespace {

using namespace std::chrono_literals;

unsigned seed() {
  const char* given = std::getenv("TENON_SEED");
  const unsigned value = given != nullptr ? unsigned(std::strtoul(given, nullptr, 10)) : std::random_device()();
  std::printf("TENON_SEED=%u\n", value);
  return value;
}

// Or over, if the mutex has not kept it. It has announced itself, and does nothing but wait for the mutex.
void wait_until_asleep(const std::atomic<pid_t>& thread) {
  while (thread == 0) std::this_thread::yield();
  const std::string path = "/proc/self/task/" + std::to_string(thread) + "/stat";
  for (std::string state; state != "S";) {
    std::this_thread::sleep_for(1ms);
    std::string number, name;
    if (!(std::ifstream(path) >> number >> name >> state)) return;
  }
}

// A thread that takes the mutex, and is asleep for it once this is made.
template <class Lock> class Sleeper {
public:
  template <class Then> Sleeper(SpreadMutex& mutex, Then then)
      : thread_([this, &mutex, then] {
          number_ = gettid();
          Lock lock(mutex);
          then();
        }) {
    wait_until_asleep(number_);
  }
  void join() { thread_.join(); }

private:
  std::atomic<pid_t> number_{0};
  std::thread thread_; // the last: it uses the other
};
using Reader = Sleeper<std::shared_lock<SpreadMutex>>;
using Writer = Sleeper<std::unique_lock<SpreadMutex>>;

// Plain numbers, all the same whenever nobody holds the mutex exclusively.
struct Guarded {
  SpreadMutex mutex;
  std::array<std::uint64_t, 4> copies{};

  void write(unsigned pause) {
    std::unique_lock lock(mutex);
    for (std::size_t i = 0; i < copies.size(); ++i) {
      ++copies[i];
      if (i == pause) std::this_thread::yield();
    }
  }
  std::uint64_t read(unsigned pause, bool& whole) {
    std::shared_lock lock(mutex);
    const std::uint64_t first = copies[0];
    if (pause == 0) std::this_thread::yield();
    for (std::uint64_t copy : copies) whole = whole && copy == first;
    return first;
  }
};

void run_readers_and_writers(unsigned seed, int readers, int writers) {
  Guarded guarded;
  std::atomic<bool> whole{true}, forward{true};
  std::atomic<int> writing{writers};
  std::atomic<std::uint64_t> written{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < writers; ++i)
    threads.emplace_back([&, random = std::mt19937(seed + unsigned(i))]() mutable {
      const unsigned count = 300 + random() % 300;
      for (unsigned n = 0; n < count; ++n) {
        guarded.write(random() % 40);
        if (random() % 4 == 0) std::this_thread::yield();
      }
      written += count;
      --writing;
    });
  for (int i = 0; i < readers; ++i)
    threads.emplace_back([&, random = std::mt19937(seed + 1000 + unsigned(i))]() mutable {
      bool ok = true;
      for (std::uint64_t last = 0; writing != 0;) {
        const std::uint64_t now = guarded.read(random() % 40, ok);
        if (now < last) forward = false;
        last = now;
      }
      if (!ok) whole = false;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(whole) << "a reader saw half of what a writer wrote; seed " << seed;
  EXPECT_TRUE(forward) << "a reader saw less than before; seed " << seed;
  for (std::uint64_t copy : guarded.copies) EXPECT_EQ(copy, written) << "writers met; seed " << seed;
}

TEST(SpreadMutex, ReadersSeeWholeWrites) {
  const unsigned first = seed();
  for (unsigned run = 0; run < 6; ++run) run_readers_and_writers(first + run, 1 + int(run % 4), 1 + int(run % 3));
}

TEST(SpreadMutex, ThreadsMayShareSlots) { run_readers_and_writers(seed(), int(SpreadMutex::most_slots) + 8, 2); }

TEST(SpreadMutex, ReadersAreInTogether) {
  SpreadMutex mutex;
  constexpr int count = int(SpreadMutex::most_slots) + 8;
  std::atomic<int> inside{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&] {
      std::shared_lock lock(mutex);
      ++inside;
      while (inside < count) std::this_thread::yield(); // none leaves before all are in
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(inside, count);
}

TEST(SpreadMutex, AWriterKeepsAllOut) {
  SpreadMutex mutex;
  std::atomic<int> in{0};
  mutex.lock();
  Reader reader(mutex, [&] { ++in; });
  Writer writer(mutex, [&] { ++in; });
  EXPECT_EQ(in, 0);
  mutex.unlock();
  reader.join();
  writer.join();
  EXPECT_EQ(in, 2);
}

TEST(SpreadMutex, AReaderKeepsWritersOut) {
  SpreadMutex mutex;
  std::atomic<bool> in{false};
  mutex.lock_shared();
  Writer writer(mutex, [&] { in = true; });
  EXPECT_FALSE(in);
  mutex.unlock_shared();
  writer.join();
  EXPECT_TRUE(in);
}

// New readers do not pass a writer that waits for those who are in.
// Whoever remembers the number knows later whether anybody may have changed what the mutex guards.
TEST(SpreadMutex, CountsHowOftenItIsHeldExclusively) {
  SpreadMutex mutex;
  const auto seen_by_reader = [&] {
    const SpreadMutex::Shared lock(mutex);
    return mutex.times_held();
  };
  const std::uint64_t before = seen_by_reader();
  EXPECT_EQ(seen_by_reader(), before);
  {
    const std::unique_lock lock(mutex);
    EXPECT_EQ(mutex.times_held(), before + 1);
  }
  std::thread([&] { const std::unique_lock lock(mutex); }).join();
  EXPECT_EQ(seen_by_reader(), before + 2);
}

TEST(SpreadMutex, WhoHoldsItSharedForALifeKeepsWritersOut) {
  SpreadMutex mutex;
  std::atomic<bool> written{false};
  std::optional<SpreadMutex::Shared> shared;
  shared.emplace(mutex);
  std::thread writer([&] {
    const std::unique_lock lock(mutex);
    written = true;
  });
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(written);
  shared.reset();
  writer.join();
  EXPECT_TRUE(written);
}

TEST(SpreadMutex, WritersDoNotStarve) {
  SpreadMutex mutex;
  std::atomic<int> order{0}, writer_was{0}, later_was{0};
  mutex.lock_shared();
  Writer writer(mutex, [&] { writer_was = ++order; });
  Reader later(mutex, [&] { later_was = ++order; });
  mutex.unlock_shared();
  writer.join();
  later.join();
  EXPECT_EQ(writer_was, 1);
  EXPECT_EQ(later_was, 2);
}

// Who waited for one writer is in before the next one is.
TEST(SpreadMutex, ReadersDoNotStarve) {
  SpreadMutex mutex;
  for (int run = 0; run < 20; ++run) {
    std::atomic<bool> in{false};
    mutex.lock();
    Reader reader(mutex, [&] { in = true; });
    mutex.unlock();
    mutex.lock();
    EXPECT_TRUE(in);
    mutex.unlock();
    reader.join();
  }
}

TEST(SpreadMutex, AChildOfForkFindsNobodyElse) {
  SpreadMutex mutex;
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!done) {
        std::shared_lock lock(mutex);
        std::this_thread::yield();
      }
    });
  for (int run = 0; run < 20; ++run) {
    mutex.lock();
    Reader waits(mutex, [] {}); // the child has its count, and not the thread
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      mutex.unlock_in_child();
      mutex.lock_shared();
      mutex.unlock_shared();
      mutex.lock();
      mutex.unlock();
      _exit(0);
    }
    mutex.unlock();
    waits.join();
    ASSERT_GT(child, 0);
    int status = -1;
    waitpid(child, &status, 0);
    ASSERT_EQ(status, 0) << "in the child, run " << run;
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}

} // namespace
} // namespace tenon::base

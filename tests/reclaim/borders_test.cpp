// Entries, epochs, longjmp, fork.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/borders.h"
#include "threads_support.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csetjmp>
#include <memory>
#include <optional>
#include <random>

#include <sys/wait.h>
#include <unistd.h>

namespace tenon::reclaim::test {
namespace {

std::vector<pid_t> lingering(const Borders& borders, std::uint64_t epoch) {
  std::vector<pid_t> threads;
  borders.for_each_lingering(epoch, [&](const Borders::Standing& standing) { threads.push_back(standing.tid); });
  return threads;
}

TEST(ReclaimBorders, WhoIsInsideSinceBefore) {
  Borders borders;
  Borders::Thread thread(borders, "entrant");
  const std::uint64_t first = borders.advance();
  EXPECT_TRUE(borders.has_left(thread, first)) << "never entered";
  {
    const Inside inside(thread);
    EXPECT_TRUE(borders.has_left(thread, first)) << "entered after it began";
    const std::uint64_t second = borders.advance();
    EXPECT_EQ(second, first + 1);
    EXPECT_FALSE(borders.has_left(thread, second));
    EXPECT_EQ(lingering(borders, second), std::vector<pid_t>{own_tid()});
    EXPECT_TRUE(lingering(borders, first).empty());
    borders.for_each_lingering(second, [](const Borders::Standing& standing) { EXPECT_EQ(standing.name, "entrant"); });
  }
  EXPECT_TRUE(borders.has_left(thread, first + 1));
}

__attribute__((noinline)) void nested(Borders::Thread& thread, const std::function<void()>& body) {
  const Inside inside(thread);
  body();
}

TEST(ReclaimBorders, EntriesNest) {
  Borders borders;
  Borders::Thread thread(borders);
  std::uint64_t epoch = 0;
  nested(thread, [&] {
    epoch = borders.advance();
    nested(thread, [&] { EXPECT_FALSE(borders.has_left(thread, epoch)) << "the inner entry is not a new one"; });
    EXPECT_FALSE(borders.has_left(thread, epoch)) << "the inner leave is not the last one";
    const Inside first(thread);
    {
      const Inside second(thread);
    }
    EXPECT_FALSE(borders.has_left(thread, epoch));
  });
  EXPECT_TRUE(borders.has_left(thread, epoch));
}

// Two in one function, in whatever order the compiler puts them on the stack: the first one made counts.
TEST(ReclaimBorders, TwoEntriesInOneFrame) {
  Borders borders;
  Borders::Thread thread(borders);
  Borders::Thread::Mark low, high;
  for (int i = 0; i < 2; ++i) {
    Borders::Thread::Mark& outer = i == 0 ? low : high;
    Borders::Thread::Mark& inner = i == 0 ? high : low;
    thread.enter(outer);
    const std::uint64_t epoch = borders.advance();
    thread.enter(inner);
    thread.leave(inner);
    EXPECT_FALSE(borders.has_left(thread, epoch));
    thread.leave(outer);
    EXPECT_TRUE(borders.has_left(thread, epoch));
  }
}

std::jmp_buf target;
volatile bool jump = true; // the compiler must not know that nothing returns

__attribute__((noinline)) int enter_and_jump(Borders::Thread& thread, int levels) {
  volatile char room[256];
  room[0] = static_cast<char>(levels);
  if (levels > 0) return enter_and_jump(thread, levels - 1) + room[0];
  Borders::Thread::Mark mark;
  thread.enter(mark);
  if (jump) std::longjmp(target, 1);
  thread.leave(mark);
  return room[0];
}

__attribute__((noinline)) void jump_over_entry(Borders::Thread& thread, int levels) {
  if (setjmp(target) == 0) enter_and_jump(thread, levels);
}

TEST(ReclaimBorders, LongjmpOverAnEntry) {
  Borders borders;
  Borders::Thread thread(borders);
  for (int levels = 0; levels < 3; ++levels) {
    jump_over_entry(thread, levels);
    const std::uint64_t epoch = borders.advance();
    EXPECT_FALSE(borders.has_left(thread, epoch)) << "nobody has told it yet";
    Borders::Thread::Mark mark; // in a shallower frame
    thread.enter(mark);
    EXPECT_TRUE(borders.has_left(thread, epoch)) << "the jump was not noticed";
    const std::uint64_t next = borders.advance();
    EXPECT_FALSE(borders.has_left(thread, next));
    thread.leave(mark);
    EXPECT_TRUE(borders.has_left(thread, next));
  }
}

// The same entry again and again, each time jumped over: the loop of an interpreter that reports errors by longjmp.
TEST(ReclaimBorders, TheSameEntryJumpedOverEachTime) {
#if defined(TENON_MARKS_LIE_ELSEWHERE)
  GTEST_SKIP() << "the marks are not at the same place each time";
#endif
  Borders borders;
  Borders::Thread thread(borders);
  std::uint64_t last = 0;
  for (int i = 0; i < 5; ++i) {
    jump_over_entry(thread, 0);
    EXPECT_TRUE(i == 0 || borders.has_left(thread, last)) << "its entry is newer than that";
    last = borders.advance();
    EXPECT_FALSE(borders.has_left(thread, last));
  }
}

// A jump over the inner entries only.
TEST(ReclaimBorders, LongjmpInsideAnEntry) {
  Borders borders;
  Borders::Thread thread(borders);
  Borders::Thread::Mark mark;
  thread.enter(mark);
  const std::uint64_t epoch = borders.advance();
  jump_over_entry(thread, 2);
  EXPECT_FALSE(borders.has_left(thread, epoch));
  thread.leave(mark);
  EXPECT_TRUE(borders.has_left(thread, epoch));
}

TEST(ReclaimBorders, QuiescentMode) {
  Borders borders;
  Borders::Thread thread(borders);
  thread.set_quiescent_mode(true);
  const std::uint64_t epoch = borders.advance();
  EXPECT_FALSE(borders.has_left(thread, epoch));
  {
    const Inside inside(thread);
  }
  EXPECT_FALSE(borders.has_left(thread, epoch)) << "an entry says nothing in this mode";
  thread.quiescent();
  EXPECT_TRUE(borders.has_left(thread, epoch));
  const std::uint64_t next = borders.advance();
  EXPECT_FALSE(borders.has_left(thread, next));
  thread.set_quiescent_mode(false);
  EXPECT_TRUE(borders.has_left(thread, next));
  const Inside inside(thread);
  const std::uint64_t last = borders.advance();
  thread.quiescent();
  EXPECT_FALSE(borders.has_left(thread, last)) << "outside of the mode it is no quiescent point";
}

TEST(ReclaimBorders, EndedThreadIsUnregistered) {
  Borders borders;
  std::thread([&] {
    Borders::Thread thread(borders);
    EXPECT_EQ(borders.threads().size(), 1u);
    Borders::Thread::Mark mark;
    thread.enter(mark);
  }).join();
  EXPECT_TRUE(borders.threads().empty());
  EXPECT_TRUE(lingering(borders, borders.advance()).empty());
}

TEST(ReclaimBorders, RegisteredTwice) {
  Borders borders;
  Borders::Thread one(borders), two(borders);
  two.set_real_time(true);
  const Inside inside(two);
  ASSERT_EQ(borders.threads().size(), 1u);
  EXPECT_EQ(lingering(borders, borders.advance()).size(), 1u);
  EXPECT_TRUE(borders.threads()[0].real_time);
  EXPECT_FALSE(borders.unless_real_time(own_tid(), [] { FAIL(); }));
  two.set_real_time(false);
  int calls = 0;
  EXPECT_TRUE(borders.unless_real_time(own_tid(), [&] { ++calls; }));
  EXPECT_EQ(calls, 1);
}

TEST(ReclaimBorders, ChildHasOnlyTheCallingThread) {
  Borders borders;
  const Gate gate;
  std::atomic<bool> ready{false};
  Worker other([&] {
    Borders::Thread thread(borders, "other");
    const Inside inside(thread);
    ready = true;
    gate.wait();
  });
  while (!ready) std::this_thread::yield();
  int status = -1;
  std::thread([&] { // not the first thread of the process
    Borders::Thread own(borders, "own");
    const Code code;
    pid_t child = -1;
    code.call([&] {
      child = fork();
      if (child != 0) return;
      const std::vector<Borders::Standing> threads = borders.threads();
      if (threads.size() != 1 || threads[0].tid != getpid() || threads[0].name != "own") _exit(1);
      const std::uint64_t epoch = borders.advance();
      if (!lingering(borders, epoch).empty()) _exit(2);
      // Its stack is the one that it forked on, not the first thread's.
      const Range range = code.range();
      const RangeSet set(std::span<const Range>(&range, 1));
      Stacks stacks;
      Result<Round> round = Round::begin(stacks, set);
      if (!round.ok() || round->threads()->size() != 1) _exit(3);
      _exit(round->look_at_own().state == State::inside ? 0 : 4);
    });
    waitpid(child, &status, 0);
  })
      .join();
  gate.open();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// Readers follow a pointer inside; a writer replaces what it points at, and destroys the old one when all have left. Under
// TSan this also shows that the readers' last accesses happen before the destruction.
void replace_while_reading(Borders::Fence fence) {
  struct Object {
    std::uint64_t first, second;
  };
  Borders borders(fence);
  std::atomic<Object*> current{new Object{1, ~std::uint64_t(1)}};
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0}, reads{0};
  std::vector<std::unique_ptr<Worker>> readers;
  std::mt19937_64 random(seed());
  for (int i = 0; i < 3; ++i)
    readers.push_back(std::make_unique<Worker>([&, i, start = random()] {
      Borders::Thread thread(borders);
      if (i == 2) thread.set_quiescent_mode(true);
      std::mt19937_64 own(start);
      std::uint64_t count = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        if (i == 2) thread.quiescent();
        const Inside inside(thread);
        const Object* const object = current.load(std::memory_order_acquire);
        if (object->first != ~object->second) ++wrong;
        if (own() % 64 == 0) std::this_thread::yield();
        if (object->first != ~object->second) ++wrong;
        ++count;
      }
      reads += count;
    }));
  std::uint64_t replaced = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1000);
  while (std::chrono::steady_clock::now() < end) {
    const std::uint64_t value = random();
    Object* const old = current.exchange(new Object{value, ~value});
    const std::uint64_t epoch = borders.advance();
    while (!lingering(borders, epoch).empty()) std::this_thread::yield();
    old->first = old->second = 7;
    delete old;
    ++replaced;
  }
  stop = true;
  for (const auto& reader : readers) reader->join();
  delete current.load();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(replaced, 10u);
  EXPECT_GT(reads, 1000u);
  std::printf("%llu replaced, %llu reads\n", static_cast<unsigned long long>(replaced),
              static_cast<unsigned long long>(reads.load()));
}

TEST(ReclaimBorders, ReplaceWhileReading) { replace_while_reading(Borders::Fence::automatic); }
TEST(ReclaimBorders, ReplaceWhileReadingWithFences) { replace_while_reading(Borders::Fence::in_threads); }

TEST(ReclaimBorders, SyncCoresWorks) {
  // Every way of it, as far as the kernel goes; that it returns is all that can be seen here.
  EXPECT_LE(process::barrier(), process::Barrier::page);
  for (int i = 0; i < 3; ++i) process::sync_cores();
}

// With and without stores that miss the first cache shortly before: those a fence has to wait for.
__attribute__((noinline)) double pair_ns(Borders::Thread& thread, std::size_t distance) {
  std::vector<char> memory(std::size_t(8) << 20);
  std::size_t at = 0;
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    const int count = 200'000;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) {
      memory[at] = 1;
      at = (at + distance) & (memory.size() - 1);
      const Inside inside(thread);
      asm volatile("" ::: "memory");
    }
    best =
        std::min(best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / count);
  }
  return best;
}

TEST(ReclaimBorders, CostOfAPair) {
  Borders automatic, fenced(Borders::Fence::in_threads);
  Borders::Thread one(automatic), two(fenced);
  const double plain_ns = pair_ns(one, 0), fence_ns = pair_ns(two, 0);
  const double plain_miss_ns = pair_ns(one, 4099), fence_miss_ns = pair_ns(two, 4099);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) automatic.advance();
  const double advance_us =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / 100;
  std::printf("enter+leave %.2f ns, with a fence %.2f ns; after a cache miss %.2f and %.2f ns; advance %.2f us\n", plain_ns,
              fence_ns, plain_miss_ns, fence_miss_ns, advance_us);
  EXPECT_GT(plain_ns, 0);
  EXPECT_EQ(lingering(automatic, automatic.advance()).size(), 0u);
}

} // namespace
} // namespace tenon::reclaim::test

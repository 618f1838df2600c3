// Threads that are, or are not, inside a piece of code, looked at from outside.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "threads_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <random>

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace tenon::reclaim::test {
namespace {

using namespace std::chrono_literals;

void expect_inside(const Look& look, Range range) {
  ASSERT_EQ(look.state, State::inside) << to_string(look.why);
  ASSERT_EQ(look.hits.size(), 1u);
  EXPECT_GE(look.hits[0].address, range.begin);
  EXPECT_LE(look.hits[0].address, range.end);
}

void expect_clear(const Look& look) {
  EXPECT_EQ(look.state, State::clear) << to_string(look.why);
  for (const Hit& hit : look.hits) ADD_FAILURE() << "range " << hit.range << ": " << std::hex << hit.address.value;
}

TEST(ReclaimRanges, FindsWhatAPlainSearchFinds) {
  std::mt19937_64 random(seed());
  for (int round = 0; round < 300; ++round) {
    std::vector<Range> ranges;
    std::uint64_t at = 1000 + random() % 100;
    for (std::uint64_t i = random() % 20; i > 0; --i) {
      const std::uint64_t size = random() % 5; // empty ones, too
      ranges.push_back({{at}, {at + size}});
      at += size + random() % 4; // adjacent ones, too
    }
    std::shuffle(ranges.begin(), ranges.end(), random);
    const RangeSet set(ranges);
    for (std::uint64_t word = 990; word < at + 10; ++word) {
      std::vector<std::uint32_t> expected, found;
      for (std::uint32_t i = 0; i < ranges.size(); ++i) {
        const bool holds = ranges[i].begin < ranges[i].end && ranges[i].begin.value <= word && word <= ranges[i].end.value;
        if (holds) expected.push_back(i);
      }
      set.find(word, [&](std::uint32_t index) { found.push_back(index); });
      std::sort(found.begin(), found.end());
      ASSERT_EQ(found, expected) << word;
      ASSERT_TRUE(expected.empty() || set.may_hold(word));
    }
  }
}

TEST(ReclaimRanges, OverlapIsABug) {
  const Range ranges[] = {{{10}, {20}}, {{19}, {30}}};
  EXPECT_DEATH({ RangeSet set(ranges); }, "overlap");
}

TEST(ReclaimStacks, ThreadThatReadsFromAPipeInside) {
  const Code code;
  const Gate gate, outside;
  Worker worker([&] {
    code.call([&] { gate.wait(); });
    outside.wait();
  });
  worker.wait_until_blocked();
  const Look found = look(worker.tid(), code.range());
  EXPECT_EQ(found.tid, worker.tid());
  expect_inside(found, code.range());
  EXPECT_EQ(found.hits[0].address, code.range().begin + 12) << "behind the call";
  gate.open();
  for (int i = 0; i < 5000 && look(worker.tid(), code.range()).state != State::clear; ++i) std::this_thread::sleep_for(1ms);
  expect_clear(look(worker.tid(), code.range()));
  outside.open();
}

TEST(ReclaimStacks, ThreadThatSleepsInside) {
  const Code code;
  std::atomic<bool> stop{false};
  Worker worker([&] {
    code.call([&] {
      while (!stop) {
        const timespec time{0, 300'000'000};
        nanosleep(&time, nullptr);
      }
    });
  });
  worker.wait_until_blocked();
  expect_inside(look(worker.tid(), code.range()), code.range());
  stop = true;
}

TEST(ReclaimStacks, ThreadThatWaitsOnAFutexInside) {
  const Code code;
  int word = 0;
  Worker worker([&] { code.call([&] { syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0); }); });
  worker.wait_until_blocked();
  expect_inside(look(worker.tid(), code.range()), code.range());
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// What a finished call left below the stack pointer does not count, a pointer to the code or its bounds don't either.
TEST(ReclaimStacks, LeftOversAndPointersAreNotFrames) {
  const Code code;
  const Gate gate;
  Worker worker([&] {
    volatile std::uint64_t pointers[4] = {code.range().begin.value, code.range().end.value, code.range().begin.value + 13,
                                          code.range().begin.value + 1};
    if (!under_asan) code.call([] {});
    gate.wait();
    EXPECT_EQ(pointers[0], code.range().begin.value);
  });
  worker.wait_until_blocked();
  expect_clear(look(worker.tid(), code.range()));
  gate.open();
}

TEST(ReclaimStacks, OneThreadInManyVersions) {
  const Code code(1000);
  const Gate gate;
  Worker worker([&] { code.call([&] { code.call([&] { code.call([&] { gate.wait(); }, 999); }, 17); }, 500); });
  worker.wait_until_blocked();
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < 1000; ++i) ranges.push_back(code.range(999 - i));
  const RangeSet set(ranges);
  Stacks stacks;
  Result<Round> round = Round::begin(stacks, set);
  ASSERT_TRUE(round.ok());
  for (int i = 0; i < 2; ++i) { // the second time with the first one's notes cleared
    const Look found = round->look_at(worker.tid());
    EXPECT_EQ(found.state, State::inside);
    EXPECT_EQ(found.hits.size(), 3u);
    EXPECT_TRUE(found.inside(0) && found.inside(499) && found.inside(982));
  }
  gate.open();
}

__attribute__((noinline)) int descend(int levels, const std::function<void()>& bottom) {
  volatile char room[1000];
  room[0] = static_cast<char>(levels);
  if (levels == 0) {
    bottom();
  } else {
    descend(levels - 1, bottom);
  }
  return room[0];
}

TEST(ReclaimStacks, DeepStack) {
  const Code code;
  const Gate gate;
  Worker worker([&] { code.call([&] { descend(3000, [&] { gate.wait(); }); }); });
  Worker other([&] { descend(3000, [&] { gate.wait(); }); });
  worker.wait_until_blocked();
  other.wait_until_blocked();
  expect_inside(look(worker.tid(), code.range()), code.range());
  expect_clear(look(other.tid(), code.range()));
  gate.open(2);
}

TEST(ReclaimStacks, TheFirstThread) {
  const Code code;
  const Gate gate;
  const pid_t first = getpid();
  ASSERT_EQ(own_tid(), first);
  Look inside, outside;
  std::thread observer([&] {
    const Result<TaskFolder> tasks = TaskFolder::open();
    while (tasks->standing(first).activity != TaskFolder::Activity::blocked) std::this_thread::sleep_for(1ms);
    inside = look(first, code.range());
    gate.open();
  });
  code.call([&] { gate.wait(); });
  observer.join();
  expect_inside(inside, code.range());

  observer = std::thread([&] {
    const Result<TaskFolder> tasks = TaskFolder::open();
    while (tasks->standing(first).activity != TaskFolder::Activity::blocked) std::this_thread::sleep_for(1ms);
    outside = look(first, code.range());
    gate.open();
  });
  gate.wait();
  observer.join();
  expect_clear(outside);
}

TEST(ReclaimStacks, StackThatTheProgramBrought) {
  const Code code;
  const Gate gate;
  const std::size_t size = 1 << 20;
  void* const memory = std::aligned_alloc(4096, size);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstack(&attributes, memory, size), 0);
  struct Shared {
    const Code& code;
    const Gate& gate;
    std::atomic<pid_t> tid{0};
  } shared{code, gate};
  pthread_t thread;
  const auto body = [](void* argument) -> void* {
    Shared& s = *static_cast<Shared*>(argument);
    s.tid = own_tid();
    s.code.call([&s] { s.gate.wait(); });
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, body, &shared), 0);
  for (int i = 0; i < 5000 && (shared.tid == 0 || look(shared.tid, code.range()).state == State::unknown); ++i)
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(home_of(shared.tid).end & ~std::uint64_t(0xffff),
            (reinterpret_cast<std::uint64_t>(memory) + size - 1) & ~std::uint64_t(0xffff));
  expect_inside(look(shared.tid, code.range()), code.range());
  gate.open();
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  std::free(memory);
}

// --- Signal handlers on a stack of their own ---

const Gate* handler_gate = nullptr;
void wait_in_handler(int) { handler_gate->wait(); }

// With a page above that can't be read: else the stack of the next thread would be read, too.
struct AlternateStack {
  AlternateStack() {
    memory = static_cast<char*>(mmap(nullptr, size + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory, size, PROT_READ | PROT_WRITE);
    stack_t stack{};
    stack.ss_sp = memory;
    stack.ss_size = size;
    sigaltstack(&stack, &old);
  }
  ~AlternateStack() {
    sigaltstack(&old, nullptr);
    munmap(memory, size + 4096);
  }
  static constexpr std::size_t size = 65536;
  char* memory = nullptr;
  stack_t old{};
};

struct Handler {
  explicit Handler(int signal) : number(signal) {
    struct sigaction action{};
    action.sa_handler = wait_in_handler;
    action.sa_flags = SA_ONSTACK;
    sigaction(number, &action, &old);
  }
  ~Handler() { sigaction(number, &old, nullptr); }
  int number;
  struct sigaction old{};
};

TEST(ReclaimStacks, HandlerOnAnAlternateStackOverAFrameInside) {
  const Code code;
  const Gate gate;
  handler_gate = &gate;
  const Handler handler(SIGUSR2);
  const auto body = [&] { pthread_kill(pthread_self(), SIGUSR2); };
  Worker inside([&] {
    const AlternateStack stack;
    code.call(body);
  });
  Worker outside([&] {
    const AlternateStack stack;
    body();
  });
  inside.wait_until_blocked();
  outside.wait_until_blocked();
  expect_inside(look(inside.tid(), code.range()), code.range());
  expect_clear(look(outside.tid(), code.range()));
  gate.open(2);
}

// Nothing on the interrupted stack points into the code: only the program counter in the signal frame does.
TEST(ReclaimStacks, HandlerThatInterruptedTheCodeItself) {
  if (under_tsan) GTEST_SKIP() << "there a handler does not run while code without checks does";
  const Code code;
  const Gate gate;
  handler_gate = &gate;
  const Handler handler(SIGUSR2);
  std::atomic<int> stop{0};
  std::atomic<pthread_t> self{};
  Worker worker([&] {
    const AlternateStack stack;
    self = pthread_self();
    code.spin()(&stop);
  });
  std::this_thread::sleep_for(20ms);
  ASSERT_EQ(pthread_kill(self, SIGUSR2), 0);
  worker.wait_until_blocked();
  expect_inside(look(worker.tid(), code.range()), code.range());
  stop = 1;
  gate.open();
}

// --- Threads that can't be looked at, or are gone ---

TEST(ReclaimStacks, RunningThreadIsUnknown) {
  const Code code;
  std::atomic<int> stop{0};
  Worker worker([&] { code.spin()(&stop); });
  const Look found = look(worker.tid(), code.range());
  EXPECT_EQ(found.state, State::unknown);
  EXPECT_EQ(found.why, Why::running);
  stop = 1;
}

TEST(ReclaimStacks, EndedThreadIsClear) {
  const Code code;
  Worker worker([] {});
  worker.join();
  for (int i = 0; i < 1000 && look(worker.tid(), code.range()).state != State::clear; ++i) std::this_thread::sleep_for(1ms);
  expect_clear(look(worker.tid(), code.range()));
}

TEST(ReclaimStacks, OwnStack) {
  const Code code;
  const Range range = code.range();
  const RangeSet set(std::span<const Range>(&range, 1));
  Stacks stacks;
  Result<Round> round = Round::begin(stacks, set);
  ASSERT_TRUE(round.ok());
  Look inside, on_thread;
  code.call([&] { inside = round->look_at_own(); });
  expect_inside(inside, range);
  expect_clear(round->look_at_own());
  std::thread([&] { code.call([&] { on_thread = round->look_at_own(); }); }).join();
  expect_inside(on_thread, range);
}

// --- Stacks that are switched away ---

struct Coroutine {
  static constexpr std::size_t size = 65536;
  explicit Coroutine(std::function<void()> what) : body(std::move(what)) {
    memory = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    getcontext(&context);
    context.uc_stack.ss_sp = memory;
    context.uc_stack.ss_size = size;
    context.uc_link = &caller;
    makecontext(&context, reinterpret_cast<void (*)()>(run), 2, static_cast<unsigned>(reinterpret_cast<std::uint64_t>(this)),
                static_cast<unsigned>(reinterpret_cast<std::uint64_t>(this) >> 32));
  }
  ~Coroutine() { munmap(memory, size); }
  static void run(unsigned low, unsigned high) {
    reinterpret_cast<Coroutine*>(static_cast<std::uint64_t>(high) << 32 | low)->body();
  }
  void resume() { swapcontext(&caller, &context); }
  void suspend() { swapcontext(&context, &caller); }
  Addr begin() const { return Addr::of(memory); }
  Addr end() const { return Addr::of(memory + size); }

  std::function<void()> body;
  char* memory = nullptr;
  ucontext_t context{}, caller{};
};

TEST(ReclaimStacks, SuspendedCoroutineOnADeclaredStack) {
  if (under_tsan) GTEST_SKIP() << "TSan must be told of switched stacks";
  const Code code;
  const Range range = code.range();
  const RangeSet set(std::span<const Range>(&range, 1));
  // Not on this stack: a saved context holds a return address, too.
  std::unique_ptr<Coroutine> owner;
  owner = std::make_unique<Coroutine>([&] { code.call([&] { owner->suspend(); }); });
  Coroutine& coroutine = *owner;
  coroutine.resume();

  Stacks stacks;
  EXPECT_EQ(Round::begin(stacks, set)->look_at_declared().state, State::clear) << "not declared yet";
  stacks.declare_stack(coroutine.begin(), coroutine.end());
  expect_inside(Round::begin(stacks, set)->look_at_declared(), range);
  expect_clear(Round::begin(stacks, set)->look_at_own());
  stacks.undeclare_stack(coroutine.begin());
  EXPECT_EQ(Round::begin(stacks, set)->look_at_declared().state, State::clear);
  coroutine.resume();
}

// The thread blocks on the coroutine's stack, and the old frame is on the one that it was started on.
TEST(ReclaimStacks, FrameOnTheHomeStackOfAThreadThatIsElsewhere) {
  if (under_tsan) GTEST_SKIP() << "TSan must be told of switched stacks";
  const Code code;
  const Range range = code.range();
  for (const bool declared : {false, true}) {
    const Gate gate;
    Stacks stacks;
    Coroutine first([&] { gate.wait(); }), second([&] { gate.wait(); });
    if (declared) stacks.declare_stack(first.begin(), first.end());
    Worker inside([&] { code.call([&] { first.resume(); }); });
    Worker outside([&] { second.resume(); });
    inside.wait_until_blocked();
    outside.wait_until_blocked();
    expect_inside(look(stacks, inside.tid(), range), range);
    expect_clear(look(stacks, outside.tid(), range));
    gate.open(2);
    inside.join();
    outside.join();
    if (declared) stacks.undeclare_stack(first.begin());
  }
}

TEST(ReclaimStacks, DeclaredStackWithAHoleOrGone) {
  const Code code;
  const Range range = code.range();
  const RangeSet set(std::span<const Range>(&range, 1));
  auto* const memory =
      static_cast<char*>(mmap(nullptr, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const std::uint64_t frame = range.begin.value + 12;
  std::memcpy(memory + 15 * 4096 + 8, &frame, sizeof frame);
  mprotect(memory, 4 * 4096, PROT_NONE);
  munmap(memory + 7 * 4096, 4096);
  Stacks stacks;
  stacks.declare_stack(Addr::of(memory), Addr::of(memory + 16 * 4096));
  expect_inside(Round::begin(stacks, set)->look_at_declared(), range);
  munmap(memory, 16 * 4096);
  EXPECT_EQ(Round::begin(stacks, set)->look_at_declared().state, State::clear);
  stacks.undeclare_stack(Addr::of(memory));
}

// --- Stress ---

TEST(ReclaimStacks, ThreadsThatEndWhileTheyAreLookedAt) {
  const Code code;
  const Range range = code.range();
  const RangeSet set(std::span<const Range>(&range, 1));
  std::mt19937_64 random(seed());
  std::atomic<bool> stop{false};
  std::vector<std::thread> makers;
  for (int i = 0; i < 2; ++i)
    makers.emplace_back([&, start = random()] {
      std::mt19937_64 own(start);
      while (!stop) {
        const std::uint64_t how = own();
        std::thread([&, how] {
          if ((how & 3) != 0) code.call([&] { std::this_thread::sleep_for(std::chrono::microseconds(how % 200)); });
        }).join();
      }
    });
  const Gate gate;
  Worker inside([&] { code.call([&] { gate.wait(); }); }), outside([&] { gate.wait(); });
  inside.wait_until_blocked();
  outside.wait_until_blocked();
  Stacks stacks;
  int rounds = 0, listed = 0;
  const auto end = std::chrono::steady_clock::now() + 1500ms;
  while (std::chrono::steady_clock::now() < end || rounds <= 10) {
    Result<Round> round = Round::begin(stacks, set);
    ASSERT_TRUE(round.ok());
    const Result<std::vector<pid_t>> threads = round->threads();
    if (!threads.ok()) continue;
    ++listed;
    // However many come and go: those that stay are in every list, and seen for what they are.
    EXPECT_EQ(std::count(threads->begin(), threads->end(), inside.tid()), 1);
    EXPECT_EQ(std::count(threads->begin(), threads->end(), outside.tid()), 1);
    for (const pid_t tid : *threads) {
      if (tid == own_tid()) continue;
      const Look found = round->look_at(tid);
      EXPECT_TRUE(tid != inside.tid() || found.state == State::inside);
      EXPECT_TRUE(tid != outside.tid() || found.state == State::clear);
    }
    ++rounds;
  }
  stop = true;
  for (std::thread& maker : makers) maker.join();
  gate.open(2);
  EXPECT_GT(rounds, 10);
  std::printf("%d rounds, %d of them with a complete list\n", rounds, listed);
}

// A thread that is young has many neighbours in the kernel's list that end while that is read.
TEST(ReclaimStacks, NoLivingThreadIsMissingFromTheList) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> makers;
  for (int i = 0; i < 3; ++i)
    makers.emplace_back([&] {
      while (!stop) std::thread([] {}).join();
    });
  const Result<TaskFolder> tasks = TaskFolder::open();
  ASSERT_TRUE(tasks.ok());
  const Gate gate;
  int lists = 0, missing = 0;
  const auto end = std::chrono::steady_clock::now() + 1500ms;
  while (std::chrono::steady_clock::now() < end) {
    Worker young([&] { gate.wait(); });
    for (int i = 0; i < 5; ++i) {
      const Result<std::vector<pid_t>> threads = tasks->list();
      if (!threads.ok()) continue;
      ++lists;
      if (std::count(threads->begin(), threads->end(), young.tid()) != 1) ++missing;
    }
    gate.open();
  }
  stop = true;
  for (std::thread& maker : makers) maker.join();
  EXPECT_EQ(missing, 0) << "of " << lists;
  EXPECT_GT(lists, 100);
}

// A thread counts up on its way in and out. If it stayed in from before a look to after it, the look may not say clear; if
// it stayed out, not inside.
TEST(ReclaimStacks, ThreadsThatMoveWhileTheyAreLookedAt) {
  const Code code;
  std::mt19937_64 random(seed());
  std::atomic<bool> stop{false};
  struct Mover {
    std::atomic<std::uint64_t> count{0}; // odd: inside
    std::unique_ptr<Worker> worker;
  };
  std::vector<Mover> movers(4);
  for (Mover& mover : movers)
    mover.worker = std::make_unique<Worker>([&, start = random()] {
      std::mt19937_64 own(start);
      const auto nap = [&] { std::this_thread::sleep_for(std::chrono::microseconds(own() % 120)); };
      while (!stop) {
        descend(static_cast<int>(own() % 20), [&] {
          code.call([&] {
            mover.count.fetch_add(1);
            for (std::uint64_t i = own() % 3; i > 0; --i) nap();
            mover.count.fetch_add(1);
          });
        });
        nap();
      }
    });
  Stacks stacks;
  const Range range = code.range();
  const RangeSet set(std::span<const Range>(&range, 1));
  std::uint64_t known = 0, unknown = 0, proven = 0;
  const auto end = std::chrono::steady_clock::now() + 1500ms;
  while (std::chrono::steady_clock::now() < end) {
    Result<Round> round = Round::begin(stacks, set);
    ASSERT_TRUE(round.ok());
    for (Mover& mover : movers) {
      const std::uint64_t before = mover.count.load();
      const Look found = round->look_at(mover.worker->tid());
      const bool stayed = mover.count.load() == before;
      ++(found.state == State::unknown ? unknown : known);
      // Just outside the counted part it may still be in the frame that does the counting.
      if (stayed && before % 2 == 1) {
        EXPECT_NE(found.state, State::clear);
        ++proven;
      }
    }
  }
  stop = true;
  for (Mover& mover : movers) mover.worker->join();
  std::printf("%llu known, %llu unknown, %llu stayed inside\n", static_cast<unsigned long long>(known),
              static_cast<unsigned long long>(unknown), static_cast<unsigned long long>(proven));
  EXPECT_GT(known, 0u);
  EXPECT_GT(proven, 0u);
}

TEST(ReclaimStacks, CostOfALook) {
  const Gate gate;
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < 8; ++i) workers.push_back(std::make_unique<Worker>([&] { gate.wait(); }));
  for (const auto& worker : workers) worker->wait_until_blocked();
  for (const std::size_t count : {std::size_t(1), std::size_t(10'000)}) {
    const Code code(count);
    std::vector<Range> ranges;
    for (std::size_t i = 0; i < count; ++i) ranges.push_back(code.range(i));
    const RangeSet set(ranges);
    Stacks stacks;
    double best_us = 1e9, own_us = 1e9;
    for (int i = 0; i < 200; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      Result<Round> round = Round::begin(stacks, set);
      for (const auto& worker : workers) EXPECT_EQ(round->look_at(worker->tid()).state, State::clear);
      const auto middle = std::chrono::steady_clock::now();
      EXPECT_EQ(round->look_at_own().state, State::clear);
      const auto end = std::chrono::steady_clock::now();
      best_us = std::min(best_us, std::chrono::duration<double, std::micro>(middle - begin).count());
      own_us = std::min(own_us, std::chrono::duration<double, std::micro>(end - middle).count());
    }
    std::printf("%zu ranges: 8 blocked threads %.1f us, own stack %.1f us\n", count, best_us, own_us);
  }
  gate.open(8);
}

} // namespace
} // namespace tenon::reclaim::test

// Verdicts over whole processes full of threads, with and without signals.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/grace.h"
#include "threads_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <random>

#include <sys/mman.h>
#include <unistd.h>

namespace tenon::reclaim::test {
namespace {

using namespace std::chrono_literals;

constexpr int ask_signal = SIGURG;

// Versions of a Code as an engine keeps them.
struct Fixture {
  explicit Fixture(std::size_t versions, bool with_signals = false) : code(versions), clear(versions) {
    if (with_signals) {
      signals = std::move(*Signals::create(ask_signal));
      options.signals = signals.get();
    }
    for (std::size_t v = 0; v < versions; ++v) ranges.push_back(code.range(v));
  }
  void retire() { epoch = Grace(borders, stacks, options).retire_epoch(); }
  std::vector<Verdict> check() {
    std::vector<Retired> versions;
    for (std::size_t v = 0; v < ranges.size(); ++v)
      versions.push_back({std::span<const Range>(&ranges[v], 1), epoch, &clear[v]});
    Result<std::vector<Verdict>> verdicts = Grace(borders, stacks, options).check(versions);
    EXPECT_TRUE(verdicts.ok());
    return std::move(*verdicts);
  }
  // Until the threads that sanitizers and gtest run are at rest, too.
  std::vector<Verdict> check_until(const std::function<bool(const std::vector<Verdict>&)>& good) {
    std::vector<Verdict> verdicts;
    for (int i = 0; i < 300; ++i) {
      verdicts = check();
      if (good(verdicts)) break;
      std::this_thread::sleep_for(2ms);
    }
    return verdicts;
  }

  Code code;
  Borders borders;
  Stacks stacks;
  std::unique_ptr<Signals> signals;
  GraceOptions options;
  std::vector<Range> ranges;
  std::vector<std::vector<ThreadId>> clear;
  std::uint64_t epoch = 0;
};

TEST(ReclaimGrace, SleeperDelaysItsVersionOnly) {
  Fixture f(3);
  const Gate gate, outside;
  Worker sleeper(
      [&] {
        f.code.call([&] { gate.wait(); }, 1);
        outside.wait();
      },
      "sleeper");
  sleeper.wait_until_blocked();
  f.retire();
  const auto only_one = [](const std::vector<Verdict>& v) {
    return v[0].is_free && v[1].delays.size() == 1 && v[2].is_free;
  };
  std::vector<Verdict> verdicts = f.check_until(only_one);
  ASSERT_TRUE(only_one(verdicts));
  EXPECT_FALSE(verdicts[1].is_free);
  const Delay& delay = verdicts[1].delays[0];
  EXPECT_EQ(delay.tid, sleeper.tid());
  EXPECT_EQ(delay.name, "sleeper");
  EXPECT_TRUE(delay.inside);
  EXPECT_GT(delay.address, f.ranges[1].begin);
  EXPECT_NE(to_string(delay).find("thread sleeper (" + std::to_string(sleeper.tid()) + ") is inside, at 0x"),
            std::string::npos);
  gate.open();
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[1].is_free; })[1].is_free);
  outside.open();
}

TEST(ReclaimGrace, UnregisteredRunnerDelaysAndIsRememberedOnceClear) {
  Fixture f(1);
  std::atomic<int> phase{0};
  const Gate gate;
  Code elsewhere;
  std::atomic<int> stop{0};
  Worker runner(
      [&] {
        elsewhere.spin()(&phase);
        gate.wait();
        elsewhere.spin()(&stop);
      },
      "runner");
  f.retire();
  std::vector<Verdict> verdicts = f.check_until([](const std::vector<Verdict>& v) { return v[0].delays.size() == 1; });
  ASSERT_EQ(verdicts[0].delays.size(), 1u);
  EXPECT_EQ(to_string(verdicts[0].delays[0]),
            "thread runner (" + std::to_string(runner.tid()) + "): running, can't be looked at");
  phase = 1;
  runner.wait_until_blocked();
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free);
  const auto remembered = [&] {
    return std::count_if(f.clear[0].begin(), f.clear[0].end(), [&](const ThreadId& id) { return id.tid == runner.tid(); });
  };
  EXPECT_EQ(remembered(), 1);
  EXPECT_TRUE(std::is_sorted(f.clear[0].begin(), f.clear[0].end()));
  gate.open();
  std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free)
      << "it runs, but elsewhere";
  // Had the number been another thread's, it would have to be looked at.
  for (ThreadId& id : f.clear[0])
    if (id.tid == runner.tid()) --id.start;
  EXPECT_FALSE(f.check()[0].is_free);
  stop = 1;
  runner.join();
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free);
  EXPECT_EQ(remembered(), 0) << "ended threads are forgotten";
}

TEST(ReclaimGrace, RegisteredRunnerOutsideDoesNotDelay) {
  Fixture f(1);
  std::atomic<int> stop{0}, phase{0};
  Worker runner([&] {
    Borders::Thread thread(f.borders, "registered");
    {
      const Inside inside(thread);
      f.code.spin()(&phase);
    }
    phase = 2;
    f.code.spin()(&stop); // as if it were other code
  });
  while (f.borders.threads().empty() || f.borders.threads()[0].state == 0) std::this_thread::yield();
  f.retire();
  const auto by_it = [](const std::vector<Verdict>& v) {
    return v[0].delays.size() == 1 && v[0].delays[0].name == "registered";
  };
  EXPECT_TRUE(by_it(f.check_until(by_it)));
  phase = 1;
  while (phase != 2) std::this_thread::yield();
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free);
  stop = 1;
}

TEST(ReclaimGrace, OwnFramesCount) {
  Fixture f(2);
  f.retire();
  std::vector<Verdict> verdicts;
  const auto good = [](const std::vector<Verdict>& v) { return v[0].is_free && v[1].delays.size() == 1; };
  f.code.call([&] { verdicts = f.check_until(good); }, 1);
  ASSERT_TRUE(good(verdicts));
  EXPECT_EQ(verdicts[1].delays[0].tid, own_tid());
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[1].is_free; })[1].is_free);
}

TEST(ReclaimGrace, DeclaredStackDelays) {
  Fixture f(1);
  std::uint64_t words[64] = {};
  words[40] = f.ranges[0].begin.value + 12; // the return address of a frame
  f.stacks.declare_stack(Addr::of(&words[0]), Addr::of(words + 64));
  f.retire();
  const auto by_it = [](const std::vector<Verdict>& v) {
    return std::any_of(v[0].delays.begin(), v[0].delays.end(), [](const Delay& d) { return d.tid == 0; });
  };
  std::vector<Verdict> verdicts = f.check_until(by_it);
  ASSERT_TRUE(by_it(verdicts));
  f.stacks.undeclare_stack(Addr::of(&words[0]));
  words[40] = 0;
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free);
}

// --- Signals ---

// A stack for signal handlers that shows whether one ran on it.
struct TellTale {
  TellTale() : memory(65536, char(0x5a)) {
    stack_t stack{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    sigaltstack(&stack, &old);
  }
  ~TellTale() { sigaltstack(&old, nullptr); }
  bool touched() const {
    return std::any_of(memory.begin(), memory.end(), [](char c) { return c != char(0x5a); });
  }
  std::vector<char> memory;
  stack_t old{};
};

TEST(ReclaimSignals, RunningThreadsAreAsked) {
  Fixture f(2, true);
  std::atomic<int> stop{0};
  std::atomic<bool> asked{false};
  Worker inside(
      [&] {
        const TellTale stack;
        f.code.spin(0)(&stop);
        asked = stack.touched();
      },
      "spinner");
  Worker outside([&] {
    while (stop == 0) {
    }
  });
  std::this_thread::sleep_for(5ms);
  f.retire();
  const auto good = [](const std::vector<Verdict>& v) {
    return v[0].delays.size() == 1 && v[0].delays[0].inside && v[1].is_free;
  };
  if (under_tsan) {
    // The handler runs late and sees that: whoever runs stays unknown.
    EXPECT_FALSE(f.check()[0].is_free);
  } else {
    const std::vector<Verdict> verdicts = f.check_until(good);
    ASSERT_TRUE(good(verdicts)) << verdicts[0].delays.size() << ' ' << verdicts[1].delays.size();
    EXPECT_EQ(verdicts[0].delays[0].name, "spinner");
  }
  stop = 1;
  inside.join();
  outside.join();
  EXPECT_TRUE(asked);
  EXPECT_TRUE(f.check_until([](const std::vector<Verdict>& v) { return v[0].is_free; })[0].is_free);
}

TEST(ReclaimSignals, RealTimeThreadsAreNeverAsked) {
  Fixture f(1, true);
  std::atomic<int> stop{0};
  std::atomic<bool> ready{false}, touched{false}, control{false};
  Worker real_time([&] {
    const TellTale stack;
    Borders::Thread thread(f.borders, "audio");
    thread.set_real_time(true);
    const Inside inside(thread);
    ready = true;
    f.code.spin()(&stop);
    touched = stack.touched();
  });
  Worker other([&] {
    const TellTale stack;
    while (stop == 0) {
    }
    control = stack.touched();
  });
  while (!ready) std::this_thread::yield();
  f.retire();
  for (int i = 0; i < 20; ++i) {
    const std::vector<Verdict> verdicts = f.check();
    EXPECT_TRUE(std::any_of(verdicts[0].delays.begin(), verdicts[0].delays.end(),
                            [](const Delay& delay) { return delay.name == "audio" && delay.why == Why::running; }));
  }
  stop = 1;
  real_time.join();
  other.join();
  EXPECT_FALSE(touched) << "a real-time thread was signalled";
  EXPECT_TRUE(control) << "the other one was not";
}

TEST(ReclaimSignals, ThreadThatBlocksTheSignalStaysUnknown) {
  Fixture f(1, true);
  std::atomic<int> stop{0};
  Worker worker(
      [&] {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, ask_signal);
        pthread_sigmask(SIG_BLOCK, &set, nullptr);
        f.code.spin()(&stop);
        sigpending(&set);
        EXPECT_FALSE(sigismember(&set, ask_signal));
      },
      "deaf");
  std::this_thread::sleep_for(5ms);
  f.retire();
  const std::vector<Verdict> verdicts = f.check();
  EXPECT_FALSE(verdicts[0].is_free);
  stop = 1;
}

std::atomic<int> foreign{0};
void count_foreign(int) { ++foreign; }

TEST(ReclaimSignals, OldHandlerIsCalledAndPutBack) {
  struct sigaction mine{}, before{}, now{};
  mine.sa_handler = count_foreign;
  sigaction(SIGUSR1, &mine, &before);
  foreign = 0;
  {
    const std::unique_ptr<Signals> signals = std::move(*Signals::create(SIGUSR1));
    sigaction(SIGUSR1, nullptr, &now);
    EXPECT_EQ(now.sa_handler, count_foreign) << "nothing is installed before it is used";
    const Code code;
    const Range range = code.range();
    const RangeSet set(std::span<const Range>(&range, 1));
    Stacks stacks;
    Result<Round> round = Round::begin(stacks, set);
    std::atomic<int> stop{0};
    Worker worker([&] { code.spin()(&stop); });
    std::this_thread::sleep_for(5ms);
    const pid_t tid = worker.tid();
    const Result<std::vector<Look>> looks = signals->ask(*round, std::span<const pid_t>(&tid, 1), 2s,
                                                         [](pid_t, const std::function<void()>& signal) { signal(); });
    stop = 1;
    ASSERT_TRUE(looks.ok());
    EXPECT_EQ((*looks)[0].state, under_tsan ? State::unknown : State::inside);
    sigaction(SIGUSR1, nullptr, &now);
    EXPECT_NE(now.sa_handler, count_foreign);
    raise(SIGUSR1);
    EXPECT_EQ(foreign, 1);
  }
  if (!under_tsan) {
    sigaction(SIGUSR1, nullptr, &now);
    EXPECT_EQ(now.sa_handler, count_foreign);
  }
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(ReclaimSignals, SomeSignalsCannotBeUsed) {
  for (const int signal : {0, 65, SIGKILL, SIGSEGV, 32})
    EXPECT_EQ(Signals::create(signal).error().code, ErrorCode::invalid_argument);
}

// --- All of it ---

// An engine in small: a permanent stub jumps through a slot to the newest version; superseded versions are checked, filled
// with traps when free, and used again. A wrong verdict ends in SIGTRAP. Threads of all kinds call through the stub:
// registered, not registered, napping, spinning, nesting, jumping out, ending.
class Torture {
public:
  static constexpr std::size_t versions = 24;

  Torture(std::uint64_t seed_value, bool with_signals) : f_(versions, with_signals), random_(seed_value) {
    stub_ = static_cast<unsigned char*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    const unsigned char jump[] = {0xff, 0x25, 0x3a, 0x00, 0x00, 0x00}; // jmp *64(stub)
    std::memcpy(stub_, jump, sizeof jump);
    point_at(0);
  }
  ~Torture() { munmap(stub_, 4096); }

  void run(std::chrono::milliseconds time) {
    std::vector<std::unique_ptr<Worker>> workers;
    for (int kind = 0; kind < 6; ++kind)
      workers.push_back(std::make_unique<Worker>([this, kind, start = random_()] { work(kind, start); }));
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) step();
    stop_ = true;
    for (const auto& worker : workers) worker->join();
    while (!waiting_.empty()) collect();
    std::printf("%llu swaps, %llu freed, %llu calls\n", static_cast<unsigned long long>(swaps_),
                static_cast<unsigned long long>(freed_), static_cast<unsigned long long>(calls_.load()));
    EXPECT_EQ(freed_, swaps_);
    EXPECT_GT(swaps_, versions);
  }

private:
  struct Waiting {
    std::size_t version;
    std::uint64_t epoch;
  };

  void point_at(std::size_t version) {
    current_ = version;
    const std::uint64_t target = f_.ranges[version].begin.value;
    reinterpret_cast<std::atomic<std::uint64_t>*>(stub_ + 64)->store(target);
  }

  void step() {
    std::vector<std::size_t> unused;
    for (std::size_t v = 0; v < versions; ++v)
      if (v != current_ &&
          std::none_of(waiting_.begin(), waiting_.end(), [v](const Waiting& w) { return w.version == v; })) {
        unused.push_back(v);
      }
    if (!unused.empty()) {
      const std::size_t next = unused[random_() % unused.size()], old = current_;
      f_.code.make(next);
      process::sync_cores();
      point_at(next);
      f_.clear[old].clear();
      waiting_.push_back({old, f_.borders.advance()});
      ++swaps_;
    }
    if (unused.empty() || random_() % 2 == 0) collect();
  }

  void collect() {
    std::vector<Retired> retired;
    for (const Waiting& w : waiting_)
      retired.push_back({std::span<const Range>(&f_.ranges[w.version], 1), w.epoch, &f_.clear[w.version]});
    Grace grace(f_.borders, f_.stacks, f_.options);
    const Result<std::vector<Verdict>> verdicts = grace.check(retired);
    if (!verdicts.ok()) return;
    for (std::size_t i = waiting_.size(); i-- > 0;) {
      if (!(*verdicts)[i].is_free) continue;
      f_.code.fill_with_traps(waiting_[i].version);
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
      ++freed_;
    }
  }

  void call(const std::function<void()>& body) {
    calls_.fetch_add(1, std::memory_order_relaxed);
    const auto stub = reinterpret_cast<Code::Through>(stub_);
    stub([](void* argument) { (*static_cast<const std::function<void()>*>(argument))(); },
         const_cast<std::function<void()>*>(&body));
  }

  void work(int kind, std::uint64_t start) {
    std::mt19937_64 own(start);
    const auto nap = [&] { std::this_thread::sleep_for(std::chrono::microseconds(own() % 300)); };
    const auto busy = [&] {
      for (std::uint64_t i = own() % 2000; i > 0; --i) asm volatile("");
    };
    std::optional<Borders::Thread> thread;
    if (kind % 2 == 0) thread.emplace(f_.borders);
    if (kind == 4) thread->set_quiescent_mode(true);
    while (!stop_) {
      if (kind == 5) {
        std::thread([&] { call(nap); }).join();
        continue;
      }
      if (kind == 4) thread->quiescent();
      enter_and_call(thread, own() % 4, nap, busy, own);
      if (own() % 8 == 0) nap();
    }
    if (kind == 4) thread->set_quiescent_mode(false);
  }

  void enter_and_call(std::optional<Borders::Thread>& thread, std::uint64_t how, const std::function<void()>& nap,
                      const std::function<void()>& busy, std::mt19937_64& own) {
    Borders::Thread::Mark mark;
    if (thread) thread->enter(mark);
    switch (how) {
    case 0: call(nap); break;
    case 1: call(busy); break;
    case 2:
      call([&] {
        busy();
        call([&] { call(own() % 2 == 0 ? nap : busy); });
      });
      break;
    default: jump_out(busy); break;
    }
    if (thread) thread->leave(mark);
  }

  void jump_out(const std::function<void()>& busy) {
    std::jmp_buf back;
    if (setjmp(back) != 0) return;
    const std::function<void()> body = [&] {
      busy();
      std::longjmp(back, 1);
    };
    call(body);
  }

  Fixture f_;
  std::mt19937_64 random_;
  unsigned char* stub_ = nullptr;
  std::size_t current_ = 0;
  std::vector<Waiting> waiting_;
  std::uint64_t swaps_ = 0, freed_ = 0;
  std::atomic<std::uint64_t> calls_{0};
  std::atomic<bool> stop_{false};
};

TEST(ReclaimGrace, Torture) { Torture(seed(), false).run(1500ms); }
TEST(ReclaimSignals, Torture) { Torture(seed(), true).run(1500ms); }

} // namespace
} // namespace tenon::reclaim::test

// When superseded and removed code is freed: threads that sleep in it, that never block, that say where they are.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace {
std::atomic<int> gate{0};
std::jmp_buf escape;
} // namespace

extern "C" {
// What linked code calls: sleeps until the test lets it go.
__attribute__((visibility("default"))) void reclaim_test_sleep(int until) {
  while (gate.load() < until) usleep(200);
}
__attribute__((visibility("default"))) void reclaim_test_escape() { std::longjmp(escape, 1); }
}

namespace tenon::test {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

const char* const flags = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";

struct Reclaim : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));

  Reclaim() { gate = 0; }

  static Object sleeper(int value, int until) {
    return compile_c("void reclaim_test_sleep(int); int work(void) { reclaim_test_sleep(" + std::to_string(until) +
                         "); return " + std::to_string(value) + "; }",
                     flags);
  }
  static Object returns(int value) { return compile_c("int work(void) { return " + std::to_string(value) + "; }", flags); }
  void replace(const Module& module, Object object) {
    Change change = engine.change();
    change.replace(module, std::move(object));
    expect(try_commit(std::move(change)));
  }
  std::vector<Delay> delays() { return expect(engine.collect()); }
  // Whether everything has been freed, at the latest after `patience`. (What nobody delays any more the engine's own thread
  // may be freeing just now.)
  bool settles(milliseconds patience = milliseconds(5000), std::uint64_t live = ~std::uint64_t(0)) {
    for (auto end = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < end;) {
      if (delays().empty() && engine.usage().superseded == 0 && engine.usage().live <= live) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  // Waits until a thread is seen inside.
  Delay seen_inside() {
    for (int i = 0; i < 5000; ++i) {
      for (const Delay& delay : delays())
        if (delay.inside) return delay;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return {};
  }
};

TEST_F(Reclaim, ASleeperDelaysItsVersionOnlyAndIsNamed) {
  Module module = commit(engine, library, sleeper(1, 1), {});
  const std::uint64_t one_version = engine.usage().live;
  auto* work = function<int()>(library, "work");
  std::atomic<int> result{0};
  std::thread thread([&] {
    pthread_setname_np(pthread_self(), "the-sleeper");
    result = work();
  });
  while (gate.load() == 0 && result == 0) { // until it is seen asleep in the version that is current now
    replace(module, sleeper(1, 1));
    if (Delay delay = seen_inside(); delay.inside) {
      EXPECT_EQ(delay.thread, "the-sleeper");
      EXPECT_EQ(delay.function, "work");
      EXPECT_NE(delay.tid, 0);
      break;
    }
  }
  for (int i = 0; i < 20; ++i) replace(module, returns(10 + i));
  EXPECT_EQ(work(), 29) << "others go on in the new code";
  // All but the sleeper's version are freed.
  for (int i = 0; i < 5000 && delays().size() > 1; ++i) std::this_thread::sleep_for(milliseconds(1));
  ASSERT_EQ(delays().size(), 1U);
  EXPECT_LT(engine.usage().live, 3 * one_version);
  EXPECT_EQ(result, 0);
  gate = 1;
  thread.join();
  EXPECT_EQ(result, 1) << "it has finished in the old code";
  EXPECT_TRUE(settles());
  EXPECT_LE(engine.usage().live, one_version);
}

// The mask of blocked signals of the thread of that name; 0: there is none yet.
std::uint64_t blocked_signals(const std::string& thread) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    std::string key, value, name;
    while (status >> key >> value) {
      if (key == "Name:") name = value;
      if (key == "SigBlk:" && name == thread) return std::stoull(value, nullptr, 16);
      status.ignore(1 << 20, '\n');
    }
  }
  return 0;
}

TEST_F(Reclaim, TheEnginesOwnThreadTakesNoSignalsOfTheProgram) {
  Module module = commit(engine, library, sleeper(1, 1));
  std::thread inside(function<int()>(library, "work"));
  std::uint64_t blocked = 0;
  for (int i = 0; i < 5000 && blocked == 0; ++i) { // until there is something that the engine's thread has to wait for
    replace(module, sleeper(1, 1));
    std::this_thread::sleep_for(milliseconds(1));
    blocked = blocked_signals("tenon-reclaim");
  }
  const auto has = [&](int signal) { return (blocked >> (signal - 1) & 1) != 0; };
  EXPECT_TRUE(has(SIGTERM) && has(SIGUSR1) && has(SIGALRM) && has(SIGCHLD)) << std::hex << blocked;
  EXPECT_FALSE(has(SIGSEGV) || has(SIGPROF)) << std::hex << blocked;
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  EXPECT_FALSE(sigismember(&own, SIGTERM)) << "who has started it takes them as before";
  gate = 1;
  inside.join();
  EXPECT_TRUE(settles());
}

TEST_F(Reclaim, ARemovedModuleIsFreedWhenItsThreadHasLeft) {
  Module module = commit(engine, library, sleeper(5, 1), {});
  auto* work = function<int()>(library, "work");
  std::atomic<int> result{0};
  std::thread thread([&] { result = work(); });
  usleep(20000);
  Change change = engine.change();
  change.remove(module);
  expect(try_commit(std::move(change)));
  EXPECT_FALSE(library.find("work"));
  EXPECT_EQ(seen_inside().function, "work");
  EXPECT_NE(engine.usage().live, 0U);
  gate = 1;
  thread.join();
  EXPECT_EQ(result, 5);
  EXPECT_TRUE(settles(milliseconds(5000), 0));
}

// A thread that runs for ever without blocking can't be looked at from outside.
struct Spinner {
  std::atomic<bool> stop{false}, running{false};
  std::thread thread;
  template <class Work> explicit Spinner(Work work) : thread([this, work] { work(*this); }) {
    while (!running) std::this_thread::yield();
  }
  ~Spinner() {
    stop = true;
    thread.join();
  }
};

TEST_F(Reclaim, EntriesLetASpinningThreadBePassed) {
  Module module = commit(engine, library, returns(1));
  auto* work = function<int()>(library, "work");
  Spinner spinner([&](Spinner& self) {
    Border border = expect(engine.border("spinner"));
    while (!self.stop) {
      Border::Entry entry(border);
      work();
      self.running = true;
    }
  });
  for (int i = 0; i < 50; ++i) replace(module, returns(i));
  EXPECT_TRUE(settles());
}

TEST_F(Reclaim, QuiescentPointsDoAsWell) {
  Module module = commit(engine, library, returns(1));
  auto* work = function<int()>(library, "work");
  Spinner spinner([&](Spinner& self) {
    Border border = expect(engine.border("spinner"));
    border.set_quiescent_mode(true);
    while (!self.stop) {
      work();
      border.quiescent();
      self.running = true;
    }
    border.set_quiescent_mode(false);
  });
  for (int i = 0; i < 50; ++i) replace(module, returns(i));
  EXPECT_TRUE(settles());
}

TEST_F(Reclaim, ASignalAsksThreadsThatNeverBlockIfTheClientAllowsIt) {
  Options options;
  options.reclaim_signal = SIGURG;
  Engine asking = make_engine(options);
  Library own = expect(asking.library("main", {.replaceable = true}));
  Module module = commit(asking, own, returns(1));
  auto* work = function<int()>(own, "work");
  Spinner spinner([&](Spinner& self) {
    volatile int sum = 0;
    while (!self.stop) {
      sum = sum + work();
      self.running = true;
    }
  });
  Change change = asking.change();
  change.replace(module, returns(2));
  expect(try_commit(std::move(change)));
  bool settled = false;
  for (int i = 0; i < 2000 && !settled; ++i) settled = expect(asking.collect()).empty();
  EXPECT_TRUE(settled);
}

TEST_F(Reclaim, WithoutLeaveASpinningThreadDelaysAndIsNamed) {
  Module module = commit(engine, library, returns(1));
  Spinner spinner([&](Spinner& self) {
    pthread_setname_np(pthread_self(), "spins");
    while (!self.stop) self.running = true;
  });
  replace(module, returns(2));
  bool named = false;
  for (int i = 0; i < 200 && !named; ++i)
    for (const Delay& delay : delays()) named |= delay.thread == "spins" && !delay.inside && std::string(delay.why) != "";
  EXPECT_TRUE(named);
}

TEST_F(Reclaim, ALongjmpOverAnEntryDoesNoHarm) {
  Module module =
      commit(engine, library,
             compile_c("void reclaim_test_escape(void); int work(void) { reclaim_test_escape(); return 1; }", flags));
  auto* work = function<int()>(library, "work");
  Border border = expect(engine.border("jumper"));
  auto jump = [&] {
    Border::Entry* entry = new (alloca(sizeof(Border::Entry))) Border::Entry(border); // never left
    (void)entry;
    work();
  };
  static int left; // not in a register, which longjmp could bring back
  for (left = 3; left > 0; --left)
    if (setjmp(escape) == 0) jump();
  replace(module, returns(3));
  {
    Border::Entry entry(border);
    EXPECT_EQ(work(), 3);
  }
  EXPECT_TRUE(settles());
}

TEST_F(Reclaim, AThreadThatRemovesTheCodeItRunsIn) {
  static Engine* of = nullptr;
  static Module* what = nullptr;
  of = &engine;
  Absolute hooks[] = {{"remove_me", Addr::of(+[] {
                         Change change = of->change();
                         change.replace(*what, returns(77));
                         expect(try_commit(std::move(change)));
                         EXPECT_FALSE(expect(of->collect()).empty()) << "the caller's own frames count";
                       }),
                       false}};
  expect(library.define(hooks));
  Module module =
      commit(engine, library, compile_c("void remove_me(void); int work(void) { remove_me(); return 5; }", flags));
  what = &module;
  auto* work = function<int()>(library, "work");
  EXPECT_EQ(work(), 5);
  EXPECT_EQ(work(), 77);
  EXPECT_TRUE(settles());
}

} // namespace
} // namespace tenon::test

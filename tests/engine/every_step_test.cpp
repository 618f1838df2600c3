// What calls see at each instruction of a commit. The thread that commits is stepped through it, one instruction at a time,
// and between two of them another thread calls: no order of stores is left to luck. (Processors that order stores as they
// stand in the program show others nothing else; x86-64 does, Intel SDM, volume 3, 9.2.2.)
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <atomic>
#include <csignal>
#include <functional>
#include <optional>
#include <semaphore>
#include <thread>

#include <unistd.h>

namespace tenon::test {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
constexpr bool sanitized = __has_feature(thread_sanitizer) || __has_feature(address_sanitizer);
#else
constexpr bool sanitized = false;
#endif

// Runs `look` in a thread of its own whenever it is asked.
class Observer {
public:
  explicit Observer(std::function<void()> look) : look_(std::move(look)), thread_([this] { serve(); }) {
    at_work_.acquire();
  }
  ~Observer() {
    ends_ = true;
    asked_.release();
    thread_.join();
  }
  void ask() {
    asked_.release();
    at_work_.acquire();
  }

private:
  void serve() {
    at_work_.release();
    for (asked_.acquire(); !ends_; asked_.acquire()) {
      look_();
      at_work_.release();
    }
  }
  std::function<void()> look_;
  std::atomic<bool> ends_{false};
  std::counting_semaphore<1> asked_{0}, at_work_{0};
  std::thread thread_;
};

Observer* observer = nullptr;
long steps = 0;
pid_t stepped = 0;

constexpr unsigned long trap_flag = 0x100; // of EFLAGS

void on_step(int, siginfo_t*, void* context) {
  const int saved = errno;
  if (gettid() != stepped) { // a thread that this one has begun has its flags, too
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~static_cast<long long>(trap_flag);
    return;
  }
  ++steps;
  observer->ask();
  errno = saved;
}

void begin_stepping() { asm volatile("pushfq; orq %0, (%%rsp); popfq" : : "i"(trap_flag) : "memory", "cc"); }
void end_stepping() { asm volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~trap_flag) : "memory", "cc"); }

// `act`, with `look` before, after, and at each instruction of it. How many there were.
long step_through(const std::function<void()>& act, std::function<void()> look) {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  stepped = gettid();
  sigaction(SIGTRAP, &action, &before);
  Observer watching(std::move(look));
  observer = &watching;
  steps = 0;
  watching.ask();
  begin_stepping();
  act();
  end_stepping();
  watching.ask();
  sigaction(SIGTRAP, &before, nullptr);
  return steps;
}

struct EveryStep : ReplaceFixture {
  void SetUp() override {
    if (sanitized) GTEST_SKIP() << "a sanitizer's own code is stepped through as well: too slow, and it takes locks";
    // The engine's own thread is begun with all signals blocked, which nobody can be stepped through.
    Module any = commit(engine, library, compile_c("int any(void) { return 1; }", replaceable_clang));
    replace(any, compile_c("int any(void) { return 2; }", replaceable_clang));
    settle();
  }
  Linked link(Change change) { return expect(expect(expect(std::move(change).draft()).place()).link()); }
  Linked link_replacement(const Module& module, Object object) {
    Change change = engine.change();
    change.replace(module, std::move(object));
    return link(std::move(change));
  }
  // In the middle of it, not of what comes before and after.
  static void commit_stepwise(Linked linked, Switch how, const std::function<void()>& look) {
    std::optional<Result<Committed>> result;
    const long count = step_through([&] { result.emplace(std::move(linked).commit(Initialize::run, how)); }, look);
    EXPECT_GT(count, 1000);
    expect(std::move(*result));
  }
};

TEST_F(EveryStep, AReplacementIsSeenByPointerLast) {
  auto text = [](int n) {
    return compile_c("int f(void) { return " + std::to_string(n) + "; } int inside(void) { return f(); }",
                     replaceable_clang);
  };
  ModuleOptions opaque;
  opaque.opaque = true;
  Module module = commit(engine, library, text(1), opaque);
  commit(engine, library, compile_c("int f(void); int outside(void) { return f(); }", replaceable_clang));
  commit(engine, library, compile_c("int r(void) { return 0; }", replaceable_clang));
  commit(engine, library, compile_c("int r(void); int follower(void) { return r(); }", replaceable_clang));
  Redirect r = expect(library.redirect("r")), to_f = expect(library.redirect("f"));
  expect(r.to(to_f));
  const auto pointer = get<int()>("f"), outside = get<int()>("outside"), follower = get<int()>("follower"),
             led = get<int()>("r");
  int last[4] = {}, wrong = 0;
  auto look = [&] {
    const int seen[4] = {pointer(), outside(), follower(), led()};
    for (int i = 0; i < 4; ++i) {
      wrong += seen[i] < last[i] || seen[i] > last[i] + 1 ? 1 : 0;
      wrong += i != 0 && seen[i] < seen[0] ? 1 : 0; // who goes by the slot comes nowhere before the others
      last[i] = seen[i];
    }
  };
  for (int n = 1; n < 4; ++n) {
    last[0] = last[1] = last[2] = last[3] = n;
    Change change = engine.change();
    change.replace(module, text(n + 1), {}, opaque);
    commit_stepwise(link(std::move(change)), Switch::each, look);
    EXPECT_EQ(wrong, 0);
    for (int seen : last) EXPECT_EQ(seen, n + 1);
    EXPECT_EQ(get<int()>("inside")(), n + 1);
  }
}

TEST_F(EveryStep, ARedirectionAndItsEndAreSeenByPointerLast) {
  commit(engine, library, compile_c("int f(void) { return 1; } int g(void) { return 2; }", replaceable_clang));
  commit(engine, library, compile_c("int f(void); int outside(void) { return f(); }", replaceable_clang));
  const auto pointer = get<int()>("f"), outside = get<int()>("outside");
  Redirect f = expect(library.redirect("f")), g = expect(library.redirect("g"));
  for (const bool back : {false, true, false, true}) {
    const int before = back ? 2 : 1, after = 3 - before;
    int wrong = 0, changes = 0, last = before;
    step_through(
        [&] {
          if (back)
            f.back();
          else
            expect(f.to(g));
        },
        [&] {
          const int by_pointer = pointer(), by_site = outside();
          wrong += by_pointer == after && by_site != after ? 1 : 0;
          changes += by_pointer != last ? 1 : 0;
          last = by_pointer;
        });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(changes, 1);
    EXPECT_EQ(last, after);
  }
}

TEST_F(EveryStep, AnEntrySeesASetAsItWasOrAsItIs) {
  auto text = [](int n) {
    const std::string v = std::to_string(n);
    return compile_c("int f(void) { return " + v + "; } int g(void) { return " + v +
                         "; } int both(void) { return f() * 10 + g(); }",
                     replaceable_clang);
  };
  Module module = commit(engine, library, text(1));
  commit(engine, library,
         compile_c("int f(void); int g(void); int outside(void) { return f() * 10 + g(); }", replaceable_clang));
  const auto f = get<int()>("f"), g = get<int()>("g"), both = get<int()>("both"), outside = get<int()>("outside");
  for (int n = 1; n < 4; ++n) {
    std::optional<Border> border;
    std::optional<Border::Entry> lasting; // begun so and so long before, and going on
    int step = 0, of_lasting = 0, wrong = 0, newest = 0;
    Linked linked = link_replacement(module, text(n + 1));
    commit_stepwise(std::move(linked), Switch::atomic, [&] {
      if (!border) border.emplace(expect(engine.border()));
      if (step++ % 500 == 0) lasting.reset();
      const bool begins = !lasting;
      if (begins) lasting.emplace(*border);
      const int seen[] = {f() * 10 + g(), outside(), both(), g() * 10 + f()};
      if (begins) of_lasting = seen[0];
      for (int s : seen) wrong += s != of_lasting || (s != n * 11 && s != (n + 1) * 11) ? 1 : 0;
      wrong += begins && of_lasting < newest ? 1 : 0;
      newest = std::max(newest, of_lasting);
    });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(outside(), (n + 1) * 11);
  }
}

TEST_F(EveryStep, AnEntryOfItsOwnAtEachStepSeesOneOfBoth) {
  auto text = [](int n) {
    const std::string v = std::to_string(n);
    return compile_c("int f(void) { return " + v + "; } int g(void) { return " + v + "; }", replaceable_clang);
  };
  Module module = commit(engine, library, text(1));
  commit(engine, library,
         compile_c("int f(void); int g(void); int outside(void) { return f() * 10 + g(); }", replaceable_clang));
  const auto f = get<int()>("f"), g = get<int()>("g"), outside = get<int()>("outside");
  for (int n = 1; n < 4; ++n) {
    std::optional<Border> border;
    int wrong = 0, last = n * 11;
    commit_stepwise(link_replacement(module, text(n + 1)), Switch::atomic, [&] {
      if (!border) border.emplace(expect(engine.border()));
      Border::Entry entry(*border);
      const int by_pointer = g() * 10 + f(), by_site = outside();
      wrong += by_pointer != by_site || by_site < last || (by_site != n * 11 && by_site != (n + 1) * 11) ? 1 : 0;
      last = by_site;
    });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(last, (n + 1) * 11);
  }
}

} // namespace
} // namespace tenon::test

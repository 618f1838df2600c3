// Memory that is there before it is used (Options::prefault), and what a thread can do beforehand so that it never waits:
// page faults are counted by the kernel, of the one thread that matters.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "base/fault.h"

#include <gmock/gmock.h>

#include <atomic>
#include <fstream>
#include <thread>

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tenon::test {
namespace {

using testing::HasSubstr;

constexpr int pages = 12;

long faults_of_this_thread() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

std::uint64_t locked_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;)
    if (std::uint64_t kib = 0; word == "VmLck:" && file >> kib) return kib;
  return ~std::uint64_t(0);
}

// `f` returns `version` and runs through so many pages of code, each of which reads a page of constants and, if wanted,
// writes a page of variables; all of them are new with each version.
Object spread(int version, bool writes = true, const char* name = "f") {
  const std::string n = std::to_string(version), count = std::to_string(pages), f = name;
  return assemble(".section .text." + f + ",\"ax\"\n.globl " + f + "\n.type " + f + ",@function\n" + f +
                  ":\n xorl %eax, %eax\n" + ".set i,0\n.rept " + count + "\n jmp 1f\n .skip 4096\n1: movl constants" + n +
                  "+i(%rip), %eax\n" + (writes ? " incl variables" + n + "+i(%rip)\n" : "") +
                  ".set i,i+4096\n.endr\n ret\n.size " + f + ",.-" + f + "\n.section .rodata.constants" + n +
                  ",\"a\"\n.globl constants" + n + "\n.type constants" + n + ",@object\nconstants" + n + ": .fill " + count +
                  "*1024,4," + n + "\n.size constants" + n + ",.-constants" + n + "\n.bss\n.globl variables" + n +
                  "\n.type variables" + n + ",@object\nvariables" + n + ": .skip " + count + "*4096\n.size variables" + n +
                  ",.-variables" + n + "\n");
}

struct Mode {
  const char* name;
  Prefault prefault;
  Mapping mapping;
};

struct RealTime : testing::TestWithParam<Mode> {
  Options options() const {
    Options options;
    options.prefault = GetParam().prefault;
    options.mapping = GetParam().mapping;
    return options;
  }
};

// Faults of a real-time thread at the first executions of the versions that another thread swaps in.
long faults_of_swaps(const Options& options, bool reuse) {
  Engine engine = make_engine(options);
  Library library = expect(engine.library("main", {.replaceable = true}));
  const Module module = commit(engine, library, spread(0));
  int (*const f)() = function<int()>(library, "f");
  std::atomic<int> ready{-1}, done{-1}, wrong{0};
  constexpr int versions = 8;
  long faults = 0;
  std::thread caller([&] {
    Border border = expect(engine.border("caller"));
    border.set_real_time(true);
    {
      const Border::Entry warm(border);
    }
    faults_of_this_thread();
    for (int version = 0; version < versions; ++version) {
      while (ready.load(std::memory_order_acquire) < version) std::this_thread::yield();
      const long before = faults_of_this_thread();
      {
        const Border::Entry entry(border);
        wrong += f() != version;
      }
      faults += faults_of_this_thread() - before;
      done.store(version, std::memory_order_release);
    }
  });
  for (int version = 0; version < versions; ++version) {
    if (version != 0) {
      Change change = engine.change();
      change.replace(module, spread(version));
      expect(try_commit(std::move(change)));
    }
    ready.store(version, std::memory_order_release);
    while (done.load(std::memory_order_acquire) < version) std::this_thread::yield();
    if (reuse) (void)expect(engine.collect());
  }
  caller.join();
  EXPECT_EQ(wrong, 0);
  return faults;
}

TEST_P(RealTime, FirstExecutionOfSwappedCodeFaultsOnlyWithoutPrefault) {
  for (const bool reuse : {false, true}) {
    const long faults = faults_of_swaps(options(), reuse);
    if (GetParam().prefault == Prefault::none)
      EXPECT_GT(faults, 0) << "else the test does not measure";
    else
      EXPECT_EQ(faults, 0) << "reuse " << reuse;
  }
}

TEST_P(RealTime, LockedMemoryIsCountedAndGivenBack) {
  const std::uint64_t before = locked_kib();
  {
    Engine engine = make_engine(options());
    Library library = expect(engine.library());
    const Module module = commit(engine, library, spread(1));
    EXPECT_EQ(function<int()>(library, "f")(), 1);
    if (GetParam().prefault == Prefault::lock)
      EXPECT_GE(locked_kib(), before + 3 * pages * 4);
    else
      EXPECT_EQ(locked_kib(), before);
    const std::uint64_t with_module = locked_kib();
    expect(try_remove(engine, {module}));
    for (int i = 0; i < 1000 && !expect(engine.collect()).empty(); ++i) std::this_thread::yield();
    if (GetParam().mapping == Mapping::single && GetParam().prefault == Prefault::lock) {
      EXPECT_LE(locked_kib() + 2 * pages * 4, with_module) << "freed pages are unlocked";
    }
  }
  EXPECT_EQ(locked_kib(), before);
}

// The memory that the module had is used again by another one.
TEST_P(RealTime, AFailureAtAnyStepLeavesNothingLocked) {
  const std::uint64_t before = locked_kib();
  const Object object = spread(1);
  bool succeeded = false;
  for (long n = 1; !succeeded && n < 1000; ++n) {
    base::fault::countdown = n;
    {
      Result<Engine> engine = Engine::create(options());
      if (engine) {
        Library library = expect(engine->library());
        Result<Committed> committed = try_commit(*engine, library, {object});
        succeeded = committed.ok() && base::fault::countdown != 0;
        base::fault::countdown = 0;
        EXPECT_EQ(library.find("f").has_value(), committed.ok());
        // And it goes on.
        if (!committed) commit(*engine, library, object);
        EXPECT_EQ(function<int()>(library, "f")(), 1);
      }
      base::fault::countdown = 0;
    }
    EXPECT_EQ(locked_kib(), before) << n;
  }
  EXPECT_TRUE(succeeded);
}

TEST_P(RealTime, AForkedChildHasItsMemoryPresentAndUnlocked) {
  Engine engine = make_engine(options());
  Library library = expect(engine.library());
  commit(engine, library, spread(1, false, "warm"));
  commit(engine, library, spread(2, false));
  int (*const warm)() = function<int()>(library, "warm");
  int (*const f)() = function<int()>(library, "f");
  const pid_t child = fork();
  if (child == 0) {
    warm();
    faults_of_this_thread();
    const long before = faults_of_this_thread();
    const bool right = f() == 2;
    const long faults = faults_of_this_thread() - before;
    _exit(!right ? 255 : locked_kib() != 0 ? 254 : int(std::min(faults, 100L)));
  }
  ASSERT_GT(child, 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (GetParam().prefault != Prefault::none)
    EXPECT_EQ(WEXITSTATUS(status), 0);
  else
    EXPECT_LE(WEXITSTATUS(status), 100);
}

INSTANTIATE_TEST_SUITE_P(Modes, RealTime,
                         testing::Values(Mode{"none", Prefault::none, Mapping::dual},
                                         Mode{"populate", Prefault::populate, Mapping::dual},
                                         Mode{"lock", Prefault::lock, Mapping::dual},
                                         Mode{"populate_single", Prefault::populate, Mapping::single},
                                         Mode{"lock_single", Prefault::lock, Mapping::single}),
                         [](const auto& mode) { return std::string(mode.param.name); });

// Runs in a thread that may lock no more than that many bytes beyond what is locked already.
template <class Body> void with_limit(std::uint64_t bytes, Body body) {
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &old), 0);
  std::thread limited([&] {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    ASSERT_EQ(syscall(SYS_capset, &header, data), 0);
    rlimit limit = old;
    limit.rlim_cur = std::min<rlim_t>(locked_kib() * 1024 + bytes, old.rlim_max);
    ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    body();
  });
  limited.join();
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &old), 0);
}

struct LockLimits : testing::TestWithParam<Mapping> {};

TEST_P(LockLimits, AnExceededLimitIsAnErrorThatLeavesNothing) {
  const std::uint64_t before = locked_kib();
  Options options;
  options.prefault = Prefault::lock;
  options.mapping = GetParam();
  with_limit(4096, [&] {
    Result<Engine> engine = Engine::create(options);
    ASSERT_FALSE(engine);
    EXPECT_EQ(engine.error().code, ErrorCode::system);
    EXPECT_THAT(engine.error().message, HasSubstr("RLIMIT_MEMLOCK"));
    EXPECT_EQ(locked_kib(), before);
  });
  Engine engine = make_engine(options);
  Library library = expect(engine.library());
  commit(engine, library, spread(1));
  const Object large =
      assemble(".text\n.globl g\n.type g,@function\ng: movl $7, %eax\n ret\n .skip 6*1024*1024, 0x90\n.size g,.-g\n");
  const std::uint64_t small = locked_kib();
  with_limit(std::uint64_t(1) << 20, [&] {
    Result<Committed> committed = try_commit(engine, library, {large});
    ASSERT_FALSE(committed);
    EXPECT_EQ(committed.error().code, ErrorCode::system);
    EXPECT_THAT(committed.error().message, HasSubstr("RLIMIT_MEMLOCK"));
    EXPECT_FALSE(library.find("g").has_value());
    EXPECT_EQ(locked_kib(), small);
    commit(engine, library, spread(2, true, "again"));
    EXPECT_EQ(function<int()>(library, "again")(), 2);
  });
}

INSTANTIATE_TEST_SUITE_P(Mappings, LockLimits, testing::Values(Mapping::dual, Mapping::single),
                         [](const auto& mapping) { return mapping.param == Mapping::dual ? "dual" : "single"; });

// Larger than what malloc ever takes from memory that is there already.
TEST(TouchThreadLocals, MakesThemBeforeTheFirstAccess) {
  Engine engine = make_engine();
  Library library = expect(engine.library());
  const Module module = commit(engine, library,
                               compile_c("_Thread_local char big[40 << 20]; _Thread_local int start = 40;"
                                         "int use(void) { for (int i = 0; i < 40 << 20; i += 4096) big[i]++;"
                                         "  return start += 2; }"));
  const Module without = commit(engine, library, compile_c("int other(void) { return 1; }"));
  int (*const use)() = function<int()>(library, "use");
  EXPECT_EQ(use(), 42); // the code's own pages
  for (const bool touched : {true, false})
    std::thread([&] {
      if (touched) expect(module.touch_thread_locals());
      expect(without.touch_thread_locals());
      faults_of_this_thread();
      const long before = faults_of_this_thread();
      const int value = use();
      const long faults = faults_of_this_thread() - before;
      EXPECT_EQ(value, 42);
      EXPECT_EQ(faults == 0, touched) << faults;
    }).join();
  expect(try_remove(engine, {module}));
  expect(module.touch_thread_locals());
}

} // namespace
} // namespace tenon::test

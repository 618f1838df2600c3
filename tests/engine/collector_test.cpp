// Modules of a library with the option `collected`: what keeps them, that the others go, cycles and all, and that nobody who
// looks, links or calls meanwhile meets half of what goes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

namespace {
std::atomic<int> gate{0}, entered{0};
std::string ended;
} // namespace

extern "C" {
__attribute__((visibility("default"))) void collector_test_note(int c) { ended += char(c); }
__attribute__((visibility("default"))) void collector_test_sleep() {
  ++entered;
  while (gate.load() == 0) usleep(200);
}
}

namespace tenon::test {
namespace {

using std::chrono::milliseconds;

// A module with a function and a variable by a number, whose function adds one to the variable and calls the function of
// another number, unless its argument is 0. One object is made; the numbers in its string table are exchanged.
Object numbered(unsigned own, unsigned next) {
  static const std::string bytes = [] {
    std::ifstream file(assemble_file(R"(
      .text
      .globl function_000000, variable_000000
      .type function_000000, @function
      .type variable_000000, @object
    function_000000:
      incl variable_000000(%rip)
      testl %edi, %edi
      je 1f
      decl %edi
      jmp function_999999@PLT
    1: movl variable_000000(%rip), %eax
      ret
      .size function_000000, .-function_000000
      .data
      .p2align 3
    variable_000000: .long 0, 0
      .size variable_000000, 8
    )"),
                       std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), {});
  }();
  std::string made = bytes;
  auto put = [&](const char* placeholder, unsigned number) {
    std::array<char, 16> digits;
    std::snprintf(digits.data(), digits.size(), "%06u", number);
    for (std::size_t at = 0; (at = bytes.find(placeholder, at)) != std::string::npos; at += 6)
      if (bytes[at - 1] == '_') made.replace(at, 6, digits.data());
  };
  put("999999", next);
  put("000000", own);
  return expect(Object::copy(std::as_bytes(std::span(made)), "numbered" + std::to_string(own)));
}

std::string name_of(unsigned number) {
  std::array<char, 32> name;
  std::snprintf(name.data(), name.size(), "function_%06u", number);
  return name.data();
}

Object returns(const std::string& name, int value) {
  return compile_c("int " + name + "(void) { return " + std::to_string(value) + "; }");
}

struct Collector : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("garbage", {.collected = true}));
  Library plain = expect(engine.library("plain"));

  Collector() {
    gate = entered = 0;
    ended.clear();
    expect(plain.search({Source::library(library), Source::process()}));
  }
  template <class... Objects> Committed hold(const Library& to, Objects... objects) {
    return commit(engine, to, std::vector<Object>{std::move(objects)...});
  }
  Module add(const Library& to, Object object) { return commit(engine, to, std::move(object)); }
  // Whether all is gone but so much, by collecting now.
  bool settles(std::uint64_t live = 0) {
    for (auto end = std::chrono::steady_clock::now() + milliseconds(10000); std::chrono::steady_clock::now() < end;) {
      expect(engine.collect());
      if (engine.usage().live <= live) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  // The same, by the engine's own thread.
  bool settles_alone(std::uint64_t live = 0) {
    for (auto end = std::chrono::steady_clock::now() + milliseconds(10000); std::chrono::steady_clock::now() < end;) {
      if (engine.usage().live <= live) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  // `count` modules in a ring.
  Committed ring(unsigned count) {
    Change change = engine.change();
    for (unsigned i = 0; i < count; ++i) change.add(library, numbered(i, (i + 1) % count));
    return expect(try_commit(std::move(change)));
  }
};

TEST_F(Collector, WhatNobodyRefersToGoesByItself) {
  Module module = add(library, returns("lonely", 1));
  EXPECT_TRUE(settles_alone());
  EXPECT_FALSE(module.linked());
  EXPECT_FALSE(library.find("lonely"));
  EXPECT_EQ(engine.usage().modules, 0U);
  EXPECT_EQ(engine.usage().symbols, 0U);
  EXPECT_TRUE(expect(library.modules()).empty());
  Module kept = add(plain, returns("ordinary", 2));
  expect(engine.collect());
  EXPECT_TRUE(kept.linked()) << "modules of other libraries are not collected";
}

TEST_F(Collector, WhatWasCommittedStaysForItsHandle) {
  auto committed = std::make_unique<Committed>(hold(library, returns("fresh", 1), returns("other", 2)));
  expect(engine.collect());
  EXPECT_EQ(function<int()>(library, "fresh")(), 1);
  Function<int()> fresh = expect(library.function<int()>("fresh"));
  committed.reset();
  expect(engine.collect());
  EXPECT_FALSE(library.find("other"));
  EXPECT_TRUE(library.find("fresh"));
  EXPECT_EQ(fresh(), 1);
}

TEST_F(Collector, AFunctionKeepsWhatItCallsAndWhatThatCalls) {
  std::optional<Committed> committed = hold(library, compile_c("int leaf(void) { return 20; }"),
                                            compile_c("int leaf(void); int root(void) { return leaf() + 1; }"));
  const std::uint64_t both = engine.usage().live;
  auto handle = std::make_unique<Function<int()>>(expect(library.function<int()>("root")));
  committed.reset();
  expect(engine.collect());
  EXPECT_EQ(engine.usage().live, both);
  EXPECT_EQ((*handle)(), 21);
  Function<int()> copy = *handle;
  handle.reset();
  expect(engine.collect());
  EXPECT_EQ(copy(), 21);
  EXPECT_TRUE(library.find("leaf"));
  copy = expect(library.function<int()>("leaf"));
  EXPECT_TRUE(settles_alone(both - 1));
  EXPECT_FALSE(library.find("root"));
  EXPECT_EQ(copy(), 20);
}

TEST_F(Collector, VariablesAndWholeModulesAreKept) {
  std::optional<Committed> committed = hold(library, compile_c("int counter = 7;"), compile_c("int silent = 8;"));
  std::optional<Kept> counter = expect(library.keep("counter"));
  std::optional<Kept> silent = expect(library.keep(committed->modules()[1]));
  EXPECT_EQ(silent->address(), Addr{});
  EXPECT_EQ(library.keep("nothing").error().code, ErrorCode::undefined);
  EXPECT_EQ(plain.keep(committed->modules()[1]).error().code, ErrorCode::invalid_argument);
  Module module = committed->modules()[1];
  committed.reset();
  expect(engine.collect());
  EXPECT_EQ(*counter->address().as<int*>(), 7);
  EXPECT_TRUE(module.linked());
  silent.reset();
  expect(engine.collect());
  EXPECT_FALSE(module.linked());
  EXPECT_EQ(library.keep(module).error().code, ErrorCode::undefined);
  counter.reset();
  EXPECT_TRUE(settles());
}

TEST_F(Collector, CyclesGo) {
  for (unsigned count : {1U, 2U, 1000U}) {
    std::optional<Committed> all = ring(count);
    const std::uint64_t live = engine.usage().live;
    Function<int(int)> one = expect(library.function<int(int)>(name_of(0)));
    all.reset();
    expect(engine.collect());
    EXPECT_EQ(engine.usage().live, live) << "one handle keeps the ring";
    EXPECT_EQ(one(int(count)), 2) << "once around";
    one = Function<int(int)>(nullptr, nullptr);
    EXPECT_TRUE(settles()) << count;
    EXPECT_EQ(engine.usage().modules, 0U);
    EXPECT_EQ(engine.usage().symbols, 0U);
  }
}

// A forward reference closes the ring, since what one change adds to two libraries is not bound to each other.
TEST_F(Collector, CyclesAcrossLibrariesGo) {
  Library other = expect(engine.library("other", {.collected = true}));
  expect(other.search({Source::library(library)}));
  expect(library.search({Source::library(other)}));
  for (unsigned half : {1U, 500U}) {
    ModuleOptions forward;
    forward.forward = {name_of(half)};
    Change first = engine.change(), second = engine.change(), last = engine.change();
    for (unsigned i = 0; i < half; ++i) {
      first.add(library, numbered(i, i + 1), i + 1 == half ? forward : ModuleOptions());
      second.add(other, numbered(half + 1 + i, i + 1 == half ? 0 : half + 2 + i));
    }
    last.add(library, numbered(half, half + 1));
    std::vector<Committed> all;
    for (Change* change : {&first, &second, &last}) all.push_back(expect(try_commit(std::move(*change))));
    Function<int(int)> one = expect(other.function<int(int)>(name_of(2 * half)));
    all.clear();
    expect(engine.collect());
    EXPECT_EQ(engine.usage().modules, 2 * half + 1);
    EXPECT_EQ(one(2 * int(half) + 1), 2) << "once around";
    one = Function<int(int)>(nullptr, nullptr);
    while (engine.usage().modules != 0) expect(engine.collect());
    EXPECT_FALSE(library.find(name_of(half))) << "the forward symbol, open again";
    expect(library.close());
    library = expect(engine.library("garbage", {.collected = true}));
    expect(library.search({Source::library(other)}));
    expect(other.search({Source::library(library)}));
  }
}

TEST_F(Collector, ACycleWithAHandleInTheMiddleStaysAndItsTailGoes) {
  std::optional<Committed> all = ring(600); // more than are swept at once
  Change change = engine.change();
  for (unsigned i = 600; i < 1200; ++i) change.add(library, numbered(i, i - 1));
  std::optional<Committed> tail = expect(try_commit(std::move(change)));
  Function<int(int)> middle = expect(library.function<int(int)>(name_of(300)));
  all.reset();
  tail.reset();
  while (engine.usage().modules > 600) expect(engine.collect());
  EXPECT_EQ(middle(600), 2);
  EXPECT_FALSE(library.find(name_of(700)));
  EXPECT_TRUE(library.find(name_of(599)));
  middle = Function<int(int)>(nullptr, nullptr);
  EXPECT_TRUE(settles());
}

TEST_F(Collector, OrdinaryModulesKeepWhatTheyReferTo) {
  std::optional<Committed> committed = hold(library, compile_c("int f(void) { return 3; } int g = 4;"));
  Module user = add(plain, compile_c("int f(void); extern int g; int user(void) { return f() + g; }"));
  committed.reset();
  expect(engine.collect());
  EXPECT_EQ(function<int()>(plain, "user")(), 7);
  EXPECT_TRUE(library.find("f"));
  expect(try_remove(engine, {user}));
  EXPECT_TRUE(settles_alone());
  EXPECT_FALSE(library.find("f"));
}

TEST_F(Collector, ReleasedCodeKeepsWhatItRefersTo) {
  std::optional<Committed> committed = hold(library, compile_c("int f(void) { return 3; }"));
  Change change = engine.change();
  change.add(plain, compile_c("int f(void); int user(void) { return f() + 1; }"));
  std::optional<Code> code = expect(expect(expect(expect(std::move(change).draft()).place()).link()).release());
  committed.reset();
  expect(engine.collect());
  EXPECT_EQ((*code->find("user")).as<int (*)()>()(), 4);
  EXPECT_TRUE(library.find("f"));
  code.reset();
  EXPECT_TRUE(settles());
}

TEST_F(Collector, WhatOnlyTheDeadReferToCanBeRemoved) {
  Module base = add(plain, returns("base", 1));
  expect(library.search({Source::library(plain), Source::process()}));
  std::optional<Committed> user = hold(library, compile_c("int base(void); int user(void) { return base(); }"));
  EXPECT_EQ(try_remove(engine, {base}).error().code, ErrorCode::still_used);
  user.reset();
  EXPECT_TRUE(try_remove(engine, {base})) << "without collecting first";
  EXPECT_TRUE(settles());
}

std::string noting(const std::string& name, char letter, const std::string& more) {
  return "extern \"C\" void collector_test_note(int); " + more + " extern \"C\" int " + name +
         "() { return 1; } namespace { struct Note { ~Note() { collector_test_note('" + letter + "'); } } note; }";
}

TEST_F(Collector, FinalizersRunOnceUsersFirst) {
  {
    Committed base = hold(library, compile_cpp(noting("base", 'b', "")));
    Committed middle =
        hold(library, compile_cpp(noting("middle", 'm', "extern \"C\" int base(); int m() { return base(); }")));
    Committed top =
        hold(library, compile_cpp(noting("top", 't', "extern \"C\" int middle(); int t() { return middle(); }")));
    expect(engine.collect());
    EXPECT_EQ(ended, "");
  }
  EXPECT_TRUE(settles());
  EXPECT_EQ(ended, "tmb");
  expect(engine.collect());
  engine = make_engine();
  EXPECT_EQ(ended, "tmb");
}

TEST_F(Collector, AThreadInsideDelaysTheMemoryOnly) {
  std::optional<Committed> committed =
      hold(library, compile_c("void collector_test_sleep(void); int work(void) { collector_test_sleep(); return 9; }"));
  auto* work = function<int()>(library, "work");
  std::atomic<int> result{0};
  std::thread thread([&] { result = work(); });
  while (entered == 0) usleep(100);
  Module module = committed->modules()[0];
  committed.reset();
  expect(engine.collect());
  EXPECT_FALSE(module.linked());
  EXPECT_FALSE(library.find("work"));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_NE(engine.usage().live, 0U);
  gate = 1;
  thread.join();
  EXPECT_EQ(result, 9);
  EXPECT_TRUE(settles_alone());
}

TEST_F(Collector, ForwardReferencesCountOnceTheyAreDefined) {
  ModuleOptions options;
  options.forward = {"later"};
  Change change = engine.change();
  change.add(library, compile_c("int later(void); int early(void) { return later() + 1; }"), options);
  std::optional<Committed> early = expect(try_commit(std::move(change)));
  add(library, returns("later", 5)); // nothing but the forward reference keeps it
  expect(engine.collect());
  EXPECT_EQ(function<int()>(library, "early")(), 6);
  early.reset();
  while (library.find("later")) expect(engine.collect());
  EXPECT_FALSE(library.find("early"));
  // The declaration has outlived both. A new definition fills it.
  std::optional<Committed> again = hold(library, returns("later", 7));
  EXPECT_EQ(function<int()>(library, "later")(), 7);
}

TEST_F(Collector, AReplacedModuleKeepsWhatItsNewVersionRefersTo) {
  Library live = expect(engine.library("live", {.replaceable = true, .collected = true}));
  std::optional<Committed> one = hold(live, returns("one", 1));
  std::optional<Committed> two = hold(live, returns("two", 2));
  std::optional<Committed> user = hold(live, compile_c("int one(void); int user(void) { return one(); }"));
  Module user_module = user->modules()[0];
  Function<int()> handle = expect(live.function<int()>("user"));
  user.reset();
  one.reset();
  expect(engine.collect());
  EXPECT_EQ(handle(), 1);
  Change change = engine.change();
  change.replace(user_module, compile_c("int two(void); int user(void) { return two(); }"));
  expect(try_commit(std::move(change)));
  two.reset();
  while (live.find("one")) expect(engine.collect());
  EXPECT_EQ(handle(), 2);
  EXPECT_TRUE(live.find("two"));
  handle = Function<int()>(nullptr, nullptr);
  EXPECT_TRUE(settles());
  Change late = engine.change();
  late.replace(user_module, returns("user", 3));
  EXPECT_FALSE(try_commit(std::move(late))) << "it is gone";
}

TEST_F(Collector, AnAnonymousLibraryLastsAsLongAsItsModules) {
  std::optional<Library> unnamed = expect(engine.library({}, {.collected = true}));
  std::optional<Committed> committed = hold(*unnamed, compile_cpp(noting("f", 'f', "")));
  Function<int()> f = expect(unnamed->function<int()>("f"));
  committed.reset();
  unnamed.reset();
  expect(engine.collect());
  EXPECT_EQ(f(), 1);
  EXPECT_EQ(ended, "") << "the module is alive, not only its memory";
  f = Function<int()>(nullptr, nullptr);
  EXPECT_TRUE(settles_alone());
  EXPECT_EQ(ended, "f");
}

TEST_F(Collector, ClosingALibraryEndsWhatHandlesKeep) {
  std::optional<Committed> committed = hold(library, compile_cpp(noting("f", 'f', "")));
  Function<int()> f = expect(library.function<int()>("f"));
  expect(library.close());
  EXPECT_EQ(ended, "f");
  EXPECT_EQ(f(), 1) << "its memory stays";
  committed.reset();
  f = Function<int()>(nullptr, nullptr);
  EXPECT_TRUE(settles());
}

TEST_F(Collector, AHandleOutlivesItsEngine) {
  std::optional<Function<int()>> f;
  {
    Engine own = make_engine();
    Library garbage = expect(own.library("garbage", {.collected = true}));
    Committed committed = commit(own, garbage, std::vector<Object>{compile_cpp(noting("f", 'f', ""))});
    f = expect(garbage.function<int()>("f"));
  }
  EXPECT_EQ((*f)(), 1);
  EXPECT_EQ(ended, "");
  f.reset();
  EXPECT_EQ(ended, "f");
}

TEST_F(Collector, AChildOfForkCollects) {
  std::optional<Committed> all = ring(300);
  expect(engine.collect());
  pid_t child = fork();
  if (child == 0) {
    all.reset();
    bool gone = settles();
    _exit(gone && !library.find(name_of(0)) ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(library.find(name_of(0)));
  EXPECT_EQ(function<int(int)>(library, name_of(0))(300), 2);
}

TEST_F(Collector, ALibraryIsOneKindOnly) {
  EXPECT_EQ(engine.library("garbage").error().code, ErrorCode::invalid_argument);
  EXPECT_TRUE(engine.library("garbage", {.collected = true}));
}

// Threads take and drop handles on a ring and on a chain that hangs off it, others link modules to it, one collects without
// pause: whoever has a handle, or was linked, reaches all that it refers to.
TEST_F(Collector, HandlesAndCommitsRaceWithTheCollector) {
  constexpr unsigned count = 40;
  const auto seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::atomic<bool> stop{false};
  std::atomic<int> calls{0}, absent{0}, linked{0}, refused{0}, wrong{0};
  auto make = [&] {
    Change change = engine.change();
    for (unsigned i = 0; i < count; ++i) change.add(library, numbered(i, (i + 1) % count));
    return try_commit(std::move(change));
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(seed + t);
      std::vector<Function<int(int)>> held;
      while (!stop) {
        auto handle = library.function<int(int)>(name_of(random() % count));
        if (handle) {
          if ((*handle)(int(count) + 3) < 1) ++wrong; // all the way around
          ++calls;
          held.push_back(std::move(*handle));
        } else {
          ++absent;
        }
        if (held.size() > 3 || random() % 4 == 0) held.clear();
        if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
      }
    });
  threads.emplace_back([&] { // modules that refer to the ring from outside
    std::mt19937 random(seed + 10);
    std::optional<Module> user;
    while (!stop) {
      Change change = engine.change();
      change.add(plain, numbered(1000, random() % count));
      if (auto made = try_commit(std::move(change))) {
        ++linked;
        if (function<int(int)>(plain, name_of(1000))(int(count) + 5) < 1) ++wrong;
        if (!try_remove(engine, {made->modules()[0]})) ++wrong;
      } else {
        ++refused;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    }
  });
  threads.emplace_back([&] {
    while (!stop) expect(engine.collect());
  });
  int rings = 0;
  const auto end = std::chrono::steady_clock::now() + milliseconds(3000);
  while (std::chrono::steady_clock::now() < end || calls == 0 || absent == 0 || linked == 0 || rings <= 1) {
    Result<Committed> made = make();
    // The names of the dead are free at once; those of the living are taken.
    if (made)
      ++rings;
    else if (made.error().code != ErrorCode::duplicate && made.error().code != ErrorCode::conflict)
      ++wrong;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(calls, 0);
  EXPECT_GT(absent, 0);
  EXPECT_GT(linked, 0);
  EXPECT_GT(rings, 1);
  std::printf("rings %d, calls %d, absent %d, linked %d, refused %d\n", rings, calls.load(), absent.load(), linked.load(),
              refused.load());
  EXPECT_TRUE(settles());
  EXPECT_EQ(engine.usage().symbols, 0U);
}

} // namespace
} // namespace tenon::test

// What old code may still call stays: other old versions, places that code was moved away from, removed modules, modules
// that would be collected. Most of these threads leave one piece of old code by a tail call, so that no return address tells
// where they came from.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <array>
#include <atomic>
#include <optional>

#include <unistd.h>

namespace {
std::array<std::atomic<int>, 8> doors, waiting;
std::atomic<int> ends{0};
} // namespace

extern "C" {
// Sleeps until the test opens the door.
__attribute__((visibility("default"))) void old_code_wait(int door) {
  ++waiting[std::size_t(door)];
  while (doors[std::size_t(door)].load() == 0) usleep(200);
}
// Goes back to the caller of who has called it, where nothing comes behind that call.
__attribute__((visibility("default"), naked)) void old_code_wait_and_leave() {
  asm("sub $8, %rsp\n mov $2, %edi\n call old_code_wait\n add $24, %rsp\n ret");
}
__attribute__((visibility("default"))) void old_code_end() { ++ends; }
}

namespace tenon::test {
namespace {

const char* const optimized = "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline";
const char* const plain = "-O0 -fPIC -ffunction-sections -fdata-sections";
const char* const in_one_section = "-O0 -fPIC";

std::string waits(const std::string& declarations, const std::string& name, int door, const std::string& then) {
  return "void old_code_wait(int); " + declarations + " int " + name + "(void) { old_code_wait(" + std::to_string(door) +
         "); " + then + " }\n";
}

// The same as a tail call whose displacement can be changed by one store.
std::string jumps(const std::string& name, int door, const std::string& to) {
  return ".section .text." + name + ",\"ax\",@progbits\n.p2align 4\n.globl " + name + "\n.type " + name + ",@function\n" +
         name + ":\n sub $8,%rsp\n mov $" + std::to_string(door) +
         ",%edi\n call old_code_wait@PLT\n add $8,%rsp\n .p2align 3\n nop\n nop\n nop\n jmp " + to + "\n.size " + name +
         ",.-" + name + "\n";
}
std::string returns_after(const std::string& name, int door, int value) {
  return ".section .text." + name + ",\"ax\",@progbits\n.p2align 4\n.type " + name + ",@function\n" + name +
         ":\n sub $8,%rsp\n mov $" + std::to_string(door) + ",%edi\n call old_code_wait@PLT\n mov $" +
         std::to_string(value) + ",%eax\n add $8,%rsp\n ret\n.size " + name + ",.-" + name + "\n";
}

struct OldCode : ReplaceFixture {
  ModuleOptions opaque = [] {
    ModuleOptions options;
    options.opaque = true;
    return options;
  }();

  OldCode() {
    for (auto& door : doors) door = 0;
    for (auto& count : waiting) count = 0;
    ends = 0;
  }
  static void await(int door) {
    while (waiting[std::size_t(door)].load() == 0) usleep(200);
    usleep(5000); // asleep
  }
  // A thread that sleeps at door 0, in the function that it has called.
  class Caller {
  public:
    Caller(OldCode& test, int (*function)()) : test_(test), thread_([this, function] { result_ = function(); }) { await(0); }
    // It returns.
    int leaves(int door = 0) {
      doors[std::size_t(door)] = 1;
      thread_.join();
      return result_;
    }
    // It jumps to that one, sleeps there at door 1, and returns.
    int goes_on_to(const std::string& function) {
      test_.collect_for();
      doors[0] = 1;
      await(1);
      test_.collect_for();
      EXPECT_TRUE(test_.is_seen_in(function));
      return leaves(1);
    }

  private:
    OldCode& test_;
    int result_ = 0;
    std::thread thread_;
  };
  // Frees all that the engine takes to be free.
  void collect_for(int times = 30) {
    for (int i = 0; i < times; ++i) {
      (void)expect(engine.collect());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // Whether a thread is seen inside of it. (One that is awake just now can't be looked at.)
  bool is_seen_in(const std::string& function) {
    for (int i = 0; i < 1000; ++i) {
      for (const Delay& delay : expect(engine.collect()))
        if (delay.inside && delay.function == function) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  void functions(const Module& module, Object object, Switch how = Switch::each) {
    Change change = engine.change();
    change.replace_functions(module, std::move(object), {}, {}, opaque);
    finish(std::move(change), how);
  }
  void remove(std::vector<Module> modules) {
    Change change = engine.change();
    for (Module& module : modules) change.remove(std::move(module));
    expect(try_commit(std::move(change)));
  }
  void finish(Change change, Switch how) {
    Draft draft = expect(std::move(change).draft());
    Placed placed = expect(std::move(draft).place());
    Linked linked = expect(std::move(placed).link());
    expect(std::move(linked).commit(Initialize::run, how));
  }
};

// One function waits at door 0 and then jumps to another, which waits at door 1.
TEST_F(OldCode, ARemovedModuleWaitsForThreadsInThoseThatCallIt) {
  Library ordinary = expect(engine.library("ordinary"));
  const std::uint64_t before = engine.usage().live;
  Committed both = commit(engine, ordinary,
                          {compile_c(waits("int callee(void);", "caller", 0, "return callee();"), optimized),
                           compile_c(waits("", "callee", 1, "return 7;"), optimized)});
  Caller caller(*this, function<int()>(ordinary, "caller"));
  remove({both.modules()[0], both.modules()[1]});
  EXPECT_EQ(caller.goes_on_to("callee"), 7);
  for (int i = 0; i < 5000 && engine.usage().live > before; ++i) collect_for(1);
  EXPECT_LE(engine.usage().live, before);
}

// A return address may be the first byte behind the code: of a call that never returns, at its very end.
TEST_F(OldCode, WhoIsInTheLastInstructionIsNamed) {
  auto text = [](const std::string& body) {
    return assemble(".section .text.last,\"ax\",@progbits\n.p2align 4\n.globl last\n.type last,@function\nlast:\n" + body +
                    "\n.size last,.-last\n");
  };
  const auto host = std::to_string(reinterpret_cast<std::uint64_t>(&old_code_wait_and_leave));
  Module m = commit(engine, library, text("movabs $" + host + ",%rax\n sub $8,%rsp\n call *%rax")); // 16 bytes
  auto* last = get<void()>("last");
  std::thread thread([&] { last(); });
  await(2);
  replace(m, text("ret"));
  EXPECT_TRUE(is_seen_in("last"));
  doors[2] = 1;
  thread.join();
  settle();
}

TEST_F(OldCode, AVersionWaitsForThreadsWhereItsCodeWasBeforeItWasMoved) {
  // `later` is local: who was compiled with it goes on calling that one.
  auto text = [](int n) { return assemble(returns_after("later", 1, n) + jumps("work", 0, "later")); };
  Module m = commit(engine, library, text(1));
  auto* work = get<int()>("work");
  Caller caller(*this, work);
  expect(engine.move(m, "work"));
  replace(m, text(2));
  EXPECT_EQ(caller.goes_on_to("later"), 1);
  settle();
}

// `first` stands in a fragment and sleeps there; `second`, of its set, is in a section that others need, too.
TEST_F(OldCode, AnOldMemberOfASetIsFollowedToWhereItIsMoved) {
  Module m = commit(engine, library,
                    compile_c("int second(void) { return 2; } int first(void) { return 0; } int other(void) { return 3; }",
                              in_one_section),
                    opaque);
  functions(m, compile_c(waits("int second(void);", "first", 0, "return second();"), plain));
  auto* first = get<int()>("first");
  Caller caller(*this, first);
  functions(m, compile_c("int first(void) { return 10; } int second(void) { return 20; }", plain), Switch::atomic);
  const auto left = [&](std::uint64_t versions) {
    for (int i = 0; i < 5000 && engine.usage().superseded != versions; ++i) collect_for(1);
    return engine.usage().superseded;
  };
  ASSERT_EQ(left(1U), 1U) << "what the thread is in";
  expect(engine.move(m));
  EXPECT_EQ(left(1U), 1U) << "nobody is where the code was";
  EXPECT_EQ(caller.leaves(), 2) << "members of the old set keep calling each other";
  EXPECT_EQ(first(), 10);
  settle();
}

TEST_F(OldCode, AVersionWithAnOldMemberOfASetWaitsForTheOthers) {
  Module m =
      commit(engine, library,
             compile_c(waits("", "second", 1, "return 2;") + "int first(void) { return 0; } int other(void) { return 3; }",
                       in_one_section),
             opaque);
  functions(m, assemble(jumps("first", 0, "second")));
  auto* first = get<int()>("first");
  Caller caller(*this, first);
  functions(m, compile_c("int first(void) { return 10; } int second(void) { return 20; }", plain), Switch::atomic);
  collect_for(5);
  replace(m, compile_c("int first(void) { return 100; } int second(void) { return 200; } int other(void) { return 300; }",
                       in_one_section));
  EXPECT_EQ(caller.goes_on_to("second"), 2);
  settle();
}

// What was replaced singly is gone; what vanishes later is left to old frames.
TEST_F(OldCode, AVanishedFunctionWhoseFirstBodyIsGoneIsCalledInItsFragment) {
  Module m = commit(engine, library,
                    compile_c("int g(void) { return 1; } " + waits("int g(void);", "f", 0, "return g();"), plain), opaque);
  auto* f = get<int()>("f");
  functions(m, compile_c(waits("", "g", 1, "return 2;"), plain));
  settle();
  Caller caller(*this, f);
  replace(m, compile_c("int f(void) { return 30; }", plain));
  EXPECT_EQ(caller.goes_on_to("g"), 2);
  EXPECT_EQ(f(), 30);
  settle();
}

// `gone` vanishes, but the program has a pointer to it: its version stays, and what that calls must.
TEST_F(OldCode, AVersionThatStaysOfASetCallsNoneThatGoes) {
  Change change = engine.change();
  const ModuleId a = change.add(library, compile_c("int b(void); int gone(void) { return b(); } "
                                                   "int (*take(void))(void) { return gone; }",
                                                   optimized));
  const ModuleId b = change.add(library, compile_c("int b(void) { return 1; }", optimized));
  const Committed committed = expect(try_commit(std::move(change)));
  int (*gone)() = get<int (*())()>("take")();
  Change set = engine.change();
  set.replace(committed.module(a), compile_c("int (*take(void))(void) { return 0; }", optimized));
  set.replace(committed.module(b), compile_c("int b(void) { return 2; }", optimized));
  finish(std::move(set), Switch::atomic);
  for (int i = 0; i < 5000 && engine.usage().superseded > 1; ++i) collect_for(1);
  EXPECT_EQ(engine.usage().superseded, 1U);
  EXPECT_EQ(gone(), 2) << "it follows what it calls";
  remove({committed.module(a), committed.module(b)});
  settle();
}

TEST_F(OldCode, AVersionThatStaysIsWaitedForWhenItsModuleGoes) {
  const std::uint64_t before = engine.usage().live;
  Module m = commit(engine, library,
                    compile_c(waits("", "gone", 0, "return 5;") + "int (*take(void))(void) { return gone; }", optimized));
  int (*gone)() = get<int (*())()>("take")();
  replace(m, compile_c("int (*take(void))(void) { return 0; }", optimized));
  collect_for();
  Caller caller(*this, gone);
  remove({m});
  collect_for();
  EXPECT_TRUE(is_seen_in("gone"));
  EXPECT_EQ(caller.leaves(), 5);
  settle();
  for (int i = 0; i < 5000 && engine.usage().live > before; ++i) collect_for(1);
  EXPECT_LE(engine.usage().live, before);
}

// A function that stands in a section bounded by __start_ and __stop_ symbols can be reached by walking the run.
TEST_F(OldCode, AFunctionInARunOfSectionsStays) {
  Module m = commit(engine, library, assemble(R"(
      .section hooks,"ax",@progbits
      .p2align 6
      .globl hook
      .type hook,@function
    hook:
      mov $1,%eax
      ret
      .size hook,.-hook
      .p2align 6
      .section .text.walk,"ax",@progbits
      .p2align 6
      .globl walk
      .type walk,@function
    walk:
      mov bounds(%rip),%rax
      jmp *%rax
      .size walk,.-walk
      .section .data.rel.ro.bounds,"aw",@progbits
      .p2align 3
      .type bounds,@object
    bounds:
      .quad __start_hooks
      .size bounds,8
      .section .text.other,"ax",@progbits
      .p2align 6
      .globl other
      .type other,@function
    other:
      ret
      .size other,.-other
  )"),
                    opaque);
  auto* walk = get<int()>("walk");
  EXPECT_EQ(walk(), 1);
  functions(m, compile_c("int hook(void) { return 2; }", plain));
  settle();
  EXPECT_EQ(get<int()>("hook")(), 2);
  EXPECT_EQ(walk(), 1) << "what stands in the run is there still";
}

struct OldCodeOfCollected : OldCode {
  Library garbage = expect(engine.library("garbage", {.collected = true}));

  OldCodeOfCollected() { expect(library.search({Source::library(garbage), Source::process()})); }
  // A module whose end is counted, and a handle that keeps it for now.
  Committed add_garbage() {
    return commit(engine, garbage,
                  std::vector{compile_c("void old_code_end(void); int one(void) { return 1; } "
                                        "__attribute__((destructor)) static void end(void) { old_code_end(); }",
                                        optimized)});
  }
  bool is_collected() {
    for (int i = 0; i < 3000 && ends == 0; ++i) collect_for(1);
    return ends == 1 && !garbage.find("one");
  }
};

TEST_F(OldCodeOfCollected, AFrameKeepsWhatItsVersionRefersTo) {
  for (const bool collected : {false, true}) {
    ends = waiting[0] = doors[0] = 0;
    Library users = collected ? expect(engine.library("users", {.replaceable = true, .collected = true})) : library;
    expect(users.search({Source::library(garbage), Source::process()}));
    std::optional<Committed> one = add_garbage();
    Committed committed =
        commit(engine, users, std::vector{compile_c(waits("int one(void);", "user", 0, "return one();"), optimized)});
    one.reset();
    auto* user = function<int()>(users, "user");
    Caller caller(*this, user);
    replace(committed.modules()[0], compile_c("int user(void) { return 2; }", optimized));
    collect_for();
    EXPECT_EQ(ends, 0) << "the frame will call it";
    EXPECT_TRUE(garbage.find("one"));
    EXPECT_EQ(caller.leaves(), 1);
    EXPECT_TRUE(is_collected());
    remove({committed.modules()[0]});
  }
}

TEST_F(OldCodeOfCollected, AVersionThatStaysKeepsWhatItRefersTo) {
  for (const bool by_handle : {false, true}) {
    ends = 0;
    std::optional<Committed> one = add_garbage();
    Module m = commit(engine, library,
                      compile_c("int one(void); int gone(void) { return one(); }" +
                                    std::string(by_handle ? "int take;" : "int (*take(void))(void) { return gone; }"),
                                optimized));
    one.reset();
    std::optional<Function<int()>> handle;
    if (by_handle) handle = expect(library.function<int()>("gone"));
    int (*gone)() = by_handle ? nullptr : get<int (*())()>("take")();
    replace(m, compile_c(by_handle ? "int take;" : "int (*take(void))(void) { return 0; }", optimized));
    collect_for();
    EXPECT_EQ(ends, 0) << "it can still be called";
    EXPECT_EQ(by_handle ? (*handle)() : gone(), 1);
    handle.reset();
    remove({m});
    EXPECT_TRUE(is_collected());
  }
}

} // namespace
} // namespace tenon::test

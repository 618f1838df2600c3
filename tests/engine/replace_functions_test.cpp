// Single functions of a module are replaced while the rest stays.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Not optimized: functions know nothing of each other, so that saying so (`opaque`) is right.
const char* const plain = "-O0 -fPIC -ffunction-sections -fdata-sections";

struct ReplaceFunctions : ReplaceFixture {
  static Object c(const std::string& text) { return compile_c(text, plain); }
  static Object cpp(const std::string& text) { return compile_cpp(text, plain); }

  ModuleOptions opaque = [] {
    ModuleOptions options;
    options.opaque = true;
    return options;
  }();

  Module add(Object object) { return commit(engine, library, std::move(object), opaque); }
  Result<Committed> try_functions(const Module& module, Object object, std::vector<std::string> names = {},
                                  Switch how = Switch::each) {
    Change change = engine.change();
    change.replace_functions(module, std::move(object), std::move(names), {}, opaque);
    return try_commit(std::move(change), Initialize::run, how);
  }
  void functions(const Module& module, Object object, std::vector<std::string> names = {}, Switch how = Switch::each) {
    expect(try_functions(module, std::move(object), std::move(names), how));
  }
};

TEST_F(ReplaceFunctions, TheRestOfTheModuleStays) {
  Module m = add(c("int f(void) { return 1; } int g(void) { return 10; } int both(void) { return f() + g(); }"));
  int (*f)() = get<int()>("f");
  int (*both)() = get<int()>("both");
  for (int i = 2; i < 8; ++i) {
    functions(m, c("int f(void) { return " + std::to_string(i) + "; }"));
    EXPECT_EQ(f(), i);
    EXPECT_EQ(both(), i + 10);
    EXPECT_EQ(get<int()>("f"), f) << "one address for good";
  }
  functions(m, c("int g(void) { return 20; }"));
  EXPECT_EQ(both(), 27);
}

TEST_F(ReplaceFunctions, OptimizedByGccWithTheFlagsThatTheManualNames) {
  const std::string flags = "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline -flive-patching=inline-only-static";
  auto text = [](int v) {
    const std::string n = std::to_string(v);
    return "static int s(void) { return " + n + "; } extern \"C\" int f(void) { return " + n +
           " + s(); }"
           "extern \"C\" int both(void) { return f() * 100 + s(); }";
  };
  Module m = add(compile_gcc(text(1), flags));
  EXPECT_EQ(get<int()>("both")(), 201);
  functions(m, compile_gcc(text(5), flags), {"f"});
  EXPECT_EQ(get<int()>("both")(), 601) << "new f, old s";
  functions(m, compile_gcc(text(7), flags), {"_ZL1sv"});
  EXPECT_EQ(get<int()>("both")(), 1207);
}

TEST_F(ReplaceFunctions, WhatIsLocalToTheModuleIsSeen) {
  Module m = add(c("static int count = 5; static int helper(int x) { return x * 2; } static const char* name = \"m\";"
                   "int f(int x) { ++count; return helper(x) + (name[0] == 'm'); } int counted(void) { return count; }"));
  EXPECT_EQ(get<int(int)>("f")(10), 21);
  // An object that was made of the function alone names the rest as undefined.
  functions(m, c("extern int count; extern int helper(int); int f(int x) { count += 100; return helper(x) + 1000; }"));
  EXPECT_EQ(get<int(int)>("f")(10), 1020);
  EXPECT_EQ(get<int()>("counted")(), 106);
  // A local function is replaced, too, whatever the new one was compiled as.
  functions(m, c("int helper(int x) { return x * 3; }"));
  EXPECT_EQ(get<int(int)>("f")(10), 1030);
  EXPECT_FALSE(library.find("helper")) << "it is as local as before";
  functions(m, c("__attribute__((used)) static int helper(int x) { return x * 4; }"));
  EXPECT_EQ(get<int(int)>("f")(10), 1040);
}

TEST_F(ReplaceFunctions, NamedOnesAreTakenOutOfAWholeFile) {
  auto text = [](int v) {
    const std::string n = std::to_string(v);
    return "static int calls; static int helper(int x) { return x + " + n + "; }" +
           "int f(int x) { static int own = 0; ++own; ++calls; return helper(x) * 100 + own; }"
           "int g(int x) { ++calls; return helper(x) + " +
           n + "; } int count(void) { return calls; } const char* text(void) { return \"v" + n + "\"; }";
  };
  for (bool gcc : {false, true}) {
    Library own = expect(engine.library(gcc ? "gcc" : "clang", {.replaceable = true}));
    auto compile = [&](int v) { return gcc ? compile_gcc("extern \"C\" {" + text(v) + "}", plain) : c(text(v)); };
    auto get_own = [&](const char* name) { return function<int(int)>(own, name); };
    Module m = commit(engine, own, compile(1), opaque);
    EXPECT_EQ(get_own("f")(1), 201);
    functions(m, compile(2), {"f"});
    EXPECT_EQ(get_own("f")(1), 202) << "helper is the module's, own goes on counting";
    EXPECT_EQ(get_own("g")(1), 3);
    functions(m, compile(3), {"g"});
    EXPECT_EQ(get_own("g")(1), 5) << "new g, old helper";
    EXPECT_EQ(get_own("count")(0), 4);
    EXPECT_STREQ(function<const char*()>(own, "text")(), "v1");
    functions(m, compile(4), {"helper", "text"});
    EXPECT_EQ(get_own("g")(1), 8);
    EXPECT_EQ(get_own("f")(1), 503);
    EXPECT_STREQ(function<const char*()>(own, "text")(), "v4");
    EXPECT_EQ(get_own("count")(0), 6);
  }
}

TEST_F(ReplaceFunctions, WhatIsReplacedIsFreedOnItsOwn) {
  const std::string big = "__asm__ volatile(\".fill 4096,1,0x90\");";
  auto f = [&](int v) { return "int f(void) {" + big + "return " + std::to_string(v) + "; }"; };
  Module m = add(c(f(0) + "int g(void) {" + big + "return f(); }"));
  settle();
  const std::uint64_t before = engine.usage().live;
  std::uint64_t after_two = 0;
  for (int i = 1; i < 30; ++i) {
    functions(m, c(f(i)));
    EXPECT_EQ(get<int()>("g")(), i);
    settle();
    if (i == 2) after_two = engine.usage().live;
  }
  EXPECT_EQ(engine.usage().live, after_two);
  EXPECT_LT(engine.usage().live, before + 1024) << "the version's own f has gone";
  EXPECT_GT(engine.usage().live, before - 1024) << "and nothing else";
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(ReplaceFunctions, PartsThatBelongToAFunctionGoWithIt) {
  // A cold part that two functions jump to stays until both are gone.
  auto text = [](int v) {
    return std::string(".section .text.cold,\"ax\",@progbits\nshared_part: .fill 2048,1,0x90\nmov $") + std::to_string(v) +
           ",%eax\nret\n.section .text.f,\"ax\",@progbits\n.globl f\n.type f,@function\nf: jmp shared_part\n.size f,.-f\n"
           ".section .text.g,\"ax\",@progbits\n.globl g\n.type g,@function\ng: jmp shared_part\n.size g,.-g\n";
  };
  auto alone = [](const char* name, int v) {
    return ".section .text.x,\"ax\",@progbits\n.globl " + std::string(name) + "\n.type " + name + ",@function\n" + name +
           ": mov $" + std::to_string(v) + ",%eax\nret\n.size " + name + ",.-" + name + "\n";
  };
  Module m = add(assemble(text(7)));
  EXPECT_EQ(get<int()>("f")(), 7);
  const std::uint64_t before = engine.usage().live;
  functions(m, assemble(alone("f", 8)));
  settle();
  EXPECT_EQ(get<int()>("f")(), 8);
  EXPECT_EQ(get<int()>("g")(), 7);
  EXPECT_GT(engine.usage().live, before - 512);
  functions(m, assemble(alone("g", 9)));
  settle();
  EXPECT_EQ(get<int()>("g")(), 9);
  EXPECT_LT(engine.usage().live, before - 1500);
}

TEST_F(ReplaceFunctions, CodeThatDataPointsIntoStays) {
  const char* text =
      ".data\n.globl where\n.type where,@object\nwhere: .quad .Linside\n.size where,8\n"
      ".section .text.f,\"ax\",@progbits\n.globl f\n.type f,@function\nf: nop\n.Linside: mov $5,%eax\nret\n.size f,.-f\n";
  Module m = add(assemble(text));
  functions(m, c("int f(void) { return 6; }"));
  settle();
  EXPECT_EQ(get<int()>("f")(), 6);
  EXPECT_EQ((*address_of(library, "where").as<int (**)()>())(), 5);
}

TEST_F(ReplaceFunctions, ACodeThatWasNotMadeForItIsRefused) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int g(void) { return f(); }"));
  Result<Committed> refused = try_functions(m, c("int f(void) { return 2; }"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::needs_flag);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'f'"), HasSubstr("opaque")));
  EXPECT_EQ(get<int()>("g")(), 1);
}

TEST_F(ReplaceFunctions, WhatCantBeTakenOutSaysWhy) {
  Module m =
      add(c("static int small[2] = {1, 2}; int f(int i) { return small[i]; } int set(int v) { return small[0] = v; }"));
  auto refusal = [&](Object object, std::vector<std::string> names) {
    Result<Committed> refused = try_functions(m, std::move(object), std::move(names));
    return refused ? std::string("it was not refused") : refused.error().message;
  };
  EXPECT_THAT(refusal(c("int f(int i) { return i; }"), {"missing"}), HasSubstr("does not define the function 'missing'"));
  EXPECT_THAT(refusal(c("int other(int i) { return i; }"), {"other"}), HasSubstr("has no function 'other'"));
  EXPECT_THAT(
      refusal(compile_c("int f(int i) { return i; } int set(int v) { return v; }", "-O1 -fPIC -fno-function-sections"),
              {"f"}),
      HasSubstr("-ffunction-sections"));
  EXPECT_THAT(
      refusal(
          c("static int small[3] = {1, 2, 3}; int f(int i) { return small[i]; } int set(int v) { return small[0] = v; }"),
          {"f"}),
      AllOf(HasSubstr("'small'"), HasSubstr("12 bytes now and 8")));
  EXPECT_THAT(refusal(c("_Thread_local int fresh; int f(int i) { return fresh + i; }"), {}), HasSubstr("thread-local"));
  EXPECT_THAT(refusal(c("int f(int i) { return i; } __attribute__((destructor)) void end(void) {}"), {}),
              HasSubstr("finalizers"));
  EXPECT_EQ(get<int(int)>("f")(1), 2) << "nothing has happened";
}

TEST_F(ReplaceFunctions, TwoVersionsOfOneFunctionInAChangeAreRefused) {
  Module m = add(c("static int f(void) { return 1; } int g(void) { return f(); }"));
  Change change = engine.change();
  change.replace_functions(m, c("__attribute__((used)) static int f(void) { return 2; }"), {}, {}, opaque);
  change.replace_functions(m, c("__attribute__((used)) static int f(void) { return 3; }"), {}, {}, opaque);
  Result<Committed> refused = try_commit(std::move(change));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'f'"), HasSubstr("twice")));
  EXPECT_EQ(get<int()>("g")(), 1);
}

TEST_F(ReplaceFunctions, SeveralInOneChangeAndThenTheWholeModule) {
  Module m = add(c("int f(void) { return 1; } int g(void) { return 2; } int sum(void) { return f() + g(); }"));
  Change change = engine.change();
  change.replace_functions(m, c("int f(void) { return 10; }"), {}, {}, opaque);
  change.replace_functions(m, c("int g(void) { return 20; }"), {}, {}, opaque);
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int()>("sum")(), 30);
  replace(m, c("int f(void) { return 100; } int g(void) { return 200; } int sum(void) { return f() + g(); }"));
  EXPECT_EQ(get<int()>("sum")(), 300);
  settle();
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().modules, 0U);
}

TEST_F(ReplaceFunctions, WhatComesAlongIsTheModules) {
  Module m = add(c("int f(void) { return 1; }"));
  functions(
      m,
      c("int fresh = 7; static int calls; int helper(void) { return ++calls; } int f(void) { return fresh + helper(); }"));
  EXPECT_EQ(get<int()>("f")(), 8);
  EXPECT_EQ(*address_of(library, "fresh").as<int*>(), 7);
  commit(engine, library, c("int helper(void); int uses(void) { return helper() * 10; }"));
  EXPECT_EQ(get<int()>("uses")(), 20);
  functions(m, c("extern int fresh, calls; int helper(void) { return calls += 100; } "));
  EXPECT_EQ(get<int()>("uses")(), 1020);
  functions(m, c("extern int fresh; int helper(void); int f(void) { return fresh + helper(); }"));
  settle();
  EXPECT_EQ(get<int()>("f")(), 209) << "the variables have outlived what they came with";
  // A new version that lacks what others use is still refused.
  Result<Committed> refused = try_replace(m, c("int fresh; int f(void) { return 1; }"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("'helper'"));
}

TEST_F(ReplaceFunctions, AFragmentsReferencesKeepOtherModules) {
  Module other = commit(engine, library, c("int other(void) { return 3; }"));
  Module m = add(c("int f(void) { return 1; }"));
  functions(m, c("int other(void); int f(void) { return other(); }"));
  Result<void> refused = try_remove(engine, {other});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message, HasSubstr(m.name()));
  functions(m, c("int f(void) { return 4; }"));
  expect(try_remove(engine, {other}));
  EXPECT_EQ(get<int()>("f")(), 4);
}

TEST_F(ReplaceFunctions, LiteralsKeepOneIdentityAndAreNotPiledUp) {
  Module m = add(c("const char* f(void) { return \"one\"; }"));
  auto* f = get<const char*()>("f");
  const char* first = f();
  const char* texts[] = {"two", "one", "three"};
  std::vector<const char*> seen(3);
  std::uint64_t live = 0;
  for (int round = 0; round < 12; ++round) {
    functions(m, c("const char* f(void) { return \"" + std::string(texts[round % 3]) + "\"; }"));
    settle();
    EXPECT_STREQ(f(), texts[round % 3]);
    if (round >= 3) {
      EXPECT_EQ(f(), seen[round % 3]) << "the same literal, the same address";
    }
    seen[round % 3] = f();
    if (round == 3) live = engine.usage().live;
  }
  EXPECT_EQ(engine.usage().live, live);
  EXPECT_EQ(seen[1], first);
  EXPECT_STREQ(first, "one");
}

TEST_F(ReplaceFunctions, ExceptionsPassThroughOldAndNewCode) {
  auto thrower = [](int v) {
    return "#include <stdexcept>\nextern \"C\" int callback(int); extern \"C\" int thrower(int x) { try { if (x > 5) throw "
           "std::runtime_error(\"v" +
           std::to_string(v) + "\"); return callback(x); } catch (const std::logic_error&) { return -1; } }";
  };
  const std::string rest = "\nextern \"C\" int catcher(int x) { try { return thrower(x); } catch (const std::exception& e) "
                           "{ return e.what()[1]; } }"
                           "\nextern \"C\" int callback(int x) { if (x == 3) throw std::logic_error(\"l\"); return x; }";
  Module m = add(cpp(thrower(1) + rest));
  auto* catcher = get<int(int)>("catcher");
  EXPECT_EQ(catcher(9), '1');
  for (int v = 2; v < 6; ++v) {
    functions(m, cpp(thrower(v) + rest), {"thrower"});
    settle();
    EXPECT_EQ(catcher(9), '0' + v);
    EXPECT_EQ(catcher(3), -1);
    EXPECT_EQ(catcher(2), 2);
  }
}

TEST_F(ReplaceFunctions, ACoroutineEndsInTheFragmentInWhichItBegan) {
  const std::string flags = std::string(plain) + " -std=c++20";
  Module m = add(compile_cpp(coroutine_text(1), flags));
  auto* begin = get<void*(int)>("begin");
  auto* next = get<int(void*)>("next");
  std::vector<void*> begun;
  const int factors[] = {1, 10, 100, 1000};
  for (int factor : factors) {
    if (factor != 1) functions(m, compile_cpp(coroutine_text(factor), flags), {"_ZL5counti"});
    expect(engine.collect());
    begun.push_back(begin(2));
    for (std::size_t i = 0; i < begun.size(); ++i) EXPECT_EQ(next(begun[i]), 2 * factors[i] * int(begun.size() - i));
  }
  for (void* one : begun) get<void(void*)>("end")(one);
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(ReplaceFunctions, AtomicallyAsASet) {
  Module m = add(c("int f(void) { return 0; } int g(void) { return 0; } int both(void) { return f() * 1000 + g(); }"));
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0}, calls{0};
  auto* both = get<int()>("both");
  std::thread caller([&] {
    Border border = expect(engine.border("caller"));
    while (!stop.load(std::memory_order_relaxed)) {
      Border::Entry entry(border);
      const int seen = both();
      if (seen / 1000 != seen % 1000) wrong.fetch_add(1);
      calls.fetch_add(1, std::memory_order_relaxed);
    }
  });
  while (calls.load() == 0) std::this_thread::yield();
  for (int i = 1; i < 60; ++i) {
    const std::string v = std::to_string(i);
    functions(m, c("int f(void) { return " + v + "; } int g(void) { return " + v + "; }"), {}, Switch::atomic);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  stop = true;
  caller.join();
  EXPECT_EQ(wrong.load(), 0) << "of " << calls.load();
  EXPECT_GT(calls.load(), 0);
  EXPECT_EQ(both(), 59 * 1001);
  settle();
}

TEST_F(ReplaceFunctions, WhileThreadsRunThem) {
  std::string text = "static int helper(int x) { return x; }";
  for (int i = 0; i < 8; ++i)
    text += "int f" + std::to_string(i) + "(int x) { return helper(x) + " + std::to_string(i) + " * 1000; }";
  Module m = add(c(text));
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t)
    callers.emplace_back([&, t] {
      int (*f[8])(int);
      for (int i = 0; i < 8; ++i) f[i] = get<int(int)>(("f" + std::to_string(i)).c_str());
      for (long n = t; !stop.load(std::memory_order_relaxed); ++n) {
        const int r = f[n % 8](1);
        if (r / 1000 != n % 8 || r % 1000 < 1 || r % 1000 > 500) wrong.fetch_add(1);
      }
    });
  for (int round = 0; round < 200; ++round) {
    const std::string i = std::to_string(round % 9 % 8), v = std::to_string(round % 7);
    if (round % 9 == 8)
      functions(m, c("int helper(int x) { return x + " + v + "; }"));
    else
      functions(m, c("int helper(int); int f" + i + "(int x) { return helper(x) + " + v + " + " + i + " * 1000; }"));
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
  settle();
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(ReplaceFunctions, DifferentFunctionsByDifferentThreads) {
  Module m = add(c("int f0(void) { return 0; } int f1(void) { return 0; } int f2(void) { return 0; }"));
  std::vector<std::thread> writers;
  std::atomic<int> failed{0};
  for (int t = 0; t < 3; ++t)
    writers.emplace_back([&, t] {
      for (int v = 1; v <= 40; ++v)
        if (!try_functions(m, c("int f" + std::to_string(t) + "(void) { return " + std::to_string(v) + "; }")))
          failed.fetch_add(1);
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failed.load(), 0);
  EXPECT_EQ(get<int()>("f0")() + get<int()>("f1")() + get<int()>("f2")(), 120);
}

TEST_F(ReplaceFunctions, DroppedAtEveryStageNothingHasHappened) {
  Module m = add(c("static int s = 3; int f(void) { return s; }"));
  const EngineUsage before = engine.usage();
  for (int stage = 0; stage < 4; ++stage) {
    Change change = engine.change();
    change.replace_functions(m, c("extern int s; int fresh(void) { return 4; } int f(void) { return s + fresh(); }"), {}, {},
                             opaque);
    if (stage == 0) continue;
    Draft draft = expect(std::move(change).draft());
    if (stage == 1) continue;
    Placed placed = expect(std::move(draft).place());
    if (stage == 2) continue;
    Linked linked = expect(std::move(placed).link());
  }
  EXPECT_EQ(engine.usage().live, before.live);
  EXPECT_EQ(engine.usage().bookkeeping, before.bookkeeping);
  EXPECT_EQ(get<int()>("f")(), 3);
}

} // namespace
} // namespace tenon::test

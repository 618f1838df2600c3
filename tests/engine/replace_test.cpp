// Replacing modules while they are in use: functions, data, identity, what vanishes, what is refused.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/module_state.h"
#include "replace_support.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ModuleOptions named(const char* name) {
  ModuleOptions options;
  options.name = name;
  return options;
}

struct Replace : ReplaceFixture {};

TEST_F(Replace, CallersInAllModulesReachTheNewCode) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int inside(void) { return f() * 10; }"));
  commit(engine, library, c("int f(void); int outside(void) { return f() * 100; }"));
  int (*f)() = get<int()>("f");
  int (*inside)() = get<int()>("inside");
  int (*outside)() = get<int()>("outside");
  EXPECT_EQ(f() + inside() + outside(), 111);
  for (int i = 2; i < 20; ++i) {
    replace(m, c("int f(void) { return " + std::to_string(i) + "; } int inside(void) { return f() * 10; }"));
    EXPECT_EQ(f(), i);
    EXPECT_EQ(inside(), i * 10);
    EXPECT_EQ(outside(), i * 100);
    EXPECT_EQ(get<int()>("f"), f) << "one address for good";
    EXPECT_TRUE(m.linked());
  }
}

// Versions are many, and each goes over all chunks of records.
TEST_F(Replace, OnlyNewNamesBringRecords) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  const auto chunks = [&] { return m.state()->has_rare() ? m.state()->rare().more_records.size() : std::size_t(0); };
  for (int i = 2; i < 20; ++i) replace(m, c("int f(void) { return " + std::to_string(i) + "; }"));
  EXPECT_EQ(chunks(), 0U);
  for (int i = 2; i < 20; ++i)
    replace(m, c("int g(void); int f(void) { return g(); } int g(void) { return " + std::to_string(i) + "; }"));
  EXPECT_EQ(chunks(), 1U);
  EXPECT_EQ(get<int()>("f")(), 19);
}

TEST_F(Replace, DirectCallsCostNoStub) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  Object caller = assemble(".text\n.globl g\n.type g,@function\ng:\n nop\n nop\n nop\n call f@PLT\n ret\n.size g,.-g\n");
  commit(engine, library, caller);
  const auto* code = reinterpret_cast<const unsigned char*>(get<int()>("g"));
  // g's address is its stub: jmp *slot(%rip).
  ASSERT_EQ(code[0], 0xFF);
  ASSERT_EQ(code[1], 0x25);
}

TEST_F(Replace, StaticFunctionsAreMatchedByName) {
  auto text = [](int n) {
    return "static int helper(int x) { return x + " + std::to_string(n) +
           "; } static int (*volatile pointer)(int) = helper;"
           "int direct(int x) { return helper(x); } int through(int x) { return pointer(x); } void* address(void) { return "
           "(void*)helper; }";
  };
  Module m = commit(engine, library, c(text(1)));
  auto* direct = get<int(int)>("direct");
  auto* through = get<int(int)>("through");
  auto* address = get<void*()>("address");
  void* before = address();
  EXPECT_EQ(direct(1) + through(1), 4);
  replace(m, c(text(5)));
  EXPECT_EQ(direct(1), 6);
  EXPECT_EQ(through(1), 6) << "the pointer is kept, and leads to the new function";
  EXPECT_EQ(address(), before);
}

TEST_F(Replace, VariablesKeepTheirStorageAndValue) {
  auto text = [](int n) {
    return "int global = 7; static int module_local = 8; int counter(void) { static int calls; return ++calls; }"
           "int sum(void) { return global + ++module_local + " +
           std::to_string(n) + "; } int* where(void) { return &global; }";
  };
  Module m = commit(engine, library, c(text(0)));
  int* global = address_of(library, "global").as<int*>();
  *global = 100;
  EXPECT_EQ(get<int()>("sum")(), 109);
  EXPECT_EQ(get<int()>("counter")(), 1);
  replace(m, c(text(1000)));
  EXPECT_EQ(get<int()>("sum")(), 1110);
  EXPECT_EQ(get<int()>("counter")(), 2);
  EXPECT_EQ(get<int*()>("where")(), global);
  replace(m, c("int added = 5; " + text(2000) + " int more(void) { return added; }"));
  EXPECT_EQ(get<int()>("sum")(), 2111);
  EXPECT_EQ(get<int()>("more")(), 5);
  EXPECT_EQ(get<int()>("counter")(), 3);
}

TEST_F(Replace, WhatVanishesMustNotBeUsed) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int g(void) { return 2; } int v = 3, w = 4;"));
  commit(engine, library, c("int f(void); extern int v; int user(void) { return f() + v; }"), named("user"));
  const std::uint64_t live_before = engine.usage().live;
  Result<Committed> refused = try_replace(m, c("int g(void) { return 20; } int w = 4;"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'f' (needed by user)"), HasSubstr("'v' (needed by user)")));
  EXPECT_EQ(get<int()>("g")(), 2) << "nothing has happened";
  EXPECT_EQ(engine.usage().live, live_before);
  replace(m, c("int f(void) { return 10; } int v = 3; int h(void) { return 5; }"));
  EXPECT_FALSE(library.find("g"));
  EXPECT_EQ(get<int()>("h")(), 5);
  EXPECT_EQ(get<int()>("user")(), 13);
}

TEST_F(Replace, ARefusalNamesTheVariable) {
  Module m = commit(engine, library, c("long table[4] = {1, 2, 3, 4}; long f(void) { return table[0]; }"));
  Result<Committed> refused = try_replace(m, c("long table[8] = {1, 2}; long f(void) { return table[0]; }"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'table'"), HasSubstr("32 bytes before, 64 now")));
  DataPolicy again;
  again.differing = DataPolicy::Differing::reinitialize;
  replace(m, c("long table[8] = {9, 2}; long f(void) { return table[0]; }"), again);
  EXPECT_EQ(get<long()>("f")(), 9);
  DataPolicy migrate;
  migrate.differing = DataPolicy::Differing::migrate;
  migrate.migration = [](const DataPolicy::Migration& m) -> Result<void> {
    EXPECT_EQ(m.variable, "table");
    EXPECT_EQ(m.old_size, 64U);
    EXPECT_EQ(m.new_size, 16U);
    *m.new_address.as<long*>() = *m.old_address.as<long*>() + 1;
    return {};
  };
  replace(m, c("long table[2] = {0, 2}; long f(void) { return table[0]; }"), migrate);
  EXPECT_EQ(get<long()>("f")(), 10);
}

TEST_F(Replace, ConstantsKeepTheirIdentity) {
  auto text = [](const std::string& more) {
    return "struct Base { virtual int f() { return 1; } virtual ~Base() {} }; struct Derived : Base { int f() override { "
           "return 2" +
           more +
           "; } }; extern \"C\" Base* make() { return new Derived; } extern \"C\" int call(Base* b) { return b->f(); }"
           "extern \"C\" const char* text() { return \"a literal that is kept\"; }"
           "extern \"C\" int is_derived(Base* b) { return dynamic_cast<Derived*>(b) != nullptr; } extern \"C\" void "
           "drop(Base* b) { delete b; }";
  };
  Module m = commit(engine, library, cpp(text("")));
  void* object = get<void*()>("make")();
  const char* literal = get<const char*()>("text")();
  EXPECT_EQ(get<int(void*)>("call")(object), 2);
  replace(m, cpp(text(" + 40")));
  EXPECT_EQ(get<int(void*)>("call")(object), 42) << "an old object's virtual table leads to new functions";
  EXPECT_EQ(get<int(void*)>("is_derived")(object), 1);
  EXPECT_EQ(get<const char*()>("text")(), literal);
  void* second = get<void*()>("make")();
  EXPECT_EQ(*static_cast<void**>(object), *static_cast<void**>(second)) << "one virtual table";
  get<void(void*)>("drop")(object);
  get<void(void*)>("drop")(second);
}

TEST_F(Replace, LiteralsThatComeAgainAreNotPiledUp) {
  auto text = [](int i) { return "const char* f(void) { return \"text " + std::to_string(i % 3) + "\"; }"; };
  Module m = commit(engine, library, c(text(0)));
  auto* f = get<const char*()>("f");
  std::vector<const char*> seen{f()};
  expect_no_growth(3, 11, [&](int n) {
    replace(m, c(text(n)));
    settle();
    seen.push_back(f());
    EXPECT_EQ(std::string(f()), "text " + std::to_string(n % 3));
    if (n >= 3) {
      EXPECT_EQ(f(), seen[std::size_t(n) - 3]);
    }
  });
}

TEST_F(Replace, ConstructorsOfKeptVariablesDoNotRunAgain) {
  auto text = [](int n) {
    return "extern \"C\" int made; int made = 0; struct Object { int value; Object() : value(++made * 10) {} ~Object() { } "
           "};"
           "static Object object; extern \"C\" int value() { return object.value + " +
           std::to_string(n) + "; }";
  };
  Module m = commit(engine, library, cpp(text(0)));
  EXPECT_EQ(get<int()>("value")(), 10);
  replace(m, cpp(text(1)));
  EXPECT_EQ(get<int()>("value")(), 11);
  EXPECT_EQ(*address_of(library, "made").as<int*>(), 1);
}

TEST_F(Replace, SupersededVersionsAreFreed) {
  Module m = commit(engine, library, c("int x = 1; int f(void) { return x; }"));
  auto* f = get<int()>("f");
  expect_no_growth(10, 200, [&](int n) {
    replace(m, c("int x = 1; int f(void) { return ++x + " + std::to_string(n % 2) + "; }"));
    EXPECT_EQ(f(), n + 1 + n % 2);
  });
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().symbols, 0U);
}

TEST_F(Replace, ThreadLocalVariablesAreKept) {
  auto text = [](int n) {
    return "static _Thread_local int counter = 5; int next(void) { return ++counter + " + std::to_string(n) + "; }";
  };
  Module m = commit(engine, library, c(text(0)));
  EXPECT_EQ(get<int()>("next")(), 6);
  replace(m, c(text(100)));
  EXPECT_EQ(get<int()>("next")(), 107);
}

TEST_F(Replace, ExceptionsCrossVersions) {
  auto text = [](int n) {
    return "void thrower(int i); void thrower(int i) { throw i + " + std::to_string(n) +
           "; } extern \"C\" int catches(int i) { try { thrower(i); } catch (int j) { return j; } return -1; }";
  };
  Module m = commit(engine, library, cpp(text(0)));
  auto* catches = get<int(int)>("catches");
  EXPECT_EQ(catches(3), 3);
  replace(m, cpp(text(50)));
  EXPECT_EQ(catches(3), 53);
}

TEST_F(Replace, ALibraryThatIsNotReplaceableSaysSo) {
  Library fixed = expect(engine.library("fixed"));
  Module m = commit(engine, fixed, c("int f(void) { return 1; }"));
  Result<Committed> refused = try_replace(m, c("int f(void) { return 2; }"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("replaceable"));
  EXPECT_FALSE(engine.library("fixed", {.replaceable = true}));
}

TEST_F(Replace, DroppedAtEveryStageNothingHasHappened) {
  Module m = commit(engine, library, c("int f(void) { return 1; } static int s = 3; int g(void) { return s; }"));
  const EngineUsage before = engine.usage();
  for (int stage = 0; stage < 4; ++stage) {
    Change change = engine.change();
    change.replace(m,
                   c("int f(void) { return 2; } int fresh(void) { return 4; } static int s = 4; int g(void) { return s; }"));
    if (stage == 0) continue;
    Draft draft = expect(std::move(change).draft());
    if (stage == 1) continue;
    Placed placed = expect(std::move(draft).place());
    if (stage == 2) continue;
    Linked linked = expect(std::move(placed).link());
  }
  EXPECT_EQ(engine.usage().live, before.live);
  EXPECT_EQ(engine.usage().bookkeeping, before.bookkeeping);
  EXPECT_EQ(get<int()>("f")(), 1);
  EXPECT_EQ(get<int()>("g")(), 3);
}

TEST_F(Replace, GccObjectsToo) {
  auto text = [](int n) {
    return "static __attribute__((noinline)) int helper(int x) { return x * " + std::to_string(n) +
           "; } extern \"C\" int f(int x) { return helper(x) + 1; } int (*table[])(int) = {helper, f};"
           "extern \"C\" int t(int i, int x) { return table[i](x); }";
  };
  Module m = commit(engine, library, compile_gcc(text(2), replaceable_gcc));
  EXPECT_EQ(get<int(int)>("f")(10), 21);
  EXPECT_EQ(get<int(int, int)>("t")(0, 10), 20);
  replace(m, compile_gcc(text(3), replaceable_gcc));
  EXPECT_EQ(get<int(int)>("f")(10), 31);
  EXPECT_EQ(get<int(int, int)>("t")(0, 10), 30);
  EXPECT_EQ(get<int(int, int)>("t")(1, 10), 31);
}

TEST_F(Replace, ACoroutineEndsInTheVersionInWhichItBegan) {
  for (bool gcc : {false, true}) {
    Library own = expect(engine.library(gcc ? "gcc" : "clang", {.replaceable = true}));
    auto compile = [&](int factor) {
      const std::string text = coroutine_text(factor);
      return gcc ? compile_gcc(text, "-std=c++20 -O1 -fPIC -ffunction-sections -fdata-sections -fno-inline -fno-ipa-ra")
                 : compile_cpp(text, "-std=c++20 -O1 -fPIC -ffunction-sections -fdata-sections -fno-inline");
    };
    Module m = commit(engine, own, compile(1));
    auto* begin = function<void*(int)>(own, "begin");
    auto* next = function<int(void*)>(own, "next");
    auto* end = function<void(void*)>(own, "end");
    void* old = begin(5);
    EXPECT_EQ(next(old), 5);
    replace(m, compile(10));
    replace(m, compile(100));
    expect(engine.collect());
    void* fresh = begin(5);
    EXPECT_EQ(next(old), 10) << "the frame holds pointers into the old version, which stays";
    EXPECT_EQ(next(fresh), 500);
    end(old);
    end(fresh);
    expect(own.close());
  }
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

const char* const returning = ".text\n.globl f\n.type f,@function\nf: ret\n.size f,.-f\n";

TEST_F(Replace, ASectionThatHasOutgrownItsStorageIsNotLaidOverIt) {
  const std::string y = ".section .data.y,\"aw\"\n.globl y\n.type y,@object\ny: .long 42\n.size y,4\n";
  const std::string x = ".data\n.globl x\n.type x,@object\nx: .long 1\n.size x,4\n";
  Module m = commit(engine, library, assemble(x + y + returning));
  Result<Committed> refused = try_replace(m, assemble(x + ".fill 60,1,7\n" + y + returning));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::needs_flag);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'x'"), HasSubstr("64 bytes in all")));
  *address_of(library, "x").as<int*>() = 5;
  int* before = address_of(library, "x").as<int*>();
  replace(m, assemble(x + y + returning));
  EXPECT_EQ(address_of(library, "x").as<int*>(), before);
  EXPECT_EQ(*before, 5);
  EXPECT_EQ(*address_of(library, "y").as<int*>(), 42);
}

TEST_F(Replace, AConstantsSectionIsNotComparedBeyondTheOldOne) {
  auto text = [](const char* before) {
    return std::string(".section .rodata\n") + before + ".globl k\n.type k,@object\nk: .quad 1\n.size k,8\n" + returning;
  };
  Module m = commit(engine, library, assemble(text("")));
  const long* k = address_of(library, "k").as<const long*>();
  replace(m, assemble(text("")));
  EXPECT_EQ(address_of(library, "k").as<const long*>(), k);
  replace(m, assemble(text(".zero 0x4000000\n"))); // what lies that far below k may not even be mapped
  EXPECT_NE(address_of(library, "k").as<const long*>(), k);
  EXPECT_EQ(*address_of(library, "k").as<const long*>(), 1);
  replace(m, assemble(text("")));
  EXPECT_EQ(*address_of(library, "k").as<const long*>(), 1);
}

TEST_F(Replace, DataWithoutNamesIsRefusedNotReset) {
  const char* counter = ".data\n.p2align 2\n.Lc: .long 0\n.text\n.globl f\n.type f,@function\n"
                        "f: incl .Lc(%rip)\nmov .Lc(%rip),%eax\nret\n.size f,.-f\n";
  Module m = commit(engine, library, assemble(counter));
  EXPECT_EQ(get<int()>("f")(), 1);
  Result<Committed> refused = try_replace(m, assemble(counter));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::needs_flag);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr(".data"), HasSubstr("without names")));
  EXPECT_EQ(get<int()>("f")(), 2) << "nothing has happened";
}

TEST_F(Replace, KeptStorageDoesNotShrink) {
  DataPolicy keep;
  keep.differing = DataPolicy::Differing::keep;
  const char* four = "long x[4] = {1, 2, 3, 4}; long f(void) { return x[3]; }";
  Module m = commit(engine, library, c(four));
  long* x = address_of(library, "x").as<long*>();
  x[1] = 20;
  x[3] = 40;
  replace(m, c("long x[2] = {1, 2}; long f(void) { return x[1]; }"), keep);
  EXPECT_EQ(get<long()>("f")(), 20);
  settle();
  replace(m, c(four), keep);
  EXPECT_EQ(address_of(library, "x").as<long*>(), x);
  EXPECT_EQ(get<long()>("f")(), 40);
  EXPECT_FALSE(try_replace(m, c("long x[5] = {1}; long f(void) { return x[3]; }"), keep));
}

TEST_F(Replace, ThreadLocalVariablesCantNeedMoreAlignment) {
  auto text = [](int alignment) {
    return "__thread __attribute__((aligned(" + std::to_string(alignment) +
           "))) char b[64] = {1}; void* f(void) { return b; }";
  };
  Module m = commit(engine, library, c(text(16)));
  void* b = get<void*()>("f")();
  Result<Committed> refused = try_replace(m, c(text(4096)));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("alignment of 4096 bytes, not 16"));
  replace(m, c(text(16)));
  EXPECT_EQ(get<void*()>("f")(), b);
  replace(m, c("void* f(void) { return 0; }")); // what threads hold is not forgotten by a version that has none
  EXPECT_FALSE(try_replace(m, c(text(4096))));
}

TEST_F(Replace, AConstructorFunctionThatIsNewRunsOnce) {
  const std::string base = "volatile int n; void bump(void) { n++; } int f(void) { return n; }";
  const std::string start = base + " __attribute__((constructor)) void start(void) { n += 50; }";
  Module m = commit(engine, library, c(base));
  get<void()>("bump")();
  replace(m, c(start));
  EXPECT_EQ(get<int()>("f")(), 51);
  replace(m, c(start + " int more(void) { return 1; }"));
  EXPECT_EQ(get<int()>("f")(), 51);
}

} // namespace
} // namespace tenon::test

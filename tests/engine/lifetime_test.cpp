// How long things live: modules that others refer to, COMDAT groups that outlive their providers, handles, released code,
// libraries and engines.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <thread>

extern "C" {
__attribute__((visibility("default"))) std::atomic<int> lifetime_destroyed{0};
std::string lifetime_log;
__attribute__((visibility("default"))) void lifetime_note(int c) {
  lifetime_log += char(c);
  ++lifetime_destroyed;
}
}

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

ModuleOptions named(const char* name) {
  ModuleOptions options;
  options.name = name;
  return options;
}

struct Lifetime : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  Lifetime() {
    lifetime_log.clear();
    lifetime_destroyed = 0;
  }
  int call(const char* name) { return function<int()>(library, name)(); }
  void expect_nothing_left() {
    EngineUsage usage = engine.usage();
    EXPECT_EQ(usage.live, 0U);
    EXPECT_EQ(usage.modules, 0U);
    EXPECT_EQ(usage.symbols, 0U);
  }
};

TEST_F(Lifetime, AModuleInUseIsNotRemovedAndItsUsersAreNamed) {
  Module base = commit(engine, library, compile_c("int f(void) { return 1; } int g = 2;"), named("base"));
  Module one = commit(engine, library, compile_c("int f(void); int one(void) { return f(); }"), named("one"));
  Module two = commit(engine, library, compile_c("extern int g; int two(void) { return g; }"), named("two"));
  commit(engine, library, compile_c("int three(void) { return 3; }"), named("three"));
  Result<void> refused = try_remove(engine, {base});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("base"), HasSubstr("one (by 'f')"), HasSubstr("two (by 'g')"), Not(HasSubstr("three"))));
  EXPECT_EQ(call("one") + call("two"), 3);
  ASSERT_TRUE(try_remove(engine, {one}));
  ASSERT_FALSE(try_remove(engine, {base}));
  ASSERT_TRUE(try_remove(engine, {base, two})) << "together";
  EXPECT_FALSE(base.linked());
  EXPECT_EQ(base.name(), "base") << "a handle keeps what is known";
  Result<void> again = try_remove(engine, {base});
  ASSERT_FALSE(again);
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  expect_nothing_left();
}

TEST_F(Lifetime, ACycleIsRemovedAsASet) {
  Committed both = commit(engine, library,
                          {compile_c("int b(int); int a(int n) { return n == 0 ? 1 : b(n - 1); }"),
                           compile_c("int a(int); int b(int n) { return n == 0 ? 2 : a(n - 1); }")});
  EXPECT_EQ(function<int(int)>(library, "a")(3), 2);
  EXPECT_FALSE(try_remove(engine, {both.modules()[0]}));
  EXPECT_FALSE(try_remove(engine, {both.modules()[1]}));
  // A handle on one keeps the other.
  auto handle = std::make_unique<Function<int(int)>>(expect(library.function<int(int)>("a")));
  ASSERT_TRUE(try_remove(engine, {both.modules()[0], both.modules()[1]}));
  EXPECT_EQ((*handle)(3), 2);
  EXPECT_NE(engine.usage().live, 0U);
  handle.reset();
  expect_nothing_left();
}

Object inline_user(const std::string& name, int value) {
  return compile_cpp("extern int extra; inline int counter = " + std::to_string(value) +
                         "; inline int shared() { return counter++; }"
                         "extern \"C\" int " +
                         name + "() { return shared(); }",
                     "-O0 -fPIC");
}

TEST_F(Lifetime, SharedGroupsOutliveTheirProvider) {
  Module a = commit(engine, library, inline_user("a", 10)), b = commit(engine, library, inline_user("b", 20));
  Module c = commit(engine, library, compile_cpp("int shared(); extern \"C\" int c() { return shared(); }"));
  EXPECT_EQ(call("a"), 10);
  EXPECT_EQ(call("b"), 11);
  ASSERT_TRUE(try_remove(engine, {a}));
  EXPECT_FALSE(library.find("a"));
  EXPECT_EQ(call("b"), 12);
  EXPECT_EQ(call("c"), 13);
  Module d = commit(engine, library, inline_user("d", 30));
  EXPECT_EQ(call("d"), 14) << "a newcomer shares it too";
  ASSERT_TRUE(try_remove(engine, {b}));
  ASSERT_TRUE(try_remove(engine, {d}));
  EXPECT_EQ(call("c"), 15) << "somebody who has no copy of it";
  ASSERT_TRUE(try_remove(engine, {c}));
  expect_nothing_left();
  commit(engine, library, inline_user("a", 40));
  EXPECT_EQ(call("a"), 40);
}

// Of a removed module only what others share stays, and what that needs: not the rest of the module.
TEST_F(Lifetime, ASharedGroupKeepsOnlyWhatItNeeds) {
  // shared() needs a helper and a table of the module's own, outside of its group, and catches what the helper throws.
  const std::string text =
      "extern \"C\" int printf(const char*, ...);"
      "static int table[4] = {1, 2, 3, 4};"
      "static __attribute__((noinline)) int helper(int i) { if (i > 3) throw i; return table[i]; }"
      "inline __attribute__((noinline)) int shared(int i) { try { return helper(i); } catch (int j) { return -j; } }"
      "extern \"C\" int use_NAME(int i) { return shared(i) + 0; }";
  auto object = [&](const std::string& name, const std::string& more) {
    std::string source = text;
    source.replace(source.find("NAME"), 4, name);
    return compile_cpp(source + more, "-O1 -fPIC -ffunction-sections -fdata-sections");
  };
  Module big =
      commit(engine, library,
             object("a", "int ballast[20000] = {1}; extern const int ballast_too[20000]; const int ballast_too[20000] "
                         "= {2}; int sum() { int s = 0; for (int i : ballast) s += i; return s; }"),
             named("big"));
  Module user = commit(engine, library, object("b", ""), named("user"));
  const std::uint64_t both = engine.usage().live;
  ASSERT_TRUE(try_remove(engine, {big}));
  EXPECT_GT(both - engine.usage().live, 160000U);
  EXPECT_EQ(engine.usage().modules, 2U) << "what is left of it is counted";

  auto use_b = function<int(int)>(library, "use_b");
  EXPECT_EQ(use_b(2), 3);
  EXPECT_EQ(use_b(7), -7) << "an exception through what is left";
  // What was freed is used again, what is left is not overwritten by it.
  Module more = commit(engine, library, compile_c("int other[20000] = {5}; int more(void) { return other[0]; }"));
  EXPECT_EQ(call("more"), 5);
  EXPECT_EQ(use_b(3), 4);
  EXPECT_EQ(use_b(9), -9);
  ASSERT_TRUE(try_remove(engine, {user, more}));
  expect_nothing_left();
}

// Where a shared group's needs can't be told from its references, its module stays whole. Of `text` two modules are made, in
// which NAME is `a` and `b`; the first is removed, what was freed is filled with other things, and the second's use_b goes
// on.
struct LifetimeOfGroups : Lifetime {
  static std::string of(std::string text, const char* name) {
    for (std::size_t at; (at = text.find("NAME")) != std::string::npos;) text.replace(at, 4, name);
    return text;
  }
  template <class Make> void remove_first(const std::string& text, Make&& make) {
    Module a = commit(engine, library, make(of(text, "a")), named("a"));
    commit(engine, library, make(of(text, "b")), named("b"));
    EXPECT_EQ(function<int(int)>(library, "use_b")(2), 7);
    expect(try_remove(engine, {a}));
    for (int i = 0; i < 40; ++i)
      commit(engine, expect(engine.library("more" + std::to_string(i))),
             assemble(".text\n.fill 3000,1,0xcc\n.section .rodata,\"a\"\n.fill 3000,1,0xcc\n.data\n.fill 3000,1,0xcc\n"));
  }
  void expect_unharmed() {
    auto use = function<int(int)>(library, "use_b");
    EXPECT_EQ(use(2), 7);
    std::thread([&] { EXPECT_EQ(use(2), 7) << "where its thread-local variables are new"; }).join();
  }
  static Object optimized(const std::string& text) {
    return compile_cpp(text, "-O1 -fPIC -ffunction-sections -fdata-sections");
  }
};

TEST_F(LifetimeOfGroups, WhatInitializersStored) {
  for (const char* value :
       {"std::getenv(\"NO_SUCH_VARIABLE\") ? nullptr : &impl", "nullptr; static int stored = (hook = &impl, 0)"}) {
    remove_first(std::string("#include <cstdlib>\nstatic int impl(int i) { return i * 3 + 1; }"
                             "inline int (*volatile hook)(int) = ") +
                     value + "; extern \"C\" int use_NAME(int i) { return hook(i); }",
                 optimized);
    expect_unharmed();
    expect(try_remove(engine, expect(library.modules())));
  }
}

TEST_F(LifetimeOfGroups, WhatFunctionsStored) {
  remove_first("static int impl(int i) { return i * 3 + 1; } static int (*volatile stored)(int);"
               "inline __attribute__((noinline)) int shared(int i) { return stored(i); }"
               "extern \"C\" { __attribute__((constructor)) void store_NAME() { stored = &impl; }"
               "int use_NAME(int i) { return shared(i); } }",
               optimized);
  expect_unharmed();
}

TEST_F(LifetimeOfGroups, WhatThreadLocalImagesReferTo) {
  remove_first("static int impl(int i) { return i * 3 + 1; } inline thread_local int (*volatile fp)(int) = &impl;"
               "extern \"C\" int use_NAME(int i) { return fp(i); }",
               optimized);
  expect_unharmed();
}

TEST_F(LifetimeOfGroups, WhatAnIfuncChose) {
  remove_first(R"(
    .section .text.resolve,"axG",@progbits,f,comdat
.Lresolve: lea impl(%rip), %rax
    ret
    .weak f
    .type f,@gnu_indirect_function
    .set f, .Lresolve
    .section .text.impl,"ax",@progbits
impl: lea 5(%rdi), %eax
    ret
    .section .text.use_NAME,"ax",@progbits
    .globl use_NAME
use_NAME: jmp f@PLT
)",
               [](const std::string& text) { return assemble(text); });
  expect_unharmed();
}

TEST_F(LifetimeOfGroups, PersonalityRoutinesOfTheModuleItself) {
  // The routine says "go on": 8.
  remove_first(R"(
    .section .text.shared,"axG",@progbits,shared,comdat
    .weak shared
    .type shared,@function
shared: .cfi_startproc
    .cfi_personality 0x1b, personality
    subq $8, %rsp
    .cfi_def_cfa_offset 16
    call *%rdi
    addq $8, %rsp
    ret
    .cfi_endproc
    .section .text.personality,"ax",@progbits
personality: mov $8, %eax
    ret
    .section .text.use_NAME,"ax",@progbits
    .globl use_NAME, throw_NAME
use_NAME: lea 5(%rdi), %eax
    ret
throw_NAME: jmp shared@PLT
)",
               [](const std::string& text) { return assemble(text); });
  EXPECT_THROW(function<void(void (*)())>(library, "throw_b")([] { throw 5; }), int);
}

TEST_F(LifetimeOfGroups, ManyEmptyOnesAtOneAddress) {
  std::string text;
  for (int i = 0; i < 20000; ++i) {
    const std::string g = "g" + std::to_string(i);
    text += ".section .rodata." + g + ",\"aG\",@progbits," + g + ",comdat\n.weak " + g + "\n" + g + ":\n";
  }
  const std::uint64_t before = engine.usage().live;
  remove_first(text + ".text\n.globl use_NAME\nuse_NAME: lea 5(%rdi), %eax\nret\n.fill 40000,1,0x90\n",
               [](const std::string& all) { return assemble(all); });
  expect_unharmed();
  EXPECT_LT(engine.usage().live - before, 40 * 10000U + 50000U) << "the first one's code was to be freed";
}

TEST_F(Lifetime, HandlesKeepCodeCallable) {
  Module module =
      commit(engine, library,
             compile_cpp("extern \"C\" { void lifetime_note(int); int state = 3; int f(int x) { return state += x; } }"
                         "struct Object { ~Object() { lifetime_note('x'); } }; static Object object;"));
  Function<int(int)> handle = expect(library.function<int(int)>("f"));
  Function<int(int)> copy = handle;
  EXPECT_EQ(handle(1), 4);
  ASSERT_TRUE(try_remove(engine, {module}));
  EXPECT_EQ(lifetime_log, "x") << "finalizers have run";
  EXPECT_FALSE(library.find("f"));
  EXPECT_EQ(copy(1), 5);
  EXPECT_NE(engine.usage().live, 0U);
  EXPECT_FALSE(module.linked());
  EXPECT_FALSE(library.function<int(int)>("f"));
  handle = copy = Function<int(int)>(nullptr, nullptr);
  expect_nothing_left();
}

TEST_F(Lifetime, AHandleOutlivesLibraryAndEngineHandles) {
  std::optional<Function<int()>> handle;
  {
    Engine own = make_engine();
    Library inside = expect(own.library("inside"));
    commit(own, inside, compile_cpp("extern \"C\" int f() { try { throw 6; } catch (int i) { return i; } }"));
    handle = expect(inside.function<int()>("f"));
  }
  EXPECT_EQ((*handle)(), 6);
}

TEST_F(Lifetime, PendingDestructorsOfThreadsKeepTheModule) {
  Module module = commit(engine, library, compile_cpp(R"(
extern "C" void lifetime_note(int);
struct Object { int value = 'a'; ~Object() { lifetime_note(value); } };
thread_local Object object;
extern "C" void touch() { object.value++; }
)"));
  auto touch = function<void()>(library, "touch");
  std::barrier step(2);
  std::thread thread([&] {
    touch();
    step.arrive_and_wait();
    step.arrive_and_wait();
  });
  step.arrive_and_wait();
  ASSERT_TRUE(try_remove(engine, {module}));
  EXPECT_EQ(lifetime_log, "");
  EXPECT_NE(engine.usage().live, 0U);
  step.arrive_and_wait();
  thread.join();
  EXPECT_EQ(lifetime_log, "b");
  expect_nothing_left();
}

constexpr const char* released = R"(
#include <stdexcept>
#include <string>
extern "C" { void lifetime_note(int); int base(); }
namespace { struct Object { ~Object() { lifetime_note('r'); } } object; }
thread_local int mine = 1;
extern "C" int run() { try { throw std::runtime_error("12"); } catch (const std::exception &e) {
  return std::stoi(e.what()) + base() + mine++; } }
)";

TEST_F(Lifetime, ReleasedCodeOutlivesTheEngine) {
  std::optional<Code> code, copy;
  {
    Engine own = make_engine();
    Library inside = expect(own.library("inside"));
    commit(own, inside,
           compile_cpp("extern \"C\" { void lifetime_note(int); int base() { return 100; } } namespace { struct Object { "
                       "~Object() { lifetime_note('b'); } } object; }"));
    Change change = own.change();
    change.add(inside, compile_cpp(released));
    code = expect(expect(expect(expect(std::move(change).draft()).place()).link()).release());
    EXPECT_FALSE(inside.find("run"));
    EXPECT_GT(code->usage().code, 0U);
    Result<void> refused = try_remove(own, expect(inside.modules()));
    ASSERT_FALSE(refused) << "released code refers to it";
    EXPECT_EQ(refused.error().code, ErrorCode::still_used);
    EXPECT_THAT(refused.error().message, HasSubstr("released"));
  }
  EXPECT_EQ(lifetime_log, "") << "what released code refers to ends with it";
  auto run = code->find("run")->as<int (*)()>();
  EXPECT_EQ(run(), 113);
  EXPECT_EQ(run(), 114);
  std::thread([&] { EXPECT_EQ(run(), 113); }).join();
  copy = code;
  code.reset();
  EXPECT_EQ(run(), 115);
  copy.reset();
  EXPECT_EQ(lifetime_log, "rb");
}

TEST_F(Lifetime, ReleasedCodeEndsBeforeTheEngine) {
  Module base = commit(engine, library, compile_c("int base(void) { return 100; }"));
  {
    Change change = engine.change();
    change.add(library, compile_cpp(released));
    Code code = expect(expect(expect(expect(std::move(change).draft()).place()).link()).release());
    EXPECT_EQ(code.find("run")->as<int (*)()>()(), 113);
    EXPECT_FALSE(code.find("no_such_thing"));
  }
  EXPECT_EQ(lifetime_log, "r");
  ASSERT_TRUE(try_remove(engine, {base}));
  expect_nothing_left();
}

TEST_F(Lifetime, LibrariesCloseUnlessOthersUseThem) {
  Library base = expect(engine.library("base"));
  commit(engine, base, {compile_c("int g(void); int f(void) { return g(); }"), compile_c("int g(void) { return 4; }")});
  expect(library.search({Source::library(base)}));
  Module user = commit(engine, library, compile_c("int f(void); int use(void) { return f(); }"), named("user"));
  Result<void> refused = base.close(Quiet::caller_guarantees);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message, HasSubstr("user"));
  EXPECT_EQ(call("use"), 4);
  ASSERT_TRUE(try_remove(engine, {user}));
  expect(base.close(Quiet::caller_guarantees));
  expect_nothing_left();
  EXPECT_TRUE(expect(base.modules()).empty());
  EXPECT_TRUE(base.close(Quiet::caller_guarantees)) << "a second time does nothing";
  commit(engine, expect(engine.library("base")), compile_c("int f(void) { return 5; }"));
}

TEST_F(Lifetime, AnAnonymousLibraryClosesWithItsLastHandle) {
  {
    Library anonymous = expect(engine.library());
    Library copy = anonymous;
    commit(engine, anonymous,
           compile_cpp("extern \"C\" { void lifetime_note(int); int f() { return 1; } } namespace { struct Object { "
                       "~Object() { lifetime_note('a'); } } object; }"));
    anonymous = library;
    EXPECT_EQ(lifetime_log, "");
  }
  EXPECT_EQ(lifetime_log, "a");
  expect_nothing_left();
  // While others use it, it stays; with the last of them it goes.
  {
    Library anonymous = expect(engine.library());
    commit(engine, anonymous, compile_c("int f(void) { return 6; }"));
    expect(library.search({Source::library(anonymous)}));
    commit(engine, library, compile_c("int f(void); int use(void) { return f(); }"));
    expect(library.search({}));
  }
  EXPECT_EQ(call("use"), 6);
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  expect_nothing_left();
}

std::string noter(char c) {
  return std::string("extern \"C\" void lifetime_note(int); namespace { struct Object { ~Object() { lifetime_note('") + c +
         "'); } } object; }" + "extern \"C\" __attribute__((destructor)) void last_" + c + "() { lifetime_note('" +
         char(c - 32) + "'); }";
}

TEST_F(Lifetime, AnEngineEndsInTheReverseOrderOfCommits) {
  {
    Engine own = make_engine();
    Library one = expect(own.library("one")), two = expect(own.library("two"));
    commit(own, one, compile_cpp(noter('a')));
    commit(own, two, compile_cpp(noter('b')));
    commit(own, one, compile_cpp(noter('c')));
  }
  EXPECT_EQ(lifetime_log, "cbaCBA") << "as a program ends: what was registered with atexit first";
}

TEST_F(Lifetime, ManyEnginesAndThreads) {
  std::vector<Engine> engines;
  std::vector<Library> libraries;
  Object object = compile_cpp("extern \"C\" int f(int x) { try { throw x; } catch (int i) { return i * 2; } }");
  Options options;
  options.reservation_bytes = 64 << 20;
  for (int i = 0; i < 32; ++i) {
    engines.push_back(make_engine(options));
    libraries.push_back(expect(engines.back().library("main")));
    commit(engines.back(), libraries.back(), object);
  }
  for (int i = 0; i < 32; ++i) EXPECT_EQ(function<int(int)>(libraries[std::size_t(i)], "f")(i), 2 * i);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 25; ++round) {
        Engine& mine = engines[std::size_t(t % 2)];
        Library own = expect(mine.library());
        Module module = commit(mine, own, object);
        wrong += function<int(int)>(own, "f")(round) == 2 * round ? 0 : 1;
        if (round % 2 == 0) wrong += try_remove(mine, {module}) ? 0 : 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  // Libraries whose handles were dropped are freed when it is certain that no thread is inside: here, that all have ended.
  for (int i = 0; i < 5000 && engines[0].usage().modules != 1; ++i) {
    expect(engines[0].collect());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(engines[0].usage().modules, 1U);
  engines.erase(engines.begin(), engines.begin() + 16);
  for (int i = 0; i < 32; ++i)
    EXPECT_EQ(function<int(int)>(libraries[std::size_t(i)], "f")(i), 2 * i) << "a library keeps its engine";
}

} // namespace
} // namespace tenon::test

// Moving code while it is in use: what follows, what stays, what is freed; packing after many removals.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"
#include "transaction_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include <unistd.h>

namespace {
std::atomic<int> move_gate{0};
}

extern "C" {
__attribute__((visibility("default"))) void move_test_sleep() {
  while (move_gate.load() == 0) usleep(200);
}
}

namespace tenon::test {
namespace {

using testing::HasSubstr;

const char* const live = "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline";
const char* const live_gcc = "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline -fno-ipa-ra";

ModuleOptions named(std::string name) {
  ModuleOptions options;
  options.name = std::move(name);
  return options;
}

// Where a function's body is: its address is a stub, jmp *slot(%rip).
std::uint64_t body_of(const void* function) {
  const auto* code = static_cast<const unsigned char*>(function);
  EXPECT_EQ(code[0], 0xFF);
  EXPECT_EQ(code[1], 0x25);
  std::int32_t distance;
  std::memcpy(&distance, code + 2, sizeof distance);
  std::uint64_t body;
  std::memcpy(&body, code + 6 + distance, sizeof body);
  return body;
}
template <class Signature> std::uint64_t body_of(Signature* function) {
  return body_of(reinterpret_cast<const void*>(function));
}

struct Move : ReplaceFixture {
  Move() { move_gate = 0; }
};

// A switch of many cases: a jump table, in both compilers.
std::string switching(int n) {
  std::string text = "int pick(int x, int y) { switch (x) {";
  for (int i = 0; i < 12; ++i)
    text += "case " + std::to_string(i) + ": return y " +
            (i % 3 == 0   ? "+"
             : i % 3 == 1 ? "*"
                          : "^") +
            " " + std::to_string(i * 7 + n) + ";";
  return text + "default: return -1; } }";
}
int picked(int n, int x, int y) {
  if (x < 0 || x > 11) return -1;
  const int c = x * 7 + n;
  return x % 3 == 0 ? y + c : x % 3 == 1 ? y * c : y ^ c;
}

TEST_F(Move, FunctionsGoElsewhereAndKeepTheirAddress) {
  Module m = commit(engine, library, compile_c("int f(void) { return 1; } int g(void) { return f() + 10; }", live));
  commit(engine, library, compile_c("int g(void); int outside(void) { return g() * 2; }", live));
  auto* f = get<int()>("f");
  auto* g = get<int()>("g");
  auto* outside = get<int()>("outside");
  const std::uint64_t live_before = engine.usage().live;
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t f_before = body_of(f), g_before = body_of(g);
    Moved moved = expect(engine.move(m));
    EXPECT_EQ(moved.functions, 2U);
    EXPECT_EQ(moved.sections_kept, 0U) << moved.why_kept;
    EXPECT_GT(moved.bytes, 0U);
    EXPECT_NE(body_of(f), f_before);
    EXPECT_NE(body_of(g), g_before);
    EXPECT_EQ(get<int()>("f"), f) << "one address for good";
    EXPECT_EQ(f() + g() + outside(), 1 + 11 + 22);
    settle();
    EXPECT_EQ(f() + g() + outside(), 1 + 11 + 22) << "the old place is gone";
    EXPECT_LE(engine.usage().live, live_before + 512) << "but for call frame information, that of before stays";
  }
  replace(m, compile_c("int f(void) { return 2; } int g(void) { return f() + 20; }", live));
  EXPECT_EQ(f() + g() + outside(), 2 + 22 + 44);
  settle();
  EXPECT_EQ(f() + g() + outside(), 2 + 22 + 44);
  EXPECT_LE(engine.usage().live, live_before);
  expect(engine.move(m));
  EXPECT_EQ(f() + g() + outside(), 2 + 22 + 44);
}

struct MoveBy : Move, testing::WithParamInterface<bool> {
  Object c(const std::string& text) {
    return GetParam() ? compile_gcc("extern \"C\" {" + text + "}", live_gcc) : compile_c(text, live);
  }
  Object cpp(const std::string& text) { return GetParam() ? compile_gcc(text, live_gcc) : compile_cpp(text, live); }
};
INSTANTIATE_TEST_SUITE_P(Compilers, MoveBy, testing::Bool(), [](const auto& info) { return info.param ? "gcc" : "clang"; });

TEST_P(MoveBy, JumpTablesGoAlong) {
  Module m = commit(engine, library, c(switching(3)));
  auto* pick = get<int(int, int)>("pick");
  for (int round = 0; round < 4; ++round) {
    for (int x = -1; x < 14; ++x) ASSERT_EQ(pick(x, 5), picked(3, x, 5)) << x << " in round " << round;
    const std::uint64_t before = body_of(pick);
    Moved moved = expect(engine.move(m));
    EXPECT_EQ(moved.sections_kept, 0U) << moved.why_kept;
    EXPECT_NE(body_of(pick), before);
    settle(); // the old place is full of traps
  }
}

TEST_P(MoveBy, OneFunctionMovesAlone) {
  Module m = commit(engine, library,
                    c(switching(3) + "int pick(int, int); int twice(int x) { return 2 * pick(x, 1); } "
                                     "int other(int x) { switch (x) { case 0: return 5; case 1: return twice(3); case 2: "
                                     "return pick(4, 4); case 3: return 77; case 4: return pick(x, 9); case 5: return 6; "
                                     "default: return 0; } }"));
  auto* pick = get<int(int, int)>("pick");
  auto* twice = get<int(int)>("twice");
  auto* other = get<int(int)>("other");
  auto check = [&] {
    for (int x = -1; x < 14; ++x) {
      ASSERT_EQ(pick(x, 5), picked(3, x, 5));
      ASSERT_EQ(twice(x), 2 * picked(3, x, 1));
    }
    ASSERT_EQ(other(1), 2 * picked(3, 3, 1));
    ASSERT_EQ(other(2), picked(3, 4, 4));
    ASSERT_EQ(other(3), 77);
    ASSERT_EQ(other(4), picked(3, 4, 9));
  };
  for (const char* name : {"pick", "pick", "twice", "other", "pick", "twice"}) {
    const std::uint64_t before = body_of(reinterpret_cast<void*>(address_of(library, name).value));
    const std::uint64_t pick_before = body_of(pick);
    Moved moved = expect(engine.move(m, name));
    EXPECT_EQ(body_of(pick) != pick_before, std::string_view(name) == "pick");
    EXPECT_EQ(moved.functions, 1U);
    EXPECT_NE(body_of(reinterpret_cast<void*>(address_of(library, name).value)), before);
    check();
    settle();
    check();
  }
  expect(engine.move(m)); // all of the pieces together
  settle();
  check();
  Result<Moved> none = engine.move(m, "nobody");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::undefined);
}

const char* const throwing =
    "struct Guard { int* n; ~Guard() { ++*n; } };"
    "extern \"C\" void thrower(int x) { if (x > 3) throw x; }"
    "extern \"C\" void deep(int x, int* n) { Guard g{n}; thrower(x); ++*n; }"
    "extern \"C\" int catcher(int x, int* n) { try { deep(x, n); } catch (int y) { return y * 100; } return 1; }";

TEST_P(MoveBy, ExceptionsPassThroughMovedCode) {
  Module m = commit(engine, library, cpp(throwing));
  auto* catcher = get<int(int, int*)>("catcher");
  auto* deep = get<void(int, int*)>("deep");
  auto check = [&] {
    int n = 0;
    ASSERT_EQ(catcher(1, &n), 1);
    ASSERT_EQ(n, 2);
    ASSERT_EQ(catcher(7, &n), 700);
    ASSERT_EQ(n, 3);
    int caught = 0;
    try {
      deep(9, &n);
    } catch (int x) {
      caught = x;
    }
    ASSERT_EQ(caught, 9);
  };
  check();
  expect(engine.move(m));
  check();
  settle();
  check();
  for (const char* name : {"deep", "catcher", "thrower", "deep"}) {
    expect(engine.move(m, name));
    check();
    settle();
    check();
  }
  expect(engine.move(m));
  settle();
  check();
}

TEST_P(MoveBy, FramesAtTheOldPlaceFinishThrowAndSeeReplacements) {
  std::string text = "extern \"C\" void move_test_sleep();"
                     "extern \"C\" int later(int x) { if (x == 5) throw x; return x + 1; }"
                     "extern \"C\" int work(int x) { try { move_test_sleep(); return later(x); } catch (int y) { return y * "
                     "1000; } }";
  ModuleOptions options;
  options.opaque = true;
  Module m = commit(engine, library, cpp(text), options);
  auto* work = get<int(int)>("work");
  int plain = 0, thrown = 0;
  std::thread first([&] { plain = work(1); }), second([&] { thrown = work(5); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  expect(engine.move(m));
  expect(engine.move(m)); // once more, and what was between is freed
  bool inside = false;
  for (int i = 0; i < 200; ++i) {
    for (const Delay& delay : expect(engine.collect())) inside |= delay.inside && delay.function == "work";
    if (inside && engine.usage().superseded == 1) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(inside) << "threads sleep at the old place, in a function with a name";
  text.replace(text.find("x + 1"), 5, "x + 7");
  Change change = engine.change();
  change.replace(m, cpp(text), {}, options);
  expect(try_commit(std::move(change)));
  move_gate = 1;
  first.join();
  second.join();
  EXPECT_EQ(plain, 8) << "calls from the old place lead to the new version";
  EXPECT_EQ(thrown, 5000);
  settle();
  EXPECT_EQ(work(1), 8);
}

TEST_F(Move, FramesAtTheOldPlaceStayWithTheirVersionsLocalFunctions) {
  auto text = [](int n) {
    return assemble(".section .text.later,\"ax\",@progbits\n.type later,@function\nlater:\n mov $" + std::to_string(n) +
                    ",%eax\n ret\n.size later,.-later\n"
                    ".section .text.work,\"ax\",@progbits\n.p2align 4\n.globl work\n.type work,@function\nwork:\n sub "
                    "$8,%rsp\n call move_test_sleep@PLT\n .p2align 3\n nop\n nop\n nop\n call later\n add $8,%rsp\n "
                    "ret\n.size work,.-work\n");
  };
  Module m = commit(engine, library, text(1));
  auto* work = get<int()>("work");
  int result = 0, moved_away = 0;
  std::thread first([&] { result = work(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  expect(engine.move(m, "work"));
  std::thread second([&] { moved_away = work(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  replace(m, text(2));
  for (int i = 0; i < 10; ++i) (void)expect(engine.collect());
  move_gate = 1;
  first.join();
  second.join();
  EXPECT_EQ(result, 1) << "a compiler may have agreed with itself on how it is called";
  EXPECT_EQ(moved_away, 1);
  EXPECT_EQ(work(), 2);
  settle();
}

TEST_P(MoveBy, ColdPartsGoWithTheirFunction) {
  Module m =
      commit(engine, library,
             cpp("extern \"C\" int checked(int* p, int n) { if (__builtin_expect(n > 100, 0)) { int s = 0; for (int i "
                 "= 0; i < n; ++i) s ^= i * 3; *p = s; throw s; } return *p + n; }"
                 "extern \"C\" int safe(int* p, int n) { try { return checked(p, n); } catch (int s) { return -s; } }"
                 "extern \"C\" __attribute__((cold)) int rare(int x) { return x * 3; }"
                 "extern \"C\" int maybe(int x) { return x < 0 ? rare(x) : x; }"));
  auto* safe = get<int(int*, int)>("safe");
  auto* maybe = get<int(int)>("maybe");
  int value = 4;
  const int sum = safe(&value, 200);
  for (int i = 0; i < 3; ++i) {
    expect(i == 1 ? engine.move(m, "checked") : engine.move(m));
    settle();
    value = 4;
    ASSERT_EQ(safe(&value, 5), 9);
    ASSERT_EQ(safe(&value, 200), sum);
    ASSERT_EQ(maybe(-2) + maybe(5), -1);
  }
}

TEST_P(MoveBy, DataKeepsItsPlace) {
  Module m =
      commit(engine, library,
             c("const char* text(void) { return \"a literal\"; } static int local(int x) { return x + 1; }"
               "int (*pointer(void))(int) { return local; } static int (*const table[])(int) = {local, local};"
               "int call(int i, int x) { return table[i](x); } int count; int next(void) { return ++count; }"
               "static const double weights[] = {1.5, 2.5, 3.5}; double weight(int i) { return weights[i] * 2.25; }"));
  const char* text = get<const char*()>("text")();
  auto* pointer = get<int (*())(int)>("pointer")();
  EXPECT_EQ(get<int()>("next")(), 1);
  for (int i = 0; i < 3; ++i) {
    expect(engine.move(m));
    settle();
    EXPECT_EQ(get<const char*()>("text")(), text);
    EXPECT_STREQ(text, "a literal");
    EXPECT_EQ(get<int (*())(int)>("pointer")(), pointer);
    EXPECT_EQ(pointer(4) + get<int(int, int)>("call")(1, 9), 15);
    EXPECT_EQ(get<int()>("next")(), i + 2);
    EXPECT_EQ(get<double(int)>("weight")(2), 3.5 * 2.25);
  }
}

// Tables among other constants, functions that share sections or 16 bytes, absolute references: it moves right or not at
// all.
TEST_P(MoveBy, WhateverTheFlagsResultsStay) {
  const std::string text =
      "extern const int values[9] = {4, 1, 7, 2, 9, 5, 3, 8, 6}; static const double halves[3] = {0.5, 1.5, 2.5};" +
      switching(5) +
      "int sum(int scale) { int s = 0; for (const int* p = values; p != values + 9; ++p) s += *p * scale; return s; }"
      "static int helper(int x) { return x * 3 + 1; } static int (*kept)(int) = helper;"
      "int through(int x) { return kept(x) + helper(x); } double half(int i) { return halves[i % 3] * i + 0.25; }"
      "const char* word(int x) { switch (x) { case 0: return \"zero\"; case 1: return \"one\"; case 2: return \"two\"; case "
      "3: "
      "return \"three\"; case 4: return \"four\"; case 5: return word(x - 2); default: return \"many\"; } }"
      "int all(int x) { return pick(x % 12, x) + sum(x) + through(x) + (int)(half(x) * 4) + word(x)[0] + word(x % 6)[1]; }";
  for (const char* flags :
       {"-O2 -fPIC", "-O0 -fPIC", "-Os -fPIC -ffunction-sections", "-O2 -fPIC -ffunction-sections", "-O3 -fPIC -fno-inline",
        "-O2 -fPIC -mcmodel=large -ffunction-sections", "-O2 -fno-pic -mcmodel=large"}) {
    SCOPED_TRACE(flags);
    Library own = expect(engine.library(flags, {.replaceable = true}));
    Module m = commit(engine, own,
                      GetParam() ? compile_gcc("extern \"C\" {" + text + "}", flags)
                                 : compile_cpp("extern \"C\" {" + text + "}", flags));
    auto* all = function<int(int)>(own, "all");
    std::vector<int> expected;
    for (int x = 0; x < 40; ++x) expected.push_back(all(x));
    auto check = [&] {
      for (int x = 0; x < 40; ++x) ASSERT_EQ(all(x), expected[std::size_t(x)]) << x;
    };
    std::uint64_t moves = 0;
    for (const char* name : {"", "pick", "word", "all", "sum", "", "half", "through", "pick", ""}) {
      Result<Moved> moved = *name == 0 ? engine.move(m) : engine.move(m, name);
      if (!moved) {
        EXPECT_EQ(moved.error().code, ErrorCode::unsupported) << moved.error().message;
      }
      moves += moved ? moved->functions : 0;
      check();
      settle();
      check();
    }
    // Not of -O0, where GCC puts its tables behind other constants, nor of absolute tables.
    const std::string_view seen(flags);
    if (!seen.starts_with("-O0") && !seen.starts_with("-O2 -fno-pic")) {
      EXPECT_GT(moves, 10U);
    }
    expect(own.close(Quiet::caller_guarantees));
  }
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_P(MoveBy, ComputedGotosStayAndSayWhy) {
  Module m =
      commit(engine, library,
             c("int run(const unsigned char* p) { static void* const ops[] = {&&add, &&twice, &&stop}; int x = 1; goto "
               "*ops[*p]; add: x += 5; goto *ops[*++p]; twice: x *= 2; goto *ops[*++p]; stop: return x; }"
               "int plain(int x) { return x * 9; }"));
  const unsigned char program[] = {0, 1, 0, 2};
  auto* run = get<int(const unsigned char*)>("run");
  auto* plain = get<int(int)>("plain");
  const std::uint64_t run_before = body_of(run), plain_before = body_of(plain);
  Result<Moved> refused = engine.move(m, "run");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("no function"));
  Moved moved = expect(engine.move(m));
  EXPECT_EQ(moved.sections_kept, 1U);
  EXPECT_EQ(body_of(run), run_before);
  EXPECT_NE(body_of(plain), plain_before) << "the rest moves";
  settle();
  EXPECT_EQ(run(program), 17);
  EXPECT_EQ(plain(2), 18);
}

TEST_P(MoveBy, CallsToTheHostAndBetweenModulesGoOn) {
  Committed both =
      commit(engine, library,
             {c("void* malloc(unsigned long); void free(void*); unsigned long strlen(const char*);"
                "int snprintf(char*, unsigned long, const char*, ...); int back(int); int there(int x) { char* p "
                "= (char*)malloc(64); snprintf(p, 64, \"%d\", x); int n = (int)strlen(p); free(p); return n + "
                "back(x); }"),
              c("int there(int); int back(int x) { return x > 100 ? there(x - 100) : 3; }")});
  const Module a = both.modules()[0], b = both.modules()[1];
  auto* there = get<int(int)>("there");
  const int expected = there(250);
  for (int i = 0; i < 6; ++i) {
    expect(engine.move(i % 2 == 0 ? a : b));
    ASSERT_EQ(there(250), expected);
    settle();
    ASSERT_EQ(there(250), expected);
  }
}

TEST_F(Move, WhatCannotMoveSaysSo) {
  Library fixed = expect(engine.library("fixed"));
  Module m = commit(engine, fixed, compile_c("int f(void) { return 1; }", live));
  Result<Moved> refused = engine.move(m);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("replaceable"));

  // A label that others see and that is no function.
  Module label = commit(engine, library, assemble(".text\n.globl place\nplace:\n mov $5,%eax\n ret\n"));
  refused = engine.move(label);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("symbol"));
  EXPECT_EQ(get<int()>("place")(), 5);

  // An instruction that takes such an address.
  Module taken = commit(engine, library,
                        assemble(".section .text.a,\"ax\",@progbits\n.globl taken\n.type taken,@function\ntaken:\n lea "
                                 "inner(%rip),%rax\n ret\n.size taken,.-taken\n.section .text.b,\"ax\",@progbits\n nop\n"
                                 "inner:\n mov $6,%eax\n ret\n"));
  Moved moved = expect(engine.move(taken));
  EXPECT_EQ(moved.sections_kept, 1U);
  settle();
  EXPECT_EQ(get<int (*())()>("taken")()(), 6);

  // Constants that end where a table begins can't be told from it.
  Module table = commit(engine, library,
                        assemble(".text\n.globl jump\n.type jump,@function\njump:\n lea table(%rip),%rax\n movslq "
                                 "(%rax,%rdi,4),%rcx\n add %rax,%rcx\n jmp *%rcx\n1: mov $7,%eax\n ret\n2: mov $8,%eax\n "
                                 "ret\n.size jump,.-jump\n.section .rodata,\"a\",@progbits\n.long 1,2,3,4\ntable:\n.long "
                                 "1b-table,2b-table\n"));
  refused = engine.move(table);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("table"));
  EXPECT_EQ(get<int(long)>("jump")(1), 8);

  Change change = engine.change();
  change.remove(table);
  expect(try_commit(std::move(change)));
  refused = engine.move(table);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::conflict);
}

TEST_F(Move, InASingleMappingNothingMoves) {
  Options options;
  options.mapping = Mapping::single;
  Engine single = make_engine(options);
  Library one = expect(single.library("main", {.replaceable = true}));
  Module m = commit(single, one, compile_c("int f(void) { return 1; }", live));
  Result<Moved> refused = single.move(m);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_FALSE(single.compact());
  EXPECT_FALSE(engine.move(m)) << "of another engine";
}

TEST_F(Move, NotWhileItIsExchangedAsASet) {
  auto text = [](int n) { return compile_c("int f(void) { return " + std::to_string(n) + "; }", live); };
  Module m = commit(engine, library, text(1));
  auto* f = get<int()>("f");
  Border border = expect(engine.border("inside"));
  {
    Border::Entry entry(border);
    replace(m, text(2), Switch::atomic);
    EXPECT_EQ(f(), 1) << "as this entry began";
    Result<Moved> refused = engine.move(m);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::conflict);
    EXPECT_THAT(refused.error().message, HasSubstr("atomic"));
    expect(engine.compact());
    EXPECT_EQ(f(), 1);
  }
  settle();
  const std::uint64_t before = body_of(f);
  expect(engine.move(m));
  EXPECT_NE(body_of(f), before);
  EXPECT_EQ(f(), 2);
}

TEST_F(Move, ThreadsCallWhileItMoves) {
  Module m =
      commit(engine, library,
             compile_cpp("extern \"C\" " + switching(3) + throwing +
                             "extern \"C\" int all(int x) { int n = 0; return pick(x % 12, x) + catcher(x % 8, &n) + n; }",
                         live));
  Module user = commit(engine, library, compile_c("int all(int); int user(int x) { return all(x) + 1; }", live));
  auto* user_function = get<int(int)>("user");
  std::vector<int> expected;
  for (int x = 0; x < 96; ++x) expected.push_back(user_function(x));
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0}, calls{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      Border border = expect(engine.border("caller"));
      while (!stop) {
        Border::Entry entry(border);
        for (int x = 0; x < 96; ++x) wrong += user_function(x) != expected[std::size_t(x)] ? 1 : 0;
        calls += 96;
      }
    });
  int moves = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (std::chrono::steady_clock::now() < end || moves <= 30 || calls <= 1000) {
    expect(engine.move(m));
    expect(engine.move(m, "pick"));
    expect(engine.move(user));
    moves += 3;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(calls, 1000);
  EXPECT_GT(moves, 30);
  settle();
  RecordProperty("moves", moves);
}

TEST_F(Move, NothingIsLeftBehind) {
  {
    Library closing = expect(engine.library("closing", {.replaceable = true}));
    Module m = commit(engine, closing, compile_cpp("extern \"C\" " + switching(1) + throwing, live));
    for (int i = 0; i < 10; ++i) expect(i % 3 == 2 ? engine.move(m, "pick") : engine.move(m));
    int n = 0;
    EXPECT_EQ(function<int(int, int*)>(closing, "catcher")(9, &n), 900);
    expect(closing.close(Quiet::caller_guarantees));
  }
  settle();
  // What is no longer listed the engine's own thread may be freeing just now.
  for (int i = 0; i < 1000 && engine.usage().live != 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().modules, 0U);
}

TEST_F(Move, WithoutMemoryNothingHasHappened) {
  if (!counts_allocations) GTEST_SKIP() << "allocations can't be made to fail here";
  Module m =
      commit(engine, library,
             compile_cpp("extern \"C\" " + switching(1) + throwing + "extern \"C\" int last(int x) { return x; }", live));
  auto* pick = get<int(int, int)>("pick");
  auto* catcher = get<int(int, int*)>("catcher");
  int failures = 0;
  for (long n = 1; n < 2000; ++n) {
    const std::uint64_t before = body_of(pick);
    settle();
    const std::uint64_t live_before = engine.usage().live;
    fail_allocation(n);
    Result<Moved> moved = n % 2 == 0 ? engine.move(m) : engine.move(m, "pick");
    const bool failed = allocation_failed();
    fail_allocation(0);
    int count = 0;
    ASSERT_EQ(pick(3, 4), picked(1, 3, 4)) << n;
    ASSERT_EQ(catcher(8, &count), 800) << n;
    if (!moved) {
      ++failures;
      ASSERT_EQ(moved.error().code, ErrorCode::out_of_memory);
      ASSERT_EQ(body_of(pick), before);
      ASSERT_EQ(engine.usage().live, live_before);
    }
    if (!failed && n % 2 == 0) break;
  }
  EXPECT_GT(failures, 20);
  expect(engine.move(m));
  settle();
  replace(m, compile_cpp("extern \"C\" " + switching(2) + throwing + "extern \"C\" int last(int x) { return x; }", live));
  EXPECT_EQ(pick(3, 4), picked(2, 3, 4));
}

struct Many : Move {
  // About three kilobytes of code.
  static Object numbered(int i) {
    std::string text;
    for (int k = 0; k < 16; ++k) {
      std::string one = switching(i + k);
      one.replace(one.find("pick"), 4, "pick" + std::to_string(i) + "_" + std::to_string(k));
      text += one;
    }
    const std::string own = std::to_string(i);
    return compile_c(text + " int call" + own + "(int x) { return pick" + own + "_3(x % 12, x) + 1; }", live);
  }
};

TEST_F(Many, CompactingLowersWhatIsUsedWhileThreadsCall) {
  constexpr int count = 200;
  std::vector<Module> modules;
  for (int i = 0; i < count; ++i) modules.push_back(commit(engine, library, numbered(i), named("m" + std::to_string(i))));
  std::vector<int (*)(int)> calls(count);
  for (int i = 0; i < count; ++i) calls[std::size_t(i)] = get<int(int)>("call" + std::to_string(i));
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      Border border = expect(engine.border("caller"));
      while (!stop) {
        Border::Entry entry(border);
        for (int i = 1; i < count; i += 2) wrong += calls[std::size_t(i)](i) != picked(i + 3, i % 12, i) + 1 ? 1 : 0;
      }
    });
  const std::uint64_t live_before = engine.usage().live;
  Change change = engine.change();
  for (int i = 0; i < count; i += 2) change.remove(modules[std::size_t(i)]);
  expect(try_commit(std::move(change)));
  // What was removed has to be free before there are holes to fill: callers may have been stopped inside of an entry, and
  // the engine's own thread while it was freeing it.
  for (int i = 0; i < 5000 && (!expect(engine.collect()).empty() || engine.usage().live > live_before * 6 / 10); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const std::uint64_t committed_before = engine.usage().committed;
  const Compaction first = expect(engine.compact());
  Compaction last = first;
  for (int i = 0; i < 200 && last.used_after > first.used_before * 7 / 10; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    last = expect(engine.compact());
  }
  EXPECT_GT(first.functions, 17U);
  EXPECT_LT(last.used_after, first.used_before * 7 / 10);
  EXPECT_LT(last.committed_after, first.committed_before * 7 / 10);
  EXPECT_LT(engine.usage().committed, committed_before);
  std::printf("used %llu -> %llu, committed %llu -> %llu, first moved %llu bytes, %llu functions\n",
              (unsigned long long)first.used_before, (unsigned long long)last.used_after,
              (unsigned long long)first.committed_before, (unsigned long long)last.committed_after,
              (unsigned long long)first.bytes, (unsigned long long)first.functions);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  settle();
  for (int i = 1; i < count; i += 2) ASSERT_EQ(calls[std::size_t(i)](i), picked(i + 3, i % 12, i) + 1);
  // What was given back is there again when it is needed.
  for (int i = 0; i < count; i += 2) commit(engine, library, numbered(i), named("m" + std::to_string(i)));
  for (int i = 0; i < count; ++i) ASSERT_EQ(get<int(int)>("call" + std::to_string(i))(i), picked(i + 3, i % 12, i) + 1);
  expect(library.close(Quiet::caller_guarantees));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

// Modules come, are replaced, moved, packed and go, in a random order that the seed tells, while threads call what there is.
struct Stress : Move {
  static constexpr int modules = 6, versions = 4;
  std::vector<std::vector<Object>> objects;
  std::vector<std::optional<Module>> there;
  std::atomic<int (*)(int, int)> calls[modules] = {};
  std::atomic<long> wrong{0}, answers{0};

  static std::string name(int m) { return "stress" + std::to_string(m); }
  // Answers 1000 * version + what the switch says, plus a thrown number; calls its neighbour, if it is told to.
  static Object object(int m, int v) {
    std::string text = switching(m);
    text.replace(text.find("pick"), 4, "local_pick");
    return compile_cpp("static " + text + "static void thrower(int x) { if (x % 3 == 0) throw x; }" +
                           "static int counter; extern \"C\" int " + name(m) +
                           "(int x, int y) { ++counter; try { thrower(x); } catch (int z) { return " + std::to_string(v) +
                           " * 1000 + z + y; } return " + std::to_string(v) + " * 1000 + (local_pick(x, y) & 255); }",
                       live);
  }
  static bool is_right(int m, int x, int y, int answer) {
    const int rest = x % 3 == 0 ? x + y : picked(m, x, y) & 255;
    const int version = (answer - rest) / 1000;
    return answer - rest == version * 1000 && version >= 0 && version < versions;
  }
  void call_all(Border& border, int x) {
    Border::Entry entry(border);
    for (int m = 0; m < modules; ++m) {
      auto* call = calls[m].load();
      if (call == nullptr) continue;
      wrong += is_right(m, x % 12, x % 7, call(x % 12, x % 7)) ? 0 : 1;
      ++answers;
    }
  }
  void step(std::mt19937& random, int m) {
    std::optional<Module>& module = there[std::size_t(m)];
    const Object& next = objects[std::size_t(m)][random() % versions];
    if (!module) {
      module = commit(engine, library, next, named(name(m)));
      calls[m] = get<int(int, int)>(name(m));
      return;
    }
    switch (random() % 8) {
    case 0: { // the threads see the address in an entry of before at the latest; the module waits for these
      calls[m] = nullptr;
      Change change = engine.change();
      change.remove(*module);
      expect(try_commit(std::move(change)));
      module.reset();
      return;
    }
    case 1:
    case 2: return replace(*module, next);
    case 3: (void)expect(engine.compact()); return;
    case 4: (void)expect(engine.move(*module, name(m))); return;
    case 5: (void)expect(engine.move(*module, "_ZL10local_pickii")); return;
    default: (void)expect(engine.move(*module)); return;
    }
  }
};

TEST_F(Stress, AnyOrderWhileThreadsCall) {
  const char* given = std::getenv("TENON_MOVE_SEED");
  const unsigned seed = given != nullptr ? unsigned(std::atoi(given)) : std::random_device()();
  std::printf("TENON_MOVE_SEED=%u\n", seed);
  for (int m = 0; m < modules; ++m) {
    objects.emplace_back();
    for (int v = 0; v < versions; ++v) objects.back().push_back(object(m, v));
  }
  there.resize(modules);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      Border border = expect(engine.border("caller"));
      for (int x = 0; !stop; ++x) call_all(border, x);
    });
  std::mt19937 random(seed);
  int steps = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  for (; std::chrono::steady_clock::now() < end || steps <= 50 || answers <= 1000; ++steps)
    step(random, int(random() % modules));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answers, 1000);
  EXPECT_GT(steps, 50);
  std::printf("%d steps, %ld answers\n", steps, answers.load());
  expect(library.close(Quiet::caller_guarantees));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

} // namespace
} // namespace tenon::test

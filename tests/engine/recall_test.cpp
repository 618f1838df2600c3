// Modules whose code is unloaded, and made again by the first call.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <execinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

namespace tenon::test {
namespace {

using testing::HasSubstr;

struct Unloaded : ReplaceFixture {
  std::atomic<int> recalls{0};
  std::string last_function;

  static Object c(const std::string& text, const char* more = "") {
    return compile_c(text, std::string(replaceable_clang) + " " + more);
  }

  Recall giving(Object object) {
    return {[this, object](const Module&, std::string_view function) -> Result<std::optional<Object>> {
      ++recalls;
      last_function = function;
      return std::optional(object);
    }};
  }
  Result<Committed> try_unload(const Module& module, Recall recall) {
    Change change = engine.change();
    change.unload(module, std::move(recall));
    return try_commit(std::move(change));
  }
  void unload(const Module& module, Recall recall) { expect(try_unload(module, std::move(recall))); }

  static void throw_it(const Module&, std::string_view function, const Error& error) {
    throw std::runtime_error(std::string(function) + ": " + error.message);
  }
  static std::string thrown_by(int (*function)()) {
    try {
      return "nothing, it has returned " + std::to_string(function());
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  }
};

TEST_F(Unloaded, TheFirstCallMakesTheModuleAgain) {
  Module m = commit(engine, library, c("int f(int x) { return x + 1; } int g(void) { return 7; }"));
  commit(engine, library, c("int f(int); int outside(int x) { return f(x) * 100; }"));
  auto* f = get<int(int)>("f");
  auto* outside = get<int(int)>("outside");
  EXPECT_EQ(outside(1), 200);
  unload(m, giving(c("int f(int x) { return x + 2; } int g(void) { return 8; }")));
  EXPECT_TRUE(m.linked());
  EXPECT_EQ(get<int(int)>("f"), f) << "the symbol stays";
  EXPECT_EQ(recalls, 0);
  EXPECT_EQ(outside(1), 300) << "by a call site";
  EXPECT_EQ(recalls, 1);
  EXPECT_EQ(last_function, "f");
  EXPECT_EQ(f(1), 3);
  EXPECT_EQ(get<int()>("g")(), 8);
  EXPECT_EQ(recalls, 1);
  unload(m, giving(c("int f(int x) { return x + 3; } int g(void) { return 9; }")));
  EXPECT_EQ(f(1), 4) << "by its stub";
  EXPECT_EQ(outside(1), 400);
  EXPECT_EQ(recalls, 2);
}

TEST_F(Unloaded, CodeIsFreedVariablesAreKept) {
  const std::string text =
      "int v = 3; static long hidden = 10; static _Thread_local int t = 5; const char* literal(void) { return "
      "\"kept\"; } long f(void) { return ++v + ++hidden + ++t; }";
  Module m = commit(engine, library, c(text + " long many(long x) { return x * 17 + (x << 3) + x / 11; }"));
  int* v = address_of(library, "v").as<int*>();
  const char* literal = get<const char*()>("literal")();
  EXPECT_EQ(get<long()>("f")(), 4 + 11 + 6);
  unload(m, giving(c(text + " long many(long x) { return x; }")));
  settle();
  EXPECT_EQ(m.usage().code, 3U * 16) << "three trampolines";
  EXPECT_EQ(*v, 4);
  EXPECT_STREQ(literal, "kept");
  *v = 100;
  EXPECT_EQ(address_of(library, "v").as<int*>(), v);
  EXPECT_EQ(get<long()>("f")(), 101 + 12 + 7);
  EXPECT_EQ(get<const char*()>("literal")(), literal);
  settle();
  for (int i = 0; i < 20; ++i) {
    unload(m, giving(c(text + " long many(long x) { return x; }")));
    settle();
    EXPECT_EQ(get<long(long)>("many")(i), i);
    settle();
  }
  EXPECT_EQ(get<long()>("f")(), 102 + 13 + 8);
  expect(try_remove(engine, {m}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().symbols, 0U);
}

// Registers and stack as the caller had them.
TEST_F(Unloaded, ArgumentsOfEveryKindArrive) {
  const std::string types = "typedef double v2 __attribute__((vector_size(16)));\n"
                            "struct big { long a[5]; };\n";
  const std::string callee =
      types +
      "double f(long a, double b, long c, float d, long e, double g, long h, double i, long j, v2 k, long l, double m, "
      "struct big n, long double o, double p, double q, double r) {\n"
      "  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * g + 7 * h + 8 * i + 9 * j + 10 * k[0] + 11 * k[1] + 12 * l + "
      "13 * m + 14 * n.a[0] + 15 * n.a[4] + (double)o + 17 * p + 18 * q + 19 * r; }\n"
      "#include <stdarg.h>\n"
      "double sum(int n, ...) { va_list l; va_start(l, n); double s = 0; for (int i = 0; i < n; ++i) { s += va_arg(l, "
      "double); s += va_arg(l, int); } va_end(l); return s; }\n"
      "struct big back(long x) { struct big b = {{x, x + 1, x + 2, x + 3, x + 4}}; return b; }\n";
  const std::string caller =
      types +
      "double f(long, double, long, float, long, double, long, double, long, v2, long, double, struct big, long double, "
      "double, double, double); double sum(int, ...); struct big back(long);\n"
      "double call(void) { v2 k = {10, 11}; struct big n = {{14, 0, 0, 0, 15}}; return f(1, 2, 3, 4, 5, 6, 7, 8, 9, k, "
      "12, 13, n, 16.0L, 17, 18, 19); }\n"
      "double variadic(void) { return sum(10, 1.0, 1, 2.0, 2, 3.0, 3, 4.0, 4, 5.0, 5, 6.0, 6, 7.0, 7, 8.0, 8, 9.0, 9, "
      "10.0, 10); }\n"
      "long large(void) { return back(5).a[4]; }\n";
  Module m = commit(engine, library, c(callee));
  commit(engine, library, c(caller));
  for (const char* name : {"call", "variadic"}) {
    auto* function = get<double()>(name);
    const double expected = function();
    EXPECT_GT(expected, 100);
    unload(m, giving(c(callee)));
    EXPECT_EQ(function(), expected) << name;
  }
  unload(m, giving(c(callee)));
  EXPECT_EQ(get<long()>("large")(), 9);
  EXPECT_EQ(recalls, 3);
}

void pass_vectors(Unloaded& test, int bytes, const char* flag) {
  const std::string lanes = std::to_string(bytes / 8);
  const std::string type = "typedef double v __attribute__((vector_size(" + std::to_string(bytes) + ")));\n";
  const std::string callee = type + "double f(v a, v b, v c, v d, v e, v g, v h, v i) { double s = 0; for (int l = 0; l < " +
                             lanes +
                             "; ++l) s = s * 3 + a[l] + 2 * b[l] + 3 * c[l] + 5 * d[l] + 7 * e[l] + 11 * g[l] + 13 * "
                             "h[l] + 17 * i[l]; return s; }\n";
  const std::string caller = type + "double f(v, v, v, v, v, v, v, v); double call(void) { v a; for (int l = 0; l < " +
                             lanes +
                             "; ++l) a[l] = l + 1; return f(a, a + 1, a * 2, a + 3, a * 4, a + 5, a * 6, a + 7); }\n";
  Module m = commit(test.engine, test.library, Unloaded::c(callee, flag));
  commit(test.engine, test.library, Unloaded::c(caller, flag));
  auto* call = test.get<double()>("call");
  const double expected = call();
  Recall recall = test.giving(Unloaded::c(callee, flag));
  // The callback uses all vector registers itself.
  recall.make = [make = recall.make](const Module& m, std::string_view name) {
    asm volatile("vpcmpeqd %%ymm0,%%ymm0,%%ymm0; vmovdqa %%ymm0,%%ymm1; vmovdqa %%ymm0,%%ymm2; vmovdqa %%ymm0,%%ymm3;"
                 "vmovdqa %%ymm0,%%ymm4; vmovdqa %%ymm0,%%ymm5; vmovdqa %%ymm0,%%ymm6; vmovdqa %%ymm0,%%ymm7; vzeroupper" ::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
    return make(m, name);
  };
  test.unload(m, recall);
  EXPECT_EQ(call(), expected);
  EXPECT_EQ(test.recalls, 1);
}

TEST_F(Unloaded, VectorsOf32BytesArrive) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no AVX2";
  pass_vectors(*this, 32, "-mavx2");
}

TEST_F(Unloaded, VectorsOf64BytesArrive) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "no AVX-512";
  pass_vectors(*this, 64, "-mavx512f");
}

TEST_F(Unloaded, NoRegisterIsLost) {
  // Each register that a call may change, and %al, %r10 and %r11 with them.
  const char* callee = ".text\n.globl f\n.type f,@function\nf: lea (%rdi,%rsi),%rdi\nadd %rdx,%rdi\nadd %rcx,%rdi\nadd "
                       "%r8,%rdi\nadd %r9,%rdi\nadd %r10,%rdi\nadd %r11,%rdi\nadd %rdi,%rax\nret\n.size f,.-f\n";
  const char* caller = ".text\n.globl g\n.type g,@function\ng: sub $8,%rsp\nmov $1,%rdi\nmov $2,%rsi\nmov $4,%rdx\nmov "
                       "$8,%rcx\nmov $16,%r8\nmov "
                       "$32,%r9\nmov $64,%r10\nmov $128,%r11\nmov $256,%rax\nnop\ncall f\nadd $8,%rsp\nret\n.size g,.-g\n";
  Module m = commit(engine, library, assemble(callee));
  commit(engine, library, assemble(caller));
  EXPECT_EQ(get<long()>("g")(), 511);
  unload(m, giving(assemble(callee)));
  EXPECT_EQ(get<long()>("g")(), 511);
  EXPECT_EQ(recalls, 1);
}

TEST_F(Unloaded, ErrnoIsTheCallers) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  Recall recall = giving(c("int f(void) { return 2; }"));
  recall.make = [make = recall.make](const Module& m, std::string_view name) {
    errno = ENOENT;
    return make(m, name);
  };
  unload(m, recall);
  errno = EDOM;
  EXPECT_EQ(get<int()>("f")(), 2);
  EXPECT_EQ(errno, EDOM);
}

TEST_F(Unloaded, ExceptionsAndBacktracesPass) {
  const std::string callee =
      "extern \"C\" int depth(int (*)(void)); extern \"C\" int thrower(int i) { throw i + 1; } extern \"C\" int "
      "through(int (*f)(void)) { return f() + 1; }";
  const char* const cxx = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline -fexceptions";
  Module m = commit(engine, library, compile_cpp(callee, cxx));
  commit(
      engine, library,
      compile_cpp(
          "extern \"C\" int thrower(int); extern \"C\" int catches(int i) { try { thrower(i); } catch (int j) { return j; } "
          "return -1; }",
          cxx));
  unload(m, giving(compile_cpp(callee, cxx)));
  EXPECT_EQ(get<int(int)>("catches")(4), 5);
  // While the callback runs, all the frames below it can be walked, and it may throw through none of them.
  static std::vector<void*> frames;
  frames.clear();
  Recall recall = giving(compile_cpp(callee, cxx));
  recall.make = [make = recall.make](const Module& m, std::string_view name) {
    void* walked[64];
    frames.assign(walked, walked + backtrace(walked, 64));
    return make(m, name);
  };
  unload(m, recall);
  EXPECT_EQ(get<int(int)>("catches")(7), 8);
  const auto catches = get<char*>("catches") != nullptr;
  EXPECT_TRUE(catches);
  ASSERT_FALSE(frames.empty());
  auto* here = reinterpret_cast<char*>(__builtin_extract_return_addr(__builtin_return_address(0)));
  EXPECT_NE(std::find(frames.begin(), frames.end(), static_cast<void*>(here)), frames.end())
      << "the frames of the caller's caller are among them";
}

TEST_F(Unloaded, ManyThreadsMakeItOnce) {
  const std::string text = "int f(int x) { return x + ";
  Module m = commit(engine, library, c(text + "1; }"));
  commit(engine, library, c("int f(int); int g(int x) { return f(x); }"));
  auto* f = get<int(int)>("f");
  auto* g = get<int(int)>("g");
  for (int round = 0; round < 20; ++round) {
    Recall recall = giving(c(text + "2; }"));
    recall.make = [make = recall.make](const Module& m, std::string_view name) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return make(m, name);
    };
    unload(m, recall);
    std::atomic<int> ready{0}, wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
      threads.emplace_back([&, t] {
        ++ready;
        while (ready < 8) std::this_thread::yield();
        for (int i = 0; i < 100; ++i) wrong += (t % 2 != 0 ? f : g)(i) != i + 2;
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(recalls, round + 1);
  }
}

TEST_F(Unloaded, UnloadedWhileThreadsAreInside) {
  const std::string text =
      "int f(int x) { return x * 3; } int spin(int n) { int s = 0; for (int i = 0; i < n; ++i) s += f(i); "
      "return s; }";
  Module m = commit(engine, library, c(text));
  auto* spin = get<int(int)>("spin");
  const int expected = spin(1000);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      while (!stop) {
        wrong += spin(1000) != expected;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    });
  const Object object = c(text);
  for (int i = 0; i < 300 || recalls <= 10; ++i) {
    unload(m, giving(object));
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(recalls, 10);
  settle();
}

TEST_F(Unloaded, ACallbackMayCallOtherUnloadedModules) {
  Module a = commit(engine, library, c("int a(void) { return 1; }"));
  Module b = commit(engine, library, c("int b(void) { return 2; }"));
  unload(b, giving(c("int b(void) { return 20; }")));
  auto* call_b = get<int()>("b");
  Recall recall = giving(c("int a(void) { return 10; }"));
  int from_b = 0;
  recall.make = [&, make = recall.make](const Module& m, std::string_view name) {
    from_b = call_b();
    return make(m, name);
  };
  unload(a, recall);
  EXPECT_EQ(get<int()>("a")(), 10);
  EXPECT_EQ(from_b, 20);
  EXPECT_EQ(recalls, 2);
}

TEST_F(Unloaded, ACallbackMayCommitItself) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  unload(m, {[this](const Module& module, std::string_view) -> Result<std::optional<Object>> {
           Change change = engine.change();
           change.replace(module, c("int f(void) { return 5; }"));
           if (Result<Committed> done = try_commit(std::move(change)); !done) return std::move(done).error();
           return std::optional<Object>();
         }});
  EXPECT_EQ(get<int()>("f")(), 5);
}

TEST_F(Unloaded, AReplacementThatComesWhileTheCallbackRunsIsNotUndone) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  unload(m, {[this](const Module& module, std::string_view) -> Result<std::optional<Object>> {
           std::thread([&] {
             Change change = engine.change();
             change.replace(module, c("int f(void) { return 5; }"));
             expect(try_commit(std::move(change)));
           }).join();
           return std::optional(c("int f(void) { return 2; }"));
         }});
  EXPECT_EQ(get<int()>("f")(), 5);
  EXPECT_EQ(get<int()>("f")(), 5);
}

TEST_F(Unloaded, WhatIsUnloadedCantBeMoved) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  unload(m, giving(c("int f(void) { return 2; }")));
  Result<Moved> moved = engine.move(m);
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().message, HasSubstr("unloaded"));
  expect(engine.compact());
  EXPECT_EQ(get<int()>("f")(), 2);
  EXPECT_GT(expect(engine.move(m)).functions, 0U);
  EXPECT_EQ(get<int()>("f")(), 2);
}

TEST_F(Unloaded, CanBeReplacedAndUnloadedAgain) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int v = 5;"));
  unload(m, giving(c("int f(void) { return 2; } int v = 5;")));
  unload(m, giving(c("int f(void) { return 3; } int v = 5;")));
  Change change = engine.change();
  change.replace(m, c("int f(void) { return 4; } int v = 5; int added(void) { return v; }"));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int()>("f")(), 4);
  EXPECT_EQ(recalls, 0);
  unload(m, giving(c("int f(void) { return 6; } int v = 5; int added(void) { return v; }")));
  // New callers are linked while it is unloaded.
  commit(engine, library, c("int f(void); extern int v; int g(void) { return f() + v; }"));
  EXPECT_EQ(recalls, 0);
  EXPECT_EQ(get<int()>("g")(), 11);
  EXPECT_EQ(recalls, 1);
  unload(m, giving(c("int f(void) { return 6; } int v = 5;")));
  expect(library.close());
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(Unloaded, FailureGoesToTheClientWhoMayThrow) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int other(void) { return 2; }", "-fexceptions"));
  int attempts = 0;
  Recall recall;
  recall.make = [&](const Module&, std::string_view) -> Result<std::optional<Object>> {
    if (++attempts == 1) return Error{ErrorCode::compile, "no such source"};
    return std::optional(c("int f(void) { return 3; } int other(void) { return 2; }"));
  };
  recall.failed = throw_it;
  unload(m, recall);
  auto* f = get<int()>("f");
  EXPECT_EQ(thrown_by(f), "f: no such source");
  EXPECT_EQ(f(), 3) << "the next call tries again";
}

TEST_F(Unloaded, WaitingForOneselfIsAnError) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  auto* f = get<int()>("f");
  Recall recall;
  recall.make = [&](const Module&, std::string_view) -> Result<std::optional<Object>> {
    f();
    return Error{ErrorCode::compile, "not reached"};
  };
  recall.failed = [](const Module&, std::string_view, const Error& error) { throw std::runtime_error(error.message); };
  unload(m, recall);
  try {
    f();
    FAIL() << "it has returned";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("waits for itself"));
  }
}

TEST_F(Unloaded, TwoThreadsThatWaitForEachOtherAreTold) {
  Module a = commit(engine, library, c("int a(void) { return 1; }"));
  Module b = commit(engine, library, c("int b(void) { return 2; }"));
  auto* call_a = get<int()>("a");
  auto* call_b = get<int()>("b");
  std::atomic<int> inside{0};
  auto crossing = [&](int (*other)(), Object object) {
    Recall recall;
    recall.make = [&inside, other, object](const Module&, std::string_view) -> Result<std::optional<Object>> {
      if (++inside <= 2) {
        while (inside < 2) std::this_thread::yield();
        other();
      }
      return std::optional(object);
    };
    recall.failed = [](const Module&, std::string_view, const Error& error) { throw std::runtime_error(error.message); };
    return recall;
  };
  unload(a, crossing(call_b, c("int a(void) { return 10; }")));
  unload(b, crossing(call_a, c("int b(void) { return 20; }")));
  std::atomic<int> failed{0}, done{0};
  auto run = [&](int (*function)(), int expected) {
    try {
      done += function() == expected;
    } catch (const std::runtime_error&) {
      ++failed;
    }
  };
  std::thread other([&] { run(call_b, 20); });
  run(call_a, 10);
  other.join();
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(done, 1);
}

TEST_F(Unloaded, FailureWithoutAHandlerEndsTheProcess) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  unload(m, {[](const Module&, std::string_view) -> Result<std::optional<Object>> {
           return Error{ErrorCode::compile, "the source is gone"};
         }});
  auto* f = get<int()>("f");
  GTEST_FLAG_SET(death_test_style, "fast");
  EXPECT_DEATH(f(), "'f' of module .* was called, which is unloaded, and could not be made again: the source is gone");
}

TEST_F(Unloaded, AFunctionThatTheNewVersionLacksIsNamed) {
  Module m = commit(engine, library, c("int f(void) { return 1; } int g(void) { return 2; }"));
  Recall recall = giving(c("int g(void) { return 20; }"));
  recall.failed = throw_it;
  unload(m, recall);
  auto* f = get<int()>("f");
  EXPECT_EQ(thrown_by(f), "f: the module's new version lacks it");
  EXPECT_EQ(get<int()>("g")(), 20);
}

TEST_F(Unloaded, ForkedChildrenRecallForThemselves) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  Recall recall = giving(c("int f(void) { return 2; }"));
  std::atomic<bool> started{false}, go{false};
  recall.make = [&, make = recall.make](const Module& m, std::string_view name) {
    if (!started.exchange(true))
      while (!go) std::this_thread::yield();
    return make(m, name);
  };
  unload(m, recall);
  auto* f = get<int()>("f");
  std::thread other([&] { EXPECT_EQ(f(), 2); });
  while (!started) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) _exit(f()); // whoever had begun is not here
  go = true;
  other.join();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 2);
}

TEST_F(Unloaded, AThreadThatEndsInTheCallbackLeavesItToOthers) {
  Module m = commit(engine, library, c("int f(void) { return 1; }", "-fexceptions"));
  Recall recall = giving(c("int f(void) { return 2; }"));
  std::atomic<int> calls{0};
  recall.make = [&, make = recall.make](const Module& m, std::string_view name) {
    if (++calls == 1) pthread_exit(nullptr);
    return make(m, name);
  };
  unload(m, recall);
  auto* f = get<int()>("f");
  std::thread([&] { f(); }).join();
  EXPECT_EQ(recalls, 0);
  EXPECT_EQ(f(), 2);
  EXPECT_EQ(calls, 2);
}

TEST(UnloadedSingle, WorksWithoutAnAlias) {
  Options options;
  options.mapping = Mapping::single;
  options.unwinding = false;
  Engine engine = make_engine(options);
  Library library = expect(engine.library("main", {.replaceable = true}));
  Module m = commit(engine, library, Unloaded::c("int f(int x) { return x + 1; } int g(int x) { return x + 2; }"));
  commit(engine, library, Unloaded::c("int f(int); int call(int x) { return f(x); }"));
  auto* call = function<int(int)>(library, "call");
  Change unloading = engine.change();
  unloading.unload(m, {[](const Module&, std::string_view) -> Result<std::optional<Object>> {
                     return std::optional(Unloaded::c("int f(int x) { return x + 5; } int g(int x) { return x + 2; }"));
                   }});
  expect(try_commit(std::move(unloading)));
  EXPECT_EQ(call(1), 6);
  {
    Redirect of_f = expect(library.redirect("f"));
    expect(of_f.to(expect(library.redirect("g"))));
    EXPECT_EQ(call(1), 3);
  }
  EXPECT_EQ(call(1), 6);
  Change leading = engine.change();
  leading.replace(m, Unloaded::c("int g(int x) { return x + 2; }"));
  leading.lead(m, "f", std::string("g"));
  expect(try_commit(std::move(leading)));
  EXPECT_EQ(call(1), 3);
}

TEST_F(Unloaded, AGroupThatOthersShareIsMadeAgain) {
  const std::string text = "struct S { int n; __attribute__((noinline)) int twice() { return n * 2; } }; ";
  const char* const cxx = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";
  Module provider = commit(engine, library, compile_cpp(text + "extern \"C\" int p() { S s{4}; return s.twice(); }", cxx));
  Module sharer = commit(engine, library, compile_cpp(text + "extern \"C\" int q() { S s{5}; return s.twice(); }", cxx));
  unload(provider, giving(compile_cpp(text + "extern \"C\" int p() { S s{6}; return s.twice(); }", cxx)));
  Result<void> refused = try_remove(engine, {provider});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("others share its COMDAT groups"));
  EXPECT_EQ(get<int()>("q")(), 10);
  EXPECT_EQ(recalls, 1);
  EXPECT_EQ(get<int()>("p")(), 12);
  unload(provider, giving(compile_cpp(text + "extern \"C\" int p() { S s{6}; return s.twice(); }", cxx)));
  expect(try_remove(engine, {provider, sharer}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(Unloaded, AnAtomicReplacementSupersedesTheTrampolines) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  commit(engine, library, c("int f(void); int call(void) { return f(); }"));
  unload(m, giving(c("int f(void) { return 2; }")));
  Border border = expect(engine.border("test"));
  Border::Entry entry(border);
  replace(m, c("int f(void) { return 3; }"), Switch::atomic);
  EXPECT_EQ(get<int()>("call")(), 3) << "there is no other version that this entry could see";
  EXPECT_EQ(recalls, 0);
}

// Entries of before run the new version of what was unloaded, and of the others the one that they have seen.
TEST_F(Unloaded, ASetWithAnUnloadedMemberShowsEntriesOfBeforeNoLaterVersionsOfOthers) {
  Module other = commit(engine, library, c("int g(void) { return 1; }"));
  Module m = commit(engine, library, c("int g(void); int f(void) { return 10 + g(); }"));
  commit(engine, library, c("int f(void); int call(void) { return f(); }"));
  auto* call = get<int()>("call");
  unload(m, giving(c("int f(void) { return 0; }")));
  Border border = expect(engine.border("test"));
  {
    Border::Entry entry(border);
    auto exchange = [&](Object f, Object g) {
      Change change = engine.change();
      change.replace(m, std::move(f));
      change.replace(other, std::move(g));
      expect(try_commit(std::move(change), Initialize::run, Switch::atomic));
    };
    exchange(c("int g(void); int f(void) { return 20 + g(); }"), c("int g(void) { return 2; }"));
    EXPECT_EQ(call(), 21) << "f has no other version, g has";
    replace(other, c("int g(void) { return 3; }"), Switch::atomic);
    EXPECT_EQ(call(), 21);
    exchange(c("int g(void); int f(void) { return 30 + g(); }"), c("int g(void) { return 4; }"));
    EXPECT_EQ(call(), 21) << "of the second set it sees what was before";
    std::thread([&] { EXPECT_EQ(call(), 34) << "no entry"; }).join();
  }
  EXPECT_EQ(call(), 34);
  settle();
  EXPECT_EQ(call(), 34);
  EXPECT_EQ(recalls, 0);
}

TEST_F(Unloaded, AnEntryThatLeadsToATrampolineSeesTheNextSet) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  commit(engine, library, c("int f(void); int call(void) { return f(); }"));
  auto* call = get<int()>("call");
  Border border = expect(engine.border("old"));
  std::optional<Border::Entry> old(std::in_place, border);
  replace(m, c("int f(void) { return 2; }"), Switch::atomic);
  unload(m, giving(c("int f(void) { return 0; }")));
  EXPECT_EQ(call(), 1) << "the entry's own";
  std::thread([&] {
    Border of_this = expect(engine.border("between"));
    Border::Entry between(of_this);
    replace(m, c("int f(void) { return 3; }"), Switch::atomic);
    EXPECT_EQ(call(), 3) << "it began when there was none";
    replace(m, c("int f(void) { return 4; }"), Switch::atomic);
    EXPECT_EQ(call(), 3);
    replace(m, c("int f(void) { return 5; }"));
    EXPECT_EQ(call(), 3) << "a plain one leaves what entries of before a set see";
  }).join();
  EXPECT_EQ(call(), 1);
  old.reset();
  EXPECT_EQ(call(), 5);
  settle();
  EXPECT_EQ(call(), 5);
  EXPECT_EQ(recalls, 0);
}

// In a version that a set has superseded calls go on to what they led to: the one that was held up as well.
TEST_F(Unloaded, ACallThatIsHeldUpWhileASetComesSeesNoLaterVersionThanTheNextOne) {
  Module m = commit(engine, library, c("int f(void) { return 1; }"));
  Module user = commit(engine, library, c("int f(void); int twice(void) { int first = f(); return 10 * first + f(); }"));
  auto* twice = get<int()>("twice");
  EXPECT_EQ(twice(), 11);
  unload(m, {[&](const Module&, std::string_view) -> Result<std::optional<Object>> {
           ++recalls;
           replace(m, c("int f(void) { return 2; }"));
           Change change = engine.change();
           change.replace(m, c("int f(void) { return 3; }"));
           change.replace(user, c("int f(void); int twice(void) { int first = f(); return 100 * first + f(); }"));
           expect(try_commit(std::move(change), Initialize::run, Switch::atomic));
           return std::optional<Object>();
         }});
  EXPECT_EQ(twice(), 22) << "the old set";
  EXPECT_EQ(twice(), 303);
  settle();
  EXPECT_EQ(twice(), 303);
  EXPECT_EQ(recalls, 1);
}

TEST_F(Unloaded, WhatCantBeUnloadedSaysWhy) {
  Library fixed = expect(engine.library("fixed"));
  Module m = commit(engine, fixed, c("int f(void) { return 1; }"));
  Result<Committed> refused = try_unload(m, giving(c("int f(void) { return 1; }")));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("replaceable"));
  Library collected = expect(engine.library("collected", {.replaceable = true, .collected = true}));
  Module with_destructor = commit(
      engine, collected,
      compile_cpp("struct S { int x = 1; ~S() { x = 0; } }; S s; extern \"C\" int sf() { return s.x; }", replaceable_clang));
  auto kept = expect(collected.function<int()>("sf"));
  refused = try_unload(with_destructor, giving(c("int sf(void) { return 1; }")));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("to run at its end"));
  EXPECT_EQ(kept(), 1) << "nothing has happened";
  Module labelled =
      commit(engine, library, assemble(".text\n.globl l\nl: ret\n.globl lf\n.type lf,@function\nlf: ret\n.size lf,.-lf\n"));
  refused = try_unload(labelled, giving(c("int lf(void) { return 1; }")));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("'l' lies in its code"));
  Change change = engine.change();
  change.unload(labelled, giving(c("int lf(void) { return 1; }")));
  change.remove(labelled);
  EXPECT_FALSE(try_commit(std::move(change)));
}

} // namespace
} // namespace tenon::test

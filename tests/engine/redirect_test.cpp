// Functions redirected to others by handles.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct Redirecting : ReplaceFixture {
  Module first = commit(engine, library, c("int f(int x) { return x + 1; } int inside(int x) { return f(x); }"));
  Module second = commit(engine, library, c("int g(int x) { return x + 10; }"));
  Module user = commit(engine, library, c("int f(int); int call(int x) { return f(x); }"));
  int (*f)(int) = get<int(int)>("f");
  int (*g)(int) = get<int(int)>("g");
  int (*call)(int) = get<int(int)>("call");
  int (*inside)(int) = get<int(int)>("inside");
};

TEST_F(Redirecting, ToAndBack) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  for (int i = 0; i < 3; ++i) {
    expect(of_f.to(of_g));
    EXPECT_EQ(call(0), 10) << "a site of another module";
    EXPECT_EQ(inside(0), 10) << "a site of its own module";
    EXPECT_EQ(f(0), 10) << "a pointer";
    EXPECT_EQ(get<int(int)>("f"), f);
    of_f.back();
    EXPECT_EQ(call(0) + inside(0) + f(0), 3);
    of_f.back();
    EXPECT_EQ(f(0), 1);
  }
  expect(of_f.to(of_f));
  EXPECT_EQ(f(0), 1);
  expect(of_f.to(of_g));
  Module later = commit(engine, library, c("int f(int); int late(int x) { return f(x); }"));
  EXPECT_EQ(get<int(int)>("late")(0), 10) << "a caller that is linked meanwhile";
}

TEST_F(Redirecting, TwoFunctionsCanBeExchanged) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  expect(of_f.to(of_g));
  expect(of_g.to(of_f));
  EXPECT_EQ(call(0), 10);
  EXPECT_EQ(g(0), 1);
  of_f.back();
  EXPECT_EQ(call(0), 1);
  EXPECT_EQ(g(0), 1);
}

TEST_F(Redirecting, StaysThroughNewVersionsAndFollowsTheTargets) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  expect(of_f.to(of_g));
  for (Switch how : {Switch::each, Switch::atomic}) {
    expect(try_replace(first, c("int f(int x) { return x + 2; } int inside(int x) { return f(x); }"), how));
    settle();
    EXPECT_EQ(call(0) + inside(0) + f(0), 30) << "new versions of f do not show";
    expect(try_replace(second, c("int g(int x) { return x + 20; }"), how));
    settle();
    EXPECT_EQ(call(0) + inside(0) + f(0), 60) << "new versions of g do";
    of_f.back();
    EXPECT_EQ(call(0) + inside(0) + f(0), 6);
    expect(of_f.to(of_g));
    expect(try_replace(first, c("int f(int x) { return x + 1; } int inside(int x) { return f(x); }"), how));
    expect(try_replace(second, c("int g(int x) { return x + 10; }"), how));
    settle();
  }
}

TEST_F(Redirecting, AnAtomicCommitOfTheTargetIsSeenThroughIt) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  expect(of_f.to(of_g));
  Border border = expect(engine.border("test"));
  {
    Border::Entry entry(border);
    expect(try_replace(second, c("int g(int x) { return x + 20; }"), {}, Switch::atomic));
    EXPECT_EQ(call(0), 10) << "this entry is of before";
    EXPECT_EQ(g(0), 10);
    of_f.back();
    EXPECT_EQ(call(0), 1);
    expect(of_f.to(of_g));
    EXPECT_EQ(call(0), 10);
  }
  EXPECT_EQ(call(0), 20);
  settle();
  EXPECT_EQ(call(0), 20);
}

TEST_F(Redirecting, TheTargetStays) {
  Redirect of_f = expect(library.redirect("f"));
  expect(of_f.to(expect(library.redirect("g")))); // a handle on the target is not needed
  Result<void> refused = try_remove(engine, {second});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'f' of"), HasSubstr("redirected to 'g'")));
  Result<Committed> vanishes = try_replace(second, c("int h(int x) { return x; }"));
  ASSERT_FALSE(vanishes);
  EXPECT_THAT(vanishes.error().message, AllOf(HasSubstr("'g'"), HasSubstr("the redirected 'f'")));
  EXPECT_EQ(call(0), 10);
  of_f.back();
  expect(try_remove(engine, {second}));
  EXPECT_EQ(call(0), 1);
}

TEST_F(Redirecting, EndsWithTheLastCopy) {
  Redirect of_g = expect(library.redirect("g"));
  {
    Redirect of_f = expect(library.redirect("f"));
    {
      Redirect copy = of_f;
      expect(copy.to(of_g));
    }
    EXPECT_EQ(call(0), 10);
    {
      Redirect another = expect(library.redirect("f"));
      another.back();
      EXPECT_EQ(call(0), 10) << "not its own";
    }
    EXPECT_EQ(call(0), 10);
  }
  EXPECT_EQ(call(0), 1);
  expect(try_remove(engine, {second}));
  EXPECT_EQ(g(0), 10) << "a handle keeps the memory, as a Function does";
  Redirect of_f = expect(library.redirect("f"));
  Result<void> refused = of_f.to(of_g);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("its module was removed"));
}

TEST_F(Redirecting, AllOfABatchOrNone) {
  Engine foreign = make_engine();
  Library elsewhere = expect(foreign.library("other", {.replaceable = true}));
  commit(foreign, elsewhere, c("int f(int x) { return x + 100; }"));
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g")),
           of_call = expect(library.redirect("call"));
  Redirect strange = expect(elsewhere.redirect("f"));
  const Redirection wrong[] = {{&of_f, &of_g}, {&of_call, &strange}};
  Result<void> refused = engine.redirect(wrong);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("different engines"));
  EXPECT_EQ(f(0), 1);
  const Redirection right[] = {{&of_f, &of_g}, {&of_call, &of_g}};
  expect(engine.redirect(right));
  EXPECT_EQ(f(1), 11);
  EXPECT_EQ(call(1), 11);
  const Redirection home[] = {{&of_f, nullptr}, {&of_call, nullptr}};
  expect(engine.redirect(home));
  EXPECT_EQ(f(1), 2);
}

TEST_F(Redirecting, WhatCantBeRedirectedSaysSo) {
  EXPECT_EQ(library.redirect("nothing").error().code, ErrorCode::undefined);
  commit(engine, library, c("int v = 1;"));
  EXPECT_EQ(library.redirect("v").error().code, ErrorCode::unsupported);
  Library fixed = expect(engine.library("fixed"));
  commit(engine, fixed, c("int f(int x) { return x; }"));
  EXPECT_EQ(fixed.redirect("f").error().code, ErrorCode::unsupported);
}

TEST_F(Redirecting, UnloadedAndVanishedFunctions) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  expect(of_f.to(of_g));
  int recalls = 0;
  auto unload = [&](const Module& module, const char* text) {
    Change change = engine.change();
    change.unload(module, {[&recalls, text](const Module&, std::string_view) -> Result<std::optional<Object>> {
                    ++recalls;
                    return std::optional(c(text));
                  }});
    expect(try_commit(std::move(change)));
  };
  unload(first, "int f(int x) { return x + 3; } int inside(int x) { return f(x); }");
  EXPECT_EQ(call(0), 10);
  EXPECT_EQ(recalls, 0) << "f itself is not called";
  unload(second, "int g(int x) { return x + 30; }");
  EXPECT_EQ(call(0), 30);
  EXPECT_EQ(recalls, 1);
  of_f.back();
  EXPECT_EQ(call(0), 3);
  EXPECT_EQ(recalls, 2);
  expect(of_f.to(of_g));
  Change change = engine.change();
  change.replace(first, c("int inside(int x) { return x + 4; }"));
  change.lead(first, "f", std::string("inside"));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(call(0), 4) << "what a change says of a function that vanishes is the last word";
  of_f.back();
  EXPECT_EQ(call(0), 4);
  EXPECT_FALSE(of_f.to(of_g));
  expect(try_remove(engine, {second}));
}

TEST_F(Redirecting, WhileThreadsCall) {
  Redirect of_f = expect(library.redirect("f")), of_g = expect(library.redirect("g"));
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      auto* called = t % 2 != 0 ? call : f;
      while (!stop) {
        const int answer = called(0);
        wrong += answer != 1 && answer != 10 && answer != 20;
      }
    });
  std::thread replacing([&] {
    const Object objects[] = {c("int g(int x) { return x + 20; }"), c("int g(int x) { return x + 10; }")};
    for (int i = 0; i < 100; ++i) expect(try_replace(second, objects[i % 2]));
  });
  int late = 0;
  for (int i = 0; i < 100'000; ++i) {
    expect(of_f.to(of_g));
    late += call(0) == 1;
    of_f.back();
    late += call(0) != 1;
  }
  replacing.join();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(late, 0) << "from when it returns, calls land there";
  settle();
}

} // namespace
} // namespace tenon::test

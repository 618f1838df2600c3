// Functions that vanish, led elsewhere by the change.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

int of_the_host(int x) { return x + 1000; }

struct Leading : ReplaceFixture {
  template <class To> Result<Committed> try_lead(const Module& module, Object object, const char* name, To to) {
    Change change = engine.change();
    change.replace(module, std::move(object));
    change.lead(module, name, to);
    return try_commit(std::move(change));
  }
  Module m = commit(engine, library, c("int f(int x) { return x + 1; } int g(int x) { return x + 2; } int v = 1;"));
  Module user = commit(engine, library,
                       c("int f(int); int call(int x) { return f(x); } int (*pointer)(int) = f; int by_pointer(int x) { "
                         "return pointer(x); }"));
};

TEST_F(Leading, CallersAndPointersReachAFunctionOfTheNewVersion) {
  auto* f = get<int(int)>("f");
  expect(try_lead(m, c("int h(int x) { return x + 50; } int g(int x) { return x + 2; } int v = 1;"), "f", std::string("h")));
  EXPECT_EQ(get<int(int)>("call")(1), 51);
  EXPECT_EQ(get<int(int)>("by_pointer")(1), 51);
  EXPECT_EQ(f(1), 51);
  EXPECT_FALSE(library.find("f"));
  settle();
  EXPECT_EQ(engine.usage().superseded, 0U) << "the version that had it is gone";
  replace(m, c("int h(int x) { return x + 60; } int g(int x) { return x + 2; } int v = 1;"));
  EXPECT_EQ(get<int(int)>("call")(1), 61) << "it is followed";
  EXPECT_EQ(f(1), 61);
  Change change = engine.change();
  change.replace(m, c("int g(int x) { return x + 2; } int v = 1;"));
  Result<Committed> refused = try_commit(std::move(change));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'h'"), HasSubstr("'f' of")));
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "h", std::string("g")));
  EXPECT_EQ(get<int(int)>("call")(1), 3) << "led on";
  EXPECT_EQ(f(1), 3);
  replace(m, c("int g(int x) { return x + 5; } int v = 1;"));
  EXPECT_EQ(get<int(int)>("call")(1), 6);
  EXPECT_EQ(f(1), 6);
}

TEST_F(Leading, AVanishedFunctionMayComeBack) {
  auto* f = get<int(int)>("f");
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "f", std::string("g")));
  EXPECT_EQ(f(1), 3);
  replace(m, c("int f(int x) { return x + 70; } int g(int x) { return x + 2; } int v = 1;"));
  EXPECT_EQ(f(1), 71);
  EXPECT_EQ(get<int(int)>("f"), f);
  EXPECT_EQ(get<int(int)>("call")(1), 71);
  replace(m, c("int f(int x) { return x + 80; } int g(int x) { return x + 3; } int v = 1;"));
  EXPECT_EQ(get<int(int)>("call")(1), 81) << "it follows nobody any more";
}

TEST_F(Leading, ToAnotherModuleWhichThenCantGo) {
  Module other = commit(engine, library, c("int far(int x) { return x + 300; }"));
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "f", std::string("far")));
  EXPECT_EQ(get<int(int)>("call")(1), 301);
  replace(other, c("int far(int x) { return x + 400; }"));
  EXPECT_EQ(get<int(int)>("call")(1), 401);
  Result<void> refused = try_remove(engine, {other});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("'f', which was led to 'far'"));
  replace(m, c("int f(int x) { return x; } int g(int x) { return x + 2; } int v = 1;"));
  expect(try_remove(engine, {other}));
  EXPECT_EQ(get<int(int)>("call")(1), 1);
}

TEST_F(Leading, ModulesThatLeadToEachOtherGoTogether) {
  Module other = commit(engine, library, c("int far(int x) { return x + 300; }"));
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "f", std::string("far")));
  EXPECT_FALSE(try_remove(engine, {other}));
  expect(try_remove(engine, {user, m, other}));
  settle();
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST_F(Leading, ToAModuleOfTheSameChange) {
  Change change = engine.change();
  change.replace(m, c("int g(int x) { return x + 2; } int v = 1;"));
  change.add(library, c("int fresh(int x) { return x + 9; }"));
  change.lead(m, "f", std::string("fresh"));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int(int)>("call")(1), 10);
  EXPECT_EQ(get<int(int)>("by_pointer")(1), 10);
}

TEST_F(Leading, ToAnAddress) {
  auto* f = get<int(int)>("f");
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "f", Addr::of(&of_the_host)));
  EXPECT_EQ(get<int(int)>("call")(1), 1001) << "further away than a call reaches";
  EXPECT_EQ(get<int(int)>("by_pointer")(1), 1001);
  EXPECT_EQ(f(1), 1001);
  // Later it can be led elsewhere without another version.
  Change change = engine.change();
  change.lead(m, "f", std::string("g"));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int(int)>("call")(1), 3);
}

TEST_F(Leading, AnAtomicCommitBringsItBack) {
  expect(try_lead(m, c("int g(int x) { return x + 2; } int v = 1;"), "f", Addr::of(&of_the_host)));
  Border border = expect(engine.border("test"));
  {
    Border::Entry entry(border);
    replace(m, c("int f(int x) { return x + 70; } int g(int x) { return x + 3; } int v = 1;"), Switch::atomic);
    EXPECT_EQ(get<int(int)>("call")(1), 1001) << "what this entry sees is from before";
  }
  EXPECT_EQ(get<int(int)>("call")(1), 71);
  settle();
  EXPECT_EQ(get<int(int)>("call")(1), 71);
}

TEST_F(Leading, MistakesAreNamed) {
  struct Case {
    const char *object, *name, *to, *says;
  } cases[] = {
      {"int f(int x) { return x; } int g(int x) { return x; } int v = 1;", "f", "g", "has not vanished"},
      {"int g(int x) { return x; } int v = 1;", "f", "nowhere", "there is no such function"},
      {"int g(int x) { return x; } int v = 1;", "f", "v", "no function"},
      {"int g(int x) { return x; } int v = 1;", "f", "f", "vanishes with the same change"},
      {"int f(int x) { return x; } int g(int x) { return x; }", "v", "f", "it is no function"},
      {"int g(int x) { return x; } int v = 1;", "never", "g", "has had no such function"},
  };
  for (const Case& one : cases) {
    Result<Committed> refused = try_lead(m, c(one.object), one.name, std::string(one.to));
    ASSERT_FALSE(refused) << one.says;
    EXPECT_THAT(refused.error().message, HasSubstr(one.says));
  }
  Module other = commit(engine, library, c("int far(int x) { return x + 300; }"));
  Change change = engine.change();
  change.replace(m, c("int g(int x) { return x + 2; } int v = 1;"));
  change.remove(other);
  change.lead(m, "f", std::string("far"));
  Result<Committed> refused = try_commit(std::move(change));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("removed by the same change"));
  EXPECT_EQ(get<int(int)>("call")(1), 2) << "nothing has happened";
  Change twice = engine.change();
  twice.lead(m, "f", std::string("g"));
  twice.lead(m, "f", std::string("g"));
  EXPECT_FALSE(try_commit(std::move(twice)));
}

} // namespace
} // namespace tenon::test

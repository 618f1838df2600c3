// What replacing refuses, and what it must survive: found by reviewers who tried to break it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

namespace tenon::test {
namespace {

using testing::HasSubstr;

struct ReplaceLimits : ReplaceFixture {
  int call(const char* name) { return function<int()>(library, name)(); }
  static int call_of(const Library& of) { return function<int()>(of, "f")(); }
};

TEST_F(ReplaceLimits, CodeOfAReplaceableLibraryIsNotReleased) {
  Change change = engine.change();
  change.add(library, c("int f(void) { return 1; }"));
  Draft draft = expect(std::move(change).draft());
  Placed placed = expect(std::move(draft).place());
  Linked linked = expect(std::move(placed).link());
  Result<Code> refused = std::move(linked).release();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("can't be released"));
}

TEST_F(ReplaceLimits, AModuleIsNotRemovedAndReplacedInOneChange) {
  Module module = commit(engine, library, c("int f(void) { return 1; }"));
  Change change = engine.change();
  change.replace(module, c("int f(void) { return 2; }"));
  change.remove(module);
  Result<Draft> refused = std::move(change).draft();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(call("f"), 1);
}

TEST_F(ReplaceLimits, WhoIsLinkedDuringATransitionFollows) {
  Module module = commit(engine, library, c("int f(void) { return 1; }"));
  Border border = expect(engine.border());
  {
    Border::Entry entry(border);
    std::thread([&] { replace(module, c("int f(void) { return 2; }"), Switch::atomic); }).join();
    commit(engine, library, c("int f(void); int g(void) { return f(); }"));
    EXPECT_EQ(call("g"), 1) << "this entry began before";
    std::thread([&] { EXPECT_EQ(call("g"), 2); }).join();
    std::thread([&] { replace(module, c("int f(void) { return 3; }")); }).join();
    std::thread([&] { EXPECT_EQ(call("g"), 3); }).join();
  }
  settle();
  EXPECT_EQ(call("g"), 3);
}

TEST_F(ReplaceLimits, TheOldestOfAThreadsEntriesDecides) {
  Module module = commit(engine, library, c("int f(void) { return 1; }"));
  Border first = expect(engine.border()), second = expect(engine.border());
  {
    Border::Entry entry(first);
    std::thread([&] { replace(module, c("int f(void) { return 2; }"), Switch::atomic); }).join();
    EXPECT_EQ(call("f"), 1);
    Border::Entry inner(second);
    EXPECT_EQ(call("f"), 1);
  }
  settle();
}

TEST_F(ReplaceLimits, ALibraryThatNobodyNeedsClosesWhileOldCodeIsFreed) {
  Library other = expect(engine.library("other", {.replaceable = true}));
  auto anonymous = std::make_unique<Library>(expect(engine.library()));
  commit(engine, *anonymous, c("int base(void) { return 4; }"));
  expect(other.search({Source::library(*anonymous)}));
  Module user = commit(engine, other, c("int base(void); int f(void) { return base(); }"));
  EXPECT_EQ(call_of(other), 4);
  anonymous.reset(); // others still need it
  Change change = engine.change();
  change.replace(user, c("int f(void) { return 5; }"));
  expect(try_commit(std::move(change)));
  settle();
  EXPECT_EQ(call_of(other), 5);
}

TEST_F(ReplaceLimits, VanishedStaticFunctionsAreForgotten) {
  Module module = commit(engine, library, c("static int helper(int x) { return x + 1; } int f(void) { return helper(1); }"));
  for (int i = 0; i < 20; ++i) {
    const std::string name = "helper" + std::to_string(i);
    replace(module, c("static int " + name + "(int x) { return x + " + std::to_string(i) + "; } int f(void) { return " +
                      name + "(1); }"));
    settle();
    EXPECT_EQ(call("f"), i + 1);
  }
}

TEST_F(ReplaceLimits, InitializersOfAnAtomicCommitAreTheNewOnes) {
  // Volatile: the compiler would run the constructors itself. The same function is the initializer of both versions.
  auto text = [](const std::string& more) {
    return "volatile int ran; int f(void) { return ran; } __attribute__((constructor)) void start(void);" + more;
  };
  Module module = commit(engine, library, c(text("int start_is_a_function; void start(void) { }")));
  Border border = expect(engine.border());
  {
    Border::Entry entry(border);
    replace(module,
            c(text("void start(void) { } volatile int fresh; __attribute__((constructor)) void second(void) { fresh "
                   "= 10; } int g(void) { return fresh; }")),
            Switch::atomic);
  }
  EXPECT_EQ(call("g"), 10);
  settle();
}

TEST_F(ReplaceLimits, AHandleOfAVanishedFunctionStaysCallable) {
  Module module = commit(engine, library, c("int f(void) { return 1; } int g(void) { return 7; }"));
  Function<int()> handle = expect(library.function<int()>("g"));
  replace(module, c("int f(void) { return 2; }"));
  EXPECT_FALSE(library.find("g"));
  EXPECT_EQ(handle(), 7);
}

} // namespace
} // namespace tenon::test

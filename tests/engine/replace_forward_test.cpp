// Forward references that a replaceable module has defined, and a new version of it may lack.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct ReplaceForward : ReplaceFixture {
  Module user(const char* name, const std::string& text, bool forward = true) {
    ModuleOptions options;
    if (forward) options.forward = {"*"};
    return commit(engine, library, compile_c(text, replaceable_clang, name), options);
  }
};

TEST_F(ReplaceForward, ARefusalNamesAllThatIsMissingAndWhoRefersToIt) {
  user("first.o", "int f(int); int g(int); int call_first(int x) { return f(x) + g(x); }");
  user("second.o", "int f(int); int call_second(int x) { return f(x); }");
  Module m = commit(engine, library,
                    c("int f(int x) { return x + 1; } int g(int x) { return x + 2; } int plain(int x) { return x; }"));
  user("later.o", "int f(int); int plain(int); int call_later(int x) { return f(x) + plain(x); }", false);
  EXPECT_EQ(get<int(int)>("call_first")(0) * 10 + get<int(int)>("call_second")(0), 31);
  Result<Committed> refused = try_replace(m, c("int h(int x) { return x; }"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("'f' (needed by first.o, second.o, later.o)"), HasSubstr("'g' (needed by first.o)"),
                    HasSubstr("'plain' (needed by later.o)")));
  refused = try_replace(m, c("int f(int x) { return x + 3; } int plain(int x) { return x; }"));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("'g' (needed by first.o)"), Not(HasSubstr("'f'"))));
  replace(m, c("int f(int x) { return x + 3; } int g(int x) { return x + 4; } int plain(int x) { return x; }"));
  EXPECT_EQ(get<int(int)>("call_first")(0), 7);
  settle();
}

TEST_F(ReplaceForward, WhatNobodyRefersToAnyMoreIsOpenAgain) {
  Module first = user("first.o", "int f(int); int call_first(int x) { return f(x); }");
  Module m = commit(engine, library, c("int f(int x) { return x + 1; } int g(int x) { return x + 2; }"));
  Change change = engine.change();
  change.remove(first);
  change.replace(m, c("int g(int x) { return x + 3; }"));
  expect(try_commit(std::move(change)));
  EXPECT_FALSE(library.find("f"));
  user("second.o", "int f(int); int call_second(int x) { return f(x); }");
  Module other = commit(engine, library, c("int f(int x) { return x + 5; }"));
  EXPECT_EQ(get<int(int)>("call_second")(0), 5) << "another module defines it";
  replace(other, c("int f(int x) { return x + 6; }"));
  EXPECT_EQ(get<int(int)>("call_second")(0), 6);
  settle();
  expect(try_remove(engine, {m}));
}

TEST_F(ReplaceForward, AFunctionThatIsLedElsewhereIsNotMissed) {
  user("first.o", "int f(int); int call_first(int x) { return f(x); } int (*pointer)(int) = f; int by_pointer(int x) { "
                  "return pointer(x); }");
  Module m = commit(engine, library, c("int f(int x) { return x + 1; } int g(int x) { return x + 2; }"));
  Change change = engine.change();
  change.replace(m, c("int g(int x) { return x + 3; }"));
  change.lead(m, "f", std::string("g"));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int(int)>("call_first")(0), 3);
  EXPECT_EQ(get<int(int)>("by_pointer")(0), 3);
  replace(m, c("int g(int x) { return x + 4; }"));
  EXPECT_EQ(get<int(int)>("call_first")(0), 4);
  replace(m, c("int f(int x) { return x + 10; } int g(int x) { return x + 5; }"));
  EXPECT_EQ(get<int(int)>("call_first")(0), 10);
  settle();
}

} // namespace
} // namespace tenon::test

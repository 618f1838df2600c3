// IFUNCs of modules that are replaced: the address stays, the new version's resolver chooses what it leads to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

namespace {
int resolved = 0; // how often a resolver has run
}

extern "C" __attribute__((visibility("default"))) void replace_ifunc_resolved() { ++resolved; }

namespace tenon::test {
namespace {

using testing::HasSubstr;

std::string chosen(int version, const char* name = "f", const char* storage = "") {
  const std::string v = std::to_string(version), n = name;
  return "void replace_ifunc_resolved(void);\n"
         "static int one_" +
         n + "(int x) { return x + " + v + "; } static int other_" + n + "(int x) { return x - 1; }\n" +
         "static int (*resolve_" + n + "(void))(int) { replace_ifunc_resolved(); return " + v + " ? one_" + n + " : other_" +
         n + "; }\n" + storage + " int " + n + "(int x) __attribute__((ifunc(\"resolve_" + n + "\")));\n";
}

struct ReplaceIfunc : ReplaceFixture {
  ReplaceIfunc() { resolved = 0; }
};

TEST_F(ReplaceIfunc, KeepsItsAddressAndLeadsToTheNewChoice) {
  for (auto [compile, flags] : {std::pair(&compile_c, std::string(replaceable_clang)),
                                std::pair(&compile_gcc, "-x c -std=c17 " + std::string(replaceable_gcc))}) {
    resolved = 0;
    auto text = [](int version) { return chosen(version) + "int inside(int x) { return f(x); }"; };
    Module m = commit(engine, library, compile(text(1), flags, "ifunc.o"));
    Module user = commit(engine, library,
                         c("int f(int); int call(int x) { return f(x); } int (*pointer)(int) = f; int by_pointer(int x) { "
                           "return pointer(x); }"));
    auto* f = get<int(int)>("f");
    EXPECT_EQ(resolved, 1);
    std::uint64_t live = 0;
    for (int version = 2; version < 30; ++version) {
      replace(m, compile(text(version % 5 + 1), flags, "ifunc.o"));
      settle();
      EXPECT_EQ(resolved, version) << "once for each version";
      const int expected = 10 + version % 5 + 1;
      EXPECT_EQ(f(10), expected) << "a pointer that the program holds";
      EXPECT_EQ(get<int(int)>("f"), f);
      EXPECT_EQ(get<int(int)>("call")(10), expected) << "a call site of another module";
      EXPECT_EQ(get<int(int)>("by_pointer")(10), expected) << "a pointer in another module";
      EXPECT_EQ(get<int(int)>("inside")(10), expected);
      if (version == 10) live = engine.usage().live;
    }
    EXPECT_EQ(engine.usage().live, live);
    expect(try_remove(engine, {m, user}));
    settle();
    EXPECT_EQ(engine.usage().live, 0U);
  }
}

TEST_F(ReplaceIfunc, ALocalOneToo) {
  auto text = [](int version) {
    return chosen(version, "hidden", "static") +
           "int (*give(void))(int) { return hidden; } int call(int x) { return hidden(x); }";
  };
  Module m = commit(engine, library, c(text(1)));
  auto* hidden = get<int (*())(int)>("give")();
  EXPECT_EQ(hidden(1), 2);
  replace(m, c(text(2)));
  settle();
  EXPECT_EQ(hidden(1), 3);
  EXPECT_EQ(get<int(int)>("call")(1), 3);
  EXPECT_EQ(get<int (*())(int)>("give")(), hidden);
}

TEST_F(ReplaceIfunc, AFunctionMayBecomeOneAndTheOtherWayRound) {
  Module m = commit(engine, library, c("int f(int x) { return x + 100; }"));
  commit(engine, library, c("int f(int); int call(int x) { return f(x); }"));
  auto* f = get<int(int)>("f");
  replace(m, c(chosen(3)));
  EXPECT_EQ(f(0) * 10 + get<int(int)>("call")(0), 33);
  replace(m, c("int f(int x) { return x + 4; }")); // the resolver has given a pointer away: its version stays
  EXPECT_EQ(f(0) * 10 + get<int(int)>("call")(0), 44);
}

TEST_F(ReplaceIfunc, InAnAtomicSet) {
  Module m = commit(engine, library, c(chosen(1)));
  commit(engine, library, c("int f(int); int call(int x) { return f(x); }"));
  auto* call = get<int(int)>("call");
  Border border = expect(engine.border());
  {
    Border::Entry entry(border);
    std::thread([&] {
      Change change = engine.change();
      change.replace(m, c(chosen(2)));
      Draft draft = expect(std::move(change).draft());
      Placed placed = expect(std::move(draft).place());
      Linked linked = expect(std::move(placed).link());
      expect(std::move(linked).commit(Initialize::run, Switch::atomic));
      EXPECT_EQ(call(0), 2);
    }).join();
    EXPECT_EQ(call(0), 1) << "the entry is of before";
  }
  settle();
  EXPECT_EQ(call(0), 2);
}

TEST_F(ReplaceIfunc, AResolverThatFailsIsAnErrorAndNothingHasChanged) {
  Module m = commit(engine, library, c(chosen(1)));
  auto* f = get<int(int)>("f");
  Result<Committed> refused = try_replace(m, c("static int (*resolve_f(void))(int) { return 0; }\n"
                                               "int f(int x) __attribute__((ifunc(\"resolve_f\")));"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::initializer);
  EXPECT_THAT(refused.error().message, HasSubstr("'f' has chosen none"));
  refused = try_replace(m, cpp("extern \"C\" { __attribute__((used)) static int (*resolve_f())(int) { throw 1; }\n"
                               "int f(int x) __attribute__((ifunc(\"resolve_f\"))); }"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::initializer);
  EXPECT_THAT(refused.error().message, HasSubstr("'f' threw"));
  EXPECT_EQ(f(0), 1);
  replace(m, c(chosen(2)));
  settle();
  EXPECT_EQ(f(0), 2);
}

TEST_F(ReplaceIfunc, SingleFunctionsBesideAndInPlaceOfIt) {
  ModuleOptions options;
  options.opaque = true;
  Module m = commit(engine, library, c(chosen(1) + "int g(int x) { return f(x) * 10; }"), options);
  auto* f = get<int(int)>("f");
  auto replace_some = [&](const std::string& text, std::vector<std::string> functions) {
    Change change = engine.change();
    change.replace_functions(m, c(text), std::move(functions), {}, options);
    expect(try_commit(std::move(change)));
    settle();
  };
  replace_some("int f(int); int g(int x) { return f(x) * 100; }", {"g"});
  EXPECT_EQ(get<int(int)>("g")(0), 100);
  replace_some("int f(int x) { return x + 7; }", {"f"});
  EXPECT_EQ(get<int(int)>("g")(0), 700);
  EXPECT_EQ(f(0), 7);
  replace_some(chosen(5), {"f", "one_f"});
  EXPECT_EQ(get<int(int)>("g")(0), 500);
  EXPECT_EQ(f(0), 5);
  replace(m, c(chosen(6) + "int g(int x) { return f(x) * 10; }"));
  settle();
  EXPECT_EQ(get<int(int)>("g")(0), 60);
  EXPECT_EQ(f(0), 6);
}

TEST_F(ReplaceIfunc, AModuleThatHasOneCanBeMoved) {
  Module filler = commit(engine, library, c("int filler(int x) { return x; }"));
  Module m = commit(engine, library, c(chosen(1) + "int g(int x) { return f(x) * 10; }"));
  auto* f = get<int(int)>("f");
  expect(try_remove(engine, {filler}));
  settle();
  (void)engine.move(m);
  settle();
  EXPECT_EQ(get<int(int)>("g")(0) + f(0), 11);
  replace(m, c(chosen(2) + "int g(int x) { return f(x) * 10; }"));
  settle();
  EXPECT_EQ(get<int(int)>("g")(0) + f(0), 22);
}

} // namespace
} // namespace tenon::test

// What becomes of inline functions that a module provides for others when its new version has them no more.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <optional>
#include <thread>

namespace tenon::test {
namespace {

// By either compiler.
struct KeptGroups : ReplaceFixture, testing::WithParamInterface<bool> {
  static Object compile(const std::string& text) {
    return GetParam() ? compile_gcc(text, replaceable_gcc) : compile_cpp(text, replaceable_clang);
  }
  // `of`: the module's own function, which calls the inline one.
  static Object with(const std::string& of, int factor) {
    return compile("static int offset(int x) { return x + 1000; } inline int shared(int x) { static int count = 0; return "
                   "offset(x * " +
                   std::to_string(factor) +
                   ") + 10000 * ++count; }"
                   "extern \"C\" int " +
                   of + "(int x) { return shared(x); }");
  }
  static Object without(const std::string& of, int n) {
    return compile("extern \"C\" int " + of + "(int x) { return x + " + std::to_string(n) + "; }");
  }
  // Later ones don't.
  void one_version_stays() {
    scrub_stack();
    for (int i = 0; i < 1000 && engine.usage().superseded > 1; ++i) {
      (void)expect(engine.collect());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(engine.usage().superseded, 1U);
  }
  int call(const std::string& name, int x) { return get<int(int)>(name)(x); }
};
INSTANTIATE_TEST_SUITE_P(Compilers, KeptGroups, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "gcc" : "clang"; });

TEST_P(KeptGroups, GoOnForThoseWhoShareThem) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  EXPECT_EQ(call("a", 1), 11002);
  EXPECT_EQ(call("b", 2), 21004);
  for (int n = 1; n < 4; ++n) {
    replace(a, without("a", n));
    EXPECT_EQ(call("a", 1), 1 + n);
    EXPECT_EQ(call("b", 3), 21006 + 10000 * n) << "with its variable";
    one_version_stays();
  }
  Module c = commit(engine, library, with("c", 2));
  EXPECT_EQ(call("c", 4), 61008) << "who comes later shares it as well";
  replace(a, with("a", 3));
  EXPECT_EQ(call("b", 1), 71003) << "the provider has it again";
  EXPECT_EQ(call("c", 1), 81003);
  expect(try_remove(engine, {c}));
  expect(try_remove(engine, {b}));
  expect(try_remove(engine, {a}));
  settle();
  EXPECT_EQ(engine.usage().modules, 0U);
}

TEST_P(KeptGroups, StayWhenTheirProviderGoes) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  replace(a, without("a", 1));
  expect(try_remove(engine, {a}));
  for (int i = 0; i < 3; ++i) (void)expect(engine.collect());
  EXPECT_EQ(call("b", 2), 11004);
  expect(try_remove(engine, {b}));
  settle();
  EXPECT_EQ(engine.usage().modules, 0U);
}

TEST_P(KeptGroups, GoWhenNobodySharesThemAnyMore) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  {
    Change change = engine.change();
    change.replace(a, without("a", 1));
    change.replace(b, without("b", 1));
    expect(try_commit(std::move(change)));
  }
  EXPECT_EQ(call("a", 1) + call("b", 1), 4);
  // Alone again, with a body of its own.
  replace(b, with("b", 5));
  EXPECT_EQ(call("b", 1) % 10000, 1005);
}

TEST_P(KeptGroups, StayWithThemThoughOthersAreReplacedInTheSameChange) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  Module c = commit(engine, library, with("c", 2));
  Change change = engine.change();
  change.replace(b, with("b", 7));
  change.replace(a, without("a", 1));
  Draft draft = expect(std::move(change).draft());
  EXPECT_EQ(draft.warnings().size(), 1U) << "b's own copy is another, and not used";
  Linked linked = expect(expect(std::move(draft).place()).link());
  expect(std::move(linked).commit());
  EXPECT_EQ(call("b", 1), 11002);
  EXPECT_EQ(call("c", 1), 21002);
  one_version_stays();
}

TEST_P(KeptGroups, CountAsUsersOfWhatTheyCall) {
  Module d = commit(engine, library, compile("extern \"C\" int needed(int x) { return x + 5; }"));
  const std::string text = "extern \"C\" int needed(int); inline int shared(int x) { return needed(x) * 2; }";
  Module a = commit(engine, library, compile(text + "extern \"C\" int a(int x) { return shared(x); }"));
  Module b = commit(engine, library, compile(text + "extern \"C\" int b(int x) { return shared(x); }"));
  replace(a, without("a", 1));
  replace(b, compile("int shared(int x); extern \"C\" int b(int x) { return shared(x) + 1; }"));
  EXPECT_EQ(call("b", 1), 13);
  Result<void> refused = try_remove(engine, {d});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::still_used);
  EXPECT_EQ(call("b", 1), 13);
  expect(try_remove(engine, {b}));
  replace(a, without("a", 2));
  expect(try_remove(engine, {d}));
}

TEST_P(KeptGroups, ClassesKeepOneIdentity) {
  const std::string text =
      "struct S { virtual int f(int x) { return x + 1; } virtual ~S() {} }; struct T : S { int f(int x) "
      "override { return x * 2; } };"
      "extern \"C\" S* make(int); ";
  Module a = commit(engine, library,
                    compile(text + "extern \"C\" S* make(int t) { if (t) return new T; return new S; }"
                                   "extern \"C\" int a(int x) { S* s = make(x); int r = s->f(x); delete s; return r; }"));
  Module b = commit(engine, library,
                    compile(text + "extern \"C\" int is_t(S* s) { return dynamic_cast<T*>(s) != nullptr; }"
                                   "extern \"C\" int b(int x) { T t; S& s = t; return s.f(x); }"
                                   "extern \"C\" int thrown(int x) { try { throw T(); } catch (S& s) { return s.f(x); } }"));
  auto* make = get<void*(int)>("make");
  auto* is_t = get<int(void*)>("is_t");
  void *s = make(0), *t = make(1);
  EXPECT_EQ(is_t(s) * 10 + is_t(t), 1);
  replace(a, compile("extern \"C\" void* make(int) { return 0; } extern \"C\" int a(int x) { return x; }"));
  for (int i = 0; i < 3; ++i) (void)expect(engine.collect());
  EXPECT_EQ(is_t(s) * 10 + is_t(t), 1);
  EXPECT_EQ(call("b", 21), 42);
  EXPECT_EQ(call("thrown", 21), 42);
  operator delete(s);
  operator delete(t);
}

TEST_P(KeptGroups, StayWhileSetsAreExchanged) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  Border border = expect(engine.border());
  std::optional<Border::Entry> entry(std::in_place, border);
  EXPECT_EQ(call("a", 1), 11002);
  std::thread([&] { replace(a, without("a", 1), Switch::atomic); }).join();
  EXPECT_EQ(call("a", 1), 21002) << "an entry of before";
  EXPECT_EQ(call("b", 1), 31002);
  entry.reset();
  entry.emplace(border);
  EXPECT_EQ(call("a", 1), 2);
  EXPECT_EQ(call("b", 1), 41002);
  std::thread([&] { replace(a, with("a", 4), Switch::atomic); }).join();
  EXPECT_EQ(call("b", 1), 51002);
  entry.reset();
  entry.emplace(border);
  EXPECT_EQ(call("b", 1), 61004);
}

TEST_P(KeptGroups, StayWhileTheirProviderIsUnloaded) {
  Module a = commit(engine, library, with("a", 2));
  Module b = commit(engine, library, with("b", 2));
  replace(a, without("a", 1));
  Change change = engine.change();
  change.unload(a, {[&](const Module&, std::string_view) { return Result<std::optional<Object>>(without("a", 2)); }});
  expect(try_commit(std::move(change)));
  for (int i = 0; i < 3; ++i) (void)expect(engine.collect());
  EXPECT_EQ(call("b", 1), 11002) << "nothing is made again for that";
  EXPECT_EQ(call("a", 1), 3);
  EXPECT_EQ(call("b", 1), 21002);
}

TEST_P(KeptGroups, AreKeptForThoseWhoComeAfterTheDraft) {
  Module a = commit(engine, library, with("a", 2));
  Change change = engine.change();
  change.replace(a, without("a", 1));
  Linked linked = expect(expect(expect(std::move(change).draft()).place()).link());
  Module b = commit(engine, library, with("b", 2));
  expect(std::move(linked).commit());
  EXPECT_EQ(call("a", 1), 2);
  EXPECT_EQ(call("b", 1), 11002);
}

} // namespace
} // namespace tenon::test

// Modules that are replaced together, and changes of replaced modules that must be refused: what the torture program and
// reviewers have found.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include <unistd.h>

namespace {
std::atomic<int> doors{0};   // how many of those who wait may go on
std::atomic<int> waiting{0}; // how many have come
} // namespace

extern "C" __attribute__((visibility("default"))) void replace_sets_wait(int until) {
  ++waiting;
  while (doors.load() < until) usleep(200);
}

namespace tenon::test {
namespace {

using testing::HasSubstr;

struct ReplaceSets : ReplaceFixture {
  ReplaceSets() { doors = waiting = 0; }

  using ReplaceFixture::replace;
  void replace(std::vector<std::pair<Module, Object>> modules, Switch how = Switch::each) {
    Change change = engine.change();
    for (auto& [module, object] : modules) change.replace(module, std::move(object));
    expect(try_commit(std::move(change), Initialize::run, how));
  }
  void collect_for(int milliseconds) {
    for (int i = 0; i < milliseconds; ++i) {
      expect(engine.collect());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
};

// Two modules: outer waits where it is told to, and calls inner in the other module.
struct TwoModules : ReplaceSets {
  static Object outer(int n) {
    return compile_c("void replace_sets_wait(int); int inner(int); int outer(int until) { replace_sets_wait(until); "
                     "return inner(0) * 10 + " +
                         std::to_string(n) + "; }",
                     replaceable_clang);
  }
  static Object inner(int n) {
    return compile_c("int inner(int x) { return x + " + std::to_string(n) + "; }", replaceable_clang);
  }
  Committed committed = commit(engine, library, {outer(1), inner(1)});
  Module a = committed.modules()[0], b = committed.modules()[1];
  int (*call)(int) = get<int(int)>("outer");
};

// A thread that is inside of a function and waits there.
class Waiting {
public:
  explicit Waiting(int (*function)(int)) : thread_([this, function] { result_ = function(1); }) {
    while (waiting == 0) std::this_thread::yield();
  }
  ~Waiting() { go_on(); }
  // What the function returns, once it may go on.
  int go_on() {
    doors = 1;
    if (thread_.joinable()) thread_.join();
    return result_;
  }

private:
  int result_ = 0;
  std::thread thread_;
};

TEST_F(ReplaceSets, TheProviderOfSharedGroupsMayComeLater) {
  auto text = [](const char* name, int n) {
    return std::string("inline int shared(int x) { static int calls; return ++calls * 0 + x; } extern \"C\" int ") + name +
           "() { return shared(" + std::to_string(n) + "); }";
  };
  Module first = commit(engine, library, cpp(text("f", 1)));
  Module second = commit(engine, library, cpp(text("g", 1)));
  commit(engine, library, cpp(text("h", 1)));
  replace({{second, cpp(text("g", 2))}, {first, cpp(text("f", 2))}});
  EXPECT_EQ(get<int()>("f")() + get<int()>("g")() + get<int()>("h")(), 5);
  replace({{first, cpp(text("f", 3))}, {second, cpp(text("g", 3))}}, Switch::atomic);
  EXPECT_EQ(get<int()>("f")() + get<int()>("g")() + get<int()>("h")(), 7);
}

// Members of an old set go on calling each other: none may be freed while a thread is inside any of them.
TEST_F(TwoModules, AThreadInsideOneMemberKeepsTheOthers) {
  Waiting inside(call);
  replace({{a, outer(2)}, {b, inner(2)}}, Switch::atomic);
  collect_for(50);
  EXPECT_EQ(inside.go_on(), 11) << "an old frame calls its own set";
  EXPECT_EQ(call(0), 22);
  settle();
}

TEST_F(ReplaceSets, WhatVanishesInASetDoesNotKeepItsVersion) {
  auto text = [](int n) {
    const std::string v = std::to_string(n);
    return "static int helper" + v + "(int x) { return x + " + v + "; } int f(int x) { return helper" + v + "(x); }";
  };
  Module module = commit(engine, library, c(text(0)));
  Border border = expect(engine.border());
  for (int i = 1; i < 20; ++i) {
    {
      Border::Entry entry(border);
      replace({{module, c(text(i))}}, Switch::atomic);
      EXPECT_EQ(get<int(int)>("f")(100), 100 + i - 1) << "the entry began before";
    }
    EXPECT_EQ(get<int(int)>("f")(100), 100 + i);
    settle();
  }
}

// A set is exchanged while the exchange of an earlier one is not over: the old members' calls went through its switches.
TEST_F(TwoModules, ASetThatIsExchangedDuringAnotherTransition) {
  Waiting inside(call);
  {
    Border border = expect(engine.border());
    Border::Entry entry(border);
    std::thread([&] {
      replace({{b, inner(2)}}, Switch::atomic);
      replace({{a, outer(3)}, {b, inner(3)}}, Switch::atomic);
    }).join();
    EXPECT_EQ(call(0), 11) << "the entry began before both";
  }
  collect_for(50);
  EXPECT_EQ(inside.go_on(), 21) << "the set before the last one";
  EXPECT_EQ(call(0), 33);
  settle();
}

// A static function whose callers went through a switch: what was compiled together goes on being called together.
TEST_F(ReplaceSets, LocalFunctionsOfAVersionThatCameDuringATransition) {
  auto text = [](int n) {
    const std::string v = std::to_string(n);
    return "void replace_sets_wait(int); static int local(int x) { return x + " + v +
           "; } int f(int until) { replace_sets_wait(until); return local(0) * 10 + " + v + "; }";
  };
  Module module = commit(engine, library, c(text(1)));
  auto* f = get<int(int)>("f");
  std::optional<Waiting> inside;
  {
    Border border = expect(engine.border());
    Border::Entry entry(border);
    std::thread([&] { replace({{module, c(text(2))}}, Switch::atomic); }).join();
    std::thread([&] { replace({{module, c(text(3))}}); }).join();
    inside.emplace(f);
    std::thread([&] { replace({{module, c(text(4))}}); }).join();
  }
  collect_for(50);
  EXPECT_EQ(inside->go_on(), 33) << "local and f of one version";
  EXPECT_EQ(f(0), 44);
  settle();
}

TEST_F(ReplaceSets, InitializersOfKeptVariables) {
  auto text = [](int n) {
    return "extern \"C\" volatile int made; volatile int made = 0; struct Fresh { int value; Fresh() { made = made + 1; "
           "value = made; } }; Fresh fresh; "
           "extern "
           "\"C\" int value() { return fresh.value * 100 + made * 10 + " +
           std::to_string(n) + "; } extern \"C\" const char* text() { return \"a literal\"; }";
  };
  Module module = commit(engine, library, cpp(text(1)));
  Module other = commit(engine, library, c("int g(void) { return 1; }"));
  const char* literal = get<const char*()>("text")();
  EXPECT_EQ(get<int()>("value")(), 111);
  replace({{module, cpp(text(2))}});
  EXPECT_EQ(get<int()>("value")(), 112);
  EXPECT_EQ(get<const char*()>("text")(), literal);
  replace({{module, cpp(text(3))}}, Switch::atomic);
  EXPECT_EQ(get<int()>("value")(), 113);
  EXPECT_EQ(get<const char*()>("text")(), literal);
  replace({{other, c("int g(void) { return 2; }")}, {module, cpp(text(4))}});
  EXPECT_EQ(get<int()>("value")(), 114);
  EXPECT_EQ(get<const char*()>("text")(), literal);
  replace({{other, c("int g(void) { return 3; }")}, {module, cpp(text(5))}}, Switch::atomic);
  EXPECT_EQ(get<int()>("value")(), 115);
  EXPECT_EQ(get<const char*()>("text")(), literal);
}

TEST_F(ReplaceSets, WhatALaterVersionHasBroughtIsKept) {
  auto text = [](int n) {
    return "extern \"C\" volatile int made; volatile int made = 0; extern \"C\" int count() { return made; } " +
           std::string(n == 1 ? ""
                              : "struct Fresh { int value; Fresh() { made = made + 1; value = made; } }; Fresh fresh; "
                                "extern \"C\" const "
                                "char* text() { return \"a literal\"; } ") +
           "extern \"C\" int value() { return " + std::to_string(n) + "; }";
  };
  Module module = commit(engine, library, cpp(text(1)));
  replace({{module, cpp(text(2))}});
  EXPECT_EQ(get<int()>("count")(), 1);
  const char* literal = get<const char*()>("text")();
  for (int i = 3; i < 6; ++i) {
    replace({{module, cpp(text(i))}}, i == 4 ? Switch::atomic : Switch::each);
    EXPECT_EQ(get<int()>("count")(), 1);
    EXPECT_EQ(get<int()>("value")(), i);
    EXPECT_EQ(get<const char*()>("text")(), literal);
  }
}

struct BadReplacement : ReplaceSets {
  Module module = commit(engine, library, c("int v = 1; int f(void) { return ++v; } long t[2] = {1, 2};"));
  const std::uint64_t live = engine.usage().live;

  void nothing_has_happened(int value) {
    EXPECT_EQ(get<int()>("f")(), value);
    EXPECT_EQ(engine.usage().live, live);
    EXPECT_EQ(engine.usage().superseded, 0U);
  }
};

TEST_F(BadReplacement, ThatDoesNotLink) {
  Change change = engine.change();
  change.replace(module, c("int missing(void); int v = 1; int f(void) { return missing(); } long t[2];"));
  Result<Committed> refused = try_commit(std::move(change));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::undefined);
  EXPECT_THAT(refused.error().message, HasSubstr("missing"));
  nothing_has_happened(2);
}

TEST_F(BadReplacement, ThatRefersToWhatTheSameChangeRemoves) {
  Module other = commit(engine, library, c("int other(void) { return 5; }"));
  const std::uint64_t with_other = engine.usage().live;
  Change change = engine.change();
  change.replace(module, c("int other(void); int v = 1; int f(void) { return other(); } long t[2];"));
  change.remove(other);
  Result<Committed> refused = try_commit(std::move(change));
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().code == ErrorCode::undefined || refused.error().code == ErrorCode::still_used)
      << describe(refused.error());
  EXPECT_THAT(refused.error().message, HasSubstr("other"));
  EXPECT_EQ(get<int()>("f")(), 2);
  EXPECT_EQ(get<int()>("other")(), 5);
  EXPECT_EQ(engine.usage().live, with_other);
}

TEST_F(BadReplacement, WhoseMigrationFails) {
  int asked = 0;
  DataPolicy policy;
  policy.differing = DataPolicy::Differing::migrate;
  policy.migration = [&](const DataPolicy::Migration&) -> Result<void> {
    ++asked;
    return Error{ErrorCode::vetoed, "no way to migrate"};
  };
  const char* larger = "int v = 1; int f(void) { return ++v + 100; } long t[3] = {7, 8, 9};";
  for (Switch how : {Switch::each, Switch::atomic}) {
    Change change = engine.change();
    change.replace(module, c(larger), policy);
    Result<Committed> refused = try_commit(std::move(change), Initialize::run, how);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::vetoed);
    EXPECT_THAT(refused.error().message, testing::AllOf(HasSubstr("'t'"), HasSubstr("no way to migrate")));
    nothing_has_happened(how == Switch::each ? 2 : 3);
    EXPECT_EQ(address_of(library, "t").as<long*>()[1], 2);
  }
  EXPECT_EQ(asked, 2);
  policy.migration = [](const DataPolicy::Migration&) -> Result<void> { return {}; };
  Change change = engine.change();
  change.replace(module, c(larger), policy);
  expect(try_commit(std::move(change)));
  EXPECT_EQ(get<int()>("f")(), 104);
}

} // namespace
} // namespace tenon::test

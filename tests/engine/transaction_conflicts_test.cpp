// What can go wrong with a change, one clear error each, and the engine goes on: vetoes, resolvers, missing and duplicate
// symbols, and changes that were drafted on what another one took away or brought.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace tenon::test {

namespace {

using testing::HasSubstr;

class Conflicts : public testing::Test {
protected:
  Change change_of(std::initializer_list<Object> objects) {
    Change change = engine_.change();
    for (const Object& object : objects) change.add(library_, object);
    return change;
  }
  Linked linked_of(std::initializer_list<Object> objects) {
    Draft draft = expect(change_of(objects).draft());
    Placed placed = expect(std::move(draft).place());
    return expect(std::move(placed).link());
  }
  template <class T> Error error_of(Result<T> result) {
    if (result.ok()) throw std::runtime_error("no error");
    return std::move(result).error();
  }
  void TearDown() override {
    // Whatever went wrong: the engine goes on, and ends as it began.
    commit(engine_, library_, compile_c("int goes_on(void) { return 1; }"));
    EXPECT_EQ(function<int()>(library_, "goes_on")(), 1);
    expect(library_.close(Quiet::caller_guarantees));
    library_ = expect(engine_.library("after")); // slots of forward references are the library's
    EXPECT_EQ(engine_.usage().live, 0U);
    EXPECT_EQ(engine_.usage().modules, 0U);
  }

  Engine engine_ = make_engine();
  Library library_ = expect(engine_.library("main"));
};

Object strong(int value) {
  return compile_c("int twice(void) { return " + std::to_string(value) + "; }", "-O1 -fPIC",
                   "strong" + std::to_string(value) + ".o");
}
Object weak(int value) {
  return compile_c("__attribute__((weak)) int twice(void) { return " + std::to_string(value) + "; }");
}
Object comdat(int number) {
  return compile_cpp("inline int shared_one(int x) { static int n; return x + ++n; } extern \"C\" int user" +
                         std::to_string(number) + "(int x) { return shared_one(x); }",
                     "-O0 -fPIC", "comdat" + std::to_string(number) + ".o");
}

struct ScriptedResolver : Resolver {
  std::vector<std::string> asked;
  std::size_t batches = 0;
  std::function<Result<void>(std::span<const Needed>, std::span<Answer>)> answer;
  Result<void> resolve(std::span<const Needed> needed, std::span<Answer> answers) noexcept override {
    ++batches;
    for (const Needed& one : needed) asked.emplace_back(one.name);
    return answer(needed, answers);
  }
};

} // namespace

TEST_F(Conflicts, TheInspectorSeesFinalBytesAndMayVeto) {
  expect(try_remove(engine_,
                    {commit(engine_, library_, compile_c("int v = 1; const int c = 2; int f(void) { return v + c; }"))}));
  Snapshot before = snapshot(engine_, {library_});
  bool seen = false;
  Object object = compile_c("int value = 1234; extern int helper(int); int asks(int x) { return helper(x) + value; }\n"
                            "int helper(int x) { return x; }",
                            "-O0 -fPIC");
  for (int i = 0; i < 3; ++i) {
    Draft draft = expect(change_of({object}).draft());
    Placed placed = expect(std::move(draft).place());
    Result<Linked> linked = std::move(placed).link([&](const Linked& final) -> Result<void> {
      for (const PlacedSection& section : final.sections()) {
        if (section.name == ".data" && section.size == 4) {
          Bytes bytes = final.bytes(section.id);
          seen = bytes.size() == 4 && bytes[0] == std::byte(1234 & 0xFF);
        }
        if (section.name == ".text") {
          EXPECT_FALSE(final.relocations(section.id).empty());
        }
      }
      EXPECT_EQ(final.module_name({0}), object.name());
      EXPECT_FALSE(library_.find("asks")) << "visible before commit";
      EXPECT_FALSE(expect(final.symbols()).empty());
      return Error{ErrorCode::invalid_argument, "I do not like it"};
    });
    Error error = error_of(std::move(linked));
    EXPECT_EQ(error.code, ErrorCode::vetoed);
    EXPECT_THAT(error.message, HasSubstr("I do not like it"));
  }
  EXPECT_TRUE(seen);
  EXPECT_EQ(snapshot(engine_, {library_}), before);
}

TEST_F(Conflicts, AResolverThatFailsOrAnswersNonsense) {
  auto resolver = std::make_shared<ScriptedResolver>();
  expect(library_.search({Source::resolver(resolver)}));
  Object object = compile_c("extern int far_function(int); int near(int x) { return far_function(x); }");
  resolver->answer = [](auto, auto) -> Result<void> { return Error{ErrorCode::system, "the server is down"}; };
  Error failed = error_of(try_commit(change_of({object})));
  EXPECT_EQ(failed.code, ErrorCode::resolver);
  EXPECT_THAT(failed.message, HasSubstr("the server is down"));

  // Any address can be reached through a stub; as 32-bit data it can't.
  resolver->answer = [](auto, std::span<Answer> answers) -> Result<void> {
    for (Answer& answer : answers) answer = Answer::at({0x7000'0000'0000'0000});
    return {};
  };
  EXPECT_TRUE(try_commit(change_of({object})).ok());
  expect(try_remove(engine_, expect(library_.modules())));
  Snapshot before = snapshot(engine_, {library_});
  Error range = error_of(try_commit(change_of({assemble(".section .rodata\n.long far_data - .\n", "ranged.o")})));
  EXPECT_EQ(range.code, ErrorCode::out_of_range);
  EXPECT_THAT(range.message, HasSubstr("far_data"));
  EXPECT_THAT(range.message, HasSubstr("ranged.o"));

  resolver->answer = [](auto, auto) -> Result<void> { return {}; };
  EXPECT_EQ(error_of(try_commit(change_of({object}))).code, ErrorCode::undefined);
  EXPECT_EQ(snapshot(engine_, {library_}), before);
}

TEST_F(Conflicts, AResolverIsAskedInOneBatchAndMaySayNull) {
  auto resolver = std::make_shared<ScriptedResolver>();
  expect(library_.search({Source::resolver(resolver)}));
  resolver->answer = [&](std::span<const Needed> needed, std::span<Answer> answers) -> Result<void> {
    for (std::size_t i = 0; i < needed.size(); ++i) {
      EXPECT_EQ(needed[i].weak, needed[i].name == "maybe") << needed[i].name;
      answers[i] = Answer::null();
    }
    // No lock is held: the engine can be asked.
    EXPECT_FALSE(library_.find("tests"));
    (void)engine_.usage();
    return {};
  };
  Object object = compile_c(R"(extern int maybe(void) __attribute__((weak)); extern int surely(void);
    int tests(void) { return (maybe ? 1 : 0) + (surely ? 2 : 0); }
    void* address(void) { return (void*)maybe; } void* other(void) { return (void*)surely; })",
                            "-O0 -fPIC");
  commit(engine_, library_, object);
  EXPECT_EQ(resolver->batches, 1U);
  EXPECT_EQ(function<void*()>(library_, "address")(), nullptr);
  EXPECT_EQ(function<void*()>(library_, "other")(), nullptr);
}

TEST_F(Conflicts, EverythingMissingIsNamedAtOnceWithItsUsers) {
  Object first =
      compile_c("extern int lost_a(void), lost_b(void); int f(void) { return lost_a() + lost_b(); }", "-O1 -fPIC", "one.o");
  Object second = compile_c("extern int lost_b(void); extern int lost_c; int g(void) { return lost_b() + lost_c; }",
                            "-O1 -fPIC", "two.o");
  Draft draft = expect(change_of({first, second}).draft());
  ASSERT_EQ(draft.undefined().size(), 3U);
  EXPECT_EQ(draft.undefined()[1].name, "lost_b");
  EXPECT_THAT(draft.undefined()[1].needed_by,
              testing::ElementsAre(HasSubstr("one.o: .text+0x"), HasSubstr("two.o: .text+0x")));
  Error error = error_of(std::move(draft).place());
  EXPECT_EQ(error.code, ErrorCode::undefined);
  for (const char* part : {"lost_a", "lost_b", "lost_c", "one.o", "two.o"}) EXPECT_THAT(error.message, HasSubstr(part));
}

TEST_F(Conflicts, TwoStrongDefinitions) {
  Error within = error_of(change_of({strong(1), strong(2)}).draft());
  EXPECT_EQ(within.code, ErrorCode::duplicate);
  EXPECT_THAT(within.message, testing::AllOf(HasSubstr("twice"), HasSubstr("strong1.o"), HasSubstr("strong2.o")));
  commit(engine_, library_, strong(1));
  Error later = error_of(change_of({strong(2)}).draft());
  EXPECT_EQ(later.code, ErrorCode::duplicate);
  EXPECT_THAT(later.message, testing::AllOf(HasSubstr("twice"), HasSubstr("strong1.o"), HasSubstr("strong2.o")));
  EXPECT_EQ(function<int()>(library_, "twice")(), 1);
}

TEST_F(Conflicts, TheFirstCommitterOfAStrongSymbolWins) {
  Linked first = linked_of({strong(1)}), second = linked_of({strong(2)});
  expect(std::move(second).commit());
  Error error = error_of(std::move(first).commit());
  EXPECT_EQ(error.code, ErrorCode::duplicate);
  EXPECT_THAT(error.message, HasSubstr("twice"));
  EXPECT_EQ(function<int()>(library_, "twice")(), 2);
  EXPECT_EQ(expect(library_.modules()).size(), 1U);
}

TEST_F(Conflicts, AWeakDefinitionThatComesSecondYields) {
  Object user = compile_c("int twice(void); int asks(void) { return twice(); }");
  Linked first = linked_of({weak(1), user}), second = linked_of({weak(2)});
  expect(std::move(second).commit());
  expect(std::move(first).commit());
  EXPECT_EQ(function<int()>(library_, "twice")(), 2);
  EXPECT_EQ(function<int()>(library_, "asks")(), 2);
  EXPECT_EQ(expect(library_.modules()).size(), 3U);
}

TEST_F(Conflicts, AComdatGroupThatComesSecondIsShared) {
  Linked first = linked_of({comdat(1)}), second = linked_of({comdat(2)});
  expect(std::move(second).commit());
  expect(std::move(first).commit());
  // One static variable: one group.
  EXPECT_EQ(function<int(int)>(library_, "user1")(0), 1);
  EXPECT_EQ(function<int(int)>(library_, "user2")(0), 2);
  // Its provider may go: the group stays with those that share it, and goes with the last of them.
  std::vector<Module> modules = expect(library_.modules());
  expect(try_remove(engine_, {modules[0]}));
  EXPECT_FALSE(library_.find("user2"));
  EXPECT_TRUE(library_.find("_Z10shared_onei"));
  EXPECT_EQ(function<int(int)>(library_, "user1")(0), 3);
  expect(try_remove(engine_, {modules[1]}));
  EXPECT_FALSE(library_.find("_Z10shared_onei"));
  EXPECT_EQ(engine_.usage().modules, 0U);
  EXPECT_EQ(engine_.usage().live, 0U);
}

TEST_F(Conflicts, AComdatGroupReferredToFromOutsideGoesWithItsLastUser) {
  commit(engine_, library_, comdat(1));
  Module user = commit(engine_, library_,
                       compile_cpp("int shared_one(int); extern \"C\" int outside(int x) { return shared_one(x); }"));
  Module provider = expect(library_.modules())[0];
  expect(try_remove(engine_, {provider}));
  EXPECT_EQ(function<int(int)>(library_, "outside")(1), 2);
  expect(try_remove(engine_, {user}));
  EXPECT_EQ(engine_.usage().modules, 0U);
  EXPECT_EQ(engine_.usage().symbols, 0U);
}

TEST_F(Conflicts, AChangeMayTakeOverTheGroupsOfWhatItRemoves) {
  Module first = commit(engine_, library_, comdat(1));
  EXPECT_EQ(function<int(int)>(library_, "user1")(0), 1);
  for (int i = 2; i < 5; ++i) {
    Change change = engine_.change();
    change.remove(expect(library_.modules())[0]);
    change.add(library_, comdat(i));
    Committed committed = expect(try_commit(std::move(change)));
    EXPECT_EQ(expect(library_.modules()).size(), 1U);
    EXPECT_EQ(function<int(int)>(library_, "user" + std::to_string(i))(0), 1)
        << "all that shared the group have gone, and it with them";
  }
  EXPECT_FALSE(first.linked());
  commit(engine_, library_, comdat(5));
  for (int i = 6; i < 9; ++i) {
    Change change = engine_.change();
    change.remove(expect(library_.modules())[0]);
    change.add(library_, comdat(i));
    expect(try_commit(std::move(change)));
    EXPECT_EQ(expect(library_.modules()).size(), 2U);
    EXPECT_EQ(function<int(int)>(library_, "user" + std::to_string(i))(0), i - 4) << "somebody shares it still";
  }
}

TEST_F(Conflicts, WhatADraftBuiltOnIsRemovedMeanwhile) {
  Object base = compile_c("int base(void) { return 7; }", "-O1 -fPIC", "base.o");
  Object user = compile_c("int base(void); int uses(void) { return base() + 1; }", "-O1 -fPIC", "user.o");
  {
    // Gone: the change is drafted again, and lacks it.
    Module module = commit(engine_, library_, base);
    Linked linked = linked_of({user});
    expect(try_remove(engine_, {module}));
    Error error = error_of(std::move(linked).commit());
    EXPECT_TRUE(error.code == ErrorCode::undefined || error.code == ErrorCode::conflict) << describe(error);
    EXPECT_THAT(error.message, HasSubstr("base"));
    EXPECT_TRUE(expect(library_.modules()).empty());
  }
  {
    // Gone and back: the change is drafted again, and finds the new one.
    Module module = commit(engine_, library_, base);
    Linked linked = linked_of({user});
    expect(try_remove(engine_, {module}));
    commit(engine_, library_, compile_c("int padding[100] = {1}; int base(void) { return 70; }"));
    expect(std::move(linked).commit());
    EXPECT_EQ(function<int()>(library_, "uses")(), 71);
    expect(try_remove(engine_, expect(library_.modules())));
  }
  {
    // Gone, but kept as a remnant since its COMDAT group is shared: its other symbols can't be referred to any more.
    Module module =
        commit(engine_, library_,
               compile_cpp("inline int shared_one(int x) { return x; } extern \"C\" int base() { return shared_one(7); }",
                           "-O0 -fPIC"));
    commit(engine_, library_,
           compile_cpp("inline int shared_one(int x) { return x; } extern \"C\" int other() { return shared_one(7); }",
                       "-O0 -fPIC"));
    Linked linked = linked_of({user});
    expect(try_remove(engine_, {module}));
    EXPECT_FALSE(std::move(linked).commit().ok());
  }
}

TEST_F(Conflicts, InTheClientsMemoryAConflictIsTheClientsToSettle) {
  Arena arena(engine_);
  Draft draft = expect(change_of({comdat(1)}).draft());
  Placed placed = expect(std::move(draft).place(arena));
  Linked linked = expect(std::move(placed).link());
  commit(engine_, library_, comdat(2));
  EXPECT_EQ(error_of(std::move(linked).commit()).code, ErrorCode::conflict);
  EXPECT_EQ(arena.outstanding, 0);

  arena.refuse_place = true;
  Error full = error_of(expect(change_of({strong(1)}).draft()).place(arena));
  EXPECT_EQ(full.code, ErrorCode::exhausted);
  arena.refuse_place = false;
  arena.refuse_publish = true;
  Linked refused = expect(expect(expect(change_of({strong(1)}).draft()).place(arena)).link());
  EXPECT_EQ(error_of(std::move(refused).commit()).code, ErrorCode::system);
  EXPECT_EQ(arena.outstanding, 0);
  EXPECT_FALSE(library_.find("twice"));
}

TEST_F(Conflicts, WhatIsReferredToStays) {
  Module base = commit(engine_, library_, compile_c("int base(void) { return 7; }", "-O1 -fPIC", "base.o"));
  Module user =
      commit(engine_, library_, compile_c("int base(void); int uses(void) { return base() + 1; }", "-O1 -fPIC", "user.o"));
  Error error = error_of(try_commit([&] {
    Change change = engine_.change();
    change.remove(base, Quiet::caller_guarantees);
    return change;
  }()));
  EXPECT_EQ(error.code, ErrorCode::still_used);
  EXPECT_THAT(error.message, testing::AllOf(HasSubstr("base.o"), HasSubstr("user.o"), HasSubstr("'base'")));
  EXPECT_EQ(function<int()>(library_, "uses")(), 8);
  expect(try_remove(engine_, {base, user}));
  EXPECT_FALSE(try_remove(engine_, {base}).ok()) << "removed twice";
}

TEST_F(Conflicts, AHandleKeepsCodeAndAllThatItNeedsUntilItGoes) {
  commit(engine_, library_, comdat(1)); // provides the group
  commit(engine_, library_, comdat(2));
  Module base = commit(engine_, library_, compile_c("int base(void) { return 7; }"));
  Module user =
      commit(engine_, library_,
             compile_cpp("extern \"C\" int base(); inline int shared_one(int x) { static int n; return x + ++n; }\n"
                         "extern \"C\" int uses() { return base() + shared_one(1); }",
                         "-O0 -fPIC"));
  {
    Function<int()> handle = expect(library_.function<int()>("uses"));
    EXPECT_EQ(handle(), 9);
    expect(try_remove(engine_, expect(library_.modules())));
    EXPECT_FALSE(library_.find("uses"));
    EXPECT_FALSE(library_.find("_Z10shared_onei"));
    EXPECT_EQ(handle(), 10);
    EXPECT_EQ(engine_.usage().modules, 3U) << "the module, base, and the provider of the group";
  }
  EXPECT_EQ(engine_.usage().modules, 0U);
  EXPECT_EQ(engine_.usage().live, 0U);
}

TEST_F(Conflicts, TwoDraftsThatDeclareOneForwardReference) {
  Object user = compile_c("int later(int); int first_user(int x) { return later(x); }");
  Object other = compile_c("int later(int); int second_user(int x) { return later(x); }");
  ModuleOptions options;
  options.forward = {"*"};
  auto link = [&](const Object& object) {
    Change change = engine_.change();
    change.add(library_, object, options);
    return expect(expect(expect(std::move(change).draft()).place()).link());
  };
  Linked one = link(user), two = link(other);
  expect(std::move(one).commit());
  expect(std::move(two).commit());
  Module definition = commit(engine_, library_, compile_c("int later(int x) { return x + 5; }"));
  EXPECT_EQ(function<int(int)>(library_, "first_user")(1), 6);
  EXPECT_EQ(function<int(int)>(library_, "second_user")(1), 6);
  EXPECT_EQ(error_of(try_commit([&] {
              Change change = engine_.change();
              change.remove(definition, Quiet::caller_guarantees);
              return change;
            }()))
                .code,
            ErrorCode::still_used);
}

TEST_F(Conflicts, AForwardReferenceThatIsDefinedMeanwhile) {
  ModuleOptions options;
  options.forward = {"*"};
  Change change = engine_.change();
  change.add(library_, compile_c("int later(int); int first_user(int x) { return later(x); }"), options);
  Linked linked = expect(expect(expect(std::move(change).draft()).place()).link());
  Module definition = commit(engine_, library_, compile_c("int later(int x) { return x + 5; }"));
  expect(std::move(linked).commit());
  EXPECT_EQ(function<int(int)>(library_, "first_user")(1), 6);
  EXPECT_FALSE(try_remove(engine_, {definition}).ok()) << "it is referred to";
}

TEST_F(Conflicts, AnonymousLibrariesThatAreInUseGoWithTheirLastUser) {
  Module user = [&] {
    Library anonymous = expect(engine_.library());
    commit(engine_, anonymous, compile_c("int base(void) { return 7; }"));
    expect(library_.search({Source::library(anonymous)}));
    Module made = commit(engine_, library_, compile_c("int base(void); int uses(void) { return base() + 1; }"));
    expect(library_.search({}));
    return made;
  }();
  EXPECT_EQ(engine_.usage().modules, 2U);
  EXPECT_EQ(function<int()>(library_, "uses")(), 8);
  expect(try_remove(engine_, {user}));
  EXPECT_EQ(engine_.usage().modules, 0U);
}

TEST_F(Conflicts, ALibraryThatIsClosedMeanwhile) {
  Library other = expect(engine_.library("other"));
  Change change = engine_.change();
  change.add(other, strong(1));
  Linked linked = expect(expect(expect(std::move(change).draft()).place()).link());
  expect(other.close(Quiet::caller_guarantees));
  EXPECT_EQ(error_of(std::move(linked).commit()).code, ErrorCode::conflict);
}

TEST_F(Conflicts, ReleasedCodeKeepsWhatItNeeds) {
  commit(engine_, library_, comdat(1));
  commit(engine_, library_, compile_c("int base(void) { return 7; }"));
  {
    Code code = expect(
        linked_of({compile_cpp("extern \"C\" int base(); inline int shared_one(int x) { static int n; return x + ++n; }\n"
                               "extern \"C\" int uses() { return base() + shared_one(1); }",
                               "-O0 -fPIC")})
            .release());
    auto* uses = code.find("uses")->as<int (*)()>();
    EXPECT_EQ(uses(), 9);
    EXPECT_FALSE(library_.find("uses"));
    EXPECT_EQ(error_of(try_remove(engine_, {expect(library_.modules())[1]})).code, ErrorCode::still_used);
    EXPECT_EQ(uses(), 10);
  }
  expect(try_remove(engine_, expect(library_.modules())));
}

} // namespace tenon::test

// Static initializers and finalizers: order, failures, skipping, and that they may use the engine themselves.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include <gtest/gtest.h>

namespace tenon::test {

namespace {

std::string noting(std::string_view word, std::string_view attribute) {
  std::string name(word);
  return "__attribute__((" + std::string(attribute) + ")) static void f_" + name + "(void) { tenon_test_note(\"" + name +
         "\"); }\n";
}

constexpr std::string_view declaration = "extern void tenon_test_note(const char*);\n";

Object noting_object(std::initializer_list<std::pair<const char*, const char*>> functions) {
  std::string text(declaration);
  for (auto [word, attribute] : functions) text += noting(word, attribute);
  return compile_c(text);
}

} // namespace

TEST(TransactionInitializers, RunByPriorityAcrossModulesThenInTheirOrder) {
  Engine engine = make_engine();
  Library library = expect(engine.library("init"));
  take_notes();
  commit(engine, library,
         {noting_object({{"a", "constructor"},
                         {"a300", "constructor(300)"},
                         {"a200", "constructor(200)"},
                         {"x", "destructor"},
                         {"x300", "destructor(300)"},
                         {"x200", "destructor(200)"}}),
          noting_object(
              {{"b", "constructor"}, {"b200", "constructor(200)"}, {"y", "destructor"}, {"y300", "destructor(300)"}})});
  EXPECT_EQ(take_notes(), "a200 b200 a300 a b");
  expect(library.close(Quiet::caller_guarantees));
  // The other way round: those without a priority first, then high numbers before low ones, later modules before earlier
  // ones.
  EXPECT_EQ(take_notes(), "y x y300 x300 x200");
}

TEST(TransactionInitializers, LaterCommitsEndFirst) {
  Engine engine = make_engine();
  Library library = expect(engine.library("init"));
  take_notes();
  Module first = commit(engine, library, noting_object({{"a", "constructor"}, {"x", "destructor"}}));
  commit(engine, library, noting_object({{"b", "constructor"}, {"y", "destructor"}}));
  commit(engine, library, noting_object({{"c", "constructor"}, {"z", "destructor"}}));
  EXPECT_EQ(take_notes(), "a b c");
  expect(try_remove(engine, {first}));
  EXPECT_EQ(take_notes(), "x");
  expect(library.close(Quiet::caller_guarantees));
  EXPECT_EQ(take_notes(), "z y");
}

TEST(TransactionInitializers, RunAtTheEndOfTheEngine) {
  take_notes();
  {
    Engine engine = make_engine();
    Library one = expect(engine.library("one")), two = expect(engine.library("two"));
    commit(engine, one, noting_object({{"x", "destructor"}}));
    commit(engine, two, noting_object({{"y", "destructor"}}));
    commit(engine, one, noting_object({{"z", "destructor"}}));
  }
  EXPECT_EQ(take_notes(), "z y x");
}

TEST(TransactionInitializers, CtorsAndDtorsRunTheOldWay) {
  Engine engine = make_engine();
  Library library = expect(engine.library("ctors"));
  take_notes();
  // GNU ld: .ctors runs from its end to its begin, .dtors forwards; .ctors.N has the priority 65535 - N.
  std::string text;
  for (const char* word : {"c1", "c2", "cp", "d1", "d2"})
    text += std::string("f_") + word + ": lea s_" + word + "(%rip), %rdi\n jmp tenon_test_note@PLT\n s_" + word +
            ": .asciz \"" + word + "\"\n";
  text += R"(
    .section .ctors,"aw",@progbits
    .quad f_c1, f_c2
    .section .ctors.65335,"aw",@progbits
    .quad f_cp
    .section .dtors,"aw",@progbits
    .quad f_d1, f_d2
  )";
  commit(engine, library, assemble(text));
  EXPECT_EQ(take_notes(), "cp c2 c1");
  expect(library.close(Quiet::caller_guarantees));
  EXPECT_EQ(take_notes(), "d1 d2");
}

TEST(TransactionInitializers, OneThatThrowsLeavesTheModulesCommitted) {
  Engine engine = make_engine();
  Library library = expect(engine.library("throws"));
  take_notes();
  Object first = compile_cpp(R"(
    extern "C" void tenon_test_note(const char*);
    struct Life { Life() { tenon_test_note("born"); } ~Life() { tenon_test_note("died"); } };
    static Life life __attribute__((init_priority(200)));
    struct Fails { Fails() { tenon_test_note("fails"); throw 1; } };
    static Fails fails __attribute__((init_priority(300)));
    struct Never { Never() { tenon_test_note("never"); } };
    static Never never __attribute__((init_priority(400)));
    extern "C" int there() { return 5; })");
  Change change = engine.change();
  change.add(library, first);
  change.add(library, noting_object({{"later", "constructor"}, {"z", "destructor"}}));
  Result<Committed> committed = try_commit(std::move(change));
  ASSERT_FALSE(committed.ok());
  EXPECT_EQ(committed.error().code, ErrorCode::initializer);
  EXPECT_NE(committed.error().message.find("threw"), std::string::npos);
  EXPECT_EQ(take_notes(), "born fails");
  EXPECT_EQ(expect(library.modules()).size(), 2U);
  EXPECT_EQ(function<int()>(library, "there")(), 5);
  // "finalizers that were registered run when the modules are removed"
  expect(try_remove(engine, expect(library.modules())));
  EXPECT_EQ(take_notes(), "died z");
  EXPECT_FALSE(library.find("there"));
  expect(library.close(Quiet::caller_guarantees));
}

TEST(TransactionInitializers, StandardExceptionsSayWhatTheyAre) {
  Engine engine = make_engine();
  Library library = expect(engine.library("throws"));
  Object object = compile_cpp(R"(
    #include <stdexcept>
    static int fails = [] () -> int { throw std::runtime_error("no such luck"); }();)");
  Result<Committed> committed = try_commit(engine, library, {object});
  ASSERT_FALSE(committed.ok());
  EXPECT_NE(committed.error().message.find("no such luck"), std::string::npos) << committed.error().message;
}

TEST(TransactionInitializers, SkippedOnesLeaveTheirFinalizersOut) {
  Engine engine = make_engine();
  Library library = expect(engine.library("skips"));
  take_notes();
  Change change = engine.change();
  change.add(library, noting_object({{"a", "constructor"}, {"x", "destructor"}}));
  expect(try_commit(std::move(change), Initialize::skip));
  ModuleOptions quiet;
  quiet.initialize = false;
  commit(engine, library, noting_object({{"b", "constructor"}, {"y", "destructor"}}), quiet);
  EXPECT_EQ(take_notes(), "");
  expect(library.close(Quiet::caller_guarantees));
  EXPECT_EQ(take_notes(), "");
}

TEST(TransactionInitializers, AtexitOfSkippedModulesRunsAllTheSame) {
  Engine engine = make_engine();
  Library library = expect(engine.library("skips"));
  take_notes();
  Change change = engine.change();
  change.add(library, compile_c(R"(extern int atexit(void (*)(void)); extern void tenon_test_note(const char*);
                                   static void gone(void) { tenon_test_note("gone"); }
                                   void start(void) { atexit(gone); })"));
  expect(try_commit(std::move(change), Initialize::skip));
  function<void()>(library, "start")();
  expect(library.close(Quiet::caller_guarantees));
  EXPECT_EQ(take_notes(), "gone") << "a handler in memory that is gone would run at exit";
}

namespace {
// What an initializer does with the engine.
struct Nested {
  Engine* engine;
  Library* library;
  int answer = 0;
  std::string error;
};
Nested* nested = nullptr;
} // namespace

extern "C" __attribute__((visibility("default"))) void tenon_test_nested() {
  try {
    commit(*nested->engine, *nested->library,
           compile_c("int inner(void) { return 42; } int outer(void); int both(void) { return inner() + outer(); }"));
    nested->answer = function<int()>(*nested->library, "both")();
    expect(nested->library->define(std::vector<Absolute>{{"nested_absolute", {5}, true}}));
    (void)nested->engine->usage();
  } catch (const std::exception& thrown) {
    nested->error = thrown.what();
  }
}

TEST(TransactionInitializers, MayUseTheEngine) {
  Engine engine = make_engine();
  Library library = expect(engine.library("nested"));
  Nested state{&engine, &library, 0, {}};
  nested = &state;
  commit(engine, library, compile_c(R"(extern void tenon_test_nested(void); int outer(void) { return 1; }
                                       __attribute__((constructor)) static void start(void) { tenon_test_nested(); }
                                       __attribute__((destructor)) static void end(void) { tenon_test_nested(); })"));
  EXPECT_EQ(state.error, "");
  EXPECT_EQ(state.answer, 43);
  EXPECT_EQ(expect(library.modules()).size(), 2U);
  // A finalizer may too: it fails here, since its library is closed, or since outer() is gone; it does not hang.
  expect(library.close(Quiet::caller_guarantees));
  EXPECT_NE(state.error, "");
}

} // namespace tenon::test

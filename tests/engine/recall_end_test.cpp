// Unloaded modules that have something to run at their end: it runs once, with code that was made again for it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

extern "C" __attribute__((visibility("default"))) int tenon_test_ended;
int tenon_test_ended = 0; // the modules' ends write here: decimal digits, last first

namespace tenon::test {
namespace {

using testing::HasSubstr;

const char* const flags = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";

// A static object, a destructor function, and one that is registered when f() is first called.
const char* const source = "extern \"C\" int tenon_test_ended; extern \"C\" int atexit(void (*)());\n"
                           "static void note(int digit) { tenon_test_ended = tenon_test_ended * 10 + digit; }\n"
                           "struct S { int x = 1; ~S() { note(x); } }; S s;\n"
                           "static __attribute__((destructor)) void last() { note(9); }\n"
                           "static void registered() { note(5); }\n"
                           "extern \"C\" int f() { static int once = atexit(registered); return ++s.x + once; }\n";
constexpr int ended_once = 539; // f() was called twice: s.x is 3

struct UnloadedAtEnd : testing::Test {
  std::atomic<int> recalls{0};
  std::string last_function = "none";

  void SetUp() override { tenon_test_ended = 0; }

  Recall giving(Object object) {
    return {[this, object](const Module&, std::string_view function) -> Result<std::optional<Object>> {
      ++recalls;
      last_function = function;
      return std::optional(object);
    }};
  }
  static Recall failing() {
    return {[](const Module&, std::string_view) -> Result<std::optional<Object>> {
      return Error{ErrorCode::system, "the source is gone"};
    }};
  }
  static void unload(Engine& engine, const Module& module, Recall recall) {
    Change change = engine.change();
    change.unload(module, std::move(recall));
    expect(try_commit(std::move(change)));
  }
  // In a replaceable library of the name, unloaded, with all its ends to come.
  Module unloaded(Engine& engine, const Library& library) {
    const Object object = compile_cpp(source, flags);
    Module module = commit(engine, library, object);
    auto* f = function<int()>(library, "f");
    EXPECT_EQ(f(), 2);
    EXPECT_EQ(f(), 3);
    unload(engine, module, giving(object));
    EXPECT_EQ(tenon_test_ended, 0);
    return module;
  }
};

TEST_F(UnloadedAtEnd, RemovalMakesItAgain) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  Module module = unloaded(engine, library);
  expect(try_remove(engine, {module}));
  EXPECT_EQ(tenon_test_ended, ended_once);
  EXPECT_EQ(recalls, 1);
  EXPECT_EQ(last_function, "") << "nobody has called one";
}

TEST_F(UnloadedAtEnd, WhatWasRecalledByACallEndsAsEver) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  Module module = unloaded(engine, library);
  EXPECT_EQ(function<int()>(library, "f")(), 4);
  unload(engine, module, giving(compile_cpp(source, flags)));
  expect(try_remove(engine, {module}));
  EXPECT_EQ(tenon_test_ended, 549);
  EXPECT_EQ(recalls, 2);
}

TEST_F(UnloadedAtEnd, ClosingALibraryMakesItAgain) {
  Engine engine = make_engine();
  {
    Library library = expect(engine.library("", {.replaceable = true}));
    unloaded(engine, library);
  }
  EXPECT_EQ(tenon_test_ended, ended_once) << "with the last handle of an anonymous one";
  tenon_test_ended = 0;
  Library library = expect(engine.library("named", {.replaceable = true}));
  unloaded(engine, library);
  expect(library.close());
  EXPECT_EQ(tenon_test_ended, ended_once);
  EXPECT_EQ(recalls, 2);
}

TEST_F(UnloadedAtEnd, TheEnginesEndMakesItAgain) {
  {
    Engine engine = make_engine();
    Library library = expect(engine.library("main", {.replaceable = true}));
    unloaded(engine, library);
  }
  EXPECT_EQ(tenon_test_ended, ended_once);
  EXPECT_EQ(recalls, 1);
}

TEST_F(UnloadedAtEnd, AFailureLeavesItThere) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  Module module = unloaded(engine, library);
  unload(engine, module, failing());
  for (const Result<void>& ended : {library.close(), try_remove(engine, {module})}) {
    ASSERT_FALSE(ended);
    EXPECT_THAT(ended.error().message, HasSubstr("which its end needs"));
    EXPECT_THAT(ended.error().message, HasSubstr("the source is gone"));
  }
  EXPECT_TRUE(module.linked());
  EXPECT_EQ(tenon_test_ended, 0);
  unload(engine, module, giving(compile_cpp(source, flags)));
  expect(library.close());
  EXPECT_EQ(tenon_test_ended, ended_once);
}

// Its own end needs nothing, but another's that goes with it calls it.
TEST_F(UnloadedAtEnd, OthersOfTheSetFindItsCode) {
  const Object helper =
      compile_cpp("extern \"C\" int tenon_test_ended; extern \"C\" void help(int d) { tenon_test_ended += d; }", flags);
  for (const bool whole_engine : {false, true}) {
    tenon_test_ended = 0;
    recalls = 0;
    {
      Engine engine = make_engine();
      Library library = expect(engine.library("main", {.replaceable = true}));
      Module module = commit(engine, library, helper);
      commit(engine, library, compile_cpp("extern \"C\" void help(int); struct S { ~S() { help(77); } }; S s;", flags));
      unload(engine, module, giving(helper));
      if (!whole_engine) expect(library.close());
    }
    EXPECT_EQ(tenon_test_ended, 77);
    EXPECT_EQ(recalls, 1);
  }
}

TEST_F(UnloadedAtEnd, WithoutAnEndNothingIsMadeAgain) {
  const Object object = compile_c("int f(void) { return 1; }", flags);
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  unload(engine, commit(engine, library, object), giving(object));
  expect(library.close());
  EXPECT_EQ(recalls, 0);
}

TEST_F(UnloadedAtEnd, AThreadsDestructorsFindItsCode) {
  const Object object =
      compile_cpp("extern \"C\" int tenon_test_ended; struct T { int x = 4; ~T() { tenon_test_ended = x; } };\n"
                  "thread_local T t; extern \"C\" int touch() { return ++t.x; }",
                  flags);
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  Module module = commit(engine, library, object);
  auto* touch = function<int()>(library, "touch");
  std::atomic<int> step{0};
  std::thread thread([&] {
    EXPECT_EQ(touch(), 5);
    step = 1;
    step.notify_all();
    step.wait(1);
  });
  step.wait(0);
  unload(engine, module, giving(object));
  expect(try_remove(engine, {module}));
  EXPECT_EQ(recalls, 1);
  step = 2;
  step.notify_all();
  thread.join();
  EXPECT_EQ(tenon_test_ended, 5);
}

// exit() runs what was registered while the engine is there: by the trampolines.
TEST_F(UnloadedAtEnd, ExitFindsItsCode) {
  EXPECT_EXIT(
      {
        std::atexit([] { std::fprintf(stderr, "ended %d\n", tenon_test_ended); });
        auto* engine = new Engine(make_engine());
        auto* library = new Library(expect(engine->library("main", {.replaceable = true})));
        unloaded(*engine, *library);
        std::exit(3);
      },
      testing::ExitedWithCode(3), "ended 53");
}

} // namespace
} // namespace tenon::test

// Changes that replace the same module at the same time: one of them succeeds, the others are told of a conflict, whatever
// stage they are in when the version that they are drafted for is exchanged.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace tenon::test {
namespace {

const char* const live = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";

// Everything that a version takes over from the one before: variables, constants and literals that stay or change,
// thread-local variables, an exit handler's handle, initializers.
Object version(int number) {
  const std::string n = std::to_string(number);
  return compile_cpp(R"(
struct Kept { Kept(); ~Kept(); int value; };
Kept kept;
Kept::Kept() : value(1000) {}
Kept::~Kept() {}
thread_local int mine = 3;
int counter = 0;
extern const char *const names[2];
const char *const names[2] = {"same", "version )" +
                         n + R"("};
extern const int number;
const int number = )" + n +
                         R"(;
extern "C" const char *name(int i) { return names[i]; }
extern "C" int get() { return number; }
extern "C" int call() { ++counter; return get() * 10000 + kept.value + mine; }
extern "C" int only)" + n +
                         R"(() { return 1; }
)",
                     live);
}

TEST(ReplaceRace, OneOfTwoChangesOfAModuleIsAConflict) {
  for (const Mapping mapping : {Mapping::dual, Mapping::single}) {
    Options options;
    options.mapping = mapping;
    Engine engine = make_engine(options);
    Library library = expect(engine.library("main", {.replaceable = true}));
    std::vector<Object> objects;
    for (int i = 0; i < 3; ++i) objects.push_back(version(i));
    const Module module = commit(engine, library, objects[0]);
    const Object caller =
        compile_c("int call(void); int get(void); int outside(void) { return call() % 10000 + (get() > 2); }", live);
    int (*const call)() = function<int()>(library, "call");
    std::atomic<int> succeeded{0}, conflicts{0}, wrong{0};
    std::atomic<bool> stop{false};
    const auto replace = [&](int thread) {
      for (int i = 0; i < 150; ++i) {
        Change change = engine.change();
        change.replace(module, objects[std::size_t(i + thread) % objects.size()]);
        Result<Committed> committed = try_commit(std::move(change));
        if (committed)
          ++succeeded;
        else if (committed.error().code == ErrorCode::conflict)
          ++conflicts;
        else
          ADD_FAILURE() << describe(committed.error()), ++wrong;
        const int value = call();
        if (value % 10000 != 1003 || value / 10000 > 2) ++wrong;
      }
    };
    // Its references are read by changes that do not replace anything, too.
    std::thread third([&] {
      while (!stop) {
        Library own = expect(engine.library());
        expect(own.search({Source::library(library)}));
        Result<Committed> committed = try_commit(engine, own, {caller});
        if (committed && function<int()>(own, "outside")() != 1003) ++wrong;
        if (!committed && committed.error().code != ErrorCode::conflict) ++wrong;
        (void)module.usage();
      }
    });
    std::thread first(replace, 0), second(replace, 1);
    first.join();
    second.join();
    stop = true;
    third.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(succeeded + conflicts, 300);
    EXPECT_GE(succeeded, 150) << "a change that nobody disturbs succeeds";
    std::printf("%d succeeded, %d conflicts\n", succeeded.load(), conflicts.load());
  }
}

// A thread that links holds up fork(), which holds up who waits for the engine's locks: the thread must not be one of them.
TEST(ReplaceRace, AForkDoesNotWaitForAThreadThatWaitsForIt) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));
  const std::vector<Object> objects = {version(0), version(1)};
  const Module module = commit(engine, library, objects[0]);
  std::atomic<bool> stop{false};
  std::thread replacing([&] {
    for (std::size_t i = 1; !stop; ++i) {
      Change change = engine.change();
      change.replace(module, objects[i % 2]);
      expect(try_commit(std::move(change)));
    }
  });
  alarm(60); // what goes wrong is that nothing goes on
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    ASSERT_GT(child, 0);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  alarm(0);
  stop = true;
  replacing.join();
}

} // namespace
} // namespace tenon::test

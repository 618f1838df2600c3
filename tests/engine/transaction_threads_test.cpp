// Changes dropped, committed and removed by several threads at once, on symbols of their own and on shared ones; afterwards
// everything is as it was.
//
// TENON_SEED replays a run's choices (not its interleaving).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

namespace tenon::test {

namespace {

constexpr int threads = 4, variants = 8;

unsigned seed() {
  const char* given = std::getenv("TENON_SEED");
  unsigned value = given != nullptr ? unsigned(std::strtoul(given, nullptr, 10)) : std::random_device()();
  std::printf("TENON_SEED=%u\n", value);
  return value;
}

// Each has a function of its own, two groups that all share, and one that some share.
Object module_of(int thread, int variant) {
  std::string own = std::to_string(thread) + "_" + std::to_string(variant);
  return compile_cpp("inline int all_share(int x) { static int n; n = x; return x * 2; }\n"
                     "template <int N> struct Table { static int get(int x) { return x + N; } };\n"
                     "thread_local int mine" +
                         own +
                         " = 3;\n"
                         "extern \"C\" int own" +
                         own +
                         "(int x) { if (x < 0) { try { throw x; } catch (int y) { return y; } }\n"
                         "  return all_share(x) + Table<" +
                         std::to_string(variant % 3) + ">::get(x) + mine" + own + "; }",
                     "-O0 -fPIC", "module" + own + ".o");
}

struct Worker {
  Engine engine;
  Library library;
  int number;
  std::mt19937 random;
  std::vector<Object> objects;
  std::vector<std::vector<Module>> committed = std::vector<std::vector<Module>>(variants);
  std::string error;
  int commits = 0, drops = 0;

  unsigned pick(unsigned below) { return std::uniform_int_distribution<unsigned>(0, below - 1)(random); }

  void check(int variant) {
    auto* own = function<int(int)>(library, "own" + std::to_string(number) + "_" + std::to_string(variant));
    int x = int(pick(100));
    if (own(x) != 2 * x + x + variant % 3 + 3 || own(-5) != -5)
      throw std::runtime_error("wrong answer of variant " + std::to_string(variant));
  }

  void step() {
    int variant = int(pick(variants));
    std::vector<Module>& mine = committed[variant];
    if (!mine.empty()) {
      check(variant);
      if (pick(2) == 0) {
        Result<Function<int(int)>> handle =
            library.function<int(int)>("own" + std::to_string(number) + "_" + std::to_string(variant));
        expect(try_remove(engine, mine));
        mine.clear();
        if (expect(std::move(handle))(7) != 14 + 7 + variant % 3 + 3)
          throw std::runtime_error("wrong answer through a handle");
      }
      return;
    }
    unsigned stage = pick(6);
    Change change = engine.change();
    change.add(library, objects[std::size_t(variant)]);
    ++drops;
    if (stage == 0) return;
    Draft draft = expect(std::move(change).draft());
    if (stage == 1) return;
    Placed placed = expect(std::move(draft).place());
    if (stage == 2) return;
    Linked linked = expect(std::move(placed).link());
    if (stage == 3) return;
    --drops;
    Committed done = expect(std::move(linked).commit());
    mine.assign(done.modules().begin(), done.modules().end());
    ++commits;
    check(variant);
  }

  void run(int rounds) {
    try {
      for (int i = 0; i < rounds; ++i) step();
      for (std::vector<Module>& mine : committed)
        if (!mine.empty()) {
          expect(try_remove(engine, mine));
          mine.clear();
        }
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
  }
};

void work(bool one_library) {
  unsigned base = seed();
  Engine engine = make_engine();
  std::vector<Library> libraries;
  std::vector<Worker> workers;
  for (int t = 0; t < threads; ++t) {
    Library library = expect(engine.library(one_library ? "shared" : "own" + std::to_string(t)));
    libraries.push_back(library);
    Worker& worker = workers.emplace_back(Worker{engine, library, t, std::mt19937(base + unsigned(t)), {}, {}, {}, 0, 0});
    worker.committed.resize(variants);
    for (int v = 0; v < variants; ++v) worker.objects.push_back(module_of(t, v));
  }
  // One round warms the process; the others must leave it as it was.
  for (Worker& worker : workers) worker.run(40);
  Snapshot before = snapshot(engine, libraries);
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop.load()) {
      for (const Library& library : libraries) {
        (void)library.find("own0_0");
        (void)library.find("_Z9all_sharei");
        (void)expect(library.modules());
      }
      (void)engine.usage();
    }
  });
  std::vector<std::thread> running;
  for (Worker& worker : workers) running.emplace_back([&worker] { worker.run(300); });
  for (std::thread& thread : running) thread.join();
  stop = true;
  reader.join();
  for (Worker& worker : workers) {
    EXPECT_EQ(worker.error, "");
    EXPECT_GT(worker.commits, 20);
    EXPECT_GT(worker.drops, 20);
  }
  Snapshot after = snapshot(engine, libraries);
  EXPECT_EQ(after.live, 0U);
  EXPECT_EQ(after.module_count, 0U);
  EXPECT_EQ(after.symbol_count, 0U);
  EXPECT_EQ(after.framed, before.framed);
  EXPECT_EQ(after.descriptors, before.descriptors);
  EXPECT_EQ(after.mappings, before.mappings);
  EXPECT_TRUE(after.modules.empty());
}

} // namespace

TEST(TransactionThreads, InOneLibraryWithSharedGroups) { work(true); }
TEST(TransactionThreads, InLibrariesOfTheirOwn) { work(false); }

TEST(TransactionThreads, OneThreadDropsWhileOthersCommit) {
  Engine engine = make_engine();
  Library library = expect(engine.library("drops"));
  Object dropped = module_of(99, 0);
  std::atomic<bool> stop{false};
  std::atomic<int> drops{0};
  std::thread dropper([&] {
    while (!stop.load()) {
      Change change = engine.change();
      change.add(library, dropped);
      Linked linked = expect(expect(expect(std::move(change).draft()).place()).link());
      ++drops;
    }
  });
  std::vector<Object> objects;
  for (int i = 0; i < 8; ++i) objects.push_back(module_of(98, i));
  for (int round = 0; round < 50 || drops < 50; ++round) {
    for (const Object& object : objects) commit(engine, library, object);
    expect(try_remove(engine, expect(library.modules())));
  }
  stop = true;
  dropper.join();
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().modules, 0U);
  EXPECT_EQ(engine.usage().symbols, 0U);
  EXPECT_FALSE(library.find("own99_0"));
}

// Who comes second is told, and exactly one of them wins.
TEST(TransactionThreads, OneStrongSymbolByAllAtOnce) {
  Engine engine = make_engine();
  Library library = expect(engine.library("race"));
  std::vector<Object> objects;
  for (int t = 0; t < threads; ++t)
    objects.push_back(compile_c("int contested(void) { return " + std::to_string(t) + "; }"));
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> won{0}, duplicates{0}, others{0};
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        Result<Committed> committed = try_commit(engine, library, {objects[std::size_t(t)]});
        (committed.ok() ? won : committed.error().code == ErrorCode::duplicate ? duplicates : others)++;
      });
    for (std::thread& thread : running) thread.join();
    ASSERT_EQ(won, 1);
    ASSERT_EQ(duplicates, threads - 1);
    expect(try_remove(engine, expect(library.modules())));
  }
}

} // namespace tenon::test

// Collecting modules with so many names that one step is not enough for one of them: nobody meets half of it, others come in
// between, and what they define meanwhile stays.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/engine_state.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

namespace tenon::test {
namespace {

using std::chrono::milliseconds;

constexpr unsigned names = 30'000;

std::string name_of(unsigned module, unsigned number) {
  return "large_" + std::to_string(module) + "_" + std::to_string(number);
}

// Module `own` of a ring: functions that give their number, and a pointer to the next module.
Object large(unsigned own, unsigned count) {
  std::string text = ".text\n";
  for (unsigned i = 0; i < names; ++i) {
    const std::string name = name_of(own, i);
    text += ".globl " + name + "\n.type " + name + ", @function\n" + name + ": movl $" + std::to_string(i) +
            ", %eax\nret\n.size " + name + ", .-" + name + "\n";
  }
  text += ".data\n.p2align 3\n.quad " + name_of((own + 1) % count, 0) + "\n";
  return assemble(text);
}

struct LargeCollector : testing::TestWithParam<bool> {
  Engine engine = make_engine();
  Library library = expect(engine.library("garbage", {.replaceable = GetParam(), .collected = true}));
  std::vector<Object> objects;

  LargeCollector() {
    for (unsigned i = 0; i < 2; ++i) objects.push_back(large(i, 2));
  }
  Committed ring() {
    Change change = engine.change();
    for (const Object& object : objects) change.add(library, object);
    return expect(try_commit(std::move(change)));
  }
  bool settles(std::uint64_t symbols = 0) {
    for (auto end = std::chrono::steady_clock::now() + milliseconds(20000); std::chrono::steady_clock::now() < end;) {
      expect(engine.collect());
      const EngineUsage usage = engine.usage();
      if (usage.symbols == symbols && usage.modules == (symbols != 0 ? 1 : 0)) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
};

TEST_P(LargeCollector, OthersComeInWhileAModuleLeaves) {
  const Border border = expect(engine.border("main")); // else a thread that never sleeps may be anywhere
  bool between = false;
  for (int round = 0; round < 20 && !between; ++round) {
    auto all = std::make_unique<Committed>(ring());
    ASSERT_EQ(engine.usage().symbols, 2 * names);
    all.reset();
    std::atomic<bool> settled{false};
    std::thread collecting([&] {
      EXPECT_TRUE(settles());
      settled = true;
    });
    while (!settled) {
      const std::uint64_t symbols = engine.usage().symbols;
      between |= symbols != 0 && symbols != names && symbols != 2 * names;
    }
    collecting.join();
  }
  EXPECT_TRUE(between) << "a step lasts as long as a module is large";
}

TEST_P(LargeCollector, NobodyFindsHalfOfIt) {
  for (int round = 0; round < 3; ++round) {
    auto all = std::make_unique<Committed>(ring());
    std::atomic<bool> stop{false};
    std::atomic<unsigned> found{0}, resurrected{0};
    std::thread watcher([&] {
      const Border border = expect(engine.border("watcher"));
      // From both ends of the modules, in the orders in which tables may be emptied and against them.
      const std::string watched[] = {name_of(0, 0), name_of(1, names - 1), name_of(1, 0), name_of(0, names - 1)};
      bool gone = false;
      for (unsigned i = 0; !stop || !gone; i = (i + 1) % 4) {
        const bool there = library.find(watched[i]).has_value();
        found += there ? 1 : 0;
        resurrected += there && gone ? 1 : 0;
        gone |= !there;
      }
    });
    while (found == 0) std::this_thread::yield();
    all.reset();
    EXPECT_TRUE(settles());
    stop = true;
    watcher.join();
    EXPECT_EQ(resurrected, 0U);
  }
}

TEST_P(LargeCollector, TheNamesOfTheDeadAreFreeAtOnce) {
  const Border border = expect(engine.border("main"));
  const std::string name = name_of(0, names / 2);
  const Object heir = compile_c("int " + name + "(void) { return -1; }");
  for (int round = 0; round < 3; ++round) {
    auto all = std::make_unique<Committed>(ring());
    std::thread collecting([&, all = std::move(all)]() mutable {
      all.reset();
      expect(engine.collect());
    });
    std::unique_ptr<Committed> inherited;
    while (!inherited) {
      Change change = engine.change();
      change.add(library, heir);
      Result<Committed> made = try_commit(std::move(change));
      if (made)
        inherited = std::make_unique<Committed>(std::move(*made));
      else
        EXPECT_TRUE(made.error().code == ErrorCode::duplicate || made.error().code == ErrorCode::conflict)
            << made.error().message;
    }
    EXPECT_EQ(function<int()>(library, name)(), -1);
    collecting.join();
    EXPECT_TRUE(settles(1));
    EXPECT_EQ(function<int()>(library, name)(), -1);
    EXPECT_FALSE(library.find(name_of(0, names / 2 + 1)));
    inherited.reset();
    EXPECT_TRUE(settles());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, LargeCollector, testing::Bool(),
                         [](const auto& kind) { return kind.param ? "replaceable" : "plain"; });

// The ties of one module, cut by steps that have no time left.
TEST(Bury, GoesOnWhereItEnded) {
  constexpr std::size_t count = 100;
  auto module = std::make_shared<engine::ModuleState>(), other = std::make_shared<engine::ModuleState>();
  module->replaceable = std::make_unique<engine::Replaceable>();
  engine::Definition elsewhere;
  elsewhere.module = other.get();
  module->make_extra().uses.resize(count);
  for (engine::Use& use : module->extra().uses) {
    use.definition = &elsewhere;
    use.user = module.get();
    engine::link_use(use);
  }
  for (std::size_t i = 0; i < count; ++i) {
    module->replaceable->definitions.push_back(std::make_unique<engine::Definition>());
    engine::Definition& definition = *module->replaceable->definitions.back();
    definition.module = module.get();
    definition.leader = &elsewhere;
    definition.next_follower = elsewhere.followers;
    if (elsewhere.followers != nullptr) elsewhere.followers->previous_follower = &definition;
    elsewhere.followers = &definition;
  }
  std::size_t done = 0, steps = 1;
  for (bool over = false; !over; ++steps) {
    engine::StepBudget spent = engine::StepBudget::step();
    while (!spent.spent()) {
    }
    over = engine::bury(*module, done, spent);
    EXPECT_EQ(over, done == 2 * count);
    EXPECT_EQ(elsewhere.uses == nullptr, done >= count) << done;
    ASSERT_LT(steps, 2 * count) << "it does not get on";
  }
  EXPECT_GT(steps, 5U) << "one step does it all";
  EXPECT_EQ(elsewhere.followers, nullptr);
}

} // namespace
} // namespace tenon::test

// The unwinder's table while blocks are at all steps of their lives at once: first one thread that takes every interleaving
// of the steps (the table's invariants are about these, and a failure repeats by its seed), then many threads.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "frames_support.h"

#include "notify/frame_table.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#if defined(__x86_64__) // the functions are machine code
namespace tenon {
namespace {

using test::Engine;
using test::find_fde;
using test::FunctionSpec;
using test::Module;

Module emit_some(Engine& engine, std::mt19937& random) {
  std::vector<FunctionSpec> functions(1 + random() % 6);
  for (FunctionSpec& function : functions) function = {12 + random() % 40, false, random() % 6 != 0};
  return engine.emit(functions, random() % 4 == 0 ? random() % 5 : 0);
}

// What a search relies on: no entry is on the wrong side of a prepared block, wherever the others are.
void expect_sorted(Engine& engine, unsigned seed, int step) {
  const auto* area = engine.space().area_begin(memory::AreaKind::frames).as<const std::byte*>();
  std::uint32_t count = 0;
  std::memcpy(&count, area + notify::fde_count_offset, sizeof count);
  const auto* entries = reinterpret_cast<const std::int32_t*>(area + notify::table_offset);
  for (std::uint32_t i = 0; i + 1 < count; ++i)
    ASSERT_LE(entries[2 * i], entries[2 * i + 2]) << "entry " << i << ", step " << step << ", seed " << seed;
}

void interleave(unsigned seed, int steps, std::size_t most) {
  enum class Stage { emitted, prepared, added, removed };
  struct Life {
    Module module;
    Stage stage;
  };
  std::mt19937 random(seed);
  Engine engine;
  std::vector<Life> lives;
  const auto step_of = [&](Life& life) { // true: it is over
    const bool drop = random() % 12 == 0;
    switch (life.stage) {
    case Stage::emitted:
      if (!drop) engine.prepare(life.module);
      life.stage = Stage::prepared;
      break;
    case Stage::prepared:
      if (!drop) engine.add(life.module);
      life.stage = Stage::added;
      break;
    case Stage::added: {
      const memory::WriteGuard guard(engine.space());
      engine.frames().remove(life.module.code);
      life.stage = Stage::removed;
      return false;
    }
    case Stage::removed: engine.free(life.module); return true;
    }
    if (drop) engine.free(life.module);
    return drop;
  };
  for (int step = 0; step < steps; ++step) {
    if (lives.size() < 5 || (lives.size() < most && random() % 4 == 0)) {
      lives.push_back({emit_some(engine, random), Stage::emitted});
    } else if (const std::size_t i = random() % lives.size(); step_of(lives[i])) {
      std::swap(lives[i], lives.back());
      lives.pop_back();
    }
    ASSERT_NO_FATAL_FAILURE(expect_sorted(engine, seed, step));
    const Life& probe = lives[random() % lives.size()];
    const Addr pc = probe.module.code.begin + random() % probe.module.code.size;
    if (probe.stage == Stage::added) {
      ASSERT_EQ(find_fde(pc), probe.module.expected(pc)) << "step " << step << ", seed " << seed;
    }
  }
}

// A block is emitted below another one that is prepared first, in addresses that had been higher blocks' entries: these must
// be pushed below it although entries in between are not of any block yet.
TEST(FramesRaces, EveryInterleavingOfTheStepsKeepsTheTableInOrder) {
  for (const unsigned seed : {4u, 5u, 6u, 22u, 28u, 39u})
    ASSERT_NO_FATAL_FAILURE(interleave(seed, 3000, seed < 10 ? 60 : 14));
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  for (unsigned i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(interleave(seed + i, 2000, 5 + 10 * i));
}

TEST(FramesRaces, ManyThreadsThatWaitBetweenTheSteps) {
  Engine engine;
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::vector<Module> around;
  for (int i = 0; i < 40; ++i) around.push_back(engine.load(std::vector<FunctionSpec>(1 + i % 3)));
  const Module steady = engine.load({{16}, {32, true}, {20}});
  for (std::size_t i = 0; i < around.size(); i += 2) engine.unload(around[i]);
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0};
  const auto look = [&](const Module& module) {
    for (Addr pc = module.code.begin; pc < module.code.end(); pc = pc + 1) wrong += find_fde(pc) != module.expected(pc);
  };
  std::thread reader([&] {
    while (!stop) look(steady);
  });
  const auto churn = [&](unsigned thread) {
    std::mt19937 random(seed + thread);
    const auto wait = [&] {
      const unsigned way = random() % 64;
      if (way < 6) sched_yield();
      if (way == 7) usleep(random() % 200);
    };
    std::vector<Module> mine;
    for (int round = 0; round < 3000; ++round) {
      if (mine.size() < 5 || (mine.size() < 40 && random() % 2 == 0)) {
        Module module = emit_some(engine, random);
        wait();
        const unsigned drop = random() % 16;
        if (drop > 0) engine.prepare(module);
        wait();
        if (drop < 2) {
          engine.free(module);
          continue;
        }
        engine.add(module);
        wait();
        look(module);
        mine.push_back(std::move(module));
      } else {
        std::swap(mine[random() % mine.size()], mine.back());
        look(mine.back());
        {
          const memory::WriteGuard guard(engine.space());
          engine.frames().remove(mine.back().code);
        }
        wait();
        engine.free(mine.back());
        mine.pop_back();
      }
    }
    for (const Module& module : mine) engine.unload(module);
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 6; ++i) threads.emplace_back(churn, i);
  for (std::thread& thread : threads) thread.join();
  stop = true;
  reader.join();
  EXPECT_EQ(wrong, 0) << "seed " << seed;
}

// One thread makes the table large and small, another moves in and out behind a block that stays: a third looks for that.
TEST(FramesRaces, ATableThatShrinksUnderSearches) {
  Engine engine;
  const Module steady = engine.load({{16}, {32, true}, {20}});
  std::atomic<bool> stop{false}, alone{false};
  std::atomic<long> wrong{0}, searches{0};
  const auto look = [&](const Module& module) {
    for (Addr pc = module.code.begin; pc < module.code.end(); pc = pc + 1) wrong += find_fde(pc) != module.expected(pc);
    ++searches;
  };
  std::thread reader([&] {
    while (!stop) look(steady);
  });
  std::thread neighbour([&] {
    std::mt19937 random(1);
    while (!alone) {
      const Module module = emit_some(engine, random);
      engine.prepare(module);
      engine.add(module);
      look(module);
      engine.unload(module);
      engine.frames().shrink();
    }
  });
  const auto committed = [&] { return engine.space().usage(memory::AreaKind::frames).committed; };
  for (int round = 0; round < 10; ++round) {
    if (round == 5) { // at times the neighbour lies at the end, and keeps the table long
      alone = true;
      neighbour.join();
    }
    std::vector<Module> modules;
    for (int i = 0; i < 70; ++i) modules.push_back(engine.load(std::vector<FunctionSpec>(1000, FunctionSpec{16})));
    look(modules.front());
    look(modules.back());
    for (const Module& module : modules) engine.unload(module);
    engine.frames().shrink();
    if (round >= 5) {
      EXPECT_LE(committed(), 128U << 10);
    }
  }
  while (searches < 1000) sched_yield();
  stop = true;
  reader.join();
  EXPECT_EQ(wrong, 0);
}

} // namespace
} // namespace tenon
#endif

// The unwinder's table: what libgcc finds in it, for every PC, whatever came and went, and while it changes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "frames_support.h"

#include "notify/frame_table.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <execinfo.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__) // the functions are machine code
namespace tenon {
namespace {

using test::Engine;
using test::find_fde;
using test::FunctionSpec;
using test::Module;

void throw_seven() { throw 7; }

// UBSan looks for a type in front of a called function; emitted ones have none, and their page may be the first readable
// one.
#if defined(__clang__)
#define CALLS_EMITTED_CODE __attribute__((no_sanitize("function")))
#else
#define CALLS_EMITTED_CODE
#endif

// What comes out of a call of `function` with a callback that throws 7.
CALLS_EMITTED_CODE int caught_through(test::Emitted* function) {
  try {
    function(throw_seven);
  } catch (int value) {
    return value;
  }
  return 0;
}

// Every PC of a block finds what it has to. Gives the number of wrong ones.
std::size_t wrong_pcs(const Module& module) {
  std::size_t wrong = 0;
  for (Addr pc = module.code.begin; pc < module.code.end(); pc = pc + 1) wrong += find_fde(pc) != module.expected(pc);
  return wrong;
}
std::size_t found_pcs(const memory::Block& code) {
  std::size_t found = 0;
  for (Addr pc = code.begin; pc < code.end(); pc = pc + 1) found += find_fde(pc) != nullptr;
  return found;
}

unsigned make_seed() {
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  return seed;
}

TEST(Frames, ThrowsThroughAFunction) {
  Engine engine;
  const Module module = engine.load({{16}, {16}, {40}});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(caught_through(module.function(i)), 7);
  engine.unload(module);
}

TEST(Frames, TheGapBetweenBlocksAndTheLastByte) {
  Engine engine;
  // The return address of the first module's last call is the first byte of the second module.
  const Module first = engine.load({{16}, {32, true}});
  const Module second = engine.load({{16, true}});
  ASSERT_EQ(first.code.end(), second.code.begin);
  EXPECT_EQ(caught_through(first.function(1)), 7);
  EXPECT_EQ(caught_through(second.function(0)), 7);
  EXPECT_EQ(wrong_pcs(first), 0u);
  EXPECT_EQ(wrong_pcs(second), 0u);
}

thread_local std::vector<void*> trace;
thread_local std::vector<test::Emitted*> nested;
CALLS_EMITTED_CODE void go_deeper() {
  if (nested.empty()) {
    trace.resize(64);
    trace.resize(static_cast<std::size_t>(backtrace(trace.data(), 64)));
    throw 7;
  }
  test::Emitted* next = nested.back();
  nested.pop_back();
  next(go_deeper);
}

TEST(Frames, UnwindsThroughManyModules) {
  Engine engine;
  std::vector<Module> modules;
  for (int i = 0; i < 5; ++i) modules.push_back(engine.load({{16}, {48, i % 2 != 0}}));
  for (const Module& module : modules) nested.push_back(module.function(1));
  int caught = 0;
  try {
    go_deeper();
  } catch (int value) {
    caught = value;
  }
  EXPECT_EQ(caught, 7);
  std::vector<std::size_t> seen;
  for (void* at : trace)
    for (std::size_t i = 0; i < modules.size(); ++i)
      if (Addr::of(at) > modules[i].functions[1] && Addr::of(at) <= modules[i].code.end()) seen.push_back(i);
  EXPECT_EQ(seen, (std::vector<std::size_t>{0, 1, 2, 3, 4})) << "the last called is the innermost";
}

TEST(Frames, EveryByteFindsItsFunction) {
  Engine engine;
  const std::vector<std::vector<FunctionSpec>> shapes = {
      {{16}},
      {{16}, {21}, {13}, {30}},
      {{20, false, false}, {16}, {12, false, false}, {16}, {40, false, false}}, // gaps at both ends and between
      {{12, false, false}},
      {{64, true}, {64, true}},
  };
  std::vector<Module> modules;
  for (std::uint32_t spare : {0u, 1u, 7u})
    for (const auto& shape : shapes) modules.push_back(engine.load(shape, spare));
  for (std::size_t i = 0; i < modules.size(); ++i) EXPECT_EQ(wrong_pcs(modules[i]), 0u) << i;
  EXPECT_EQ(find_fde(engine.space().area_begin(memory::AreaKind::code) + 4096 * 100), nullptr);
}

TEST(Frames, NoSlotIsNeededBeforeAFunctionThatStartsTheBlock) {
  Engine engine;
  Module module = engine.emit({{16}, {16}});
  Module other = engine.load({{16}});
  module.code.slots = 2; // as if it had asked for no more
  engine.prepare(module);
  engine.add(module);
  EXPECT_EQ(wrong_pcs(module), 0u);
  EXPECT_EQ(wrong_pcs(other), 0u);
}

TEST(Frames, NothingIsFoundAfterRemove) {
  Engine engine;
  const Module below = engine.load({{16}, {16}}), module = engine.load({{16}, {48}, {13}}), above = engine.load({{32}});
  EXPECT_GT(found_pcs(module.code), 0u);
  engine.unload(module);
  EXPECT_EQ(found_pcs(module.code), 0u);
  EXPECT_EQ(wrong_pcs(below), 0u);
  EXPECT_EQ(wrong_pcs(above), 0u);
}

std::uint32_t& entry_count(Engine& engine) {
  const Addr count = engine.space().area_begin(memory::AreaKind::frames) + notify::fde_count_offset;
  return *reinterpret_cast<std::uint32_t*>(engine.space().writable(count));
}

// Pages of the table beyond its first bytes that are in memory.
long present_beyond(Engine& engine, std::uint64_t first) {
  std::vector<unsigned char> present(256);
  const Addr beyond = engine.space().area_begin(memory::AreaKind::frames) + first;
  EXPECT_EQ(::mincore(beyond.as<void*>(), present.size() * 4096, present.data()), 0);
  return std::count_if(present.begin(), present.end(), [](unsigned char page) { return (page & 1) != 0; });
}

TEST(Frames, ATableOfNothingGivesItsMemoryBack) {
  Engine engine;
  const auto committed = [&] { return engine.space().usage(memory::AreaKind::frames).committed; };
  for (int round = 0; round < 2; ++round) {
    std::vector<Module> modules;
    while (committed() < (1U << 20)) modules.push_back(engine.load(std::vector<FunctionSpec>(500, FunctionSpec{16})));
    engine.frames().shrink();
    EXPECT_GE(committed(), 1U << 20) << "blocks are there";
    EXPECT_EQ(wrong_pcs(modules.front()), 0u);
    const memory::Block last = modules.back().code;
    for (const Module& module : modules) engine.unload(module);
    engine.frames().shrink();
    EXPECT_EQ(committed(), memory::Space::frame_step);
    EXPECT_EQ(present_beyond(engine, memory::Space::frame_step), 0);
    EXPECT_EQ(found_pcs(last), 0u);
    const Module module = engine.load({{16}, {16}, {40}});
    EXPECT_EQ(wrong_pcs(module), 0u);
    EXPECT_EQ(caught_through(module.function(1)), 7);
    engine.unload(module);
  }
}

// Blocks at the front stay, and are found by who has read the number of entries before it was lowered as by who reads it
// now.
TEST(Frames, ATableGivesItsEndBackWhileCodeIsThere) {
  Engine engine;
  const auto committed = [&] { return engine.space().usage(memory::AreaKind::frames).committed; };
  const Module first = engine.load({{16}, {40}, {16, true}}), second = engine.load({{32, true}});
  for (int round = 0; round < 3; ++round) {
    std::vector<Module> modules;
    while (committed() < (1U << 20)) modules.push_back(engine.load(std::vector<FunctionSpec>(500, FunctionSpec{16})));
    const std::uint32_t full = entry_count(engine);
    const std::size_t half = modules.size() / 2;
    for (std::size_t i = 0; i < half; ++i) engine.unload(modules[i]); // what is before others has to stay
    engine.frames().shrink();
    EXPECT_GE(committed(), 1U << 20);
    EXPECT_EQ(wrong_pcs(modules.back()), 0u);
    for (std::size_t i = modules.size() - 1; i > half; --i) engine.unload(modules[i]);
    engine.frames().shrink();
    EXPECT_LE(committed(), 700U << 10);
    EXPECT_EQ(wrong_pcs(modules[half]), 0u);
    engine.unload(modules[half]);
    const Module unprepared = engine.emit({{16}, {16}});
    engine.frames().shrink();
    EXPECT_EQ(committed(), memory::Space::frame_step);
    EXPECT_EQ(present_beyond(engine, memory::Space::frame_step), 0);

    const std::uint32_t count = entry_count(engine);
    EXPECT_LT(count, 100U);
    for (std::uint32_t seen = count; seen <= full; seen += seen < count + 64 ? 1 : 4999) {
      entry_count(engine) = seen;
      ASSERT_EQ(wrong_pcs(first) + wrong_pcs(second), 0u) << seen << " of " << full << " entries";
      ASSERT_EQ(caught_through(second.function(0)), 7);
    }
    entry_count(engine) = count;
    engine.prepare(unprepared);
    engine.add(unprepared);
    EXPECT_EQ(wrong_pcs(first) + wrong_pcs(second) + wrong_pcs(unprepared), 0u);
    engine.unload(unprepared);
  }
}

TEST(Frames, BlocksMayBePreparedInAnyOrderOrNever) {
  Engine engine;
  std::vector<Module> modules;
  for (std::size_t i = 0; i < 40; ++i)
    modules.push_back(engine.emit(std::vector<FunctionSpec>(1 + i % 5), static_cast<std::uint32_t>(i % 3)));
  const unsigned seed = make_seed();
  std::mt19937 random(seed);
  std::vector<std::size_t> order(modules.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::vector<bool> live(modules.size());
  for (std::size_t i : order) {
    if (i % 7 == 3) {
      engine.free(modules[i]); // dropped before it was prepared
      continue;
    }
    engine.prepare(modules[i]);
    if (i % 7 == 5) {
      engine.free(modules[i]); // dropped before frames were added
      continue;
    }
    engine.add(modules[i]);
    live[i] = true;
    for (std::size_t k = 0; k < modules.size(); ++k) {
      if (live[k]) {
        ASSERT_EQ(wrong_pcs(modules[k]), 0u) << "module " << k << " after " << i << ", seed " << seed;
      }
    }
  }
}

TEST(Frames, PartsOfABlockAreRemovedOnTheirOwn) {
  Engine engine;
  for (std::uint32_t spare : {0u, 4u}) {
    const Module module = engine.load(std::vector<FunctionSpec>(6, {32}), spare);
    const auto part_of = [&](std::size_t from, std::size_t to) {
      memory::Block part = module.code;
      part.begin = module.functions[from];
      const Addr end = to == module.functions.size() ? module.code.end() : module.functions[to];
      part.size = end - part.begin;
      std::tie(part.first_slot, part.slots) = engine.frames().slots_within(module.code, part.begin, end);
      return part;
    };
    const auto drop = [&](const memory::Block& part) {
      {
        const memory::WriteGuard guard(engine.space());
        engine.frames().remove(part);
      }
      engine.space().free(part);
    };
    const memory::Block whole = part_of(0, 6);
    EXPECT_EQ(whole.first_slot, module.code.first_slot);
    EXPECT_EQ(whole.slots, module.code.slots);

    const memory::Block second = part_of(1, 3);
    EXPECT_EQ(second.slots, 2u);
    drop(second);
    EXPECT_EQ(found_pcs(second), 0u);
    // Somebody else moves in, with fewer frames than the part had: what it leaves over is pushed to the next part's border.
    const Module guest = engine.load({{64}}, 0);
    EXPECT_EQ(guest.code.begin, second.begin);
    for (std::size_t i : {0u, 3u, 4u, 5u})
      for (std::uint64_t at = 0; at < 32; ++at)
        ASSERT_EQ(find_fde(module.functions[i] + at), module.frames[i].fde.as<const void*>()) << i;
    EXPECT_EQ(wrong_pcs(guest), 0u);

    const memory::Block third = part_of(3, 4), last = part_of(4, 6), first = part_of(0, 1);
    EXPECT_EQ(third.slots, 1u);
    EXPECT_EQ(last.slots + third.slots + second.slots + first.slots, module.code.slots);
    drop(third);
    EXPECT_EQ(found_pcs(third), 0u);
    EXPECT_EQ(wrong_pcs(guest), 0u);
    EXPECT_EQ(caught_through(module.function(4)), 7);
    EXPECT_EQ(caught_through(module.function(0)), 7);
    drop(last);
    drop(first);
    EXPECT_EQ(found_pcs(last) + found_pcs(first), 0u);
    EXPECT_EQ(wrong_pcs(guest), 0u);
    engine.unload(guest);
  }
}

TEST(Frames, RandomAddAndRemoveAgreesWithAMap) {
  Engine engine;
  const unsigned seed = make_seed();
  std::mt19937 random(seed);
  std::vector<Module> live;
  std::vector<memory::Block> dead; // may be live again meanwhile, in part
  for (int round = 0; round < 20000; ++round) {
    const bool grow = live.size() < 20 || (live.size() < 400 && random() % 2 == 0);
    if (grow) {
      std::vector<FunctionSpec> functions(random() % 4 == 0 ? random() % 40 : 1 + random() % 4);
      for (FunctionSpec& function : functions) function = {12 + random() % 100, random() % 4 == 0, random() % 5 != 0};
      Module module = engine.emit(functions, random() % 3 == 0 ? random() % 6 : 0);
      if (random() % 8 == 0) {
        engine.free(module);
        continue;
      }
      engine.prepare(module);
      engine.add(module);
      live.push_back(std::move(module));
    } else {
      const std::size_t victim = random() % live.size();
      std::swap(live[victim], live.back());
      engine.unload(live.back());
      dead.push_back(live.back().code);
      live.pop_back();
    }
    for (int probe = 0; probe < 4; ++probe) {
      const Module& module = live[random() % live.size()];
      const Addr pc = module.code.begin + random() % module.code.size;
      ASSERT_EQ(find_fde(pc), module.expected(pc)) << "round " << round << ", seed " << seed;
    }
    if (round % 1000 == 999) {
      for (const Module& module : live) ASSERT_EQ(wrong_pcs(module), 0u) << "round " << round << ", seed " << seed;
    }
  }
  for (const Module& module : live) engine.unload(module);
  for (const memory::Block& block : dead) ASSERT_EQ(found_pcs(block), 0u) << "seed " << seed;
}

// Two threads add and remove 100,000 frames in all while a third throws through a function between their blocks.
TEST(Frames, AThrowGoesOnWhileOthersComeAndGo) {
  Engine engine;
  const unsigned seed = make_seed();
  std::vector<Module> around;
  for (int i = 0; i < 200; ++i) around.push_back(engine.load(std::vector<FunctionSpec>(1 + i % 3)));
  const Module steady = engine.load({{16}, {32, true}, {20}});
  for (std::size_t i = 0; i < around.size(); i += 2) engine.unload(around[i]);

  std::atomic<bool> stop{false};
  std::atomic<long> throws{0}, wrong{0};
  std::thread thrower([&] {
    for (std::size_t i = 0; !stop; i = (i + 1) % 3) {
      wrong += caught_through(steady.function(i)) != 7;
      for (std::uint64_t at = 0; at < steady.sizes[i]; ++at)
        wrong += find_fde(steady.functions[i] + at) != steady.frames[i].fde.as<const void*>();
      ++throws;
    }
  });
  const auto churn = [&](unsigned thread) {
    std::mt19937 random(seed + thread);
    std::vector<Module> mine;
    for (long frames = 0; frames < 50000;) {
      if (mine.size() < 30 || random() % 2 == 0) {
        std::vector<FunctionSpec> functions(1 + random() % 6);
        for (FunctionSpec& function : functions) function = {12 + random() % 40, false, random() % 6 != 0};
        Module module = engine.emit(functions);
        if (random() % 16 == 0) {
          engine.free(module);
          continue;
        }
        engine.prepare(module);
        engine.add(module);
        frames += static_cast<long>(module.frames.size());
        const Addr pc = module.code.begin + random() % module.code.size;
        wrong += find_fde(pc) != module.expected(pc);
        mine.push_back(std::move(module));
      } else {
        std::swap(mine[random() % mine.size()], mine.back());
        wrong += wrong_pcs(mine.back()) != 0;
        engine.unload(mine.back());
        mine.pop_back();
      }
    }
    for (const Module& module : mine) engine.unload(module);
  };
  std::thread first(churn, 1), second(churn, 2);
  first.join();
  second.join();
  while (throws < 100) std::this_thread::yield();
  stop = true;
  thrower.join();
  EXPECT_EQ(wrong, 0) << "seed " << seed;
  EXPECT_GE(throws, 100);
}

TEST(Frames, TheCostOfAddingDoesNotGrow) {
  Engine engine;
  constexpr int modules = 50000, batch = 100;
  std::vector<Module> loaded;
  loaded.reserve(modules);
  std::vector<double> batches; // nanoseconds
  for (int i = 0; i < modules; i += batch) {
    const std::size_t from = loaded.size();
    for (int k = 0; k < batch; ++k) loaded.push_back(engine.emit({{16}}));
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t k = from; k < loaded.size(); ++k) {
      engine.prepare(loaded[k]);
      const memory::WriteGuard guard(engine.space());
      engine.frames().add(loaded[k].code, loaded[k].frames);
    }
    batches.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / batch);
  }
  // The quickest of ten batches: one that was not interrupted.
  const double first = *std::min_element(batches.begin(), batches.begin() + 10);
  const double last = *std::min_element(batches.end() - 10, batches.end());
  std::printf("first 1,000: %.0f ns a module, last 1,000 of 50,000: %.0f ns\n", first, last);
  EXPECT_LT(last, 3 * first);
  EXPECT_EQ(engine.space().slot_count(), loaded.back().code.first_slot + loaded.back().code.slots);
  for (int i = 0; i < modules; i += 997) EXPECT_EQ(wrong_pcs(loaded[static_cast<std::size_t>(i)]), 0u);

  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(caught_through(loaded[modules / 2].function(0)), 7);
  std::printf("first throw: %.0f us\n",
              std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());

  // Slots that a big module leaves behind make those who move in no slower than a constant.
  for (const Module& module : loaded) engine.unload(module);
  batches.clear();
  for (int i = 0; i < 5000; i += batch) {
    const std::size_t from = loaded.size();
    for (int k = 0; k < batch; ++k) loaded.push_back(engine.emit({{400}}));
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t k = from; k < loaded.size(); ++k) engine.prepare(loaded[k]);
    batches.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / batch);
  }
  std::printf("prepare in left-over slots: first %.0f ns, last %.0f ns\n",
              *std::min_element(batches.begin(), batches.begin() + 10),
              *std::min_element(batches.end() - 10, batches.end()));
}

TEST(Frames, TheTableIsWhereTheDynamicLinkerLooks) {
  Engine engine;
  const auto* area = engine.space().area_begin(memory::AreaKind::frames).as<const std::byte*>();
  const Module module = engine.load({{16}, {16}});
  const unsigned char encodings[] = {1, 0x1B, 0x03, 0x3B};
  EXPECT_EQ(std::memcmp(area + notify::header_offset, encodings, 4), 0);
  std::int32_t to_eh_frame = 0;
  std::memcpy(&to_eh_frame, area + notify::header_offset + 4, 4);
  EXPECT_EQ(area + notify::header_offset + 4 + to_eh_frame, area);
  std::uint32_t count = 0;
  std::memcpy(&count, area + notify::fde_count_offset, 4);
  EXPECT_EQ(count, engine.space().slot_count());
}

// A backtrace may come upon any address, also of an engine that has no code yet.
TEST(Frames, ASearchBeforeTheFirstBlockFindsNothing) {
  for (const memory::Mapping mapping : {memory::Mapping::dual, memory::Mapping::single}) {
    Engine engine(std::uint64_t(1) << 28, mapping);
    for (const memory::AreaKind area : {memory::AreaKind::code, memory::AreaKind::data})
      EXPECT_EQ(find_fde(engine.space().area_begin(area) + 100), nullptr);
    if (mapping == memory::Mapping::dual) {
      EXPECT_EQ(engine.space().usage(memory::AreaKind::frames).committed, 0u);
    }
    const Module module = engine.load({{16}, {16}});
    EXPECT_EQ(wrong_pcs(module), 0u);
  }
}

TEST(Frames, AForkedChildHasATableOfItsOwn) {
  Engine engine;
  const Module module = engine.load({{16}, {16}});
  const pid_t child = fork();
  if (child == 0) {
    bool right = caught_through(module.function(1)) == 7;
    const Module mine = engine.load({{16}, {16}, {16}});
    right = right && caught_through(mine.function(2)) == 7 && wrong_pcs(mine) == 0;
    engine.unload(module);
    _exit(right && found_pcs(module.code) == 0 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(wrong_pcs(module), 0u);
  EXPECT_EQ(caught_through(module.function(1)), 7);
}

TEST(Frames, OneMappingWillDo) {
  Engine engine(std::uint64_t(1) << 26, memory::Mapping::single);
  const Module first = engine.load({{16}, {16}}), second = engine.load({{32, true}}), third = engine.load({{16}});
  EXPECT_EQ(caught_through(first.function(1)), 7);
  EXPECT_EQ(caught_through(second.function(0)), 7);
  engine.unload(second);
  EXPECT_EQ(found_pcs(second.code), 0u);
  EXPECT_EQ(caught_through(third.function(0)), 7);
  const Module again = engine.load({{16}, {16}, {16}});
  EXPECT_EQ(caught_through(again.function(2)), 7);
  EXPECT_EQ(wrong_pcs(first) + wrong_pcs(third) + wrong_pcs(again), 0u);
}

TEST(Frames, ManyEnginesComeAndGo) {
  std::vector<std::unique_ptr<Engine>> engines;
  std::vector<Module> modules;
  for (int i = 0; i < 64; ++i) {
    engines.push_back(std::make_unique<Engine>(std::uint64_t(1) << 26));
    modules.push_back(engines.back()->load({{16}, {24}}));
  }
  for (std::size_t i = 0; i < engines.size(); ++i) {
    EXPECT_EQ(caught_through(modules[i].function(1)), 7);
    if (i % 2 == 0) engines[i].reset();
  }
  for (std::size_t i = 1; i < engines.size(); i += 2) EXPECT_EQ(wrong_pcs(modules[i]), 0u);
  for (int i = 0; i < 200; ++i) {
    Engine engine;
    const Module module = engine.load({{16}});
    ASSERT_EQ(caught_through(module.function(0)), 7) << i;
  }
}

TEST(FramesDeathTest, ABlockWithoutRoomBeforeItsFirstFrameIsRefused) {
  Engine engine;
  Module module = engine.emit({{16, false, false}, {16}});
  module.code.slots = 1;
  engine.prepare(module);
  EXPECT_DEATH(engine.add(module), "no slot is left");
}

TEST(FramesDeathTest, FramesThatNobodyRemovedAreNoticed) {
  Engine engine;
  std::vector<FunctionSpec> many_at_the_front(12, FunctionSpec{12});
  many_at_the_front.push_back({400});
  const Module below = engine.load({{16}}), module = engine.load(many_at_the_front);
  engine.free(module); // without remove
  EXPECT_DEATH(engine.load({{300}}), "were not removed");
}

TEST(ForeignFrames, ServesMemoryOfTheClient) {
  const std::size_t size = 4096;
  auto* memory =
      static_cast<std::byte*>(mmap(nullptr, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) GTEST_SKIP() << "the system allows no writable executable memory";
  const auto code = test::make_code({32, false});
  std::memcpy(memory, code.data(), code.size());
  std::vector<Addr> descriptions;
  const auto unwind = test::make_eh_frame(Addr::of(memory + 1024), {{Addr::of(memory), {}}}, {32}, descriptions);
  std::memcpy(memory + 1024, unwind.data(), unwind.size());
  auto* function = reinterpret_cast<test::Emitted*>(memory);
  {
    notify::ForeignFrames first(memory + 1024);
    EXPECT_EQ(caught_through(function), 7);
    notify::ForeignFrames second(std::move(first));
    notify::ForeignFrames third;
    third = std::move(second);
    EXPECT_EQ(find_fde(Addr::of(memory + 5)), descriptions[0].as<const void*>());
  }
  EXPECT_EQ(find_fde(Addr::of(memory + 5)), nullptr);
  munmap(memory, size);
}

} // namespace
} // namespace tenon
#endif

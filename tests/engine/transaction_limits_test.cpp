// Much and too much: a full reservation, and thousands of modules with exact accounting and no more kernel mappings.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tenon::test {

TEST(TransactionLimits, AFullReservationIsAnErrorAndTheEngineGoesOn) {
  Options options;
  options.reservation_bytes = std::uint64_t(16) << 20;
  Engine engine = make_engine(options);
  Library library = expect(engine.library("full"));
  for (const char* section : {".text", ".section .rodata", ".data"}) {
    std::vector<Module> made;
    auto big = [&](std::size_t number) {
      std::string name = "big" + std::to_string(number);
      return assemble(std::string(section) + "\n.globl " + name + "\n" + name + ": .zero 300000, 1\n", "big.o");
    };
    Error error;
    std::uint64_t live = 0;
    for (std::size_t i = 0; i < 1000; ++i) {
      live = engine.usage().live;
      Result<Committed> committed = try_commit(engine, library, {big(i)});
      if (!committed) {
        error = committed.error();
        break;
      }
      made.push_back(committed->modules()[0]);
    }
    EXPECT_EQ(error.code, ErrorCode::exhausted) << section << ": " << describe(error);
    EXPECT_THAT(error.message, testing::HasSubstr("big.o"));
    EXPECT_THAT(error.message, testing::HasSubstr("Options::reservation_bytes"));
    ASSERT_GT(made.size(), 2U) << section;
    EXPECT_EQ(engine.usage().live, live) << "the change that failed has left something";
    // What is small still fits, and after a removal what is big does.
    Module small = commit(engine, library, compile_c("int small(void) { return 3; }"));
    EXPECT_EQ(function<int()>(library, "small")(), 3);
    expect(try_remove(engine, {small}));
    expect(try_remove(engine, {made.back()}));
    made.back() = commit(engine, library, big(made.size() - 1));
    expect(try_remove(engine, made));
    EXPECT_EQ(engine.usage().live, 0U);
  }
}

TEST(TransactionLimits, ManyModulesAreAccountedExactlyAndNeedNoMoreMappings) {
  constexpr std::size_t count = 20000;
  Engine engine = make_engine();
  Library library = expect(engine.library("many"));
  // One object for all: the edit gives each its names.
  Object object = assemble(R"(
      .globl tiny
      tiny: .cfi_startproc
        mov number(%rip), %eax
        ret
      .cfi_endproc
      .data
      number: .long 42
    )",
                           "tiny.o");
  auto make = [&](std::size_t i) {
    Change change = engine.change();
    ModuleId id = change.add(library, object);
    Draft draft = expect(std::move(change).draft());
    expect(draft.edit({Edit::rename(id, "tiny", "tiny" + std::to_string(i))}));
    return expect(expect(expect(std::move(draft).place()).link()).commit()).modules()[0];
  };
  // The first modules touch each area for the first time.
  std::vector<Module> modules{make(count), make(count + 1)};
  expect(try_remove(engine, modules));
  modules.clear();
  Snapshot before = snapshot(engine, {library}, Frames::skip);
  EngineUsage start = engine.usage();
  for (std::size_t i = 0; i < count; ++i) modules.push_back(make(i));
  EXPECT_EQ(snapshot(engine, {}, Frames::skip).mappings, before.mappings);
  for (std::size_t i = 0; i < count; i += 997) EXPECT_EQ(function<int()>(library, "tiny" + std::to_string(i))(), 42);

  EngineUsage full = engine.usage();
  EXPECT_EQ(full.modules, count);
  EXPECT_EQ(full.symbols, count);
  Usage sum;
  for (const Module& module : modules) {
    Usage usage = module.usage();
    sum.code += usage.code + usage.stubs;
    sum.rodata += usage.rodata + usage.unwind + usage.got;
    sum.data += usage.data;
    sum.slots += usage.slots;
    sum.bookkeeping += usage.bookkeeping;
  }
  // Blocks are whole granules; apart from that every byte is somebody's.
  std::uint64_t bytes = sum.code + sum.rodata + sum.data + sum.slots;
  EXPECT_GE(full.live - start.live, bytes);
  EXPECT_LE(full.live - start.live, bytes + count * 3 * 16);
  EXPECT_GE(full.bookkeeping - start.bookkeeping, sum.bookkeeping);

  std::shuffle(modules.begin(), modules.end(), std::mt19937(7));
  while (!modules.empty()) {
    std::size_t batch = std::min<std::size_t>(modules.size(), 1 + modules.size() % 7);
    expect(try_remove(engine, {modules.end() - std::ptrdiff_t(batch), modules.end()}));
    modules.erase(modules.end() - std::ptrdiff_t(batch), modules.end());
  }
  Snapshot after = snapshot(engine, {library}, Frames::skip);
  EXPECT_LE(after.mappings, before.mappings);
  after.mappings = before.mappings; // some go when the areas give memory back
  EXPECT_EQ(after.without_growth(), before.without_growth());
  EXPECT_LE(engine.usage().bookkeeping, full.bookkeeping - sum.bookkeeping - count * 8) << "the table of symbols shrinks";
}

} // namespace tenon::test

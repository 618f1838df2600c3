// A failure at every allocation and at every system call in the life of modules that are replaced: an error each time,
// nothing has happened then, and the same step succeeds once memory is there again.
//
// For each step, runs fail its n-th one, n = 1, 2, ... until the step needs fewer. They are counted step by step: how many a
// step needs depends on how far the engine's own thread has come, which must not move the failure from one step to the next.
// Allocations fail in the thread that makes the changes; system calls in the engine's own thread, too.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "base/fault.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <optional>
#include <thread>

namespace tenon::test {
namespace {

const char* const flags = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";

// A version of the module that is replaced. The second one brings a variable with an initializer, a larger table that is
// migrated, and another local function in place of one that vanishes.
Object first_module(int version) {
  const std::string v = std::to_string(version);
  const std::string helper = "helper" + v;
  return compile_cpp("extern \"C\" void tenon_test_note(const char*);\n"
                     "inline int shared(int x) { static int calls; return x + 0 * ++calls; }\n"
                     "struct Shape { virtual int sides() = 0; };\n"
                     "struct Square final : Shape { int sides() override { return 4; } };\n"
                     "namespace { int hidden = 1; thread_local int mine = 0; int " +
                         helper + "(int x) { return x * 10; } }\n" +
                         (version >= 2 ? "struct Fresh { int value; Fresh() { tenon_test_note(\"fresh\"); value = 9; } };\n"
                                         "Fresh fresh_object;\n"
                                         "extern \"C\" int fresh() { return fresh_object.value; }\n"
                                       : "") +
                         "extern \"C\" {\n"
                         "int kept = 5;\nlong table[" +
                         (version >= 2 ? "4" : "2") +
                         "] = {1, 2};\n"
                         "Square square;\n"
                         "int next() { return ++hidden; }\n"
                         "int next_mine() { return ++mine; }\n"
                         "Shape* shape() { return &square; }\n"
                         "int sides(Shape* shape) { return shape->sides(); }\n"
                         "extern const char literal[] = \"a constant that is kept\";\n"
                         "const char* text() { return literal; }\n"
                         "int f(int x) { return shared(" +
                         helper + "(x)) + " + v + "; }\n}\n",
                     flags, "first");
}

Object second_module(int version) {
  return compile_cpp("extern \"C\" int f(int x);\n"
                     "inline int shared(int x) { static int calls; return x + 0 * ++calls; }\n"
                     "extern \"C\" int g(int x) { return shared(f(x)) + " +
                         std::to_string(version * 1000) + "; }\n",
                     flags, "second");
}

#define STEP(variable, expression)                                                                                          \
  auto variable = (expression);                                                                                             \
  if (!variable) return std::move(variable).error()

// What the client's side needs, made before anything fails.
struct Prepared {
  std::vector<Object> first{first_module(1), first_module(2), first_module(3)};
  std::vector<Object> second{second_module(1), second_module(2), second_module(3)};
};

// Two modules from their coming to their going. Each step may be tried again after an error.
struct Life {
  Engine& engine;
  const Prepared& prepared;
  std::optional<Library> library = {};
  std::optional<Module> first = {}, second = {};
  std::optional<Border> border = {};
  std::optional<Border::Entry> inside = {};  // in border, destroyed before it
  int first_version = 0, second_version = 0; // 0: not there
  const char* text = nullptr;
  void* shape = nullptr;
  int counted = 1, mine = 0;

  static constexpr int steps = 8;

  Result<void> step(int number) {
    switch (number) {
    case 0: return begin();
    case 1: return replace_alone();
    case 2: return replace_second();
    case 3: return enter();
    case 4: return replace_set();
    case 5: return leave();
    case 6: return remove_second();
    default: return library->close(Quiet::caller_guarantees);
    }
  }

  Result<void> begin() {
    STEP(made, engine.library("main", {.replaceable = true}));
    library = std::move(*made);
    Change change = engine.change();
    const ModuleId one = change.add(*library, prepared.first[0]), other = change.add(*library, prepared.second[0]);
    STEP(committed, try_commit(std::move(change)));
    first = committed->module(one);
    second = committed->module(other);
    first_version = second_version = 1;
    return {};
  }

  static Result<void> migrate(const DataPolicy::Migration& migration) {
    const auto* before = migration.old_address.as<const long*>();
    auto* now = migration.new_address.as<long*>();
    for (std::uint64_t i = 0; i * sizeof(long) < migration.old_size; ++i) now[i] = before[i];
    return {};
  }
  static DataPolicy migrating() {
    DataPolicy policy;
    policy.differing = DataPolicy::Differing::migrate;
    policy.migration = migrate;
    return policy;
  }

  Result<void> replace_alone() {
    Change change = engine.change();
    change.replace(*first, prepared.first[1], migrating());
    STEP(committed, try_commit(std::move(change)));
    first_version = 2;
    return {};
  }

  Result<void> replace_second() {
    Change change = engine.change();
    change.replace(*second, prepared.second[1]);
    STEP(committed, try_commit(std::move(change)));
    second_version = 2;
    return {};
  }

  Result<void> enter() {
    STEP(made, engine.border());
    border = std::move(*made);
    return {};
  }

  // The provider of what both share comes second.
  Result<void> replace_set() {
    if (!inside) inside.emplace(*border);
    Change change = engine.change();
    change.replace(*second, prepared.second[2]);
    change.replace(*first, prepared.first[2]);
    STEP(committed, try_commit(std::move(change), Initialize::run, Switch::atomic));
    first_version = second_version = 3;
    return {};
  }

  // While this thread is inside of the old versions, there is somebody to name.
  Result<void> leave() {
    if (inside) {
      STEP(delays, engine.collect());
      EXPECT_GE(delays->size(), 1U);
    }
    inside.reset();
    STEP(delays, engine.collect());
    return {};
  }

  Result<void> remove_second() {
    if (second_version == 0) return {};
    Change change = engine.change();
    change.remove(*second, Quiet::prove);
    STEP(committed, try_commit(std::move(change)));
    second_version = 0;
    return {};
  }

  // Who has been inside since before the atomic set sees the old one.
  int seen(int version) const { return inside ? std::min(version, 2) : version; }

  // Everything is as the last step that has succeeded left it.
  void check(const std::string& when) {
    if (!library) return;
    EXPECT_EQ(library->find("f").has_value(), first_version != 0) << when;
    EXPECT_EQ(library->find("g").has_value(), second_version != 0) << when;
    if (first_version == 0) return;
    EXPECT_EQ(function<int(int)>(*library, "f")(7), 70 + seen(first_version)) << when;
    if (second_version != 0) {
      EXPECT_EQ(function<int(int)>(*library, "g")(7), 70 + seen(first_version) + 1000 * seen(second_version)) << when;
    }
    EXPECT_EQ(function<int()>(*library, "next")(), ++counted) << when;
    EXPECT_EQ(function<int()>(*library, "next_mine")(), ++mine) << when;
    int* kept = address_of(*library, "kept").as<int*>();
    EXPECT_EQ(*kept, counted == 2 ? 5 : counted - 1) << when;
    *kept = counted;
    long* table = address_of(*library, "table").as<long*>();
    EXPECT_EQ(table[1], counted == 2 ? 2 : 100 + counted - 1) << when;
    table[1] = 100 + counted;
    const char* text_now = function<const char*()>(*library, "text")();
    void* shape_now = function<void*()>(*library, "shape")();
    EXPECT_EQ(text_now, text != nullptr ? text : text_now) << when;
    EXPECT_EQ(shape_now, shape != nullptr ? shape : shape_now) << when;
    EXPECT_EQ(function<int(void*)>(*library, "sides")(shape_now), 4) << when;
    text = text_now;
    shape = shape_now;
    EXPECT_EQ(library->find("fresh").has_value(), first_version >= 2) << when;
    EXPECT_EQ(take_notes(), first_version >= 2 && !noted ? "fresh" : "") << when;
    noted = noted || first_version >= 2;
    if (first_version >= 2) {
      EXPECT_EQ(function<int()>(*library, "fresh")(), 9) << when;
    }
  }
  bool noted = false;
};

using base::fault::bit;
using base::fault::Call;

struct Case {
  bool system_calls, lasting;
  Mapping mapping = Mapping::dual;
};

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  return std::string(info.param.system_calls ? "SystemCalls" : "Allocations") + (info.param.lasting ? "Lasting" : "") +
         (info.param.mapping == Mapping::single ? "Single" : "");
}

// The engine's own thread has memory of the C library's to itself, which grows and shrinks.
std::vector<std::string> named_mappings() {
  std::vector<std::string> mappings = kernel_mappings();
  std::erase_if(mappings, [](const std::string& line) { return line.find('/') == std::string::npos; });
  return mappings;
}

class ReplaceFaults : public testing::TestWithParam<Case> {
protected:
  void SetUp() override {
    if (!GetParam().system_calls && !counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
    base::fault::met = 0;
  }
  void TearDown() override { disarm(); }

  void arm(long n) {
    if (!GetParam().system_calls) return fail_allocation(n, GetParam().lasting);
    base::fault::failed = 0;
    base::fault::lasting = GetParam().lasting;
    base::fault::countdown = n;
  }
  bool disarm() {
    fail_allocation(0);
    base::fault::countdown = 0;
    base::fault::lasting = false;
    return GetParam().system_calls ? base::fault::failed != 0 : allocation_failed();
  }
  void check(const Error& error, const std::string& when) const {
    const bool expected = !GetParam().system_calls ? error.code == ErrorCode::out_of_memory
                                                   : error.code == ErrorCode::system || error.code == ErrorCode::exhausted;
    EXPECT_TRUE(expected) << when << ": " << describe(error);
  }

  // A life, with the n-th failure of one of its steps; n = 0: with none. True if that step has met it.
  bool live(int failing, long n) {
    Options options = small_options();
    options.mapping = GetParam().mapping;
    Engine engine = make_engine(options);
    Life life{engine, prepared_};
    std::string when = "before step " + std::to_string(failing);
    if (!go_on(life, 0, failing, when)) return false;
    when = "failure " + std::to_string(n) + " in step " + std::to_string(failing);
    arm(n);
    const Result<void> done = life.step(failing);
    const bool met = disarm();
    if (!done) {
      EXPECT_TRUE(met) << when;
      check(done.error(), when);
      ++reported_[std::size_t(failing)];
    }
    if (!done || failing + 1 < Life::steps) life.check(when);
    if (!go_on(life, done ? failing + 1 : failing, Life::steps, when)) return false;
    life.inside.reset();
    life.border.reset();
    settle(engine, when);
    take_notes();
    return met;
  }

  static bool go_on(Life& life, int from, int to, const std::string& when) {
    for (int step = from; step < to; ++step) {
      const std::string later = when + ", then step " + std::to_string(step);
      if (Result<void> done = life.step(step); !done) {
        ADD_FAILURE() << later << ": " << describe(done.error());
        return false;
      }
      if (step + 1 < Life::steps) life.check(later);
    }
    return true;
  }

  static void settle(Engine& engine, const std::string& when) {
    for (int i = 0; i < 5000 && (engine.usage().live != 0 || engine.usage().modules != 0); ++i) {
      expect(engine.collect());
      if (engine.usage().live != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const EngineUsage left = engine.usage();
    EXPECT_EQ(left.live, 0U) << when;
    EXPECT_EQ(left.modules, 0U) << when;
    EXPECT_EQ(left.symbols, 0U) << when;
    EXPECT_EQ(left.superseded, 0U) << when;
  }

  const Prepared prepared_;
  std::array<long, Life::steps> reported_{}; // failures that a step has answered with an error
};

} // namespace

TEST_P(ReplaceFaults, NothingHasHappened) {
  for (int warm = 0; warm < 3; ++warm) {
    live(0, 0);
    if (HasFailure()) return;
  }
  live(0, 1); // the process's first failure leaves what the C++ runtime keeps
  const std::vector<std::string> mappings = named_mappings();
  const long allocations = live_allocations();
  const std::size_t descriptors = open_descriptors();
  std::array<long, Life::steps> met{};
  for (int step = 0; step < Life::steps; ++step) {
    long n = 1;
    for (bool more = true; more && n < 5000; ++n) {
      more = live(step, n);
      EXPECT_EQ(live_allocations(), allocations) << "after failure " << n << " in step " << step;
      EXPECT_EQ(named_mappings(), mappings) << "after failure " << n << " in step " << step;
      EXPECT_EQ(open_descriptors(), descriptors) << "after failure " << n << " in step " << step;
      if (HasFailure()) return;
    }
    ASSERT_LT(n, 5000) << "no end in step " << step;
    met[std::size_t(step)] = n - 2;
  }
  if (GetParam().system_calls) {
    EXPECT_GE(std::accumulate(met.begin(), met.end(), 0L), 5);
  } else {
    for (int step : {0, 1, 2, 3, 4, 5, 6}) EXPECT_GE(reported_[std::size_t(step)], 1) << "no failure in step " << step;
    EXPECT_GE(reported_[1], 50);
    EXPECT_GE(reported_[4], 50);
  }
}

INSTANTIATE_TEST_SUITE_P(Each, ReplaceFaults,
                         testing::Values(Case{false, false}, Case{false, true}, Case{true, false}, Case{true, true},
                                         Case{true, false, Mapping::single}),
                         name_of_case);

} // namespace tenon::test

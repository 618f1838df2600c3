// Dropping any stage of a change leaves nothing behind, wherever it was to be placed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "engine/tls.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace tenon::test {

namespace {

// What each kind of placement does with a draft.
enum class Where { engine, client_section, client_whole, client_function, addresses };
enum class Stage { change, draft, placed, linked };

struct Case {
  Kind kind;
  Where where;
  Stage stage;
};

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  static const char* where[] = {"Engine", "ClientSections", "ClientWhole", "ClientFunctions", "Addresses"};
  static const char* stage[] = {"Change", "Draft", "Placed", "Linked"};
  return std::string(name_of(info.param.kind)) + where[int(info.param.where)] + stage[int(info.param.stage)];
}

class Drop : public testing::TestWithParam<Case> {
protected:
  Change rich_change(bool with_forward) {
    Change change = engine_.change();
    for (Object& object : rich_objects())
      change.add(library_, std::move(object), with_forward ? rich_options() : ModuleOptions{});
    if (!with_forward) change.add(library_, later_object());
    return change;
  }

  Result<Placed> place(Draft draft) {
    switch (GetParam().where) {
    case Where::engine: return std::move(draft).place();
    case Where::client_section: return std::move(draft).place(sections_);
    case Where::client_whole: return std::move(draft).place(whole_);
    case Where::client_function: return std::move(draft).place(functions_);
    case Where::addresses: break;
    }
    std::vector<BlockRequest> blocks = expect(draft.blocks(Granularity::section));
    std::vector<Addr> addresses;
    std::uint64_t next = 0x10000000;
    for (const BlockRequest& block : blocks) {
      next = (next + block.alignment - 1) / block.alignment * block.alignment;
      addresses.push_back({next});
      next += block.size;
    }
    return std::move(draft).place(Granularity::section, addresses);
  }

  void drop() {
    bool with_forward = GetParam().where != Where::addresses;
    Change change = rich_change(with_forward);
    if (GetParam().stage == Stage::change) return;
    Draft draft = expect(std::move(change).draft());
    EXPECT_TRUE(draft.undefined().empty());
    if (GetParam().stage == Stage::draft) return;
    Placed placed = expect(place(std::move(draft)));
    if (GetParam().stage == Stage::placed) return;
    Linked linked = expect(std::move(placed).link());
    EXPECT_FALSE(expect(linked.symbols()).empty());
  }

  int outstanding() const { return sections_.outstanding + whole_.outstanding + functions_.outstanding; }

  Engine engine_ = make_small_engine(GetParam().kind);
  Library library_ = expect(engine_.library("drops"));
  Arena sections_{engine_, Granularity::section}, whole_{engine_, Granularity::whole},
      functions_{engine_, Granularity::function};
};

std::uint32_t next_tls_key() { return std::uint32_t(engine::TlsKey({nullptr, 0, 8, 8}).value()); }

} // namespace

TEST_P(Drop, LeavesNothing) {
  commit(engine_, library_, assemble(".globl bystander\nbystander: ret\n"));
  drop(); // caches of the process fill, areas grow
  Snapshot before = snapshot(engine_, {library_});
  std::uint32_t key = next_tls_key();
  long allocations = live_allocations();
  for (int i = 0; i < 20; ++i) drop();
  EXPECT_EQ(live_allocations(), allocations);
  EXPECT_EQ(snapshot(engine_, {library_}), before);
  EXPECT_LT(next_tls_key(), key + 10) << "thread-local storage leaks";
  EXPECT_EQ(outstanding(), 0);
  EXPECT_EQ(take_notes(), "") << "code of a dropped change ran";
  // Blocks give their entries of the unwinder's table back too, by their size: its length settles.
  std::uint64_t frames = engine_.usage().frames;
  for (int i = 0; i < 100; ++i) drop();
  EXPECT_EQ(engine_.usage().frames, frames);
}

TEST_P(Drop, LeavesWhatIsCommittedInOrder) {
  Committed first = expect(try_commit(rich_change(true)));
  Snapshot before = snapshot(engine_, {library_});
  EXPECT_FALSE(before.symbols.empty());
  EXPECT_GT(before.framed, 0U);
  // The same modules again have duplicate symbols: others share groups with what is there.
  Object fourth = compile_cpp(R"(inline int rich_inline(int x) { static int calls; return x + 0 * ++calls; }
                                 extern "C" int rich_use_later(int);
                                 extern "C" int fourth(int x) { return rich_inline(x) + rich_use_later(x); })");
  auto drop_fourth = [&] {
    Change change = engine_.change();
    change.add(library_, fourth);
    if (GetParam().stage == Stage::change) return;
    Draft draft = expect(std::move(change).draft());
    if (GetParam().stage == Stage::draft) return;
    Placed placed = expect(place(std::move(draft)));
    if (GetParam().stage == Stage::placed) return;
    Linked linked = expect(std::move(placed).link());
  };
  drop_fourth();
  EXPECT_EQ(snapshot(engine_, {library_}).without_growth(), before.without_growth());
  before = snapshot(engine_, {library_});
  for (int i = 0; i < 5; ++i) drop_fourth();
  EXPECT_EQ(snapshot(engine_, {library_}), before);
  EXPECT_EQ(function<int(int)>(library_, "rich_entry")(1), 1 + 4 + 3 + 5 + 7);
  expect(library_.close(Quiet::caller_guarantees));
  EXPECT_EQ(outstanding(), 0);
}

static std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (Kind kind : kinds)
    for (Where where : {Where::engine, Where::client_section, Where::client_whole, Where::client_function, Where::addresses})
      for (Stage stage : {Stage::change, Stage::draft, Stage::placed, Stage::linked}) cases.push_back({kind, where, stage});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Stages, Drop, testing::ValuesIn(all_cases()), name_of_case);

namespace {

class DropOfKind : public testing::TestWithParam<Kind> {};

Object one_of_many(int thread, int i) {
  std::string own = std::to_string(thread) + "_" + std::to_string(i);
  return compile_cpp("inline int shared_by_all(int x) { static int calls; return x + 0 * ++calls; } static int zero[" +
                         std::to_string(100 * (i + 1)) + "]; extern \"C\" int own" + own +
                         "(int x) { if (x < 0) throw x; return shared_by_all(x) + zero[x]; }",
                     "-O0 -fPIC", "own" + own + ".o");
}

// Takes a change to one stage after another, and drops it there.
void drop_at(Engine& engine, const Library& library, const Object& object, Stage stage) {
  Change change = engine.change();
  change.add(library, object);
  if (stage == Stage::change) return;
  Draft draft = expect(std::move(change).draft());
  if (stage == Stage::draft) return;
  Placed placed = expect(std::move(draft).place());
  if (stage == Stage::placed) return;
  Linked linked = expect(std::move(placed).link());
}

} // namespace

TEST_P(DropOfKind, LeavesNothingWhileOthersCommit) {
  constexpr int committers = 3, objects_each = 4;
  Engine engine = make_small_engine(GetParam());
  Library library = expect(engine.library("crowd"));
  std::vector<std::vector<Object>> objects(committers);
  for (int t = 0; t < committers; ++t)
    for (int i = 0; i < objects_each; ++i) objects[std::size_t(t)].push_back(one_of_many(t, i));
  Object dropped = one_of_many(committers, 0);
  std::vector<Module> bystander{commit(engine, library, rich_objects()[2])};

  auto crowd = [&](int rounds) {
    std::atomic<int> left{committers};
    std::atomic<int> drops{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < committers; ++t)
      threads.emplace_back([&, t] {
        for (int round = 0; round < rounds; ++round) {
          std::vector<Module> modules;
          for (const Object& object : objects[std::size_t(t)]) modules.push_back(commit(engine, library, object));
          expect(try_remove(engine, modules));
        }
        --left;
      });
    for (int i = 0; left != 0 || i < 100; ++i, ++drops) drop_at(engine, library, dropped, Stage(i % 4));
    for (std::thread& thread : threads) thread.join();
    return drops.load();
  };
  crowd(10); // areas and tables grow
  Snapshot before = snapshot(engine, {library});
  EXPECT_EQ(before.modules.size(), 1U);
  EXPECT_GE(crowd(60), 100);
  EXPECT_EQ(snapshot(engine, {library}).without_growth(), before.without_growth());
  EXPECT_FALSE(library.find("own3_0"));
  expect(try_remove(engine, bystander));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DropOfKind, testing::ValuesIn(kinds),
                         [](const testing::TestParamInfo<Kind>& info) { return std::string(name_of(info.param)); });

TEST(Transaction, RichModulesWork) {
  Engine engine = make_engine();
  Library library = expect(engine.library("rich"));
  Snapshot before = snapshot(engine, {library});
  {
    Change change = engine.change();
    for (Object& object : rich_objects()) change.add(library, std::move(object), rich_options());
    Committed committed = expect(try_commit(std::move(change)));
    EXPECT_EQ(committed.modules().size(), 3U);
    EXPECT_EQ(take_notes(), "early born");
    EXPECT_EQ(function<int(int)>(library, "rich_entry")(10), 10 + 22 + 3 + 5 + 7);
    *library.find("rich_common")->as<int*>() = 100;
    EXPECT_EQ(function<int(int)>(library, "rich_entry")(10), 10 + 22 + 3 + 5 + 7 + 100);
    commit(engine, library, later_object());
    EXPECT_EQ(function<int(int)>(library, "rich_use_later")(1), 1001);
    expect(try_remove(engine, expect(library.modules())));
  }
  // Itanium C++ ABI 3.3.6.3: what was registered goes in reverse, destructors of the object after it.
  EXPECT_EQ(take_notes(), "died atexit late");
  Snapshot after = snapshot(engine, {library});
  // The slot of a forward reference, and where it leads to while nothing defines it, are its library's.
  EXPECT_LE(after.live, before.live + 64);
  EXPECT_LE(after.symbol_count, before.symbol_count + 1);
  expect(library.close(Quiet::caller_guarantees));
}

TEST(Transaction, RichModulesWorkInTheClientsMemory) {
  for (Granularity granularity : {Granularity::whole, Granularity::section, Granularity::function}) {
    Engine engine = make_small_engine();
    Library library = expect(engine.library("rich"));
    Arena arena(engine, granularity);
    Change change = engine.change();
    for (Object& object : rich_objects()) change.add(library, std::move(object), rich_options());
    Draft draft = expect(std::move(change).draft());
    Placed placed = expect(std::move(draft).place(arena));
    Linked linked = expect(std::move(placed).link());
    EXPECT_EQ(arena.published, 0);
    expect(std::move(linked).commit());
    EXPECT_EQ(take_notes(), "early born");
    EXPECT_EQ(arena.published, arena.placed);
    EXPECT_EQ(function<int(int)>(library, "rich_entry")(10), 10 + 22 + 3 + 5 + 7);
    expect(library.close(Quiet::caller_guarantees));
    EXPECT_EQ(take_notes(), "died atexit late");
    EXPECT_EQ(arena.outstanding, 0);
  }
}

} // namespace tenon::test

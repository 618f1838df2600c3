// Dropping any stage of a change leaves nothing behind, wherever it was to be placed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "engine/tls.h"

#include <gtest/gtest.h>

namespace tenon::test {

namespace {

// What each kind of placement does with a draft.
enum class Where { engine, client_section, client_whole, client_function, addresses };
enum class Stage { change, draft, placed, linked };

struct Case {
  Where where;
  Stage stage;
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
  static const char* where[] = {"Engine", "ClientSections", "ClientWhole", "ClientFunctions", "Addresses"};
  static const char* stage[] = {"Change", "Draft", "Placed", "Linked"};
  return std::string(where[int(info.param.where)]) + stage[int(info.param.stage)];
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
    EXPECT_FALSE(linked.symbols().empty());
  }

  int outstanding() const { return sections_.outstanding + whole_.outstanding + functions_.outstanding; }

  Engine engine_ = make_small_engine();
  Library library_ = expect(engine_.library("drops"));
  Arena sections_{engine_, Granularity::section}, whole_{engine_, Granularity::whole},
      functions_{engine_, Granularity::function};
};

std::uint32_t next_tls_key() { return std::uint32_t(engine::TlsKey({nullptr, 0, 8, 8}).value()); }

} // namespace

TEST_P(Drop, LeavesNothing) {
  commit(engine_, library_, assemble(".globl bystander\nbystander: ret\n"));
  drop(); // caches of the process fill
  Snapshot before = snapshot(engine_, {library_});
  std::uint32_t key = next_tls_key();
  long allocations = live_allocations();
  for (int i = 0; i < 20; ++i) drop();
  EXPECT_EQ(live_allocations(), allocations);
  EXPECT_EQ(snapshot(engine_, {library_}), before);
  EXPECT_LT(next_tls_key(), key + 10) << "thread-local storage leaks";
  EXPECT_EQ(outstanding(), 0);
  EXPECT_EQ(take_notes(), "") << "code of a dropped change ran";
}

TEST_P(Drop, LeavesWhatIsCommittedInOrder) {
  std::vector<Object> objects = rich_objects();
  Committed first = expect(try_commit(rich_change(true)));
  Snapshot before = snapshot(engine_, {library_});
  EXPECT_FALSE(before.symbols.empty());
  EXPECT_GT(before.framed, 0U);
  // The same modules again have duplicate symbols: others share groups with what is there.
  for (int i = 0; i < 5; ++i) {
    Change change = engine_.change();
    change.add(library_, compile_cpp(R"(inline int rich_inline(int x) { static int calls; return x + 0 * ++calls; }
                                        extern "C" int rich_use_later(int);
                                        extern "C" int fourth(int x) { return rich_inline(x) + rich_use_later(x); })"));
    if (GetParam().stage == Stage::change) continue;
    Draft draft = expect(std::move(change).draft());
    if (GetParam().stage == Stage::draft) continue;
    Placed placed = expect(place(std::move(draft)));
    if (GetParam().stage == Stage::placed) continue;
    Linked linked = expect(std::move(placed).link());
  }
  EXPECT_EQ(snapshot(engine_, {library_}), before);
  EXPECT_EQ(function<int(int)>(library_, "rich_entry")(1), 1 + 4 + 3 + 5 + 7);
  expect(library_.close());
  EXPECT_EQ(outstanding(), 0);
}

static std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (Where where : {Where::engine, Where::client_section, Where::client_whole, Where::client_function, Where::addresses})
    for (Stage stage : {Stage::change, Stage::draft, Stage::placed, Stage::linked}) cases.push_back({where, stage});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Stages, Drop, testing::ValuesIn(all_cases()), name_of);

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
    expect(try_remove(engine, library.modules()));
  }
  // Itanium C++ ABI 3.3.6.3: what was registered goes in reverse, destructors of the object after it.
  EXPECT_EQ(take_notes(), "died atexit late");
  Snapshot after = snapshot(engine, {library});
  // The slot of a forward reference, and where it leads to while nothing defines it, are its library's.
  EXPECT_LE(after.live, before.live + 64);
  EXPECT_LE(after.symbol_count, before.symbol_count + 1);
  expect(library.close());
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
    expect(library.close());
    EXPECT_EQ(take_notes(), "died atexit late");
    EXPECT_EQ(arena.outstanding, 0);
  }
}

} // namespace tenon::test

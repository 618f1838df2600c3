// Promises that are easy to break where stages, engines and modules end in an unusual order: each was broken once.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "base/fault.h"
#include "engine/engine_state.h"
#include "engine/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

extern "C" {
// Called by linked code: from now on the next allocation fails.
void tenon_test_starve() { tenon::test::fail_allocation(1); }
thread_local int tenon_test_host_variable = 5;
}

namespace tenon::test {

namespace {

using testing::HasSubstr;

class Review : public testing::Test {
protected:
  Draft drafted(std::initializer_list<Object> objects, const ModuleOptions& options = {}) {
    Change change = engine().change();
    for (const Object& object : objects) change.add(library(), object, options);
    return expect(std::move(change).draft());
  }
  Linked linked(std::initializer_list<Object> objects) { return expect(expect(drafted(objects).place()).link()); }
  Engine& engine() { return *engine_; }
  Library& library() { return *library_; }
  void drop_engine() {
    library_.reset();
    engine_.reset();
  }

  std::optional<Engine> engine_ = make_engine();
  std::optional<Library> library_ = expect(engine_->library("main"));
};

Object level(int value) {
  return compile_c("int level(void) { return " + std::to_string(value) + "; }", "-O1 -fPIC", "level.o");
}
Object level_user() { return compile_c("int level(void); int use(void) { return level(); }", "-O1 -fPIC", "use.o"); }

} // namespace

TEST_F(Review, AnIfuncResolverDoesNotRunOnWhatIsGone) {
  Module old = commit(engine(), library(), level(1));
  Object object = compile_c(R"(int level(void); static int one(void) { return 1; } static int two(void) { return 2; }
    static void* choose(void) { return level() == 1 ? (void*)one : (void*)two; }
    int chosen(void) __attribute__((ifunc("choose"))); int asks(void) { return chosen(); })");
  Linked waiting = linked({object});
  expect(try_remove(engine(), {old}));
  Result<Committed> failed = std::move(waiting).commit();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::undefined) << describe(failed.error());

  // With another definition there the change is drafted on that.
  commit(engine(), library(), level(1));
  Linked again = linked({object});
  expect(try_remove(engine(), {expect(library().modules())[0]}));
  commit(engine(), library(), level(2));
  expect(std::move(again).commit());
  EXPECT_EQ(function<int()>(library(), "asks")(), 2);
  expect(library().close(Quiet::caller_guarantees));
  EXPECT_EQ(engine().usage().live, 0U);
}

TEST_F(Review, ReleasedCodeEndsWhatItNeedsAsOneProgram) {
  take_notes();
  Object b = compile_c("int b(void) { return 1; }", "-O1 -fPIC", "b.o");
  Object c = compile_c(R"(int b(void); int c(void) { return 2; } void tenon_test_note(const char*);
    __attribute__((destructor)) static void end(void) { tenon_test_note(b() == 1 ? "right" : "wrong"); })",
                       "-O1 -fPIC", "c.o");
  Object r = compile_c("int b(void); int c(void); int r(void) { return b() + c(); }", "-O1 -fPIC", "r.o");
  for (bool together : {true, false}) {
    if (together)
      commit(engine(), library(), {c, b});
    else
      commit(engine(), library(), b), commit(engine(), library(), c);
    std::optional<Code> code = expect(linked({r}).release());
    std::optional<Code> other = expect(linked({r}).release());
    drop_engine();
    EXPECT_EQ(take_notes(), "");
    code.reset();
    EXPECT_EQ(take_notes(), "") << "others need it still";
    EXPECT_EQ(other->find("r")->as<int (*)()>()(), 3);
    other.reset();
    EXPECT_EQ(take_notes(), "right");
    engine_ = make_engine();
    library_ = expect(engine_->library("main"));
  }
}

TEST_F(Review, AFinalizerMayBeTheFirstToTouchAThreadLocalObject) {
  Object d =
      compile_cpp(R"(extern "C" void tenon_test_note(const char*); struct T { int x = 1; ~T() { tenon_test_note("gone"); } };
    thread_local T t; extern "C" int d() { return 3; }
    __attribute__((destructor)) static void end() { tenon_test_note(t.x++ == 1 ? "end" : "wrong"); })");
  Object r = compile_c("int d(void); int r(void) { return d(); }");
  for (bool released : {true, false}) {
    take_notes();
    std::thread([&] {
      commit(engine(), library(), d);
      std::optional<Code> code;
      if (released) code = expect(linked({r}).release());
      drop_engine();
      code.reset();
      EXPECT_EQ(take_notes(), "end") << released;
    }).join();
    EXPECT_EQ(take_notes(), "gone") << released; // the thread's end came later
    engine_ = make_engine();
    library_ = expect(engine_->library("main"));
  }
}

TEST_F(Review, TheEngineAndTheLastCodeMayEndAtOnce) {
  Object b = compile_c(R"(void tenon_test_note(const char*); int b(void) { return 1; }
    __attribute__((destructor)) static void end(void) { tenon_test_note("end"); })");
  Object r = compile_c("int b(void); int r(void) { return b(); }");
  for (int i = 0; i < 200; ++i) {
    take_notes();
    commit(engine(), library(), b);
    std::optional<Code> code = expect(linked({r}).release());
    std::thread other([&] { code.reset(); });
    drop_engine();
    other.join();
    ASSERT_EQ(take_notes(), "end") << i;
    engine_ = make_engine();
    library_ = expect(engine_->library("main"));
  }
}

TEST_F(Review, ADraftWhoseEditFailsIsAsBefore) {
  if (!counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
  bool done = false;
  for (long n = 1; !done && n < 2000; ++n) {
    Draft draft = drafted({level(1), level_user()});
    std::vector<Edit> edits{Edit::localize({1}, "use")};
    fail_allocation(n);
    Result<void> edited = draft.edit(std::move(edits));
    fail_allocation(0);
    done = edited.ok();
    ASSERT_EQ(draft.layouts().size(), 2U) << n;
    if (done) break;
    EXPECT_EQ(edited.error().code, ErrorCode::out_of_memory);
    expect(expect(expect(std::move(draft).place()).link()).commit());
    ASSERT_TRUE(library().find("use")) << n;
    EXPECT_EQ(function<int()>(library(), "use")(), 1);
    expect(try_remove(engine(), expect(library().modules())));
  }
  EXPECT_TRUE(done);
}

TEST_F(Review, EditsOfWhatIsNotThereAreErrors) {
  Draft draft = drafted(
      {compile_c("static int hidden_away(void) { return 1; } int f(void) { return hidden_away(); } int g;", "-O0 -fPIC")});
  for (Edit edit : {Edit::rename({0}, "no_such_symbol", "y"), Edit::localize({0}, "hidden_away"),
                    Edit::bind({0}, "nothing", {1}), Edit::rename({1}, "f", "y")}) {
    Result<void> failed = draft.edit({edit});
    ASSERT_FALSE(failed.ok()) << edit.symbol;
    EXPECT_EQ(failed.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(failed.error().message, HasSubstr(edit.symbol));
  }
  // In order: each names a symbol as those before have left it.
  expect(draft.edit({Edit::rename({0}, "f", "ff"), Edit::rename({0}, "ff", "fff")}));
  EXPECT_FALSE(draft.edit({Edit::localize({0}, "f")}).ok());
  expect(expect(expect(std::move(draft).place()).link()).commit());
  EXPECT_TRUE(library().find("fff"));
}

TEST_F(Review, AnEditOfAnArchiveMemberThatGoesAwayIsAnError) {
  Object m1 = compile_c("int a1(void) { return 1; }", "-O1 -fPIC", "m1.o");
  Object m2 = compile_c("int b1(void) { return 2; } int helper(void) { return 3; }", "-O1 -fPIC", "m2.o");
  std::vector<std::byte> bytes = archive_of({m1, m2});
  expect(library().search({Source::archive(expect(Archive::copy(bytes, "lib.a")))}));
  expect(library().define(std::vector<Absolute>{{"other_a", {0x1000}, false}}));
  Draft draft = drafted({compile_c("int a1(void); int b1(void); int top(void) { return a1() + b1(); }")});
  ASSERT_EQ(draft.layouts().size(), 3U);
  EXPECT_THAT(draft.layouts()[2].name, HasSubstr("m2.o"));
  Result<void> lost = draft.edit({Edit::rename({0}, "a1", "other_a"), Edit::localize({2}, "helper")});
  ASSERT_FALSE(lost.ok());
  EXPECT_EQ(lost.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(lost.error().message, HasSubstr("m2.o"));
  // An edit of the first member would hit the second one.
  EXPECT_EQ(draft.edit({Edit::rename({0}, "a1", "other_a"), Edit::localize({1}, "a1")}).error().code,
            ErrorCode::invalid_argument);
  ASSERT_EQ(draft.layouts().size(), 3U) << "as before";
  expect(draft.edit({Edit::rename({0}, "a1", "other_a")}));
  EXPECT_EQ(draft.layouts().size(), 2U);
}

TEST_F(Review, BindMovesReferencesNotDefinitions) {
  Object object = compile_c(
      "int ext(void) { return 1; } int data = 7; int asks(void) { return ext(); } int* where(void) { return &data; }\n"
      "int common_one; int* common(void) { return &common_one; }",
      "-O0 -fPIC -fcommon");
  Object other =
      compile_c("int ext(void); extern int data; extern int common_one; int other(void) { return ext() + data; }\n"
                "int* other_common(void) { return &common_one; }",
                "-O0 -fPIC");
  static int elsewhere = 9;
  static const auto twenty = +[] { return 20; };
  Draft draft = drafted({other, object});
  expect(draft.edit({Edit::bind({1}, "ext", Addr::of(twenty)), Edit::bind({1}, "data", Addr::of(&elsewhere)),
                     Edit::bind({1}, "common_one", Addr::of(&elsewhere))}));
  Linked linked = expect(expect(std::move(draft).place()).link());
  std::vector<PlacedSymbol> symbols = expect(linked.symbols());
  auto shown = std::find_if(symbols.begin(), symbols.end(), [](const PlacedSymbol& s) { return s.name == "data"; });
  ASSERT_NE(shown, symbols.end());
  Addr data = shown->address;
  expect(std::move(linked).commit());
  EXPECT_EQ(function<int()>(library(), "asks")(), 20);
  EXPECT_EQ(function<int*()>(library(), "where")(), &elsewhere);
  EXPECT_EQ(function<int*()>(library(), "common")(), &elsewhere);
  EXPECT_EQ(function<int()>(library(), "ext")(), 1);
  EXPECT_EQ(*address_of(library(), "data").as<int*>(), 7);
  EXPECT_EQ(address_of(library(), "data"), data);
  EXPECT_EQ(function<int()>(library(), "other")(), 8) << "another module of the change sees the definition";
  EXPECT_EQ(function<int*()>(library(), "other_common")(), address_of(library(), "common_one").as<int*>());
  EXPECT_NE(address_of(library(), "common_one"), Addr::of(&elsewhere));
  Draft tls = drafted({compile_c("__thread int mine; int* at(void) { return &mine; }")});
  EXPECT_EQ(tls.edit({Edit::bind({0}, "mine", Addr::of(&elsewhere))}).error().code, ErrorCode::invalid_argument);
}

TEST_F(Review, BytesThatTheClientHasSeenAreNeverExchanged) {
  Module old = commit(engine(), library(), level(1));
  std::size_t inspections = 0;
  auto inspector = [&](const Linked& final) -> Result<void> {
    inspections += final.sections().empty() || expect(final.symbols()).empty() ? 0 : 1;
    return {};
  };
  Linked seen = linked({level_user()});
  EXPECT_FALSE(expect(seen.symbols()).empty());
  Placed placed = expect(drafted({compile_c("int level(void); int use2(void) { return level(); }")}).place());
  EXPECT_FALSE(placed.sections().empty());
  Linked placed_seen = expect(std::move(placed).link());
  Linked unseen =
      expect(expect(drafted({compile_c("int level(void); int use3(void) { return level(); }")}).place()).link(inspector));
  Change exchange = engine().change();
  exchange.remove(old, Quiet::caller_guarantees);
  exchange.add(library(), level(2));
  expect(try_commit(std::move(exchange)));
  EXPECT_EQ(std::move(seen).commit().error().code, ErrorCode::conflict);
  EXPECT_EQ(std::move(placed_seen).commit().error().code, ErrorCode::conflict);
  expect(std::move(unseen).commit());
  EXPECT_EQ(function<int()>(library(), "use3")(), 2);
  EXPECT_EQ(inspections, 2U) << "what is linked anew is inspected anew";
}

TEST_F(Review, AnEngineEndsWithoutMemory) {
  if (!counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
  for (long n = 1; n < 6; ++n) {
    commit(engine(), library(), level(1));
    commit(engine(), library(), level_user());
    Library named = expect(engine().library("another"));
    commit(engine(), named, level(2));
    library_.reset();
    {
      Library gone = std::move(named);
    }
    fail_allocation(n);
    engine_.reset();
    fail_allocation(0);
    EXPECT_FALSE(allocation_failed()) << "the end of an engine asks for no memory";
    engine_ = make_engine();
    library_ = expect(engine_->library("main"));
  }
}

namespace {

// What is made once in a process comes last: first the key, then the fork handlers. Each question gets a process of its
// own, where nothing has been made yet.
bool fail_what_is_made_once() {
  pid_t child = fork();
  if (child == 0) {
    base::fault::countdown = 1000; // counts, and fails none
    std::_Exit(Engine::create().ok() ? int(base::fault::asked) : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  long asked = WEXITSTATUS(status);
  auto fails = [](long n, std::string_view call) {
    pid_t process = fork();
    if (process == 0) {
      base::fault::countdown = n;
      Result<Engine> engine = Engine::create();
      base::fault::countdown = 0;
      std::fprintf(stderr, "%s\n", engine ? "no error" : engine.error().message.c_str());
      bool right =
          !engine && engine.error().code == ErrorCode::system && engine.error().message.find(call) != std::string::npos;
      std::_Exit(right && Engine::create().ok() ? 0 : 1);
    }
    int code = 1;
    waitpid(process, &code, 0);
    return code == 0;
  };
  return fails(asked - 1, "pthread_key_create") && fails(asked, "pthread_atfork");
}

bool create_without_keys() {
  std::vector<pthread_key_t> keys(1);
  while (pthread_key_create(&keys.back(), nullptr) == 0) keys.emplace_back();
  Result<Engine> engine = Engine::create();
  bool refused = !engine && engine.error().code == ErrorCode::system;
  pthread_key_delete(keys.front());
  return refused && Engine::create().ok();
}

} // namespace

// In processes of their own: what is made once in a process has been made already in this one.
TEST(ReviewDeathTest, WhatAProcessNeedsOnceMayFail) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(std::_Exit(fail_what_is_made_once() ? 0 : 1), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::_Exit(create_without_keys() ? 0 : 1), testing::ExitedWithCode(0), "");
}

TEST_F(Review, AThrowingInitializerIsReportedWithoutMemory) {
  Object object = compile_cpp(R"(extern "C" void tenon_test_starve();
    struct S { S() { tenon_test_starve(); throw 1; } }; S s; extern "C" int there() { return 1; })",
                              "-O1 -fPIC", "a_name_that_is_long_enough_to_need_memory.o");
  Linked ready = linked({object});
  Result<Committed> committed = std::move(ready).commit();
  fail_allocation(0);
  ASSERT_FALSE(committed.ok());
  EXPECT_EQ(committed.error().code, ErrorCode::initializer) << describe(committed.error());
  EXPECT_TRUE(library().find("there"));
}

TEST_F(Review, DefiningAForwardReferenceSatisfiesIt) {
  ModuleOptions options;
  options.forward = {"fwd", "fwd_data", "fwd_again"};
  Module user = commit(engine(), library(), compile_c(R"(int fwd(void); extern int fwd_data; int fwd_again(void);
    int call(void) { return fwd(); } int (*pointer)(void) = fwd; int* data = &fwd_data; int again(void) { return fwd_again(); })"),
                       options);
  static int value = 17;
  static const auto five = +[] { return 5; };
  static const auto six = +[] { return 6; };
  expect(library().define(std::vector<Absolute>{
      {"fwd", Addr::of(five), false}, {"fwd_data", Addr::of(&value), false}, {"fwd_again", Addr::of(five), true}}));
  EXPECT_EQ(function<int()>(library(), "call")(), 5);
  EXPECT_EQ((*address_of(library(), "pointer").as<int (**)()>()), five);
  EXPECT_EQ(*address_of(library(), "data").as<int**>(), &value);
  EXPECT_EQ(library().find("fwd"), Addr::of(five));
  expect(library().define(std::vector<Absolute>{{"fwd_again", Addr::of(six), true}}));
  EXPECT_EQ(function<int()>(library(), "again")(), 6);
  EXPECT_EQ(library().define(std::vector<Absolute>{{"fwd", Addr::of(six), false}}).error().code, ErrorCode::duplicate);
  EXPECT_EQ(try_commit(engine(), library(), {compile_c("int fwd(void) { return 1; }")}).error().code, ErrorCode::duplicate);
  commit(engine(), library(), compile_c("int fwd(void); int later(void) { return fwd(); }"));
  EXPECT_EQ(function<int()>(library(), "later")(), 5);
  expect(try_remove(engine(), {user}));
}

TEST_F(Review, WhoFillsAForwardReferenceAsItsUserLeavesIsFree) {
  ModuleOptions options;
  options.forward = {"level"};
  Module user = commit(engine(), library(), level_user(), options);
  Change change = engine().change();
  change.remove(user, Quiet::caller_guarantees);
  ModuleId id = change.add(library(), level(3));
  Module definer = expect(try_commit(std::move(change))).module(id);
  EXPECT_EQ(function<int()>(library(), "level")(), 3);
  expect(try_remove(engine(), {definer}));
  // Reopened: somebody else may define it now.
  EXPECT_FALSE(library().find("level"));
  commit(engine(), library(), level_user());
  commit(engine(), library(), level(4));
  EXPECT_EQ(function<int()>(library(), "use")(), 4);
}

TEST(Review_, ALibraryOfAnEngineThatIsGoneIsForeign) {
  std::optional<Engine> first = make_engine();
  std::optional<Library> library = expect(first->library("old"));
  Module module = commit(*first, *library, level(1));
  Source source = Source::library(*library);
  library.reset();
  first.reset();
  for (int i = 0; i < 20; ++i) { // one of them may lie where the first did
    Engine engine = make_engine();
    Library other = expect(engine.library("new"));
    EXPECT_EQ(other.search({source}).error().code, ErrorCode::invalid_argument);
    Change change = engine.change();
    change.remove(module, Quiet::caller_guarantees);
    EXPECT_EQ(std::move(change).draft().error().code, ErrorCode::invalid_argument);
  }
}

TEST_F(Review, ASecondThreadThatCanNotBeMadeIsASystemError) {
  Object object =
      compile_c("extern __thread int tenon_test_host_variable; int* at(void) { return &tenon_test_host_variable; }");
  base::fault::countdown = 1;
  Change change = engine().change();
  change.add(library(), object);
  Result<Draft> draft = std::move(change).draft();
  base::fault::countdown = 0;
  ASSERT_FALSE(draft.ok());
  EXPECT_EQ(draft.error().code, ErrorCode::system) << describe(draft.error());
  EXPECT_THAT(draft.error().message, HasSubstr("tenon_test_host_variable"));
  commit(engine(), library(), object);
  EXPECT_EQ(function<int*()>(library(), "at")(), &tenon_test_host_variable);
}

TEST(Review_, TheNewestCompilerIsChosenByNumber) {
  std::string twelve = "/usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a", nine = "/usr/lib/gcc/x86_64-linux-gnu/9/libgcc.a",
              old = "/usr/lib/gcc/x86_64-linux-gnu/4.9/libgcc.a";
  char* paths[] = {twelve.data(), nine.data(), old.data()};
  EXPECT_EQ(engine::newest_version(paths), twelve);
  EXPECT_EQ(engine::newest_version(std::span(paths).subspan(1)), nine);
}

TEST_F(Review, BlocksAreOfAllModulesOrAnError) {
  Draft draft = drafted({level(1), level_user()});
  for (Granularity granularity : {Granularity::whole, Granularity::section, Granularity::function}) {
    std::vector<BlockRequest> blocks = expect(draft.blocks(granularity));
    for (std::uint32_t m : {0U, 1U})
      EXPECT_TRUE(std::any_of(blocks.begin(), blocks.end(), [&](const BlockRequest& b) { return b.module.index == m; }))
          << m;
  }
}

namespace {

// What was kept of a committed module's relocations, against its object's.
void check_kept(const engine::ModuleState& state, const Object& object, std::size_t& checked, std::size_t& wide) {
  std::size_t next = 0, allocated = 0;
  std::uint32_t section = 0;
  state.relocations().for_each([&](std::uint32_t s, const Relocation& kept) {
    next = s == section ? next : 0;
    section = s;
    const Relocation& own = object.relocations(s)[next++];
    EXPECT_EQ(std::tuple(kept.offset, kept.type, kept.symbol, kept.addend),
              std::tuple(own.offset, own.type, own.symbol, own.addend));
    wide += own.addend != std::int16_t(own.addend) || own.offset > 0xFFFFFF ? 1 : 0;
    ++allocated;
    const link::Target& target = state.bindings()[kept.symbol];
    EXPECT_NE(target.kind, link::TargetKind::module) << "an index into a change that is over";
    const link::SectionPlace& place = state.places()[s];
    constexpr std::uint32_t r_64 = 1; // S + A, psABI table 4.9
    if (kept.type != r_64 || target.kind == link::TargetKind::slot || target.kind == link::TargetKind::discarded ||
        (target.flags & link::target_flag::tls) != 0)
      return;
    std::uint64_t word = 0;
    std::memcpy(&word, reinterpret_cast<const void*>(place.address + kept.offset), sizeof word);
    EXPECT_EQ(word, target.address + std::uint64_t(kept.addend)) << object.name();
    ++checked;
  });
  std::size_t expected = 0;
  for (std::uint32_t s = 1; s < object.sections().size(); ++s)
    expected += state.places()[s].kept ? object.relocations(s).size() : 0;
  EXPECT_EQ(allocated, expected);
  EXPECT_EQ(state.relocations().size(), expected);
}

} // namespace

TEST_F(Review, KeptRelocationsAreTheObjectsAndSufficeForRelinking) {
  std::vector<Object> objects = rich_objects();
  objects.push_back(assemble(R"(
    .data
    .globl wide_table
    wide_table: .quad outside, outside+32767, outside-32767, outside-32768, outside+32768, outside+0x123456789, rich_entry+5, local
    local: .quad rich_common, rich_entry-0x7fffffff, outside, 0
    .section .data.far,"aw",@progbits
    .skip 0x1000008
    .quad outside, other_side + 3)",
                             "wide.o"));
  objects.push_back(
      compile_c("int outside[70000]; void* at[] = {outside + 3, &at, &outside[60000]};", "-O1 -fPIC", "outside.o"));
  Change change = engine().change();
  for (const Object& object : objects) change.add(library(), object, rich_options());
  Committed committed = expect(try_commit(std::move(change), Initialize::skip));
  std::size_t checked = 0, wide = 0;
  for (std::size_t i = 0; i < objects.size(); ++i) check_kept(*committed.modules()[i].state(), objects[i], checked, wide);
  EXPECT_GE(checked, 15U);
  EXPECT_GE(wide, 6U);
}

} // namespace tenon::test

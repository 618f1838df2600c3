// A failure at every allocation and at every system call of the whole life of an engine: an error each time, nothing left
// behind, and the engine goes on; or, if nothing succeeds from then on, it ends without a trace.
//
// Each run fails the n-th one, n = 1, 2, ... until a run needs fewer. What clients hand over (objects, names, lists) is made
// before: only the library's own allocations fail. LLVM is not involved.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "base/fault.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <optional>

namespace tenon::test {

namespace {

using base::fault::bit;
using base::fault::Call;

enum class What { allocation, system_call };

struct Case {
  What what;
  Kind kind;
  bool client = false;  // modules lie in the client's memory
  bool lasting = false; // nothing succeeds after the failure
};

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  const Case& one = info.param;
  return std::string(one.what == What::allocation ? "Allocations" : "SystemCalls") + name_of(one.kind) +
         (one.client ? "Client" : "") + (one.lasting ? "Lasting" : "");
}

std::vector<Case> cases(bool clients, bool lasting) {
  std::vector<Case> all;
  for (What what : {What::allocation, What::system_call})
    for (Kind kind : kinds)
      for (bool client : {false, true})
        for (bool last : {false, true})
          if ((clients || !client) && (lasting || !last)) all.push_back({what, kind, client, last});
  return all;
}

// What the client's side needs, made before anything fails.
struct Prepared {
  explicit Prepared(bool with_big) {
    if (!with_big) return;
    objects.push_back(big_object());
    options.emplace_back();
  }
  std::vector<Object> objects = rich_objects();
  std::vector<ModuleOptions> options{rich_options(), rich_options(), rich_options()};
  Object later = later_object();
  std::vector<Source> sources{Source::process()};
  std::vector<Absolute> absolutes{{"first_absolute_symbol", {1000}, false}, {"second_absolute_symbol", {2000}, true}};
  std::vector<Edit> edits{Edit::localize({2}, "rich_third")};
};

#define STEP(variable, expression)                                                                                          \
  auto variable = (expression);                                                                                             \
  if (!variable) return std::move(variable).error()

// Everything once: an error stops it. Notes how far it came.
struct Flow {
  Engine& engine;
  Memory* memory = nullptr;
  bool committed = false, released = false;

  Result<void> run(Prepared& prepared) {
    STEP(library, engine.library("flow"));
    STEP(searched, library->search(std::move(prepared.sources)));
    STEP(defined, library->define(prepared.absolutes));
    Change change = engine.change();
    for (std::size_t i = 0; i < prepared.objects.size(); ++i)
      change.add(*library, prepared.objects[i], std::move(prepared.options[i]));
    STEP(draft, std::move(change).draft());
    STEP(edited, draft->edit(std::move(prepared.edits)));
    STEP(placed, memory != nullptr ? std::move(*draft).place(*memory) : std::move(*draft).place());
    STEP(linked, std::move(*placed).link([](const Linked&) -> Result<void> { return {}; }));
    STEP(first, std::move(*linked).commit());
    committed = true;
    Change second = engine.change();
    second.add(*library, prepared.later);
    STEP(later, commit_all(std::move(second)));
    if (function<int(int)>(*library, "rich_use_later")(1) != 1001) return Error{ErrorCode::invalid_argument, "wrong answer"};
    if (prepared.objects.size() > 3 && function<int()>(*library, "big_code")() != 42)
      return Error{ErrorCode::invalid_argument, "wrong answer"};
    STEP(handle, library->function<int(int)>("rich_entry"));
    if ((*handle)(10) != 10 + 22 + 3 + 5 + 7) return Error{ErrorCode::invalid_argument, "wrong answer"};
    Change third = engine.change();
    for (const Module& module : first->modules()) third.remove(module, Quiet::caller_guarantees);
    STEP(removed, commit_all(std::move(third)));
    STEP(anonymous, engine.library());
    Change fourth = engine.change();
    fourth.add(*anonymous, prepared.objects[1], ModuleOptions{});
    STEP(nested, commit_all(std::move(fourth), prepared));
    STEP(closed, library->close(Quiet::caller_guarantees));
    return {};
  }

  static Result<Committed> commit_all(Change change) { return try_commit(std::move(change)); }
  // Placed, linked and released.
  static Result<void> commit_all(Change change, Prepared&) {
    STEP(draft, std::move(change).draft());
    if (!draft->undefined().empty()) {
      return {}; // rich_back is elsewhere
    }
    STEP(placed, std::move(*draft).place());
    STEP(linked, std::move(*placed).link());
    STEP(code, std::move(*linked).release());
    return {};
  }
};

void works(Engine& engine) {
  Library library = expect(engine.library("works"));
  commit(engine, library, compile_c("int works(int x) { return x + 1; }"));
  EXPECT_EQ(function<int(int)>(library, "works")(1), 2);
  expect(library.close(Quiet::caller_guarantees));
}

constexpr std::size_t arena_bytes = std::size_t(8) << 20; // the big module fits

// An engine's life from its creation to its end.
Result<void> live_once(Prepared& prepared, const Options& options, bool client) {
  std::optional<Arena> arena; // ends after the engine, whose modules lie in it
  STEP(engine, Engine::create(options));
  if (client) arena.emplace(*engine, Granularity::section, arena_bytes);
  Flow flow{*engine, client ? &*arena : nullptr};
  return flow.run(prepared);
}

class Faults : public testing::TestWithParam<Case> {
protected:
  void SetUp() override {
    if (what() == What::allocation && !counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
    base::fault::met = 0;
  }
  void TearDown() override { disarm(); }

  What what() const { return GetParam().what; }
  bool system_calls() const { return what() == What::system_call; }
  void arm(long n) {
    if (!system_calls()) return fail_allocation(n, GetParam().lasting);
    base::fault::failed = 0;
    base::fault::lasting = GetParam().lasting;
    base::fault::countdown = n;
  }
  // True if a failure has happened.
  bool disarm() {
    fail_allocation(0);
    base::fault::countdown = 0;
    base::fault::lasting = false;
    return system_calls() ? base::fault::failed != 0 : allocation_failed();
  }

  // Calls body(n) with n = 1, 2, ... until it succeeds without having met a failure. The first rounds, with n = 0, meet
  // none, and fill the caches of the process.
  template <class Body> long each(Body&& body) {
    for (int warm = 0; warm < 3; ++warm) {
      body(0);
      if (HasFailure()) return 0;
    }
    for (long n = 1; n < 20000; ++n) {
      if (body(n)) return n - 1;
      if (HasFailure()) return n;
    }
    ADD_FAILURE() << "no end";
    return 0;
  }
  void check(const Error& error, long n) {
    if (!system_calls()) {
      EXPECT_EQ(error.code, ErrorCode::out_of_memory) << "failure " << n << ": " << error.message;
    } else {
      EXPECT_TRUE(error.code == ErrorCode::system || error.code == ErrorCode::exhausted)
          << "failure " << n << ": " << describe(error);
    }
  }
  // Which kinds of calls were made to fail, of those that the given bits name.
  void expect_met(std::uint64_t wanted) const {
    if (system_calls()) {
      EXPECT_EQ(base::fault::met & wanted, wanted) << "met " << std::hex << base::fault::met << ", wanted " << wanted;
    }
  }
  // The anchor's file, its place, and the space's own memory.
  std::uint64_t met_by_creation() const {
    return bit(Call::memfd_create) | bit(Call::ftruncate) | bit(Call::pwrite) | bit(Call::open) | bit(Call::dlopen) |
           bit(Call::dlinfo) | bit(Call::mmap) | (GetParam().kind == Kind::single ? bit(Call::mprotect) : 0);
  }
  // The allocator's table and data grow by mprotect, what is mapped twice by populating; zeros come by discarding.
  std::uint64_t met_by_growth() const {
    std::uint64_t calls = bit(Call::mprotect) | bit(Call::pthread_create);
    if (!GetParam().client) calls |= bit(Call::madvise);
    if (!GetParam().client && GetParam().kind == Kind::single) calls |= bit(Call::deny_access);
    return calls;
  }

  void a_change_fails_at(long n, Engine& engine, Arena& arena, bool with_big, bool& done, bool& failed) {
    Prepared prepared(with_big);
    Flow flow{engine, GetParam().client ? &arena : nullptr};
    arm(n);
    Result<void> ran = flow.run(prepared);
    failed = disarm();
    done = ran.ok();
    if (!ran) check(ran.error(), n);
    Library library = expect(engine.library("flow"));
    if (!flow.committed) {
      EXPECT_TRUE(expect(library.modules()).empty()) << n << ": something is published";
      EXPECT_EQ(take_notes(), "") << n << ": something ran";
      for (const std::string& name : rich_names()) EXPECT_FALSE(library.find(name)) << n << ": " << name;
    }
    expect(library.close(Quiet::caller_guarantees));
    take_notes();
    EXPECT_EQ(arena.outstanding, 0) << n;
  }
  void a_change_succeeds(Engine& engine, Arena& arena, bool with_big) {
    Prepared prepared(with_big);
    expect(Flow{engine, GetParam().client ? &arena : nullptr}.run(prepared));
    take_notes();
  }
  Frames frames() const { return system_calls() ? Frames::count : Frames::skip; } // thousands of allocations fail
};

class Creation : public Faults {};
class Lives : public Faults {};
class FromCreationToEnd : public Faults {};

} // namespace

TEST_P(Creation, FailsCleanly) {
  for (bool unwinding : {true, false}) {
    Options options = small_options(GetParam().kind);
    options.unwinding = unwinding;
    std::vector<std::string> mappings;
    std::size_t descriptors = 0;
    long allocations = 0;
    long places = each([&](long n) {
      if (n <= 1) {
        mappings = kernel_mappings();
        descriptors = open_descriptors();
        allocations = live_allocations();
      }
      bool done = false, failed = false;
      {
        arm(n);
        Result<Engine> engine = Engine::create(options);
        failed = disarm();
        done = engine.ok();
        if (!engine)
          check(engine.error(), n);
        else
          works(*engine);
      }
      if (n != 0) {
        EXPECT_EQ(live_allocations(), allocations) << n;
        EXPECT_EQ(kernel_mappings(), mappings) << n;
        EXPECT_EQ(open_descriptors(), descriptors) << n;
      }
      // A failure in a step that has another way is no error.
      return done && !failed;
    });
    EXPECT_GE(places, !system_calls() ? 5 : (unwinding ? 5 : 0) + (GetParam().kind == Kind::single ? 3 : 6));
  }
  expect_met(met_by_creation());
}

TEST_P(Lives, OfAnEngineThatHasRoom) {
  long start = -1;
  std::vector<std::string> mappings;
  auto life = [&](long n) {
    bool done = false, failed = false;
    {
      Engine engine = make_small_engine(GetParam().kind);
      Arena arena(engine);
      a_change_succeeds(engine, arena, false);
      works(engine);
      Snapshot before = snapshot(engine, {}, frames());
      a_change_fails_at(n, engine, arena, false, done, failed);
      // What the kernel refuses to hide stays as it was until it is used again.
      bool hidden = (base::fault::failed & bit(Call::deny_access)) == 0;
      Snapshot after = snapshot(engine, {}, frames());
      if (!hidden) after.mappings = before.mappings, after.ranges = before.ranges;
      EXPECT_EQ(after, before) << "after failure " << n;
      works(engine);
      EXPECT_EQ(snapshot(engine, {}, frames()).live, before.live) << n;
    }
    if (start >= 0) {
      EXPECT_EQ(live_allocations(), start) << "after failure " << n;
      EXPECT_EQ(kernel_mappings(), mappings) << "after failure " << n;
    }
    return done && !failed;
  };
  long places = each([&](long n) {
    if (n == 1) { // the process's first failure leaves what the C++ runtime keeps
      life(1);
      mappings = kernel_mappings();
      start = live_allocations();
    }
    return life(n);
  });
  // With room for everything the engine's own memory needs the kernel for nothing, unless pages change their permissions.
  if (!system_calls()) {
    EXPECT_GE(places, 100);
  } else if (GetParam().kind == Kind::single) {
    EXPECT_GE(places, GetParam().client ? 10 : 30);
    expect_met(bit(Call::mprotect) | bit(Call::deny_access));
  } else {
    EXPECT_EQ(places, 0);
  }
}

TEST_P(Lives, OfAnEngineThatMustGrow) {
  long start = -1;
  std::size_t full = 0;
  bool with_big = system_calls();
  auto life = [&](long n) {
    bool done = false, failed = false;
    {
      Engine engine = make_small_engine(GetParam().kind);
      Arena arena(engine, Granularity::section, arena_bytes);
      Snapshot before = snapshot(engine, {}, frames());
      a_change_fails_at(n, engine, arena, with_big, done, failed);
      Snapshot after = snapshot(engine, {}, frames());
      bool hidden = (base::fault::failed & bit(Call::deny_access)) == 0;
      if (hidden && n != 0) {
        EXPECT_LE(after.mappings, full) << "after failure " << n;
      }
      after.mappings = before.mappings;
      EXPECT_EQ(after.without_growth(), before.without_growth()) << "after failure " << n;
      a_change_succeeds(engine, arena, with_big);
      if (n == 0) full = snapshot(engine, {}, Frames::skip).mappings; // some go when the areas give memory back
      expect(expect(engine.library("flow")).close(Quiet::caller_guarantees));
      after = snapshot(engine, {}, Frames::skip);
      if (hidden) {
        EXPECT_LE(after.mappings, full) << "after failure " << n;
      }
      EXPECT_EQ(after.live, before.live) << "after failure " << n;
    }
    if (start >= 0) {
      EXPECT_EQ(live_allocations(), start) << "after failure " << n;
    }
    return done && !failed;
  };
  long places = each([&](long n) {
    if (n == 1) { // as above
      life(1);
      start = live_allocations();
    }
    return life(n);
  });
  bool single = GetParam().kind == Kind::single;
  EXPECT_GE(places, !system_calls() ? 100 : GetParam().client ? (single ? 15 : 6) : (single ? 50 : 15));
  if (with_big) expect_met(met_by_growth());
}

// The failure stays armed through the drop of the change and the end of the engine.
TEST_P(FromCreationToEnd, NothingIsLeft) {
  bool with_big = system_calls();
  long allocations = 0;
  std::vector<std::string> mappings;
  std::size_t descriptors = 0;
  const Options options = small_options(GetParam().kind);
  long places = each([&](long n) {
    if (n == 1) {
      mappings = kernel_mappings();
      descriptors = open_descriptors();
      allocations = live_allocations();
    }
    bool done = false, failed = false;
    {
      Prepared prepared(with_big);
      arm(n);
      Result<void> lived = live_once(prepared, options, GetParam().client);
      failed = disarm();
      done = lived.ok();
      if (!lived) check(lived.error(), n);
    }
    if (std::string notes = take_notes(); done || !notes.empty()) {
      EXPECT_EQ(notes, "early born died atexit late") << n;
    }
    if (n >= 1) {
      EXPECT_EQ(live_allocations(), allocations) << "after failure " << n;
      EXPECT_EQ(kernel_mappings(), mappings) << "after failure " << n;
      EXPECT_EQ(open_descriptors(), descriptors) << "after failure " << n;
    }
    return done && !failed;
  });
  EXPECT_GE(places, system_calls() ? 15 : 100);
  expect_met(met_by_creation());
  if (with_big) expect_met(met_by_growth());
}

INSTANTIATE_TEST_SUITE_P(Each, Creation, testing::ValuesIn(cases(false, true)), name_of_case);
INSTANTIATE_TEST_SUITE_P(Each, Lives, testing::ValuesIn(cases(true, false)), name_of_case);
INSTANTIATE_TEST_SUITE_P(Each, FromCreationToEnd, testing::ValuesIn(cases(true, true)), name_of_case);

// open, fstat, mmap.
TEST(Faults, ReadingAFile) {
  std::string path = assemble_file(".globl f\nf: ret\n");
  expect(Object::read_file(path));
  std::vector<std::string> mappings = kernel_mappings();
  std::size_t descriptors = open_descriptors();
  base::fault::met = 0;
  for (long n = 1; n <= 4; ++n) {
    {
      base::fault::countdown = n;
      Result<Object> object = Object::read_file(path);
      base::fault::countdown = 0;
      EXPECT_EQ(object.ok(), n == 4) << n;
      if (!object) {
        EXPECT_EQ(object.error().code, ErrorCode::system) << n;
        EXPECT_NE(object.error().message.find("Cannot allocate memory"), std::string::npos) << object.error().message;
      }
    }
    EXPECT_EQ(kernel_mappings(), mappings) << n;
    EXPECT_EQ(open_descriptors(), descriptors) << n;
  }
  EXPECT_EQ(base::fault::met, bit(Call::open) | bit(Call::fstat) | bit(Call::mmap));
}

namespace {

// True if a change says so when the compiler's support library can't be read, and the next one has it.
bool support_library_is_tried_again() {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  // In libgcc.a only.
  Object object = assemble(".globl f\nf: mov __cpu_model@gotpcrel(%rip), %rax\nret\n");
  bool ok = true;
  for (long n = 1; n <= 3; ++n) { // open, fstat, mmap
    Change change = engine.change();
    change.add(library, object);
    base::fault::countdown = n;
    Result<Draft> draft = std::move(change).draft();
    base::fault::countdown = 0;
    std::fprintf(stderr, "%ld: %s\n", n, draft ? "no error" : describe(draft.error()).c_str());
    ok = ok && !draft && draft.error().code == ErrorCode::system;
  }
  commit(engine, library, object);
  return ok && function<const void*()>(library, "f")() != nullptr;
}

} // namespace

// It is read once in a process: this needs one of its own.
TEST(FaultsDeathTest, TheSupportLibraryIsTriedAgain) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(std::_Exit(support_library_is_tried_again() ? 0 : 1), testing::ExitedWithCode(0), "");
}

} // namespace tenon::test

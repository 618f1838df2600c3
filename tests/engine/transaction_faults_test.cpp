// A failure at every allocation and at every system call of the whole life of an engine: an error each time, nothing left
// behind, and the engine goes on.
//
// Each run fails the n-th one, n = 1, 2, ... until a run needs fewer. What clients hand over (objects, names, lists) is made
// before: only the library's own allocations fail. LLVM is not involved.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "base/fault.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tenon::test {

namespace {

enum class What { allocation, system_call };

class Fault {
public:
  static void arm(What what, long n) {
    if (what == What::allocation)
      fail_allocation(n);
    else
      base::fault::countdown = n;
  }
  // True if a failure has happened.
  static bool disarm(What what) {
    fail_allocation(0);
    bool left = base::fault::countdown.exchange(0) != 0;
    return what == What::allocation ? allocation_failed() : !left;
  }
};

// What the client's side needs, made before anything fails.
struct Prepared {
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
    STEP(handle, library->function<int(int)>("rich_entry"));
    if ((*handle)(10) != 10 + 22 + 3 + 5 + 7) return Error{ErrorCode::invalid_argument, "wrong answer"};
    Change third = engine.change();
    for (const Module& module : first->modules()) third.remove(module);
    STEP(removed, commit_all(std::move(third)));
    STEP(anonymous, engine.library());
    Change fourth = engine.change();
    fourth.add(*anonymous, prepared.objects[1], ModuleOptions{});
    STEP(nested, commit_all(std::move(fourth), prepared));
    STEP(closed, library->close());
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
  expect(library.close());
}

class Faults : public testing::TestWithParam<What> {
protected:
  void SetUp() override {
    if (what() == What::allocation && !counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
  }
  // Calls body(n) with the n-th failure armed until it succeeds without meeting one.
  template <class Body> long each(Body&& body) {
    for (long n = 1; n < 20000; ++n) {
      if (body(n)) return n - 1;
      if (HasFailure()) return n;
    }
    ADD_FAILURE() << "no end";
    return 0;
  }
  What what() const { return GetParam(); }
  void check(const Error& error, long n) {
    if (what() == What::allocation) {
      EXPECT_EQ(error.code, ErrorCode::out_of_memory) << "failure " << n << ": " << error.message;
    } else {
      EXPECT_TRUE(error.code == ErrorCode::system || error.code == ErrorCode::exhausted)
          << "failure " << n << ": " << describe(error);
    }
  }
};

std::string name_of(const testing::TestParamInfo<What>& info) {
  return info.param == What::allocation ? "Allocations" : "SystemCalls";
}

} // namespace

TEST_P(Faults, CreatingAnEngine) {
  works(*std::make_unique<Engine>(make_engine())); // warm
  Engine bystander = make_engine();
  Snapshot before = snapshot(bystander, {});
  long allocations = live_allocations();
  long places = each([&](long n) {
    Fault::arm(what(), n);
    bool done = false, failed = false;
    {
      Result<Engine> engine = Engine::create();
      failed = Fault::disarm(what());
      done = engine.ok();
      if (!engine)
        check(engine.error(), n);
      else
        works(*engine);
    }
    EXPECT_EQ(snapshot(bystander, {}, Frames::skip).mappings, before.mappings) << n;
    EXPECT_EQ(snapshot(bystander, {}, Frames::skip).descriptors, before.descriptors) << n;
    // A fault in a step that has another way is no error.
    return done && !failed;
  });
  EXPECT_GT(places, 5);
  EXPECT_EQ(live_allocations(), allocations);
}

TEST_P(Faults, TheWholeLife) {
  for (bool client : {false, true}) {
    long start = 0;
    (void)rich_names();
    const long warm = 3; // the first rounds meet no failure, and fill the process's caches
    long places = each([&](long round) {
      take_notes();
      bool done = false, failed = false;
      long n = std::max<long>(round - warm, 0);
      if (n == 1) start = live_allocations();
      {
        Engine engine = make_small_engine();
        Arena arena(engine);
        works(engine);
        Snapshot before = snapshot(engine, {}, Frames::skip);
        {
          Prepared prepared;
          Flow flow{engine, client ? &arena : nullptr};
          Fault::arm(what(), n);
          Result<void> ran = flow.run(prepared);
          failed = Fault::disarm(what());
          done = ran.ok();
          if (!ran) check(ran.error(), n);
          Library library = expect(engine.library("flow"));
          if (!flow.committed) {
            EXPECT_TRUE(library.modules().empty()) << n << ": something is published";
            EXPECT_EQ(take_notes(), "") << n << ": something ran";
            for (const std::string& name : rich_names()) EXPECT_FALSE(library.find(name)) << n << ": " << name;
          }
          works(engine);
          expect(library.close());
        }
        EXPECT_EQ(snapshot(engine, {}, Frames::skip), before) << "after failure " << n;
        EXPECT_EQ(arena.outstanding, 0) << n;
        works(engine);
      }
      take_notes();
      if (n >= 1) {
        EXPECT_EQ(live_allocations(), start) << "after failure " << n;
      }
      return n != 0 && done && !failed;
    });
    EXPECT_GE(places, what() == What::allocation ? 100 : 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Faults, testing::Values(What::allocation, What::system_call), name_of);

} // namespace tenon::test

// Atomic sets that overlap in time, and functions that are led or redirected meanwhile: what an entry of before sees stays
// as it was, and the end of one set takes nothing back that a later change has done.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

namespace tenon::test {
namespace {

struct AtomicLead : ReplaceFixture {
  Module m = commit(engine, library, c("int f(int x) { return x + 1; } int k(int x) { return x + 10; }"));
  Module other = commit(engine, library, c("int g(int x) { return x + 100; }"));
  Module user = commit(engine, library, c("int f(int); int call(int x) { return f(x); }"));
  Border border = expect(engine.border());
  int (*f)(int) = get<int(int)>("f");
  int (*call)(int) = get<int(int)>("call");

  void change_it(Module module, const std::string& text, Switch how, const char* lead = nullptr) {
    std::thread([&] {
      Change change = engine.change();
      if (!text.empty()) change.replace(module, c(text));
      if (lead != nullptr) change.lead(module, lead, std::string("g"));
      Draft draft = expect(std::move(change).draft());
      Placed placed = expect(std::move(draft).place());
      Linked linked = expect(std::move(placed).link());
      expect(std::move(linked).commit(Initialize::run, how));
    }).join();
  }
  void expect_both(int value, const char* why) {
    EXPECT_EQ(f(0), value) << why;
    EXPECT_EQ(call(0), value) << why;
  }
  void expect_elsewhere(int value, const char* why) {
    std::thread([&] { expect_both(value, why); }).join();
  }
  void collect_for_a_while() {
    for (int i = 0; i < 20; ++i) {
      expect(engine.collect());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
};

TEST_F(AtomicLead, AFunctionOfASetThatIsLedAwayMeanwhile) {
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 2; } int k(int x) { return x + 20; }", Switch::atomic);
    change_it(m, "int k(int x) { return x + 30; }", Switch::each, "f");
    expect_both(1, "the entry is of before");
    expect_elsewhere(100, "led");
    change_it(other, "int g(int x) { return x + 200; }", Switch::each);
    collect_for_a_while();
    expect_both(1, "the entry is still of before");
    expect_elsewhere(200, "it follows its leader, through the switch");
  }
  settle();
  expect_both(200, "the set is over");
  change_it(other, "int g(int x) { return x + 300; }", Switch::each);
  settle();
  expect_both(300, "and it follows its leader still");
}

TEST_F(AtomicLead, AFunctionOfASetThatIsLedAndComesBackPlainly) {
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 2; } int k(int x) { return x + 20; }", Switch::atomic);
    change_it(m, "int k(int x) { return x + 30; }", Switch::each, "f");
    change_it(m, "int f(int x) { return x + 4; } int k(int x) { return x + 40; }", Switch::each);
    expect_both(1, "the entry is of before");
    expect_elsewhere(4, "it is back");
    change_it(other, "int g(int x) { return x + 200; }", Switch::each);
    collect_for_a_while();
    expect_elsewhere(4, "it follows nobody");
  }
  settle();
  expect_both(4, "the set is over");
}

TEST_F(AtomicLead, ALedFunctionThatASetBringsBack) {
  change_it(m, "int k(int x) { return x + 20; }", Switch::each, "f");
  settle();
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 3; } int k(int x) { return x + 30; }", Switch::atomic);
    expect_both(100, "where it was led, for an entry of before");
    expect_elsewhere(3, "it is back");
    change_it(other, "int g(int x) { return x + 200; }", Switch::each);
    collect_for_a_while();
    expect_both(200, "its leader is another by now");
    expect(try_remove(engine, {other}));
    collect_for_a_while();
    expect_both(200, "its leader has been removed, but can still be reached");
  }
  settle();
  expect_both(3, "the set is over");
}

TEST_F(AtomicLead, ALeaderThatVanishesWhileAnEntryOfBeforeMayCallIt) {
  change_it(m, "int k(int x) { return x + 20; }", Switch::each, "f");
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 3; } int k(int x) { return x + 30; }", Switch::atomic);
    change_it(other, "int h(int x) { return x; }", Switch::each);
    collect_for_a_while();
    expect_both(100, "the version that had it stays");
  }
  for (int i = 0; i < 100; ++i) collect_for_a_while();
  expect_both(3, "the set is over");
}

TEST_F(AtomicLead, TwoSetsAndALeadBetweenThem) {
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 2; } int k(int x) { return x + 20; }", Switch::atomic);
    change_it(m, "int k(int x) { return x + 30; }", Switch::each, "f");
    Border between = expect(engine.border());
    Border::Entry second(between);
    change_it(m, "int f(int x) { return x + 4; } int k(int x) { return x + 40; }", Switch::atomic);
    change_it(other, "int g(int x) { return x + 200; }", Switch::each);
    collect_for_a_while();
    expect_both(1, "the oldest entry decides");
    expect_elsewhere(4, "the second set");
  }
  settle();
  expect_both(4, "the second set, and nothing of the first");
  change_it(m, "int f(int x) { return x + 5; } int k(int x) { return x + 50; }", Switch::each);
  settle();
  expect_both(5, "as if there had been no sets");
}

// The entry begins between the two sets, so that the first ends on its own.
TEST_F(AtomicLead, TheFirstOfTwoSetsEndsWhileTheSecondIsUnderWay) {
  auto first = std::make_unique<Border::Entry>(border);
  change_it(m, "int f(int x) { return x + 2; } int k(int x) { return x + 20; }", Switch::atomic);
  change_it(m, "int k(int x) { return x + 30; }", Switch::each, "f");
  std::atomic<int> step{0};
  std::thread between([&] {
    Border own = expect(engine.border());
    Border::Entry entry(own);
    expect_both(100, "led when the entry began");
    step = 1;
    while (step != 2) std::this_thread::yield();
    expect_both(200, "where it was led, the first set being over");
    step = 3;
  });
  while (step != 1) std::this_thread::yield();
  change_it(m, "int f(int x) { return x + 4; } int k(int x) { return x + 40; }", Switch::atomic);
  first.reset();
  collect_for_a_while();
  change_it(other, "int g(int x) { return x + 200; }", Switch::each);
  collect_for_a_while();
  expect_elsewhere(4, "the second set");
  step = 2;
  while (step != 3) std::this_thread::yield();
  between.join();
  settle();
  expect_both(4, "the second set");
}

TEST_F(AtomicLead, AFunctionThatVanishedInASetIsLedBeforeThatIsOver) {
  expect(try_remove(engine, {user}));
  {
    Border::Entry entry(border);
    change_it(m, "int k(int x) { return x + 20; }", Switch::atomic);
    change_it(m, "", Switch::each, "f");
    std::thread([&] { EXPECT_EQ(f(0), 100) << "led"; }).join();
  }
  settle();
  EXPECT_EQ(f(0), 100) << "the end of the set leaves it there";
}

TEST_F(AtomicLead, RedirectedAcrossTwoSets) {
  Redirect redirect = expect(library.redirect("f"));
  expect(redirect.to(expect(library.redirect("g"))));
  {
    Border::Entry entry(border);
    change_it(m, "int f(int x) { return x + 2; } int k(int x) { return x + 20; }", Switch::atomic);
    change_it(other, "int g(int x) { return x + 200; }", Switch::atomic);
    expect_both(100, "the entry is of before");
    expect_elsewhere(200, "the redirection follows its target");
    change_it(m, "int f(int x) { return x + 3; } int k(int x) { return x + 30; }", Switch::atomic);
    change_it(other, "int g(int x) { return x + 300; }", Switch::atomic);
    expect_both(100, "the entry is of before all of them");
    expect_elsewhere(300, "the redirection follows its target");
    redirect.back();
    expect_both(1, "its own, of before");
    expect_elsewhere(3, "its own");
  }
  settle();
  expect_both(3, "taken back, and all sets are over");
}

TEST_F(AtomicLead, SingleFunctionsInOverlappingSets) {
  ModuleOptions options;
  options.opaque = true;
  Module single = commit(engine, library, c("int p(int x) { return x + 1; } int q(int x) { return x + 1; }"), options);
  auto* p = get<int(int)>("p");
  auto* q = get<int(int)>("q");
  auto swap = [&](const std::string& text, Switch how) {
    std::thread([&] {
      Change change = engine.change();
      change.replace_functions(single, c(text), {}, {}, options);
      Draft draft = expect(std::move(change).draft());
      Placed placed = expect(std::move(draft).place());
      Linked linked = expect(std::move(placed).link());
      expect(std::move(linked).commit(Initialize::run, how));
    }).join();
  };
  {
    Border::Entry entry(border);
    swap("int p(int x) { return x + 2; } int q(int x) { return x + 2; }", Switch::atomic);
    swap("int p(int x) { return x + 3; }", Switch::atomic);
    swap("int q(int x) { return x + 4; }", Switch::each);
    collect_for_a_while();
    EXPECT_EQ(p(0) * 10 + q(0), 11);
    std::thread([&] { EXPECT_EQ(p(0) * 10 + q(0), 34); }).join();
  }
  settle();
  EXPECT_EQ(p(0) * 10 + q(0), 34);
}

} // namespace
} // namespace tenon::test

// Stages are move-only and consume the one before: a wrong order does not compile.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/tenon.h>

#include <gtest/gtest.h>

#include <type_traits>

namespace tenon {

namespace {

template <class T> constexpr bool move_only = std::is_nothrow_move_constructible_v<T> &&
                                              std::is_nothrow_move_assignable_v<T> && !std::is_copy_constructible_v<T> &&
                                              !std::is_copy_assignable_v<T> && !std::is_default_constructible_v<T>;

static_assert(move_only<Change> && move_only<Draft> && move_only<Placed> && move_only<Linked> && move_only<Committed>);

template <class T>
concept drafts = requires(T stage) { std::forward<T>(stage).draft(); };
template <class T>
concept places = requires(T stage) { std::forward<T>(stage).place(); };
template <class T>
concept places_in = requires(T stage, Memory& memory) { std::forward<T>(stage).place(memory); };
template <class T>
concept places_at = requires(T stage, std::span<const Addr> a) { std::forward<T>(stage).place(Granularity::whole, a); };
template <class T>
concept links = requires(T stage) { std::forward<T>(stage).link(); };
template <class T>
concept commits = requires(T stage) { std::forward<T>(stage).commit(); };
template <class T>
concept releases = requires(T stage) { std::forward<T>(stage).release(); };

// The one step that each stage has, and only of an rvalue: what it was moved from is gone.
static_assert(drafts<Change&&> && !drafts<Change&> && !drafts<const Change&>);
static_assert(!places<Change&&> && !links<Change&&> && !commits<Change&&> && !releases<Change&&>);
static_assert(places<Draft&&> && !places<Draft&> && places_in<Draft&&> && !places_in<Draft&> && places_at<Draft&&> &&
              !places_at<Draft&>);
static_assert(!drafts<Draft&&> && !links<Draft&&> && !commits<Draft&&> && !releases<Draft&&>);
static_assert(links<Placed&&> && !links<Placed&> && !drafts<Placed&&> && !places<Placed&&> && !commits<Placed&&> &&
              !releases<Placed&&>);
static_assert(commits<Linked&&> && !commits<Linked&> && releases<Linked&&> && !releases<Linked&>);
static_assert(!drafts<Linked&&> && !places<Linked&&> && !links<Linked&&>);
static_assert(!commits<Committed&&> && !releases<Committed&&>);

// No stage is another.
static_assert(!std::is_convertible_v<Change, Draft> && !std::is_convertible_v<Draft, Placed> &&
              !std::is_convertible_v<Placed, Linked>);

} // namespace

// A client's mistake that the types can't see: a stage used after it was consumed.
TEST(TransactionTypes, AConsumedStageStopsTheProgram) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  Result<Engine> engine = Engine::create();
  ASSERT_TRUE(engine.ok());
  Change change = engine->change();
  ASSERT_TRUE(std::move(change).draft().ok());
  EXPECT_DEATH((void)std::move(change).draft(), "consumed");
}

} // namespace tenon

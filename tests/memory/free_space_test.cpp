// The allocator against an oracle: a map of all address ranges, live and free, with the table entries that each one owns.
//
// The oracle knows what the allocator must never break: ranges do not overlap, entries of ranges in address order are in
// entry order and gapless where both ranges were handed out, and what comes back is found again.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/free_space.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace tenon::memory {
namespace {

constexpr std::uint32_t capacity = 1u << 20;

struct Fixture {
  explicit Fixture(std::uint32_t slot_capacity = 0, std::uint64_t address = 0x7f0000000000) : base(address / granule) {
    const std::uint32_t capacities[] = {64, capacity};
    EXPECT_TRUE(SideTable::create(capacities, table).ok());
    space.init(table, 1, address, capacity, slot_capacity);
  }
  std::optional<Piece> take(std::uint32_t size, std::uint32_t alignment = 1, std::uint32_t slots = 0) {
    if (const std::optional<Piece> run = space.take(size, alignment, slots)) return run;
    const std::optional<FreeSpace::Fresh> place = space.plan_fresh(size, alignment, slots);
    if (!place) return space.take(size, alignment, slots, true);
    EXPECT_TRUE(table.grow(1, place->end).ok());
    return space.take_fresh(*place, slots);
  }

  SideTable table;
  FreeSpace space;
  std::uint64_t base;
};

// Live runs by begin. `check` walks all of it.
struct Oracle {
  std::map<std::uint32_t, Piece> live;

  void add(const Piece& run) {
    const auto next = live.lower_bound(run.begin);
    if (next != live.end()) {
      ASSERT_LE(run.end(), next->first) << "overlaps the next";
    }
    if (next != live.begin()) {
      ASSERT_LE(std::prev(next)->second.end(), run.begin) << "overlaps the one before";
    }
    live.emplace(run.begin, run);
  }
  void check_slot_order(std::uint32_t slot_count) const {
    std::uint32_t next = 0;
    for (const auto& [begin, run] : live) {
      if (run.slots == 0) continue;
      ASSERT_GE(run.first_slot, next) << "entries of the run at granule " << begin;
      next = run.first_slot + run.slots;
    }
    ASSERT_LE(next, slot_count);
  }
};

TEST(FreeSpace, a_freed_block_is_reused_and_neighbours_join) {
  Fixture f;
  const Piece a = *f.take(3), b = *f.take(5), c = *f.take(7);
  EXPECT_EQ(a.begin, 0u);
  EXPECT_EQ(b.begin, 3u);
  EXPECT_EQ(c.begin, 8u);
  f.space.give_back(a);
  f.space.give_back(c);
  EXPECT_EQ(f.space.free_ranges(), 2u);
  f.space.give_back(b);
  EXPECT_EQ(f.space.free_ranges(), 1u);
  const Piece whole = *f.take(15);
  EXPECT_EQ(whole.begin, 0u);
  EXPECT_EQ(f.space.free_ranges(), 0u);
  EXPECT_EQ(f.space.used_end(), 15u);
}

TEST(FreeSpace, fresh_memory_starts_in_the_free_range_below_it) {
  Fixture f;
  (void)*f.take(4);
  const Piece b = *f.take(4);
  f.space.give_back(b);
  const Piece c = *f.take(100);
  EXPECT_EQ(c.begin, 4u);
  EXPECT_EQ(f.space.used_end(), 104u);
}

TEST(FreeSpace, the_gap_before_an_aligned_block_is_free) {
  Fixture f;
  (void)*f.take(1);
  const Piece aligned = *f.take(2, 256);
  EXPECT_EQ(aligned.begin, 256u);
  EXPECT_EQ(f.space.free_ranges(), 1u);
  EXPECT_EQ(f.take(255)->begin, 1u);
}

TEST(FreeSpace, alignment_counts_from_address_zero) {
  Fixture f(0, 0x7f0000001000);
  const Piece run = *f.take(2, 1u << 17);
  EXPECT_EQ((f.base + run.begin) % (1u << 17), 0u);
}

TEST(FreeSpace, a_range_with_too_few_entries_is_passed_over) {
  Fixture f(1000);
  const Piece a = *f.take(4, 1, 2);
  const Piece b = *f.take(4, 1, 9);
  (void)*f.take(4, 1, 1);
  EXPECT_EQ(a.slots, 2u);
  EXPECT_EQ(b.first_slot, 2u);
  f.space.give_back(a);
  const Piece c = *f.take(4, 1, 3);
  EXPECT_EQ(c.begin, 12u);
  const Piece d = *f.take(4, 1, 2);
  EXPECT_EQ(d.begin, 0u);
  EXPECT_EQ(d.first_slot, 0u);
}

TEST(FreeSpace, fresh_memory_brings_spare_entries_and_a_split_shares_them) {
  Fixture f(1000);
  const Piece big = *f.take(1600, 1, 0);
  EXPECT_EQ(big.slots, 100u);
  f.space.give_back(big);
  const Piece half = *f.take(800, 1, 20);
  EXPECT_EQ(half.first_slot, 0u);
  EXPECT_EQ(half.slots, 20u + 40u);
  const Piece rest = *f.take(800, 1, 40);
  EXPECT_EQ(rest.first_slot, 60u);
  EXPECT_EQ(rest.slots, 40u);
}

TEST(FreeSpace, the_last_range_gets_more_entries_from_the_tables_end) {
  Fixture f(100);
  const Piece a = *f.take(8, 1, 1);
  f.space.give_back(a);
  const Piece b = *f.take(4, 1, 5);
  EXPECT_EQ(b.begin, 0u);
  EXPECT_GE(b.slots, 5u);
  EXPECT_EQ(f.space.slot_count(), 5u);
  EXPECT_FALSE(f.take(4, 1, 96).has_value());
  EXPECT_EQ(f.take(4, 1, 95)->slots, 95u);
}

TEST(FreeSpace, nothing_is_lost_when_it_is_full) {
  Fixture f;
  std::vector<Piece> all;
  while (const std::optional<Piece> run = f.take(1000)) all.push_back(*run);
  EXPECT_EQ(all.size(), capacity / 1000);
  EXPECT_TRUE(f.take(capacity % 1000).has_value());
  EXPECT_FALSE(f.take(1).has_value());
  f.space.give_back(all[77]);
  EXPECT_EQ(f.take(1000)->begin, all[77].begin);
}

// When fresh memory is gone a fit is found even behind many that are too small for the alignment.
TEST(FreeSpace, the_last_resort_looks_at_every_range) {
  Fixture f;
  std::vector<Piece> all;
  while (const std::optional<Piece> run = f.take(16)) all.push_back(*run);
  for (std::size_t i = 0; i < all.size(); i += 2)
    if (i != 4096) f.space.give_back(all[i]);
  f.space.give_back(Piece{all[4095].begin + 8, 8, 0, 0});
  f.space.give_back(Piece{all[4096].begin, 8, 0, 0}); // 16 granules, at an odd place
  EXPECT_FALSE(f.space.take(16, 16, 1).has_value());
  std::optional<Piece> run;
  std::size_t found = 0;
  while ((run = f.take(16, 16))) ++found;
  EXPECT_EQ(found, all.size() / 2 - 1);
  EXPECT_EQ(f.take(16)->begin, all[4095].begin + 8);
}

struct Pattern {
  const char* name;
  std::uint32_t max_size;
  std::uint32_t max_alignment_log2;
  std::uint32_t max_slots;
};

class FreeSpaceRandom : public testing::TestWithParam<Pattern> {};

TEST_P(FreeSpaceRandom, agrees_with_the_oracle) {
  const Pattern pattern = GetParam();
  const std::uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  Fixture f(capacity / 4);
  Oracle oracle;
  std::vector<std::uint32_t> begins;
  for (int step = 0; step < 60'000; ++step) {
    const bool grow = oracle.live.empty() || below(100) < (step / 10'000 % 2 == 0 ? 60u : 40u);
    if (grow) {
      const std::uint32_t slots = pattern.max_slots == 0 ? 0 : below(pattern.max_slots + 1);
      const std::uint32_t alignment = 1u << below(pattern.max_alignment_log2 + 1);
      const std::uint32_t size = 1 + (below(8) == 0 ? below(pattern.max_size * 8) : below(pattern.max_size));
      const std::optional<Piece> run = f.take(size, alignment, slots);
      if (!run) continue;
      ASSERT_EQ(run->size, size);
      ASSERT_GE(run->slots, slots);
      ASSERT_EQ((f.base + run->begin) % alignment, 0u);
      oracle.add(*run);
      ASSERT_FALSE(HasFatalFailure());
      begins.push_back(run->begin);
      continue;
    }
    const std::size_t pick = below(static_cast<std::uint32_t>(begins.size()));
    const Piece run = oracle.live.at(begins[pick]);
    oracle.live.erase(run.begin);
    begins[pick] = begins.back();
    begins.pop_back();
    if (run.size < 3 || below(3) != 0) {
      f.space.give_back(run);
      continue;
    }
    // A part from the middle, with its share of the entries; both ends stay.
    const std::uint32_t from = 1 + below(run.size - 2), to = from + 1 + below(run.size - from - 1);
    const std::uint32_t cut = run.slots == 0 ? 0 : below(run.slots + 1);
    const std::uint32_t cut_end = run.slots == cut ? cut : cut + below(run.slots - cut + 1);
    const Piece head{run.begin, from, run.first_slot, cut};
    const Piece middle{run.begin + from, to - from, run.first_slot + cut, cut_end - cut};
    const Piece tail{run.begin + to, run.size - to, run.first_slot + cut_end, run.slots - cut_end};
    f.space.give_back(middle);
    oracle.add(head);
    begins.push_back(head.begin);
    if (tail.size != 0) {
      oracle.add(tail);
      begins.push_back(tail.begin);
    }
    ASSERT_FALSE(HasFatalFailure());
    if (step % 1000 == 0) oracle.check_slot_order(f.space.slot_count());
    ASSERT_FALSE(HasFatalFailure());
  }
  oracle.check_slot_order(f.space.slot_count());
  std::shuffle(begins.begin(), begins.end(), random);
  for (const std::uint32_t begin : begins) f.space.give_back(oracle.live.at(begin));
  EXPECT_EQ(f.space.free_ranges(), 1u) << "everything joins again";
  const std::optional<Piece> whole = f.take(f.space.used_end(), 1, f.space.slot_count());
  ASSERT_TRUE(whole.has_value());
  EXPECT_EQ(whole->begin, 0u);
  EXPECT_EQ(whole->slots, f.space.slot_count()) << "no entry is lost";
}

INSTANTIATE_TEST_SUITE_P(Patterns, FreeSpaceRandom,
                         testing::Values(Pattern{"tiny", 3, 0, 0}, Pattern{"functions", 30, 2, 3},
                                         Pattern{"aligned", 40, 8, 2}, Pattern{"large", 2000, 4, 40}),
                         [](const auto& info) { return info.param.name; });

TEST(FreeSpaceDeathTest, freeing_twice_stops_the_program) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Fixture f;
  (void)*f.take(4);
  const Piece b = *f.take(4);
  (void)*f.take(4);
  f.space.give_back(b);
  EXPECT_DEATH(f.space.give_back(b), "a block is freed once");
}

} // namespace
} // namespace tenon::memory

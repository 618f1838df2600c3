// Blocks of random sizes and alignments that come and go, while system calls fail now and then and all that is free is given
// back now and then: what lives keeps its bytes, what is new has those it should have, and nothing is lost.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "base/fault.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace tenon::memory {
namespace {

std::shared_ptr<Space> make_space(Mapping mapping) {
  const SpaceOptions options{std::uint64_t(512) << 20, false, mapping};
  Result<AddressRange> range = reserve(options);
  EXPECT_TRUE(range.ok()) << range.error().message;
  Result<std::shared_ptr<Space>> space = Space::create(options, *range);
  EXPECT_TRUE(space.ok()) << space.error().message;
  return *space;
}

class Churn {
public:
  Churn(Space& space, AreaKind area, std::uint64_t seed) : space_(space), area_(area), random_(seed) {}
  ~Churn() { drop_all(); }
  void drop_all() {
    while (!held_.empty()) drop(held_.size() - 1);
  }

  void step() {
    const unsigned what = random_() % 100;
    if (what == 0) return space_.release_unused(area_);
    if (what == 1) return space_.expect(area_, random_() % (4U << 20));
    // Waves: mostly growing, then mostly shrinking.
    const bool grows = (steps_++ / 512) % 2 == 0;
    if (held_.empty() || (random_() % 8 < (grows ? 6U : 2U) && live_ < (std::uint64_t(48) << 20))) return add();
    drop(random_() % held_.size());
  }
  void check() const {
    for (const Held& held : held_) expect_filled(held);
  }
  std::uint64_t live() const { return live_; }
  std::size_t failures() const { return failures_; }

private:
  struct Held {
    Block block;
    std::uint64_t mark;
  };

  std::uint64_t some_size() {
    switch (random_() % 16) {
    case 0: return random_() % (2U << 20) + 1;
    case 1:
    case 2: return random_() % (200U << 10) + 1;
    default: return random_() % 6000 + 1;
    }
  }
  void add() {
    const std::uint64_t alignment = std::uint64_t(16) << (random_() % 20 == 0 ? random_() % 18 : random_() % 3);
    Result<Block> block = space_.allocate(area_, some_size(), alignment, area_ == AreaKind::code ? 1 : 0);
    if (!block) {
      ++failures_;
      return;
    }
    EXPECT_EQ(block->begin.value % alignment, 0U);
    if (area_ == AreaKind::code) {
      const auto* bytes = space_.writable(block->begin);
      EXPECT_TRUE(std::all_of(bytes, bytes + block->size, [](std::byte b) { return b == std::byte(0xCC); }));
    }
    Held held{*block, random_()};
    {
      const WriteGuard guard(space_);
      for (std::uint64_t at = 0; at < held.block.size; at += 16) {
        const std::uint64_t words[] = {held.mark + at, held.block.begin.value};
        std::memcpy(space_.writable(held.block.begin + at), words, 16);
      }
    }
    live_ += held.block.size;
    held_.push_back(held);
  }
  void drop(std::size_t index) {
    expect_filled(held_[index]);
    space_.free(held_[index].block);
    live_ -= held_[index].block.size;
    held_[index] = held_.back();
    held_.pop_back();
  }
  void expect_filled(const Held& held) const {
    for (std::uint64_t at = 0; at < held.block.size; at += 16) {
      const std::uint64_t words[] = {held.mark + at, held.block.begin.value};
      if (std::memcmp((held.block.begin + at).as<const void*>(), words, 16) == 0) continue;
      ADD_FAILURE() << "a live block has lost its bytes at " << at << " of " << held.block.size;
      return;
    }
  }

  Space& space_;
  const AreaKind area_;
  std::mt19937_64 random_;
  std::vector<Held> held_;
  std::uint64_t live_ = 0, steps_ = 0;
  std::size_t failures_ = 0;
};

class RandomBlocks : public testing::TestWithParam<AreaKind> {
protected:
  // When nothing lives any more. Private memory is accessible ahead of its use.
  static void expect_given_back(Space& space) {
    space.release_unused(GetParam());
    if (GetParam() == AreaKind::data) return;
    EXPECT_EQ(space.usage(GetParam()).committed, 0U);
  }
};

TEST_P(RandomBlocks, keep_their_bytes_while_system_calls_fail) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const auto space = make_space(Mapping::dual);
    Churn churn(*space, GetParam(), seed);
    std::mt19937_64 random(seed);
    for (int i = 0; i < 6000 && !testing::Test::HasFailure(); ++i) {
      base::fault::countdown = random() % 4 == 0 ? long(random() % 4 + 1) : 0;
      base::fault::lasting = random() % 8 == 0;
      churn.step();
      base::fault::countdown = 0;
      ASSERT_EQ(space->usage(GetParam()).live, churn.live()) << i;
    }
    base::fault::lasting = false;
    churn.check();
    if (GetParam() != AreaKind::data) { // which needs few calls
      EXPECT_GT(churn.failures(), 20U);
    }
    churn.drop_all();
    expect_given_back(*space);
  }
}

TEST_P(RandomBlocks, keep_their_bytes_while_others_give_theirs_back) {
  const auto space = make_space(Mapping::dual);
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 3; ++seed)
    threads.emplace_back([&space, seed] {
      Churn churn(*space, GetParam(), seed);
      for (int i = 0; i < 4000 && !testing::Test::HasFailure(); ++i) churn.step();
      churn.check();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(space->usage(GetParam()).live, 0U);
  expect_given_back(*space);
}

// A child has what its parent had at that moment, holes included, and goes on with it.
TEST_P(RandomBlocks, are_whole_in_the_child_of_a_fork) {
  const auto space = make_space(Mapping::dual);
  Churn churn(*space, GetParam(), 7);
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < 700; ++i) churn.step();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::alarm(60);
      churn.check();
      for (int i = 0; i < 300; ++i) churn.step();
      churn.check();
      ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    for (int i = 0; i < 100; ++i) churn.step();
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    churn.check();
  }
}

// Memory that only a block's alignment has left free was never used: it goes back with what was.
TEST(AlignedBlocks, what_lies_between_them_goes_back) {
  constexpr std::uint64_t alignment = std::uint64_t(2) << 20;
  const auto space = make_space(Mapping::dual);
  std::vector<Block> blocks;
  for (int i = 0; i < 20; ++i) blocks.push_back(*space->allocate(AreaKind::rodata, 64, alignment));
  EXPECT_GE(space->usage(AreaKind::rodata).committed, 19 * alignment);
  space->free(blocks[10]);
  EXPECT_LE(space->usage(AreaKind::rodata).committed, 2 * alignment);
  for (int i = 0; i < 20; ++i)
    if (i != 10) space->free(blocks[std::size_t(i)]);
}

INSTANTIATE_TEST_SUITE_P(Areas, RandomBlocks, testing::Values(AreaKind::code, AreaKind::rodata, AreaKind::data));

} // namespace
} // namespace tenon::memory

// A Space as the linker uses it, in both mapping modes: code runs, nothing is writable and executable, mappings stay few,
// accounting is exact, and a full or failing system is an Error after which the Space goes on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "base/fault.h"
#include "functions.h"
#include "maps.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace tenon::memory {
namespace {

constexpr std::uint64_t mib = std::uint64_t(1) << 20;

std::shared_ptr<Space> make_space(Mapping mapping, std::uint64_t size = 2048 * mib) {
  const SpaceOptions options{size, false, mapping};
  Result<AddressRange> range = reserve(options);
  EXPECT_TRUE(range.ok()) << range.error().message;
  Result<std::shared_ptr<Space>> space = Space::create(options, *range);
  EXPECT_TRUE(space.ok()) << space.error().message;
  return *space;
}

class SpaceTest : public testing::TestWithParam<Mapping> {
protected:
  bool dual() const { return GetParam() == Mapping::dual; }
};

INSTANTIATE_TEST_SUITE_P(Modes, SpaceTest, testing::Values(Mapping::dual, Mapping::single),
                         [](const auto& info) { return info.param == Mapping::dual ? "dual" : "single"; });

TEST_P(SpaceTest, code_that_was_written_runs) {
  const auto space = make_space(GetParam());
  const Block block = *space->allocate(AreaKind::code, 40, 16, 1);
  write_function(*space, block, 42);
  ASSERT_TRUE(space->publish(block).ok());
  EXPECT_EQ(call(block.begin), 42u);
}

TEST_P(SpaceTest, areas_lie_in_their_order_and_hold_their_blocks) {
  const auto space = make_space(GetParam());
  const std::array order = {AreaKind::data, AreaKind::rodata, AreaKind::slots, AreaKind::code, AreaKind::frames};
  Addr end = space->begin();
  for (const AreaKind kind : order) {
    EXPECT_EQ(space->area_begin(kind), end);
    EXPECT_LT(space->area_begin(kind), space->area_end(kind));
    end = space->area_end(kind);
    if (kind == AreaKind::frames) continue;
    const Block block = *space->allocate(kind, 100, 64);
    EXPECT_GE(block.begin, space->area_begin(kind));
    EXPECT_LE(block.end(), space->area_end(kind));
    EXPECT_EQ(block.begin.value % 64, 0u);
  }
  EXPECT_EQ(end, space->end());
}

TEST_P(SpaceTest, what_is_written_is_what_the_program_reads) {
  const auto space = make_space(GetParam());
  ASSERT_TRUE(space->commit_frames(8192).ok());
  std::vector<Block> blocks;
  for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data})
    blocks.push_back(*space->allocate(kind, 5 * mib / 2, 4096));
  blocks.push_back({space->area_begin(AreaKind::frames), 8192, AreaKind::frames});
  for (const Block& block : blocks) {
    const WriteGuard guard(*space);
    std::memset(space->writable(block.begin), int(block.area) + 1, block.size);
  }
  for (const Block& block : blocks) {
    ASSERT_TRUE(block.area == AreaKind::frames || space->publish(block).ok());
    const auto* bytes = block.begin.as<const unsigned char*>();
    EXPECT_TRUE(std::all_of(bytes, bytes + block.size, [&](unsigned char byte) { return byte == int(block.area) + 1; }));
  }
}

TEST_P(SpaceTest, no_mapping_is_writable_and_executable) {
  const auto space = make_space(GetParam());
  for (int i = 0; i < 50; ++i) {
    const Block block = *space->allocate(AreaKind::code, 5000, 16, 1);
    write_function(*space, block, 1);
    ASSERT_TRUE(space->publish(block).ok());
    if (i % 3 == 0) space->free(block);
    for (const KernelMapping& mapping : kernel_mappings())
      ASSERT_FALSE(mapping.permissions[1] == 'w' && mapping.permissions[2] == 'x') << mapping.name;
  }
}

TEST_P(SpaceTest, code_is_full_of_traps_before_it_is_written) {
  const auto space = make_space(GetParam());
  const auto all_traps = [](const Block& block) {
    const auto* bytes = block.begin.as<const unsigned char*>();
    return std::all_of(bytes, bytes + block.size, [](unsigned char byte) { return byte == 0xCC; });
  };
  const Block first = *space->allocate(AreaKind::code, 100'000, 16);
  EXPECT_TRUE(all_traps(first));
  {
    const WriteGuard guard(*space);
    std::memset(space->writable(first.begin), 0x90, first.size);
  }
  ASSERT_TRUE(space->publish(first).ok());
  space->free(first);
  if (dual()) {
    EXPECT_TRUE(all_traps(first)) << "freed, and still mapped for execution";
  }
  const Block second = *space->allocate(AreaKind::code, 100'000, 16);
  EXPECT_EQ(second.begin, first.begin);
  EXPECT_TRUE(all_traps(second));
}

TEST_P(SpaceTest, live_bytes_are_exact) {
  const auto space = make_space(GetParam());
  const std::uint64_t unit = 4096;
  for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data}) {
    const bool paged = !dual() && (kind == AreaKind::code || kind == AreaKind::rodata);
    EXPECT_EQ(space->usage(kind).live, 0u);
    const Block a = *space->allocate(kind, 1, 1);
    const Block b = *space->allocate(kind, 4097, 32);
    EXPECT_EQ(a.size, paged ? unit : 16u);
    EXPECT_EQ(space->usage(kind).live, paged ? 3 * unit : 16u + 4112u);
    EXPECT_GE(space->usage(kind).committed, space->usage(kind).live);
    EXPECT_EQ(space->usage(kind).reserved, space->area_end(kind) - space->area_begin(kind));
    space->free({b.begin + 16, 4000, kind, b.first_slot, 0});
    EXPECT_EQ(space->usage(kind).live, paged ? 3 * unit : 16u + 112u);
    space->free({b.begin, 16, kind, b.first_slot, 0});
    space->free({b.begin + 4016, b.size - 4016, kind, b.first_slot, b.slots});
    EXPECT_EQ(space->usage(kind).live, a.size);
    space->free(a);
    EXPECT_EQ(space->usage(kind).live, 0u);
  }
}

// Parts of blocks whose borders are anywhere: pages and table entries all come back, whatever the order.
TEST_P(SpaceTest, blocks_come_back_in_parts_in_any_order) {
  const auto space = make_space(GetParam());
  const std::uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    std::vector<Block> parts;
    for (int i = 0; i < 20; ++i) {
      Block block = *space->allocate(AreaKind::code, 16 + random() % 20'000, 16, random() % 30);
      while (block.size > 0) {
        Block part = block;
        part.size = std::min<std::uint64_t>(block.size, 16 + random() % 6'000 / 16 * 16);
        part.slots = part.size == block.size ? block.slots : static_cast<std::uint32_t>(random() % (block.slots + 1));
        parts.push_back(part);
        block = {part.end(), block.size - part.size, block.area, block.first_slot + part.slots, block.slots - part.slots};
      }
    }
    std::shuffle(parts.begin(), parts.end(), random);
    for (const Block& part : parts) space->free(part);
    ASSERT_EQ(space->usage(AreaKind::code).live, 0u);
    // All of it is one range again, with all the entries.
    const std::uint64_t used = space->usage(AreaKind::code).committed;
    const std::uint32_t slots = space->slot_count();
    const Block whole = *space->allocate(AreaKind::code, dual() ? 4096 : used, 16, slots);
    EXPECT_EQ(whole.begin, space->area_begin(AreaKind::code));
    EXPECT_GE(whole.slots, slots);
    space->free(whole);
  }
}

TEST_P(SpaceTest, two_threads_allocate_and_free) {
  const auto space = make_space(GetParam());
  const auto work = [&](std::uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::pair<Block, std::uint32_t>> mine;
    for (int i = 0; i < 4000; ++i) {
      if (mine.size() < 50 || random() % 2 == 0) {
        const Block block = *space->allocate(AreaKind::code, 16 + random() % 300, 16, random() % 3);
        const auto value = static_cast<std::uint32_t>(random());
        write_function(*space, block, value);
        ASSERT_TRUE(space->publish(block).ok());
        mine.emplace_back(block, value);
      } else {
        std::swap(mine[random() % mine.size()], mine.back());
        ASSERT_EQ(call(mine.back().first.begin), mine.back().second);
        space->free(mine.back().first);
        mine.pop_back();
      }
    }
    for (const auto& [block, value] : mine) {
      ASSERT_EQ(call(block.begin), value);
      space->free(block);
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
  EXPECT_EQ(space->usage(AreaKind::code).live, 0u);
}

TEST_P(SpaceTest, a_full_area_is_an_error_and_the_space_goes_on) {
  const auto space = make_space(GetParam(), 64 * mib);
  for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data}) {
    std::vector<Block> blocks;
    Result<Block> block = space->allocate(kind, 64 << 10, 16);
    for (; block.ok(); block = space->allocate(kind, 64 << 10, 16)) blocks.push_back(*block);
    EXPECT_EQ(block.error().code, ErrorCode::exhausted) << block.error().message;
    ASSERT_GE(blocks.size(), 16u);
    const std::uint64_t live = space->usage(kind).live;
    EXPECT_EQ(live, blocks.size() * (64 << 10));
    space->free(blocks[3]);
    block = space->allocate(kind, 64 << 10, 16);
    ASSERT_TRUE(block.ok());
    EXPECT_EQ(block->begin, blocks[3].begin);
    EXPECT_EQ(space->allocate(kind, 4096 * mib, 16).error().code, ErrorCode::exhausted);
    for (const Block& each : blocks) space->free(each);
    EXPECT_EQ(space->usage(kind).live, 0u);
  }
  EXPECT_EQ(space->commit_frames(64 * mib).error().code, ErrorCode::exhausted);
  EXPECT_EQ(space->allocate(AreaKind::code, 16, 48).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(space->allocate(AreaKind::code, 16, 4 * mib).error().code, ErrorCode::invalid_argument);
}

// Every system call of creation, growth and destruction fails in turn.
TEST_P(SpaceTest, a_failing_system_call_is_an_error_and_leaves_nothing) {
  make_space(GetParam()); // what a process has once
  [[maybe_unused]] const std::size_t before = kernel_mappings().size();
  const auto use = [&]() -> Result<void> {
    const SpaceOptions options{512 * mib, false, GetParam()};
    Result<AddressRange> range = reserve(options);
    if (!range) return std::move(range).error();
    Result<std::shared_ptr<Space>> space = Space::create(options, *range);
    if (!space) return std::move(space).error();
    Space& s = **space;
    for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data})
      for (int i = 0; i < 3; ++i) {
        const AreaUsage usage = s.usage(kind);
        Result<Block> block = s.allocate(kind, 300'000 << i, 16);
        if (!block) {
          EXPECT_EQ(s.usage(kind).live, usage.live);
          base::fault::countdown = 0;
          EXPECT_TRUE(s.allocate(kind, 300'000, 16).ok()) << "goes on after an error";
          return std::move(block).error();
        }
        if (Result<void> done = s.publish(*block); !done) return done;
      }
    return s.commit_frames(200'000);
  };
  int failures = 0;
  for (long nth = 1;; ++nth) {
    base::fault::countdown = nth;
    const Result<void> done = use();
    const bool fired = base::fault::countdown.exchange(0) == 0;
    if (fired && !done.ok()) {
      ++failures;
      EXPECT_EQ(done.error().code, ErrorCode::system) << done.error().message;
      EXPECT_NE(done.error().message.find("Cannot allocate memory"), std::string::npos) << done.error().message;
    }
#ifndef TENON_SANITIZED // which has mappings of its own
    EXPECT_EQ(kernel_mappings().size(), before) << "after the failure of call " << nth;
#endif
    if (done.ok() && !fired) break;
    ASSERT_LT(nth, 1000);
  }
  EXPECT_GE(failures, 8);
}

TEST(SpaceMappings, their_number_is_constant_and_small) {
  make_space(Mapping::dual);
  const std::size_t before = count_mappings();
  std::vector<Block> blocks;
  blocks.reserve(100'000);
  const std::size_t with_vector = count_mappings();
  const auto space = make_space(Mapping::dual);
  std::mt19937 random(7);
  const std::array kinds = {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data};
  for (int i = 0; i < 100'000; ++i) {
    const AreaKind kind = kinds[random() % 4];
    blocks.push_back(*space->allocate(kind, 16 + random() % 500, 16, kind == AreaKind::code ? 1 : 0));
    if (i % 1000 == 0) {
      ASSERT_TRUE(space->commit_frames(std::uint64_t(i + 1) * 8).ok());
    }
  }
  const std::size_t full = count_mappings();
  EXPECT_LE(full - with_vector, 11u);
  for (std::size_t i = 0; i < blocks.size(); i += 2) space->free(blocks[i]);
  EXPECT_EQ(count_mappings(), full);
  EXPECT_LE(before, with_vector);
}

TEST(SpaceMappings, a_core_dump_holds_used_pages_once) {
  const auto space = make_space(Mapping::dual);
  (void)*space->allocate(AreaKind::code, 1000, 16);
  const std::byte* const alias = space->writable(space->area_begin(AreaKind::code));
  std::uint64_t dumped = 0;
  bool alias_seen = false;
  for (const KernelMapping& mapping : kernel_mappings(true)) {
    const bool hidden = mapping.flags.find(" dd ") != std::string::npos;
    const Addr begin{mapping.begin};
    if (mapping.begin <= Addr::of(alias).value && Addr::of(alias).value < mapping.end) {
      alias_seen = true;
      EXPECT_TRUE(hidden);
      EXPECT_EQ(mapping.permissions, "rw-s");
    }
    if (begin >= space->area_begin(AreaKind::rodata) && begin < space->end() && !hidden)
      dumped += mapping.end - mapping.begin;
  }
  EXPECT_TRUE(alias_seen);
  EXPECT_EQ(dumped, space->usage(AreaKind::code).committed);
}

TEST(SpaceMappings, a_small_engine_stays_small) {
  const auto space = make_space(Mapping::dual);
  for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots})
    EXPECT_EQ(space->allocate(kind, 100, 16)->size, 112u);
  std::uint64_t committed = 0;
  for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::frames})
    committed += space->usage(kind).committed;
  EXPECT_LE(committed, 192u << 10);
}

TEST(SpaceMappings, a_space_gives_everything_back) {
  make_space(Mapping::dual);
  const std::size_t before = count_mappings();
  for (int i = 0; i < 20; ++i) {
    const auto space = make_space(Mapping::dual);
    (void)*space->allocate(AreaKind::code, 3 * mib, 16);
    (void)*space->allocate(AreaKind::data, 3 * mib, 16);
  }
  EXPECT_EQ(count_mappings(), before);
}

TEST(SpaceMappings, an_address_space_limit_is_an_error) {
#ifdef TENON_SANITIZED
  GTEST_SKIP() << "the sanitizer's own shadow is beyond any limit";
#endif
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &old), 0);
  const SpaceOptions options;
  const AddressRange range = *reserve(options);
  rlimit tight = old;
  tight.rlim_cur = std::uint64_t(3) << 30; // the reservation fits, its alias and the rest do not
  if (setrlimit(RLIMIT_AS, &tight) != 0) GTEST_SKIP() << "RLIMIT_AS can't be set";
  const Result<std::shared_ptr<Space>> space = Space::create(options, range);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &old), 0);
  ASSERT_FALSE(space.ok());
  EXPECT_EQ(space.error().code, ErrorCode::system);
}

TEST(SpaceLayout, scales_and_has_room_for_the_prefix) {
  for (const std::uint64_t size : {mib, 64 * mib, 100 * mib + 4096, 1024 * mib, 2048 * mib}) {
    for (const std::uint64_t prefix : {std::uint64_t(0), std::uint64_t(8192)}) {
      const auto layout = area_layout(size, prefix);
      const AreaBounds data = layout[std::size_t(AreaKind::data)], rodata = layout[std::size_t(AreaKind::rodata)],
                       frames = layout[std::size_t(AreaKind::frames)], slots = layout[std::size_t(AreaKind::slots)],
                       code = layout[std::size_t(AreaKind::code)];
      EXPECT_EQ(data.begin, prefix);
      EXPECT_EQ(data.end, rodata.begin);
      EXPECT_EQ(rodata.end, slots.begin);
      EXPECT_EQ(slots.end, code.begin);
      EXPECT_EQ(code.end, frames.begin);
      EXPECT_EQ(frames.end, size);
      for (const AreaBounds& bounds : layout) {
        EXPECT_LT(bounds.begin, bounds.end);
        EXPECT_EQ(bounds.begin % 4096, 0u);
      }
    }
  }
}

TEST(SpaceLayout, a_bad_reservation_is_given_back_with_an_error) {
  const std::size_t before = count_mappings();
  const AddressRange range = *reserve({64 << 10, false, Mapping::dual});
  EXPECT_EQ(Space::create({}, range).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(count_mappings(), before);
}

// What compaction needs.

TEST(LowSpace, the_lowest_hole_that_fits_is_taken) {
  const auto space = make_space(Mapping::dual);
  std::vector<Block> blocks;
  for (const std::uint64_t size : {64, 128, 256, 128, 64, 128, 64})
    blocks.push_back(*space->allocate(AreaKind::code, size, 16, 2));
  for (const std::size_t i : {5, 1, 3}) space->free(blocks[i]);
  EXPECT_TRUE(space->has_room_before(AreaKind::code, 128, blocks[3].begin));
  EXPECT_FALSE(space->has_room_before(AreaKind::code, 256, blocks[6].begin));
  EXPECT_FALSE(space->has_room_before(AreaKind::code, 128, blocks[1].begin));
  const std::uint64_t live = space->usage(AreaKind::code).live;
  const Block low = *space->allocate_low(AreaKind::code, 100, 16, 1, blocks[6].begin);
  EXPECT_EQ(low.begin, blocks[1].begin);
  EXPECT_EQ(space->usage(AreaKind::code).live, live + low.size);
  const Block next = *space->allocate_low(AreaKind::code, 128, 16, 1, blocks[6].begin);
  EXPECT_EQ(next.begin, blocks[3].begin);
  EXPECT_EQ(space->allocate_low(AreaKind::code, 128, 16, 1, blocks[5].begin).error().code, ErrorCode::exhausted);
  EXPECT_EQ(space->allocate_low(AreaKind::code, 512, 16, 1, space->area_end(AreaKind::code)).error().code,
            ErrorCode::exhausted);
  for (const Block& block : {low, next, blocks[0], blocks[2], blocks[4], blocks[6]}) space->free(block);
  EXPECT_EQ(space->usage(AreaKind::code).live, 0u);
}

TEST(LowSpace, unused_memory_goes_back_and_comes_again_full_of_traps) {
  constexpr std::uint64_t piece = 100000;
  const auto space = make_space(Mapping::dual);
  std::vector<Block> blocks;
  for (int i = 0; i < 60; ++i) blocks.push_back(*space->allocate(AreaKind::code, piece, 16, 1));
  write_function(*space, blocks[30], 7);
  const std::uint64_t before = space->usage(AreaKind::code).committed;
  for (int i = 0; i < 60; ++i)
    if (i != 30) space->free(blocks[std::size_t(i)]);
  space->release_unused(AreaKind::code);
  EXPECT_LE(space->usage(AreaKind::code).committed, 4 * 65536u) << before << " before";
  EXPECT_EQ(call(blocks[30].begin), 7u);
  EXPECT_EQ(space->used(AreaKind::code), blocks[30].end() - space->area_begin(AreaKind::code));
  space->release_unused(AreaKind::code);

  base::fault::countdown = 1;
  Result<Block> failed = space->allocate_low(AreaKind::code, piece, 16, 1, blocks[30].begin);
  base::fault::countdown = 0;
  EXPECT_FALSE(failed);
  for (int i = 0; i < 60; ++i) {
    if (i == 30) continue;
    blocks[std::size_t(i)] = i % 2 == 0
                                 ? *space->allocate(AreaKind::code, piece, 16, 1)
                                 : *space->allocate_low(AreaKind::code, piece, 16, 1, space->area_end(AreaKind::code));
    const auto* bytes = blocks[std::size_t(i)].begin.as<const unsigned char*>();
    ASSERT_TRUE(std::all_of(bytes, bytes + piece, [](unsigned char byte) { return byte == 0xCC; })) << i;
    write_function(*space, blocks[std::size_t(i)], unsigned(i));
  }
  for (int i = 0; i < 60; ++i) ASSERT_EQ(call(blocks[std::size_t(i)].begin), i == 30 ? 7u : unsigned(i));
  EXPECT_LE(space->usage(AreaKind::code).committed, before + 2 * mib);
  for (const Block& block : blocks) space->free(block);
  space->release_unused(AreaKind::code);
  EXPECT_EQ(space->usage(AreaKind::code).committed, 0u);
}

// Free memory goes back by itself.

// Pages of an area that are there, by the program's view of the shared file or of private memory.
std::uint64_t resident(const Space& space, AreaKind area) {
  const Addr begin = space.area_begin(area);
  const std::uint64_t size = space.area_end(area) - begin, page = 4096;
  if (area != AreaKind::data) {
    std::vector<unsigned char> present(size / page);
    EXPECT_EQ(::mincore(begin.as<void*>(), size, present.data()), 0);
    return page * std::uint64_t(std::count_if(present.begin(), present.end(), [](unsigned char p) { return (p & 1) != 0; }));
  }
  std::vector<std::uint64_t> entries(size / page);
  const int file = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(::pread(file, entries.data(), entries.size() * 8, off_t(begin.value / page * 8)), ssize_t(entries.size() * 8));
  ::close(file);
  return page * std::uint64_t(std::count_if(entries.begin(), entries.end(), [](std::uint64_t e) { return e >> 63 != 0; }));
}

class GivingBack : public testing::TestWithParam<AreaKind> {
protected:
  static constexpr std::uint64_t piece = 4096 - 64;
  static constexpr std::size_t count = 4000; // 16 MB

  GivingBack() { begin(); }
  // In a space of its own.
  void begin() {
    blocks_.clear();
    space_ = make_space(Mapping::dual);
    for (std::size_t i = 0; i < count; ++i) {
      blocks_.push_back(*space_->allocate(GetParam(), piece, 16));
      fill(blocks_.back(), std::uint32_t(i));
    }
    EXPECT_GE(resident(*space_, GetParam()), count * piece);
  }
  void fill(const Block& block, std::uint32_t number) {
    const WriteGuard guard(*space_);
    for (std::uint64_t at = 0; at < block.size; at += 16) std::memcpy(space_->writable(block.begin + at), &number, 4);
  }
  static bool holds(const Block& block, std::uint32_t number) {
    for (std::uint64_t at = 0; at < block.size; at += 16)
      if (std::memcmp((block.begin + at).as<const void*>(), &number, 4) != 0) return false;
    return true;
  }

  std::shared_ptr<Space> space_;
  std::vector<Block> blocks_;
};

TEST_P(GivingBack, in_any_order_little_is_left) {
  for (unsigned order = 0; order < 3; ++order) {
    if (order != 0) begin(); // one that has not been asked for it again
    std::vector<std::uint32_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0U);
    if (order == 1) std::reverse(numbers.begin(), numbers.end());
    if (order == 2) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(1));
    const std::uint32_t stays = count / 3;
    for (const std::uint32_t number : numbers)
      if (number != stays) space_->free(blocks_[number]);
    // Of data the rest of its last large page may be there.
    EXPECT_LE(resident(*space_, GetParam()), GetParam() == AreaKind::data ? 2 * mib + (512U << 10) : 512U << 10)
        << "order " << order;
    EXPECT_LE(space_->usage(GetParam()).committed, 3 * mib) << "order " << order;
    EXPECT_TRUE(holds(blocks_[stays], stays));
    for (std::uint32_t i = 0; i < count; ++i) {
      if (i == stays) continue;
      blocks_[i] = *space_->allocate(GetParam(), piece, 16);
      if (GetParam() == AreaKind::code) {
        const auto* bytes = blocks_[i].begin.as<const unsigned char*>();
        ASSERT_TRUE(std::all_of(bytes, bytes + piece, [](unsigned char byte) { return byte == 0xCC; })) << i;
      }
      fill(blocks_[i], i);
    }
    for (std::uint32_t i = 0; i < count; ++i) ASSERT_TRUE(holds(blocks_[i], i)) << i;
    for (const Block& block : blocks_) space_->free(block);
  }
}

TEST_P(GivingBack, who_wants_it_back_all_the_time_keeps_it) {
  for (const Block& block : blocks_) space_->free(block);
  blocks_.clear();
  constexpr std::size_t some = 400; // 1.6 MB
  std::uint64_t kept = 0;
  for (unsigned round = 0; round < 12; ++round) {
    for (std::size_t i = 0; i < some; ++i) fill(blocks_.emplace_back(*space_->allocate(GetParam(), piece, 16)), 1);
    for (const Block& block : blocks_) space_->free(block);
    blocks_.clear();
    kept = resident(*space_, GetParam());
  }
  EXPECT_GE(kept, some * piece);
}

TEST_P(GivingBack, what_the_system_does_not_take_stays) {
  const std::uint64_t before = space_->usage(GetParam()).committed;
  base::fault::lasting = true;
  base::fault::countdown = 1;
  for (const Block& block : blocks_) space_->free(block);
  base::fault::countdown = 0;
  base::fault::lasting = false;
  EXPECT_EQ(space_->usage(GetParam()).committed, before);
  for (std::uint32_t i = 0; i < count; ++i) fill(blocks_[i] = *space_->allocate(GetParam(), piece, 16), i);
  for (std::uint32_t i = 0; i < count; ++i) ASSERT_TRUE(holds(blocks_[i], i)) << i;
  for (const Block& block : blocks_) space_->free(block);
  EXPECT_LE(resident(*space_, GetParam()), mib);
}

INSTANTIATE_TEST_SUITE_P(Areas, GivingBack, testing::Values(AreaKind::code, AreaKind::rodata, AreaKind::data));

} // namespace
} // namespace tenon::memory

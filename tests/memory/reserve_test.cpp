// Where reservations go.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "maps.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <gnu/libc-version.h>
#include <sys/mman.h>

namespace tenon::memory {
namespace {

constexpr std::uint64_t mib = std::uint64_t(1) << 20;
constexpr std::uint64_t reach = std::uint64_t(1) << 31;

TEST(Reserve, code_reaches_every_library) {
#ifdef TENON_SANITIZED
  GTEST_SKIP() << "the place below the libraries is taken by the sanitizer's shadow";
#endif
  const SpaceOptions options;
  const Addr place = find_place(options);
  ASSERT_TRUE(place);
  const auto layout = area_layout(options.size, 0);
  const std::uint64_t code = place.value + layout[std::size_t(AreaKind::code)].begin;
  const auto libc = reinterpret_cast<std::uint64_t>(gnu_get_libc_version());
  EXPECT_LE(place.value + options.size, libc);
  for (const KernelMapping& mapping : kernel_mappings()) {
    EXPECT_TRUE(mapping.end <= place.value || mapping.begin >= place.value + options.size) << "taken by " << mapping.name;
    if (mapping.name.find(".so") != std::string::npos && mapping.begin < libc + 256 * mib) {
      EXPECT_LT(mapping.end - code, reach - 64 * mib) << mapping.name;
    }
  }
}

TEST(Reserve, several_at_once_do_not_collide) {
  std::vector<AddressRange> ranges;
  for (int i = 0; i < 8; ++i) ranges.push_back(*reserve({}));
  std::sort(ranges.begin(), ranges.end(), [](const AddressRange& a, const AddressRange& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < ranges.size(); ++i) EXPECT_LE(ranges[i - 1].begin + ranges[i - 1].size, ranges[i].begin);
  for (const AddressRange& range : ranges) range.release(range.owner, range.begin, range.size);
}

TEST(Reserve, a_place_that_was_given_back_serves_the_next_of_its_size) {
#ifdef TENON_SANITIZED
  GTEST_SKIP() << "the place below the libraries is taken by the sanitizer's shadow";
#endif
  const auto give = [](const AddressRange& range) { range.release(range.owner, range.begin, range.size); };
  const SpaceOptions options{512 * mib, false, Mapping::dual};
  (void)take_given_back(options.size); // of earlier tests
  const AddressRange high = *reserve(options), low = *reserve(options);
  EXPECT_FALSE(take_given_back(options.size)) << "nothing of it was given back";
  const AddressRange& better = high.begin > low.begin ? high : low;
  give(low);
  give(high);
  EXPECT_FALSE(take_given_back(256 * mib)) << "of another size";
  const AddressRange again = *reserve(options);
  EXPECT_EQ(again.begin, better.begin) << "the highest";
  EXPECT_FALSE(take_given_back(options.size)) << "it is taken once";

  // Somebody else has mapped something there.
  give(again);
  void* const taken = mmap(again.begin + 4 * mib, mib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_EQ(taken, again.begin + 4 * mib);
  const AddressRange elsewhere = *reserve(options);
  EXPECT_TRUE(elsewhere.begin + elsewhere.size <= taken || elsewhere.begin >= again.begin + 5 * mib);
  EXPECT_LT(gnu_get_libc_version() - reinterpret_cast<const char*>(elsewhere.begin), std::ptrdiff_t(reach));
  give(elsewhere);
  munmap(taken, mib);
}

TEST(Reserve, low_ones_lie_below_2_gib_and_leave_the_heap_room) {
  const SpaceOptions options{2048 * mib, true, Mapping::dual};
  Result<AddressRange> range = reserve(options);
  ASSERT_TRUE(range.ok()) << range.error().message;
  const auto begin = reinterpret_cast<std::uint64_t>(range->begin);
  EXPECT_GE(begin, 0x10000u);
  EXPECT_LE(begin + range->size, reach);
  EXPECT_GE(range->size, 64 * mib);
  for (const KernelMapping& mapping : kernel_mappings())
    if (mapping.name == "[heap]" && mapping.begin < reach) {
      EXPECT_TRUE(begin + range->size <= mapping.begin || begin >= mapping.end + 256 * mib);
    }
  Result<std::shared_ptr<Space>> space = Space::create(options, *range);
  ASSERT_TRUE(space.ok()) << space.error().message;
  EXPECT_LE((*space)->end().value, reach);
  EXPECT_TRUE((*space)->allocate(AreaKind::code, 100, 16).ok());
}

TEST(Reserve, no_room_in_the_low_2_gib_is_an_error) {
  std::vector<AddressRange> ranges;
  Result<AddressRange> range = reserve({1024 * mib, true, Mapping::dual});
  for (; range.ok(); range = reserve({1024 * mib, true, Mapping::dual})) ranges.push_back(*range);
  EXPECT_EQ(range.error().code, ErrorCode::exhausted);
  EXPECT_NE(range.error().message.find("no room in the low 2 GiB"), std::string::npos);
  EXPECT_FALSE(ranges.empty());
  for (const AddressRange& each : ranges) each.release(each.owner, each.begin, each.size);
}

TEST(Reserve, absurd_sizes_are_errors) {
  EXPECT_EQ(reserve({0, false, Mapping::dual}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(reserve({reach + 1, false, Mapping::dual}).error().code, ErrorCode::invalid_argument);
}

} // namespace
} // namespace tenon::memory

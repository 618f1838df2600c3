// The generated anchor: where it lands, what it costs, what is left when it goes, and how it fails.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/fault.h"
#include "memory/maps.h"
#include "notify/frame_table.h"
#include "notify/frames.h"

#include <cstring>
#include <dirent.h>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace tenon {
namespace {

std::size_t count_descriptors() {
  DIR* directory = opendir("/proc/self/fd");
  std::size_t entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries;
}

void release(const memory::AddressRange& range) { range.release(range.owner, range.begin, range.size); }

bool is_mapped(const std::byte* at) {
  unsigned char resident = 0;
  return mincore(const_cast<std::byte*>(at), 1, &resident) == 0;
}

// The lines of /proc/self/smaps for the mapping that `at` lies in.
std::vector<std::string> mapping_of(const std::byte* at) {
  std::ifstream file("/proc/self/smaps");
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      inside = Addr::of(at).value >= begin && Addr::of(at).value < end;
    if (inside) lines.push_back(line);
  }
  return lines;
}

TEST(Anchor, SpansTheReservation) {
  memory::SpaceOptions options;
  auto range = notify::reserve_anchor(options);
  ASSERT_TRUE(range) << range.error().message;
  EXPECT_EQ(range->size, options.size);
  EXPECT_EQ(range->reserved_prefix, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(std::memcmp(range->begin, "\177ELF", 4), 0);
  EXPECT_EQ(std::to_integer<int>(range->begin[range->size - 1]), 0);

  // Everything behind the first page is the owner's to map over.
  std::byte* middle = range->begin + range->size / 2;
  void* mapped = mmap(middle, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_EQ(mapped, middle);
  middle[5] = std::byte{7};

  release(*range);
  EXPECT_FALSE(is_mapped(range->begin));
  EXPECT_FALSE(is_mapped(middle));
  EXPECT_FALSE(is_mapped(range->begin + range->size - 4096));
}

TEST(Anchor, IsKnownToTheDynamicLinker) {
  memory::SpaceOptions options;
  options.size = std::uint64_t(1) << 26;
  auto range = notify::reserve_anchor(options);
  ASSERT_TRUE(range) << range.error().message;
  const auto frames = memory::area_layout(range->size, range->reserved_prefix)[std::size_t(memory::AreaKind::frames)];
#if __GLIBC__ > 2 || (__GLIBC__ == 2 && __GLIBC_MINOR__ >= 35)
  for (std::size_t at : {std::size_t(0), range->size / 2, range->size - 1}) {
    dl_find_object found{};
    ASSERT_EQ(_dl_find_object(range->begin + at, &found), 0) << at;
    EXPECT_EQ(found.dlfo_map_start, range->begin);
    EXPECT_EQ(static_cast<std::byte*>(found.dlfo_eh_frame), range->begin + frames.begin + notify::header_offset);
  }
#endif
  // Reads the anchor's hash, symbol and string tables.
  Dl_info info{};
  ASSERT_NE(dladdr(range->begin + range->size / 2, &info), 0);
  EXPECT_EQ(info.dli_fbase, range->begin);
  EXPECT_EQ(info.dli_sname, nullptr);
  EXPECT_EQ(Addr::of(range->begin + frames.begin).value % 8, 0u);
  release(*range);
}

TEST(Anchor, ChargesNoMemoryAndLeavesStacksAlone) {
  memory::SpaceOptions options;
  auto range = notify::reserve_anchor(options);
  ASSERT_TRUE(range) << range.error().message;
  const auto lines = mapping_of(range->begin + range->size / 2);
  ASSERT_FALSE(lines.empty());
  EXPECT_NE(lines[0].find(" r--p "), std::string::npos) << lines[0];
  bool flags_seen = false;
  for (const std::string& line : lines)
    if (line.starts_with("VmFlags:")) {
      flags_seen = true;
      EXPECT_EQ((line + " ").find(" ac "), std::string::npos) << "accountable: " << line;
    }
  EXPECT_TRUE(flags_seen);

  int local = 0;
  const auto stack = mapping_of(reinterpret_cast<const std::byte*>(&local));
  ASSERT_FALSE(stack.empty());
  EXPECT_NE(stack[0].find(" rw-p "), std::string::npos) << stack[0];
  release(*range);
}

TEST(Anchor, LandsInTheLowAddressesIfAsked) {
  memory::SpaceOptions options;
  options.low_2gib = true;
  options.size = std::uint64_t(1) << 28;
  auto range = notify::reserve_anchor(options);
  ASSERT_TRUE(range) << range.error().message;
  EXPECT_LE(Addr::of(range->begin).value + range->size, std::uint64_t(1) << 31);
  release(*range);
}

TEST(Anchor, IsExhaustedWhenTheLowAddressesAre) {
  memory::SpaceOptions options;
  options.low_2gib = true;
  options.size = std::uint64_t(1) << 30;
  const auto descriptors = count_descriptors();
  std::vector<memory::AddressRange> ranges;
  bool exhausted = false;
  // What does not fit is asked for in ever smaller sizes, down to 64 MiB.
  for (int i = 0; i < 33 && !exhausted; ++i) {
    auto range = notify::reserve_anchor(options);
    exhausted = !range;
    if (range)
      ranges.push_back(*range);
    else
      EXPECT_EQ(range.error().code, ErrorCode::exhausted) << range.error().message;
  }
  EXPECT_TRUE(exhausted);
  for (const auto& range : ranges) release(range);
  EXPECT_EQ(count_descriptors(), descriptors);
}

TEST(Anchor, RefusesAbsurdSizes) {
  for (std::uint64_t size : {std::uint64_t(0), std::uint64_t(100), (std::uint64_t(1) << 31) + 1}) {
    memory::SpaceOptions options;
    options.size = size;
    auto range = notify::reserve_anchor(options);
    ASSERT_FALSE(range) << size;
    EXPECT_EQ(range.error().code, ErrorCode::invalid_argument);
  }
}

TEST(Anchor, ManyAtATime) {
  memory::SpaceOptions options;
  options.size = std::uint64_t(1) << 30;
  std::vector<memory::AddressRange> ranges;
  for (int i = 0; i < 64; ++i) {
    auto range = notify::reserve_anchor(options);
    ASSERT_TRUE(range) << i << ": " << range.error().message;
    for (const auto& other : ranges)
      EXPECT_TRUE(range->begin >= other.begin + other.size || range->begin + range->size <= other.begin);
    ranges.push_back(*range);
  }
  // Not in the order of making, so that descriptors are reused in between.
  for (std::size_t i = 0; i < ranges.size(); i += 2) release(ranges[i]);
  for (std::size_t i = 0; i < ranges.size(); i += 2) {
    auto range = notify::reserve_anchor(options);
    ASSERT_TRUE(range) << i << ": " << range.error().message;
    ranges[i] = *range;
  }
  for (const auto& range : ranges) release(range);
}

TEST(Anchor, ComesAndGoesWithoutATrace) {
  memory::SpaceOptions options;
  const auto once = [&] {
    auto range = notify::reserve_anchor(options);
    ASSERT_TRUE(range) << range.error().message;
    release(*range);
  };
  for (int i = 0; i < 20; ++i) once();
  const std::size_t descriptors = count_descriptors(), maps = memory::count_mappings();
  for (int i = 0; i < 1000; ++i) once();
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT_LE(memory::count_mappings(), maps + 1) << "the heap may have grown, nothing else";
}

TEST(Anchor, TheNextOneTakesThePlaceUnlessSomethingIsThere) {
  memory::SpaceOptions options;
  auto first = notify::reserve_anchor(options);
  ASSERT_TRUE(first) << first.error().message;
  release(*first);
  auto again = notify::reserve_anchor(options);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->begin, first->begin);
  release(*again);

  std::byte* const middle = again->begin + again->size / 2;
  ASSERT_EQ(mmap(middle, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), middle);
  *middle = std::byte{7};
  auto elsewhere = notify::reserve_anchor(options);
  ASSERT_TRUE(elsewhere) << elsewhere.error().message;
  EXPECT_TRUE(elsewhere->begin + elsewhere->size <= middle || elsewhere->begin > middle);
  EXPECT_EQ(Addr::of(elsewhere->begin).value % (2 << 20), 0u) << "found by looking, not left to the kernel";
  EXPECT_EQ(*middle, std::byte{7});
  release(*elsewhere);
  munmap(middle, 4096);
}

TEST(Anchor, EveryFailingSystemCallIsAnErrorWithoutATrace) {
  memory::SpaceOptions options;
  auto warm = notify::reserve_anchor(options);
  ASSERT_TRUE(warm) << warm.error().message;
  release(*warm);
  const std::size_t descriptors = count_descriptors(), maps = memory::count_mappings();

  const long before = base::fault::asked;
  base::fault::countdown = std::numeric_limits<long>::max(); // counts, and fails none
  auto counted = notify::reserve_anchor(options);
  base::fault::countdown = 0;
  const long calls = base::fault::asked - before;
  ASSERT_TRUE(counted);
  release(*counted);
  ASSERT_GE(calls, 5);
  for (long n = 1; n <= calls; ++n) {
    base::fault::countdown = n;
    auto range = notify::reserve_anchor(options);
    base::fault::countdown = 0;
    if (range) { // a call whose failure costs the hint only
      release(*range);
      continue;
    }
    EXPECT_TRUE(range.error().code == ErrorCode::system || range.error().code == ErrorCode::exhausted);
    EXPECT_FALSE(range.error().message.empty());
  }
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT_LE(memory::count_mappings(), maps + 1);
}

TEST(Anchor, SaysWhyDlopenFailed) {
  memory::SpaceOptions options;
  const int first = dup(0), second = dup(0);
  ASSERT_GE(first, 0);
  ASSERT_GT(second, first);
  close(first);
  close(second);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit room_for_one{static_cast<rlim_t>(second), old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &room_for_one), 0);
  auto range = notify::reserve_anchor(options);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  ASSERT_FALSE(range);
  EXPECT_EQ(range.error().code, ErrorCode::system);
  EXPECT_NE(range.error().message.find("/proc/self/fd/"), std::string::npos) << range.error().message;
}

} // namespace
} // namespace tenon

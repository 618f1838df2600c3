// The reservation that stays when an engine ends: the next one finds it empty, nobody else reaches it.
//
// Children report through their exit status: zero, or the number of the line that failed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/spare.h"

#include "base/fault.h"
#include "functions.h"
#include "maps.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tenon::memory {
namespace {

constexpr std::uint64_t mib = std::uint64_t(1) << 20;
constexpr std::array kinds = {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::data};

std::shared_ptr<Space> make_space(const SpaceOptions& options = {}) {
  Result<std::shared_ptr<Space>> space = Space::create(options, *reserve(options));
  EXPECT_TRUE(space.ok());
  return *space;
}

// Something of every kind, in every page of it.
void use(Space& space, std::uint64_t size) {
  for (const AreaKind kind : kinds) {
    const Block block = *space.allocate(kind, size, 16, kind == AreaKind::code ? 3 : 0);
    const WriteGuard guard(space);
    std::memset(space.writable(block.begin), 0xAB, block.size);
  }
  ASSERT_TRUE(space.commit_frames(10'000));
  const WriteGuard guard(space);
  std::memset(space.writable(space.area_begin(AreaKind::frames)), 0xAB, 10'000);
}

bool can_read(Addr address) {
  int ends[2];
  if (pipe(ends) != 0) return true;
  const bool readable = write(ends[1], address.as<const void*>(), 1) == 1; // EFAULT instead of a signal
  close(ends[0]);
  close(ends[1]);
  return readable;
}

bool is_zero(const std::byte* begin, std::uint64_t size) {
  return std::all_of(begin, begin + size, [](std::byte byte) { return byte == std::byte{0}; });
}

std::uint64_t live(const Space& space) {
  std::uint64_t sum = 0;
  for (const AreaKind kind : kinds) sum += space.usage(kind).live + space.usage(kind).committed;
  return sum + space.usage(AreaKind::frames).committed + space.slot_count();
}

// A sanitizer's shadow takes the only place at which a reservation is kept.
class Spare : public testing::Test {
protected:
  void SetUp() override {
#ifdef TENON_SANITIZED
    GTEST_SKIP() << "the place below the libraries is taken by the sanitizer's shadow";
#endif
    (void)make_space();           // what a process keeps of the first is there
    (void)spare::take({}, false); // of earlier tests
  }
  void TearDown() override { (void)spare::take({}, false); }
};

TEST_F(Spare, the_next_one_finds_it_empty) {
  spare::keep(make_space());
  const std::size_t mappings = kernel_mappings().size();
  std::shared_ptr<Space> space = spare::take({}, true);
  ASSERT_NE(space, nullptr);
  const Addr begin = space->begin();
  for (int round = 0; round < 6; ++round) {
    use(*space, 100'000);
    if (round >= 2) use(*space, round < 4 ? 300'000 : 7'000'000); // huge pages; so many that a new file costs less
    spare::keep(std::move(space));
    EXPECT_EQ(kernel_mappings().size(), mappings);
    space = spare::take({}, true);
    ASSERT_NE(space, nullptr);
    EXPECT_EQ(space->begin(), begin);
    EXPECT_EQ(live(*space), 0u);
    for (const AreaKind kind : {AreaKind::code, AreaKind::rodata, AreaKind::slots, AreaKind::frames}) {
      EXPECT_TRUE(is_zero(space->area_begin(kind).as<const std::byte*>(), 8 * mib)) << int(kind);
      EXPECT_TRUE(is_zero(space->writable(space->area_begin(kind)), 8 * mib)) << int(kind);
    }
    EXPECT_FALSE(can_read(space->area_begin(AreaKind::data)));
    const Block code = *space->allocate(AreaKind::code, 300'000, 16, 1);
    EXPECT_EQ(code.begin, space->area_begin(AreaKind::code)) << "from the front, as ever";
    const auto* bytes = code.begin.as<const unsigned char*>();
    EXPECT_TRUE(std::all_of(bytes, bytes + code.size, [](unsigned char byte) { return byte == 0xCC; }));
    const Block data = *space->allocate(AreaKind::data, 300'000, 16);
    EXPECT_TRUE(is_zero(data.begin.as<const std::byte*>(), data.size));
    write_function(*space, code, 7);
    EXPECT_EQ(call(code.begin), 7u);
  }
}

TEST_F(Spare, nobody_reaches_it_meanwhile) {
  std::shared_ptr<Space> space = make_space();
  use(*space, 1000);
  std::array<Addr, area_kinds> begins;
  for (std::size_t kind = 0; kind < area_kinds; ++kind) begins[kind] = space->area_begin(AreaKind(kind));
  const Addr alias = Addr::of(space->writable(begins[std::size_t(AreaKind::rodata)]));
  spare::keep(std::move(space));
  for (const AreaKind kind : kinds) EXPECT_FALSE(can_read(begins[std::size_t(kind)])) << int(kind);
  EXPECT_FALSE(can_read(alias)) << "a wild write";
  const Addr frames = begins[std::size_t(AreaKind::frames)];
  ASSERT_TRUE(can_read(frames)) << "the unwinder may ask for any address";
  EXPECT_TRUE(is_zero(frames.as<const std::byte*>(), 4096));
  EXPECT_FALSE(can_read(frames + 4096)) << "after it has seen that there is no table";
  std::size_t found = 0;
  for (const KernelMapping& mapping : kernel_mappings())
    if (begins[std::size_t(AreaKind::code)].value - mapping.begin < mapping.end - mapping.begin) {
      ++found;
      EXPECT_EQ(mapping.permissions.substr(0, 3), "---") << "a wild jump";
    }
  EXPECT_EQ(found, 1u);
}

// What programs do that may not wait for memory.
TEST_F(Spare, has_no_memory_either_once_all_is_locked) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    spare::keep(make_space());
    const std::uint64_t before = resident_bytes();
    if (mlockall(MCL_CURRENT) != 0) _exit(2); // RLIMIT_MEMLOCK
    _exit(resident_bytes() - before < 256 * mib ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 2) GTEST_SKIP() << "this user may not lock memory";
  EXPECT_EQ(status, 0);
}

TEST_F(Spare, there_is_one_at_most_and_only_of_the_usual_kind) {
  std::shared_ptr<Space> first = make_space();
  const std::size_t mappings = kernel_mappings().size();
  std::shared_ptr<Space> second = make_space();
  const Addr begin = first->begin();
  spare::keep(std::move(first));
  spare::keep(std::move(second));
  EXPECT_LE(kernel_mappings().size(), mappings + 2) << "the areas that nobody may read";
  std::shared_ptr<Space> taken = spare::take({}, true);
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(taken->begin(), begin);
  EXPECT_EQ(spare::take({}, true), nullptr);
  taken.reset();

  spare::keep(make_space({512 * mib, false, Mapping::dual}));
  EXPECT_EQ(spare::take({512 * mib, false, Mapping::dual}, true), nullptr) << "of another size";
  spare::keep(make_space({2048 * mib, false, Mapping::single}));
  EXPECT_EQ(spare::take({}, true), nullptr) << "single mapping";
  spare::keep(make_space({2048 * mib, false, Mapping::dual, Prefault::populate}));
  EXPECT_EQ(spare::take({}, true), nullptr) << "memory that has to be present";
  std::shared_ptr<Space> shared = make_space();
  spare::keep(shared);
  EXPECT_EQ(spare::take({}, true), nullptr) << "somebody has it";
  EXPECT_TRUE(shared->allocate(AreaKind::code, 100, 16, 1));
}

TEST_F(Spare, who_wants_another_kind_gets_its_place) {
  const std::size_t mappings = kernel_mappings().size();
  for (const SpaceOptions& other :
       {SpaceOptions{512 * mib}, SpaceOptions{2048 * mib, true}, SpaceOptions{2048 * mib, false, Mapping::single},
        SpaceOptions{2048 * mib, false, Mapping::dual, Prefault::lock}}) {
    spare::keep(make_space());
    ASSERT_GT(kernel_mappings().size(), mappings);
    EXPECT_EQ(spare::take(other, true), nullptr);
    EXPECT_EQ(kernel_mappings().size(), mappings);
  }
  spare::keep(make_space());
  EXPECT_EQ(spare::take({}, false), nullptr) << "without an anchor";
  EXPECT_EQ(kernel_mappings().size(), mappings);
}

TEST_F(Spare, a_failing_system_call_leaves_none_or_an_empty_one) {
  const std::size_t mappings = kernel_mappings().size();
  int failures = 0;
  for (long nth = 1;; ++nth) {
    std::shared_ptr<Space> space = make_space();
    use(*space, 1000);
    base::fault::countdown = nth;
    spare::keep(std::move(space));
    space = spare::take({}, true);
    const bool fired = base::fault::countdown.exchange(0) == 0;
    if (space != nullptr) {
      EXPECT_EQ(live(*space), 0u);
      EXPECT_TRUE(is_zero(space->writable(space->area_begin(AreaKind::rodata)), 2 * mib));
      EXPECT_TRUE(space->allocate(AreaKind::data, 1000, 16));
    } else {
      EXPECT_EQ(kernel_mappings().size(), mappings) << "after the failure of call " << nth;
    }
    if (!fired) {
      EXPECT_NE(space, nullptr);
      break;
    }
    failures += space == nullptr ? 1 : 0;
    ASSERT_LT(nth, 100);
  }
  EXPECT_GE(failures, 11); // four holes, data, the side table, two that deny access, three that give it
}

TEST_F(Spare, a_child_gives_it_up) {
  std::shared_ptr<Space> space = make_space();
  use(*space, 1000);
  const Addr rodata = space->area_begin(AreaKind::rodata), frames = space->area_begin(AreaKind::frames);
  spare::keep(std::move(space));
  int told[2];
  ASSERT_EQ(pipe(told), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char word = 0;
    if (read(told[0], &word, 1) != 1) _exit(__LINE__ & 0xFF); // the parent has written to it
    if (can_read(rodata) || !is_zero(frames.as<const std::byte*>(), 4096)) _exit(__LINE__ & 0xFF);
    if (spare::take({}, true) != nullptr) _exit(__LINE__ & 0xFF);
    std::shared_ptr<Space> own = *Space::create({}, *reserve({}));
    const Block code = *own->allocate(AreaKind::code, 100, 16, 1);
    write_function(*own, code, 3);
    if (call(code.begin) != 3) _exit(__LINE__ & 0xFF);
    spare::keep(std::move(own)); // one of its own
    own = spare::take({}, true);
    if (own == nullptr || live(*own) != 0) _exit(__LINE__ & 0xFF);
    _exit(0);
  }
  space = spare::take({}, true);
  ASSERT_NE(space, nullptr) << "the parent goes on";
  use(*space, 100'000);
  ASSERT_EQ(write(told[1], "", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "line " << WEXITSTATUS(status) << " modulo 256";
  close(told[0]);
  close(told[1]);
  const Block code = *space->allocate(AreaKind::code, 100, 16, 1);
  write_function(*space, code, 5);
  EXPECT_EQ(call(code.begin), 5u);
}

TEST_F(Spare, threads_take_and_keep_at_once) {
  std::vector<std::thread> threads;
  std::atomic<int> found{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        std::shared_ptr<Space> space = spare::take({}, true);
        found += space != nullptr ? 1 : 0;
        if (space == nullptr) space = make_space();
        const Block code = *space->allocate(AreaKind::code, 100, 16, 1);
        write_function(*space, code, std::uint32_t(t * 1000 + i));
        EXPECT_EQ(call(code.begin), std::uint32_t(t * 1000 + i));
        spare::keep(std::move(space));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(found, 0);
}

} // namespace
} // namespace tenon::memory

// fork(): parent and child each have their own memory from then on, and both go on linking.
//
// Children report through their exit status: zero, or the number of the line that failed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "base/fault.h"
#include "functions.h"
#include "maps.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tenon::memory {
namespace {

constexpr std::uint64_t mib = std::uint64_t(1) << 20;

// In a child: no gtest, no exit handlers.
#define CHILD_CHECK(condition)                                                                                              \
  do {                                                                                                                      \
    if (!(condition)) {                                                                                                     \
      dprintf(2, "child: %s:%d: %s\n", __FILE__, __LINE__, #condition);                                                     \
      _exit(1);                                                                                                             \
    }                                                                                                                       \
  } while (false)

std::shared_ptr<Space> make_space(Mapping mapping = Mapping::dual) {
  const SpaceOptions options{2048 * mib, false, mapping};
  Result<std::shared_ptr<Space>> space = Space::create(options, *reserve(options));
  EXPECT_TRUE(space.ok());
  return *space;
}

Block make_function(Space& space, std::uint32_t value) {
  const Block block = *space.allocate(AreaKind::code, 32, 16, 1);
  write_function(space, block, value);
  EXPECT_TRUE(space.publish(block).ok());
  return block;
}

void write_word(Space& space, Addr at, std::uint64_t value) {
  const WriteGuard guard(space);
  std::memcpy(space.writable(at), &value, 8);
}

std::uint64_t word(Addr at) { return *at.as<const volatile std::uint64_t*>(); }
pid_t in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  return child;
}

int exit_status(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// A pipe to keep parent and child in step.
struct Turn {
  Turn() { EXPECT_EQ(::pipe(ends), 0); }
  ~Turn() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void give() { (void)!::write(ends[1], "x", 1); }
  void wait() {
    char byte;
    (void)!::read(ends[0], &byte, 1);
  }
  int ends[2];
};

class ForkTest : public testing::TestWithParam<Mapping> {};

INSTANTIATE_TEST_SUITE_P(Modes, ForkTest, testing::Values(Mapping::dual, Mapping::single),
                         [](const auto& info) { return info.param == Mapping::dual ? "dual" : "single"; });

TEST_P(ForkTest, nothing_the_parent_does_reaches_the_child) {
  const auto space = make_space(GetParam());
  const Block function = make_function(*space, 1);
  const Block rodata = *space->allocate(AreaKind::rodata, 64, 16);
  const Block slot = *space->allocate(AreaKind::slots, 16, 16);
  const Block data = *space->allocate(AreaKind::data, 64, 16);
  ASSERT_TRUE(space->commit_frames(4096).ok());
  const Addr frame = space->area_begin(AreaKind::frames);
  for (const Addr at : {rodata.begin, slot.begin, data.begin, frame}) write_word(*space, at, 1);
  ASSERT_TRUE(space->publish(rodata).ok());
  Turn parent_done;
  const pid_t child = in_child([&] {
    parent_done.wait();
    for (int i = 0; i < 1000; ++i) CHILD_CHECK(call(function.begin) == 1);
    for (const Addr at : {rodata.begin, slot.begin, data.begin, frame}) CHILD_CHECK(word(at) == 1);
  });
  space->free(function); // trap-filled
  for (const Addr at : {slot.begin, data.begin, frame}) write_word(*space, at, 2);
  space->free(rodata);
  const Block reused = make_function(*space, 2);
  EXPECT_EQ(reused.begin, function.begin);
  parent_done.give();
  EXPECT_EQ(exit_status(child), 0);
  EXPECT_EQ(call(reused.begin), 2u);
}

TEST_P(ForkTest, nothing_the_child_does_reaches_the_parent) {
  const auto space = make_space(GetParam());
  const Block function = make_function(*space, 1);
  const Block slot = *space->allocate(AreaKind::slots, 16, 16);
  const Block data = *space->allocate(AreaKind::data, 16, 16);
  write_word(*space, slot.begin, 1);
  write_word(*space, data.begin, 1);
  const AreaUsage before = space->usage(AreaKind::code);
  const pid_t child = in_child([&] {
    write_word(*space, slot.begin, 2);
    write_word(*space, data.begin, 2);
    const Block mine = make_function(*space, 7);
    CHILD_CHECK(call(mine.begin) == 7);
    CHILD_CHECK(call(function.begin) == 1);
    space->free(function);
    const Block reused = make_function(*space, 8);
    CHILD_CHECK(reused.begin == function.begin && call(reused.begin) == 8);
    CHILD_CHECK(space->allocate(AreaKind::code, 20 * mib, 16).ok());
    CHILD_CHECK(space->commit_frames(mib).ok());
  });
  EXPECT_EQ(exit_status(child), 0);
  EXPECT_EQ(call(function.begin), 1u);
  EXPECT_EQ(word(slot.begin), 1u);
  EXPECT_EQ(word(data.begin), 1u);
  EXPECT_EQ(space->usage(AreaKind::code).live, before.live);
  EXPECT_EQ(call(make_function(*space, 3).begin), 3u);
}

TEST_P(ForkTest, children_fork_again) {
  const auto space = make_space(GetParam());
  const Block function = make_function(*space, 1);
  const pid_t child = in_child([&] {
    const Block mine = make_function(*space, 2);
    const pid_t grandchild = in_child([&] {
      const Block again = make_function(*space, 3);
      CHILD_CHECK(call(function.begin) == 1 && call(mine.begin) == 2 && call(again.begin) == 3);
      space->free(mine);
      space->free(function);
      CHILD_CHECK(call(again.begin) == 3);
    });
    space->free(function);
    CHILD_CHECK(call(mine.begin) == 2);
    int status = 0;
    CHILD_CHECK(::waitpid(grandchild, &status, 0) == grandchild && status == 0);
    CHILD_CHECK(call(mine.begin) == 2);
  });
  EXPECT_EQ(exit_status(child), 0);
  EXPECT_EQ(call(function.begin), 1u);
}

TEST_P(ForkTest, every_space_is_copied) {
  std::vector<std::shared_ptr<Space>> spaces;
  std::vector<Block> functions;
  for (std::uint32_t i = 0; i < 6; ++i) {
    spaces.push_back(make_space(i % 2 == 0 ? GetParam() : Mapping::dual));
    functions.push_back(make_function(*spaces.back(), i));
  }
  spaces.erase(spaces.begin() + 2);
  functions.erase(functions.begin() + 2);
  Turn parent_done;
  const pid_t child = in_child([&] {
    spaces[1].reset(); // the child's own to destroy
    parent_done.wait();
    for (const std::size_t i : {0u, 2u, 3u, 4u}) CHILD_CHECK(call(functions[i].begin) == (i < 2 ? i : i + 1));
  });
  for (std::size_t i = 0; i < spaces.size(); ++i) spaces[i]->free(functions[i]);
  parent_done.give();
  EXPECT_EQ(exit_status(child), 0);
}

// The parent's writers wait for the copy even if it is long, but fork() does not.
TEST(Fork, a_large_space_is_copied_whole) {
  const auto space = make_space();
  const Block block = *space->allocate(AreaKind::rodata, 64 * mib, 16);
  {
    const WriteGuard guard(*space);
    for (std::uint64_t i = 0; i < block.size; i += 8) std::memcpy(space->writable(block.begin + i), &i, 8);
  }
  Turn parent_done;
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = in_child([&] {
    parent_done.wait();
    for (std::uint64_t i = 0; i < block.size; i += 8) CHILD_CHECK(word(block.begin + i) == i);
  });
  const auto forked = std::chrono::steady_clock::now();
  {
    const WriteGuard guard(*space);
    const auto written = std::chrono::steady_clock::now();
    std::memset(space->writable(block.begin), 0xFF, block.size);
    RecordProperty("fork_us", int((forked - start) / std::chrono::microseconds(1)));
    RecordProperty("first_write_us", int((written - forked) / std::chrono::microseconds(1)));
  }
  parent_done.give();
  EXPECT_EQ(exit_status(child), 0);
}

TEST(Fork, mappings_of_the_child_are_as_few_and_as_safe) {
  const auto space = make_space();
  make_function(*space, 1);
  const auto ours = [] {
    std::size_t count = 0;
    for (const KernelMapping& mapping : kernel_mappings())
      count += mapping.name.find("memfd:tenon") != std::string::npos ? 1 : 0;
    return count;
  };
  const std::size_t before = ours();
  const pid_t child = in_child([&] {
    CHILD_CHECK(ours() == before);
    for (const KernelMapping& mapping : kernel_mappings(true)) {
      CHILD_CHECK(!(mapping.permissions[1] == 'w' && mapping.permissions[2] == 'x'));
      if (Addr::of(space->writable(space->area_begin(AreaKind::code))).value - mapping.begin < mapping.end - mapping.begin)
        CHILD_CHECK(mapping.flags.find(" dd ") != std::string::npos);
    }
  });
  EXPECT_EQ(exit_status(child), 0);
}

TEST(Fork, a_child_that_dies_or_execs_does_not_hold_up_its_parent) {
  const auto space = make_space();
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (i % 2 == 0) _exit(0);
      ::execl("/bin/true", "true", nullptr);
      _exit(1);
    }
    EXPECT_EQ(call(make_function(*space, 5).begin), 5u);
    EXPECT_EQ(exit_status(child), 0);
  }
}

// Twenty in a row, more than may be copying at a time.
TEST(Fork, many_children_at_once) {
  const auto space = make_space();
  const Block function = make_function(*space, 1);
  Turn go;
  std::vector<pid_t> children;
  for (int i = 0; i < 20; ++i)
    children.push_back(in_child([&] {
      go.wait();
      CHILD_CHECK(call(function.begin) == 1);
      CHILD_CHECK(call(make_function(*space, 9).begin) == 9);
    }));
  space->free(function);
  for (int i = 0; i < 20; ++i) go.give();
  for (const pid_t child : children) EXPECT_EQ(exit_status(child), 0);
}

TEST(Fork, works_without_a_descriptor_for_the_pipe) {
  const auto space = make_space();
  const Block function = make_function(*space, 1);
  base::fault::countdown = 1; // the pipe; the child has its copy of the counter, used up
  const pid_t child = in_child([&] {
    CHILD_CHECK(call(function.begin) == 1);
    CHILD_CHECK(call(make_function(*space, 2).begin) == 2);
  });
  EXPECT_EQ(base::fault::countdown.load(), 0);
  space->free(function);
  EXPECT_EQ(exit_status(child), 0);
}

TEST(Fork, a_child_without_memory_says_so_and_aborts) {
  const auto space = make_space();
  for (long nth = 2; nth <= 8; ++nth) { // memfd_create, ftruncate, pwrite of the code, four mmaps
    int output[2];
    ASSERT_EQ(::pipe(output), 0);
    const int old_stderr = ::dup(2);
    ::dup2(output[1], 2);
    const rlimit no_core{0, 0};
    rlimit old_core{};
    ::getrlimit(RLIMIT_CORE, &old_core);
    const rlimit soft{no_core.rlim_cur, old_core.rlim_max};
    ::setrlimit(RLIMIT_CORE, &soft);
    base::fault::countdown = nth;
    const pid_t child = in_child([] {});
    base::fault::countdown = 0;
    ::dup2(old_stderr, 2);
    ::close(old_stderr);
    ::close(output[1]);
    EXPECT_EQ(exit_status(child), 1000 + SIGABRT) << nth;
    ::setrlimit(RLIMIT_CORE, &old_core);
    char text[512] = {};
    (void)!::read(output[0], text, sizeof text - 1);
    ::close(output[0]);
    EXPECT_NE(std::strstr(text, "tenon: after fork(): "), nullptr) << text;
    EXPECT_EQ(call(make_function(*space, 4).begin), 4u) << "the parent goes on";
  }
}

// Threads link, create and destroy Spaces while others fork.
TEST(Fork, at_any_moment) {
  const auto space = make_space();
  const Block function = make_function(*space, 1);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (std::uint32_t seed = 0; seed < 2; ++seed)
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      std::vector<std::pair<Block, std::uint32_t>> mine;
      while (!stop) {
        if (mine.size() < 100) {
          const auto value = static_cast<std::uint32_t>(random());
          mine.emplace_back(make_function(*space, value), value);
        } else {
          for (const auto& [block, value] : mine) {
            ASSERT_EQ(call(block.begin), value);
            space->free(block);
          }
          mine.clear();
        }
        if (random() % 256 == 0) {
          const auto other = make_space();
          const WriteGuard outer(*other);
          write_function(*space, mine.empty() ? function : mine[0].first, mine.empty() ? 1 : mine[0].second);
        }
      }
    });
  for (int i = 0; i < 60; ++i) {
    const pid_t child = in_child([&] {
      CHILD_CHECK(call(function.begin) == 1);
      for (std::uint32_t n = 0; n < 200; ++n) CHILD_CHECK(call(make_function(*space, n).begin) == n);
      const auto other = make_space();
      CHILD_CHECK(call(make_function(*other, 5).begin) == 5);
    });
    ASSERT_EQ(exit_status(child), 0) << "fork " << i;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST(Fork, a_guard_inside_a_guard_does_not_wait) {
  const auto a = make_space(), b = make_space();
  const WriteGuard outer(*a);
  pid_t child = 0;
  std::thread forker([&] { child = in_child([] {}); }); // waits for `outer`
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(call(make_function(*b, 6).begin), 6u);
  a->leave_write();
  forker.join();
  a->enter_write();
  EXPECT_EQ(exit_status(child), 0);
}

TEST(ForkDeathTest, forking_inside_a_guard_stops_the_program) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto space = make_space();
  EXPECT_DEATH(
      {
        const WriteGuard guard(*space);
        (void)::fork();
      },
      "fork\\(\\) called by a thread that is writing");
}

} // namespace
} // namespace tenon::memory

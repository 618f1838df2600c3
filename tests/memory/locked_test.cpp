// A program that has all of its memory locked pays for what a Space uses, not for what it reserves.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/space.h"

#include "functions.h"
#include "maps.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tenon::memory {
namespace {

constexpr std::uint64_t mib = std::uint64_t(1) << 20;

TEST(Locked, a_space_has_little_memory_although_all_of_the_process_is_locked) {
#ifdef TENON_SANITIZED
  GTEST_SKIP() << "the sanitizer's shadow would be locked, too";
#endif
  const pid_t child = fork(); // whose locks are its own
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) _exit(2); // RLIMIT_MEMLOCK
    const std::uint64_t before = resident_bytes();
    std::shared_ptr<Space> space = *Space::create({}, *reserve({}));
    if (resident_bytes() > before + 16 * mib) _exit(3); // the count may fall a little: it is kept by processor
    const Block code = *space->allocate(AreaKind::code, 100, 16, 1);
    write_function(*space, code, 3);
    if (call(code.begin) != 3) _exit(4);
    _exit(resident_bytes() < before + 64 * mib ? 0 : 5);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 2) GTEST_SKIP() << "this user may not lock memory";
  EXPECT_EQ(status, 0) << "step " << WEXITSTATUS(status);
}

} // namespace
} // namespace tenon::memory

// Memory fails at each allocation in turn while debug information is read: it is read as a whole, or not at all, or
// std::bad_alloc says why; nothing reads through null, as readers for finished programs do.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_info.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>

#include <unistd.h>

// A sanitizer has its own malloc.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TENON_OWN_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define TENON_OWN_MALLOC 0
#endif
#endif
#ifndef TENON_OWN_MALLOC
#define TENON_OWN_MALLOC 1
#endif

#if TENON_OWN_MALLOC
namespace {

thread_local constinit long left = 0;      // 0: none fails
thread_local constinit bool stays = false; // all that follow fail as well
thread_local constinit long counted = 0;

bool fails() noexcept {
  ++counted;
  if (left == 0 || --left != 0) return false;
  if (stays) left = 1;
  errno = ENOMEM;
  return true;
}

} // namespace

// glibc's own, which a program's replace ("Replacing malloc" in its manual).
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);

void* malloc(std::size_t size) noexcept { return fails() ? nullptr : __libc_malloc(size); }
void* calloc(std::size_t count, std::size_t size) noexcept { return fails() ? nullptr : __libc_calloc(count, size); }
void* realloc(void* old, std::size_t size) noexcept { return fails() ? nullptr : __libc_realloc(old, size); }
}

namespace tenon::object {
namespace {

const char* const source = R"(
typedef struct { int a; char b[3]; } S; enum E { x, y }; static int count; int v = 3; union U { long l; double d; };
int f(int n, const S* s, enum E e, ...) { static int count = 5; { static long count = 7; count += n; } return count += s->a + e; }
static inline int g(union U u, int (*fn)(int, char)) { static int n = 1; return n++ + fn(1, 2) + (int)u.l; }
int h(int (*fn)(int, char), volatile const char* p, S s) { union U u = {1}; return g(u, fn) + *p + s.a + ++count; }
)";

Object compiled(const std::string& flags) {
  const std::string base = (std::filesystem::temp_directory_path() / ("tenon-debug-" + std::to_string(getpid()))).string();
  std::ofstream(base + ".c") << source;
  EXPECT_EQ(std::system(("cc -c " + flags + " " + base + ".c -o " + base + ".o").c_str()), 0);
  Result<Object> object = Object::read_file(base + ".o");
  EXPECT_TRUE(object) << object.error().message;
  std::filesystem::remove(base + ".c");
  std::filesystem::remove(base + ".o");
  return std::move(*object);
}

void fail_at_each(const Object& object) {
  const std::optional<DebugInfo> whole = read_debug_info(object); // what is done once is done now
  ASSERT_TRUE(whole);
  ASSERT_GE(whole->variables.size(), 4U);
  counted = 0;
  ASSERT_TRUE(read_debug_info(object));
  const long all = counted;
  ASSERT_GT(all, 50);
  long threw = 0, none = 0;
  for (const bool on : {false, true})
    for (long n = 1; n <= all; ++n) {
      std::optional<DebugInfo> info;
      bool thrown = false;
      left = n;
      stays = on;
      try {
        info = read_debug_info(object);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      left = 0;
      threw += thrown;
      none += !thrown && !info;
      if (!info) continue;
      EXPECT_EQ(info->variables, whole->variables) << "call " << n << " of " << all << (on ? " and all that follow" : "");
      EXPECT_EQ(info->functions, whole->functions) << "call " << n << " of " << all << (on ? " and all that follow" : "");
    }
  EXPECT_GT(threw, all / 2) << none << " gave nothing";
}

TEST(DebugMemory, EachAllocationMayFail) {
  fail_at_each(compiled("-g -gdwarf-5 -O1"));
  fail_at_each(compiled("-g -gdwarf-4 -O0"));
  fail_at_each(compiled("-g -gdwarf-4 -fdebug-types-section -O0"));
  fail_at_each(compiled("-g -gz -O1"));
}

} // namespace
} // namespace tenon::object
#endif

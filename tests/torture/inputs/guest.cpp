// A module that comes and goes. Compiled with GUEST (its number) and CORE (whose function it calls); a child calls its guest.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)
using u64 = unsigned long;
#ifdef CHILD
extern "C" u64 JOIN(guest_, GUEST)(u64 x);
extern "C" u64 JOIN(child_, GUEST)(u64 x) { return JOIN(guest_, GUEST)(x); }
#else
namespace {
struct Stay {
  Stay() { torture_guest(1); }
  ~Stay() { torture_guest(0); }
} stay;
} // namespace
extern "C" u64 JOIN(value_, CORE)(u64 x);
extern "C" u64 JOIN(guest_, GUEST)(u64 x) {
  const u64 got = JOIN(value_, CORE)(x);
  asm volatile("" : : : "memory");
  return got;
}
#endif

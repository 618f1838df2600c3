// One of a cycle of collected modules: RING and OWN are its numbers, NEXT is whom it calls, CORE a module that stays. The last
// of a cycle has nothing to do at its end, so that its code can be unloaded.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define GLUE(a, b, c, d) a##b##c##d
#define JOIN(a, b, c, d) GLUE(a, b, c, d)
using u64 = unsigned long;
#if NEXT != 0
namespace {
struct Stay {
  Stay() { torture_ring(1); }
  ~Stay() { torture_ring(0); }
} stay;
} // namespace
#endif
extern "C" {
u64 JOIN(value_, CORE, , )(u64 x);
u64 JOIN(ring_, RING, _, NEXT)(u64 depth, u64 x);
u64 JOIN(ring_, RING, _, OWN)(u64 depth, u64 x) {
  if (depth == 0) return unsigned(JOIN(value_, CORE, , )(x)) == unsigned(x * 3 + CORE) ? x * (RING + 1) : ~0UL;
  return JOIN(ring_, RING, _, NEXT)(depth - 1, x) + 1;
}
}

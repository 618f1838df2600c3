// What calls of a core module's value() are redirected to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)
using u64 = unsigned long;
extern "C" u64 JOIN(detour_, MODULE)(u64 x) {
  unsigned serial;
  asm volatile("movl $0x5EEDF00D, %0" : "=r"(serial));
  return u64(serial) << 32 | unsigned(x + x + x + MODULE);
}

// Two functions of a core module, alone: the rest of the module is referred to by name, what is local to it as well.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)
#define OWN(name) JOIN(name##_, MODULE)
#define SERIAL                                                                                                              \
  __extension__({                                                                                                           \
    unsigned serial;                                                                                                        \
    asm volatile("movl $0x5EEDF00D, %0" : "=r"(serial));                                                                    \
    serial;                                                                                                                 \
  })
using u64 = unsigned long;

extern u64 counted_of_the_module asm("_ZN12_GLOBAL__N_17countedE");

namespace {

// Comes with them.
[[gnu::noinline]] u64 part_helper(u64 x) { return x * 3 + MODULE; }

} // namespace

extern "C" {
u64 OWN(value)(u64 x) { return u64(SERIAL) << 32 | unsigned(part_helper(x)); }
u64 OWN(count)() { return __atomic_add_fetch(&counted_of_the_module, 1, __ATOMIC_RELAXED); }
}

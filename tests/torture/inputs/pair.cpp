// Half of a set that is replaced as a whole; the other half has the same serial number.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define SERIAL                                                                                                              \
  __extension__({                                                                                                           \
    unsigned serial;                                                                                                        \
    asm volatile("movl $0x5EEDF00D, %0" : "=r"(serial));                                                                    \
    serial;                                                                                                                 \
  })
extern "C" {
unsigned pair_left();
unsigned pair_right();
#if MODULE == 4
unsigned pair_left() { return SERIAL; }
unsigned pair_both() { return pair_left() == pair_right(); }
#else
unsigned pair_right() { return SERIAL; }
#endif
}

// A module of which two functions are replaced together, as single functions. With FUNCTIONS it is these alone.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define SERIAL                                                                                                              \
  __extension__({                                                                                                           \
    unsigned serial;                                                                                                        \
    asm volatile("movl $0x5EEDF00D, %0" : "=r"(serial));                                                                    \
    serial;                                                                                                                 \
  })
extern "C" {
unsigned couple_left() { return SERIAL; }
unsigned couple_right() { return SERIAL; }
#ifndef FUNCTIONS
// How often they were of different versions.
unsigned couple_differ(unsigned times) {
  unsigned differ = 0;
  for (unsigned i = 0; i < times; ++i) differ += couple_left() != couple_right();
  return differ;
}
#endif
}

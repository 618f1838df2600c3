// A module of a library that lives for a moment. SIZE: of its table, which is migrated.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
extern "C" {
unsigned long visitor_table[SIZE] = {1};
unsigned long visitor_kept = 1;
#if SIZE == 2
unsigned long visitor_vanishes = 5;
#endif
unsigned long visitor() { return ++visitor_kept * 1000 + visitor_table[0] * 10 + SIZE; }
}

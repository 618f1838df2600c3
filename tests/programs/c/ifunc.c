// IFUNCs: by hand, and the dispatch that GCC makes for target_clones (libgcc's __cpu_model); called and pointed to.
// (Pointers are not compared: PIE and other programs differ in that.)
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <stdio.h>

static int plain(int x) { return x + 1; }
static int other(int x) { return x + 2; }
static int select_count;
static int (*select_one(void))(int) { return select_count ? other : plain; }
int chosen(int x) __attribute__((ifunc("select_one")));
static int hidden_one(int x) __attribute__((ifunc("select_one")));

__attribute__((target_clones("avx2", "sse4.2", "default"))) long dot(const int* a, const int* b, int n) {
  long sum = 0;
  for (int i = 0; i < n; i++) sum += (long)a[i] * b[i];
  return sum;
}

int (*pointer)(int) = chosen;
extern int chosen_elsewhere(int x);
extern int (*pointer_elsewhere(void))(int);

int main(void) {
  int a[100], b[100];
  for (int i = 0; i < 100; i++) a[i] = i, b[i] = 2 * i;
  printf("%d %d %d\n", chosen(1), hidden_one(2), pointer(3));
  printf("dot %ld\n", dot(a, b, 100));
  printf("elsewhere %d %d\n", pointer_elsewhere()(5), chosen_elsewhere(10));
  return __builtin_cpu_supports("sse2") ? 0 : 1;
}

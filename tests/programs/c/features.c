// What C compilers emit besides plain code: callbacks from the host, variable argument lists, alloca, jump tables,
// computed goto, complex and 128-bit arithmetic (helpers of libgcc), inline assembly, weak and common symbols.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <alloca.h>
#include <complex.h>
#include <math.h>
#include <search.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

int common_variable;
extern int absent_function(int) __attribute__((weak));
extern int absent_variable __attribute__((weak));
__attribute__((weak)) int weak_default(void) { return 1; }
int weak_overridden(void);
__attribute__((weak, noinline)) int weak_overridden(void) { return 1; }

static int compare(const void* a, const void* b) { return strcmp(*(const char* const*)a, *(const char* const*)b); }

static int sum(int count, ...) {
  va_list list, copy;
  va_start(list, count);
  va_copy(copy, list);
  double total = 0;
  for (int i = 0; i < count; i++) total += i % 2 ? va_arg(list, double) : va_arg(list, int);
  total += va_arg(copy, int);
  va_end(copy);
  va_end(list);
  return (int)total;
}

static int format(char* out, size_t size, const char* text, ...) {
  va_list list;
  va_start(list, text);
  int n = vsnprintf(out, size, text, list);
  va_end(list);
  return n;
}

static int interpret(const unsigned char* program) {
  static void* const table[] = {&&push, &&add, &&multiply, &&end};
  int stack[16], *top = stack;
  goto* table[*program++];
push:
  *top++ = *program++;
  goto* table[*program++];
add:
  top--;
  top[-1] += *top;
  goto* table[*program++];
multiply:
  top--;
  top[-1] *= *top;
  goto* table[*program++];
end:
  return top[-1];
}

__attribute__((noinline)) static const char* jump_table(int n) {
  switch (n) {
  case 0: return "zero";
  case 1: return "one";
  case 2: puts("two is loud"); return "two";
  case 3: return "three";
  case 4: return "four";
  case 5: puts("five"); return "V";
  case 6: return "six";
  case 7: return getenv("TENON_NOT_SET") ? "set" : "unset";
  default: return "many";
  }
}

struct Big {
  long values[9];
};
__attribute__((noinline)) static struct Big make_big(struct Big in, int by) {
  for (int i = 0; i < 9; i++) in.values[i] += by * i;
  return in;
}

static int vla(int n) {
  int values[n][n];
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) values[i][j] = i * j;
  char* text = alloca(n + 1);
  memset(text, 'x', n);
  text[n] = 0;
  return values[n - 1][n - 1] + (int)strlen(text);
}

__attribute__((noinline)) static __int128 divide(__int128 a, __int128 b) { return a / b + a % b; }
__attribute__((noinline)) static unsigned __int128 udivide(unsigned __int128 a, unsigned __int128 b) { return a / b; }
__attribute__((noinline)) static double _Complex product(double _Complex a, double _Complex b) { return a * b / (a + b); }
__attribute__((noinline)) static long double extended(long double x) { return sqrtl(x) + powl(x, 0.25L); }
__attribute__((noinline)) static __float128 quadruple(__float128 x, __float128 y) { return x / y + x * y; }

int main(void) {
  const char* words[] = {"pear", "apple", "fig", "banana", "cherry"};
  qsort(words, 5, sizeof *words, compare);
  for (int i = 0; i < 5; i++) printf("%s ", words[i]);
  const char* key = "fig";
  printf("%td\n", (const char**)bsearch(&key, words, 5, sizeof *words, compare) - words);
  char buffer[64];
  printf("sum %d, %d characters\n", sum(5, 1, 2.5, 3, 4.5, 5),
         format(buffer, sizeof buffer, "%s-%5.2f-%lld", "a", 3.14159, 1LL << 40));
  puts(buffer);
  printf("interpret %d\n", interpret((const unsigned char[]){0, 6, 0, 7, 2, 0, 8, 1, 3}));
  for (int i = 0; i < 9; i++) printf("%s ", jump_table(i));
  putchar('\n');
  struct Big big = {{1, 2, 3, 4, 5, 6, 7, 8, 9}};
  printf("big %ld\n", make_big(big, 3).values[8]);
  printf("vla %d\n", vla(12));
  __int128 quotient = divide((__int128)0x123456789abcdefLL << 60, -((__int128)987654321 << 5));
  printf("int128 %016llx%016llx\n", (unsigned long long)((unsigned __int128)quotient >> 64), (unsigned long long)quotient);
  unsigned __int128 u = udivide(~(unsigned __int128)0, 1000000007);
  printf("uint128 %016llx%016llx\n", (unsigned long long)(u >> 64), (unsigned long long)u);
  double _Complex z = product(1.5 + 2.5 * I, -0.5 + 4 * I);
  printf("complex %.6f %.6f %.6f\n", creal(z), cimag(z), cabs(cexp(z)));
  printf("long double %.10Lf float128 %.10f\n", extended(7.5L), (double)quadruple(10, 3));
  printf("weak %d %d %d %d\n", absent_function != NULL, &absent_variable != NULL, weak_default(), weak_overridden());
  common_variable += 5;
  printf("common %d\n", common_variable);
  unsigned low, high = 0;
  __asm__("mull %3" : "=a"(low), "+d"(high) : "0"(0xfffffffeu), "r"(3u) : "cc");
  printf("asm %u %u popcount %d clz %d\n", low, high, __builtin_popcountll(0xf0f0f0f0ULL), __builtin_clz(1000));
  _Atomic long counter = 5;
  atomic_fetch_add(&counter, 10);
  long expected = 15;
  atomic_compare_exchange_strong(&counter, &expected, 99);
  printf("atomic %ld\n", counter);
  printf("float %a %g %d %d\n", 0.1f, fmod(10.5, 3), isnan(NAN), (int)lround(2.5));
  printf("wide %ls %zu\n", L"wide", wcslen(L"four"));
  return 42;
}

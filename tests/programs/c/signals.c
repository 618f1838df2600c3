// Signal handlers, sigsetjmp out of a fault, setjmp and longjmp across modules' frames and the host's.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static sigjmp_buf escape;
static volatile sig_atomic_t usr1, alarms;

static void on_fault(int number, siginfo_t* info, void* context) {
  (void)context;
  siglongjmp(escape, info->si_addr == (void*)16 ? number : -1);
}
static void on_usr1(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  usr1 += info->si_value.sival_int;
}
static void on_alarm(int number) {
  (void)number;
  alarms++;
}

static jmp_buf sorted;
static int jumping_compare(const void* a, const void* b) {
  if (*(const int*)a == 4) longjmp(sorted, 4);
  return *(const int*)a - *(const int*)b;
}

int main(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = on_fault;
  sigaction(SIGSEGV, &action, NULL);
  for (int i = 0; i < 3; i++) {
    int number = sigsetjmp(escape, 1);
    if (number == 0)
      *(volatile int*)16 = 1;
    else
      printf("fault %d %d\n", i, number == SIGSEGV);
  }
  action.sa_sigaction = on_usr1;
  sigaction(SIGUSR1, &action, NULL);
  for (int i = 0; i < 5; i++) sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = i});
  printf("usr1 %d\n", (int)usr1);
  int values[] = {5, 3, 4, 1};
  int jumped = setjmp(sorted);
  if (jumped == 0) qsort(values, 4, sizeof *values, jumping_compare);
  printf("jumped %d\n", jumped);
  signal(SIGALRM, on_alarm);
  struct itimerval timer = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &timer, NULL);
  double x = 1;
  while (alarms < 5) x = x * 1.0000001;
  memset(&timer, 0, sizeof timer);
  setitimer(ITIMER_REAL, &timer, NULL);
  printf("alarms %d\n", alarms >= 5 && x > 1);
  fflush(stdout);
  raise(SIGTERM);
  return 0;
}

// fork, wait, pipes and the ways to leave: exit, _exit, quick_exit, abort.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int counter;
static void quick(void) {
  static const char text[] = "quick\n";
  if (write(1, text, sizeof text - 1) < 0) _exit(1);
}
static void normal(void) { puts("atexit"); }
static void in_child(void) { counter += 100; }

static int child(int kind) {
  counter += kind;
  switch (kind) {
  case 0: exit(counter);
  case 1: _exit(17);
  case 2: quick_exit(18);
  case 3: {
    sigset_t all;
    sigfillset(&all);
    abort();
  }
  default: return counter;
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  atexit(normal);
  at_quick_exit(quick);
  pthread_atfork(NULL, NULL, in_child);
  for (int kind = 0; kind < 5; kind++) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) return child(kind);
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status))
      printf("child %d exited %d\n", kind, WEXITSTATUS(status));
    else
      printf("child %d signal %d\n", kind, WTERMSIG(status));
  }
  int ends[2];
  if (pipe(ends)) return 1;
  if (fork() == 0) {
    dprintf(ends[1], "through the pipe %d", counter);
    _exit(0);
  }
  char text[64] = "";
  close(ends[1]);
  if (read(ends[0], text, sizeof text - 1) < 0) return 1;
  wait(NULL);
  printf("%s, parent %d\n", text, counter);
  return 6;
}

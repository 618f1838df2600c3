// A thread-local variable of a shared object, reached initial-exec: the host's variables lie in static TLS.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <pthread.h>
#include <stdio.h>

extern __thread int library_variable __attribute__((tls_model("initial-exec")));
extern __thread int library_array[4];
int library_read(void);

static void* body(void* argument) {
  library_variable += *(int*)argument;
  library_array[2] = library_variable * 2;
  return (void*)(long)library_read();
}

int main(void) {
  library_variable = 1000;
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    void* result;
    pthread_create(&thread, NULL, body, &i);
    pthread_join(thread, &result);
    printf("thread %ld\n", (long)result);
  }
  printf("main %d\n", library_read());
  return 0;
}

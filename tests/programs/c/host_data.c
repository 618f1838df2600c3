// Data of the host: standard streams, the environment, getopt's variables, time zones, and errno.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char** environ;
static FILE* const* const stream_address = &stderr;

int main(int argc, char** argv) {
  int seen = 0;
  for (char** entry = environ; *entry; entry++)
    if (strncmp(*entry, "TENON_TEST_", 11) == 0) {
      puts(*entry);
      seen++;
    }
  printf("seen %d\n", seen);
  setenv("TENON_TEST_NEW", "new", 1);
  printf("%s\n", getenv("TENON_TEST_NEW"));
  for (int option; (option = getopt(argc, argv, "ab:")) != -1;)
    printf("option %c %s %d\n", option, optarg ? optarg : "-", optind);
  printf("rest %d %s\n", argc - optind, argv[optind]);
  fprintf(stdout, "to stdout\n");
  fprintf(stderr, "to stderr %d\n", *stream_address == stderr);
  char line[64];
  while (fgets(line, sizeof line, stdin)) fputs(line, stdout);
  errno = 0;
  if (!fopen("/nonexistent", "r")) printf("errno %d %s\n", errno == ENOENT, strerror(errno));
  setenv("TZ", "UTC-3", 1);
  tzset();
  printf("timezone %ld %s\n", timezone, tzname[0]);
  int (*found)(const char*) = (int (*)(const char*))dlsym(RTLD_DEFAULT, "puts");
  found("by dlsym");
  printf("same %d\n", found == puts);
  return 0;
}

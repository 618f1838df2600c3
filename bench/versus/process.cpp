// Reads /proc/self, asks glibc's malloc, and Tenon's pool of pieces, which is none of malloc's.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "process.h"

#include "base/pages.h"
#include "base/pool.h"

#include <malloc.h>

#include <cstdio>

namespace versus {

std::int64_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/smaps_rollup", "r");
  if (file == nullptr) return 0;
  std::int64_t kilobytes = 0;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    long long value = 0;
    if (std::sscanf(line, "Pss_Anon: %lld kB", &value) == 1 || std::sscanf(line, "Pss_Shmem: %lld kB", &value) == 1)
      kilobytes += value;
  }
  std::fclose(file);
  return kilobytes * 1024;
}

std::size_t mapping_count() {
  std::FILE* file = std::fopen("/proc/self/maps", "r");
  if (file == nullptr) return 0;
  std::size_t lines = 0;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) lines += c == '\n' ? 1 : 0;
  std::fclose(file);
  return lines;
}

std::int64_t heap_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<std::int64_t>(info.uordblks + info.hblkhd + tenon::base::pool::usage().live +
                                   tenon::base::mapped_table_bytes());
}

void give_back_free_memory() { malloc_trim(0); }

} // namespace versus

// The case swap/memory: resident bytes of the process after many swaps of a function under load, against after 1,000.
//
// 50,000 swaps, or a million in the full form, with callers on all cores; what waits to be freed at the moment of reading
// counts. The note has what the engine says of itself, where a leak of a few bytes a swap shows that the process's pages
// hide.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "callers.h"
#include "cases.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace versus {
namespace {

constexpr std::size_t early = 1000;

double resident_mb() {
  unsigned long long size = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%llu %llu", &size, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

struct Reading {
  double resident = 0;
  tenon::EngineUsage usage;
};

Result<Reading> swap_until(LiveFunction& live, std::size_t& done, std::size_t wanted, const Settings& settings) {
  for (; done < wanted; ++done) {
    if (done % 10000 == 0) settings.progress("swap/memory: " + std::to_string(done) + " swaps");
    if (auto swapped = live.swap(); !swapped) return std::move(swapped).error();
  }
  return Reading{resident_mb(), live.engine().usage()};
}

Row run_swap_memory(const Settings& settings) {
  Row row{"swap/memory", "MB", {}, {}, {}};
  const std::size_t late = settings.full ? 1'000'000 : 50'000;
  auto live = LiveFunction::create();
  if (!live) return row.faults.push_back(live.error().message), row;
  Callers callers((*live)->caller(), std::max(1U, std::thread::hardware_concurrency()), &(*live)->engine());
  auto border = (*live)->engine().border("swapper");
  if (!border) return row.faults.push_back(border.error().message), row;
  std::size_t done = 0;
  auto first = swap_until(**live, done, early, settings);
  if (!first) return row.faults.push_back(first.error().message), row;
  auto last = swap_until(**live, done, late, settings);
  if (!last) return row.faults.push_back(last.error().message), row;
  if (std::string wrong = callers.stop(); !wrong.empty()) row.faults.push_back(wrong);
  Figure before{"after_1k", {}, {}}, after{settings.full ? "after_1m" : "after_50k", {}, {}};
  before.samples.add(first->resident);
  after.samples.add(last->resident);
  row.figures = {std::move(before), std::move(after)};
  char text[300];
  std::snprintf(
      text, sizeof text,
      "%+.2f %% after %zu swaps; the engine's live bytes %llu, then %llu; backed by memory %llu, then %llu; on the "
      "heap %llu, then %llu",
      (last->resident / first->resident - 1) * 100, late, static_cast<unsigned long long>(first->usage.live),
      static_cast<unsigned long long>(last->usage.live), static_cast<unsigned long long>(first->usage.committed),
      static_cast<unsigned long long>(last->usage.committed), static_cast<unsigned long long>(first->usage.bookkeeping),
      static_cast<unsigned long long>(last->usage.bookkeeping));
  row.note = text;
  return row;
}

} // namespace

std::vector<Case> swap_memory_cases() {
  return {{"swap/memory", "resident bytes after many swaps under load, against after 1,000", run_swap_memory}};
}

} // namespace versus

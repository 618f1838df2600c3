// The torture program: what it runs, for how long, and what must be the case when it is over.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/torture.h"

#include <CLI/CLI.hpp>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <thread>

namespace torture {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The process's mappings. Beside a sanitizer, which maps as it likes, only those that have our name.
std::vector<std::string> mappings() {
  std::vector<std::string> lines;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (!sanitized || line.find("tenon") != std::string::npos) lines.push_back(line);
  if (sanitized) std::erase_if(lines, [](const std::string& line) { return line.find("memfd") == std::string::npos; });
  return lines;
}

std::vector<std::thread> begin_threads(World& world) {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < world.settings.callers; ++i) threads.emplace_back(run_caller, std::ref(world), i);
  for (unsigned i = 0; i < world.settings.changers; ++i) threads.emplace_back(run_changer, std::ref(world), i);
  return threads;
}

void show_progress(const World& world, double seconds) {
  std::fprintf(stderr, "\r%6.1f s: %lu patches, %lu calls, %lu versions wait, %lu KiB ", seconds, world.patches.load(),
               world.calls.load(), u64(world.engine.usage().superseded), u64(world.engine.usage().live >> 10));
}

bool is_over(const World& world, double seconds) {
  const Settings& settings = world.settings;
  if (settings.seconds != 0) return seconds >= settings.seconds;
  return world.patches >= settings.patches && world.calls >= settings.calls;
}

// One engine's life, from nothing to nothing.
void live(const Settings& settings, const Molds& molds, bool tell) {
  constexpr double patience = 120; // seconds without a patch or a call: somebody waits for ever
  // Not on the stack: pointers to functions may look like return addresses there.
  const auto there = std::make_unique<World>(settings, molds);
  World& world = *there;
  const Clock::time_point begin = Clock::now();
  std::vector<std::thread> threads = begin_threads(world);
  const bool terminal = isatty(2) != 0;
  u64 patches_before = 0, calls_before = 0;
  double moved = 0, shown = 0;
  for (double now = 0; !is_over(world, now); now = seconds_since(begin)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (world.patches != patches_before && world.calls != calls_before) {
      moved = now;
      patches_before = world.patches;
      calls_before = world.calls;
    }
    if (now - moved > patience) wrong("no patch, or no call, for %.0f seconds", patience);
    if (tell && now - shown > (terminal ? 0.2 : 10)) {
      shown = now;
      show_progress(world, now);
      if (!terminal) std::fputc('\n', stderr);
    }
  }
  world.stop = true;
  for (std::thread& thread : threads) thread.join();
  const double seconds = seconds_since(begin);
  tenon::test::scrub_stack();
  world.end();
  if (!tell) return;
  if (terminal) std::fputc('\r', stderr);
  std::printf("%lu patches, %lu calls in %.1f s; %lu bytes of code and data at the beginning, %lu at the end\n"
              "callers: %s\nchangers: %s\n",
              world.patches.load(), world.calls.load(), seconds, world.live_at_first, world.live_at_end,
              describe(caller_operations).c_str(), describe(changer_operations).c_str());
}

void run(Settings settings) {
  // From here on what the C library needs is in one mapping: what comes and goes is the engine's.
  if (!sanitized && (mallopt(M_MMAP_MAX, 0) != 1 || mallopt(M_ARENA_MAX, 1) != 1)) wrong("mallopt");
  const Molds molds = make_molds();
  // What a process keeps once it has had threads, exceptions and an engine is there after a short life.
  Settings short_life = settings;
  short_life.seconds = 0;
  short_life.patches = short_life.calls = 200;
  live(short_life, molds, false);
  const std::vector<std::string> before = mappings();
  live(settings, molds, true);
  const std::vector<std::string> after = mappings();
  if (after.size() == before.size()) return;
  for (const std::string& line : after) std::fprintf(stderr, "%s\n", line.c_str());
  wrong("%zu mappings at the end, %zu before", after.size(), before.size());
}

} // namespace

} // namespace torture

int main(int argc, char** argv) {
  torture::Settings settings;
  settings.seed = std::random_device()();
  CLI::App app{"Calls linked code in every way while other threads replace, add and remove it"};
  app.add_option("--seed", settings.seed, "what threads choose follows from it; how they meet does not");
  app.add_option("--seconds", settings.seconds, "how long");
  app.add_option("--patches", settings.patches, "without --seconds: until so many modules were replaced ...");
  app.add_option("--calls", settings.calls, "... and so many calls made");
  std::vector<std::string> only;
  app.add_option("--only", only, "the only operations of changing threads, by name, to find out which one is at fault");
  std::vector<std::string> only_calls;
  app.add_option("--only-calls", only_calls, "the only operations of calling threads, likewise");
  app.add_option("--threads", settings.callers, "threads that call; half as many change")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  if (settings.seconds == 0 && settings.patches == 0 && settings.calls == 0) settings.seconds = 5;
  settings.changers = std::max(1U, settings.callers / 2);
  settings.signals = !torture::thread_sanitized && settings.seed % 2 == 0;
  torture::seed_of_run = settings.seed;
  const auto keep_only = [](std::span<torture::Operation> table, const std::vector<std::string>& names) {
    for (torture::Operation& operation : table)
      if (!names.empty() && std::find(names.begin(), names.end(), operation.name) == names.end()) operation.weight = 0;
  };
  keep_only(torture::changer_operations, only);
  keep_only(torture::caller_operations, only_calls);
  std::printf("torture --seed %lu --threads %u\n", settings.seed, settings.callers);
  std::fflush(stdout);
  torture::report_fatal_signals();
  try {
    torture::run(settings);
  } catch (const std::exception& error) {
    torture::wrong("%s", error.what());
  }
  return 0;
}

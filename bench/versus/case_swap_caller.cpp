// The case swap/caller: for how long a calling thread is held up by swaps.
//
// One caller fewer than there are cores; a swapping thread without pause has the core that is left. Each call is timed by
// the processor's counter, and the worst in ten thousand reported, per round: without swaps, with swaps, and, to show the
// scheduler's share, with swaps for callers that call a function of this program only. The note says how long callers waited
// for a core in the worst round, and the slowest call of all.
//
// `lines` is what no way of replacing code can be below on the machine: the first call after a swap fetches an instruction
// that another core has just changed, and by that code that another core has just written. Here a call reads a word that
// another thread stores now and then, and by that another one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "callers.h"
#include "cases.h"

#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>

namespace versus {
namespace {

constexpr std::size_t usual_rounds = 7;
constexpr double round_ms = 300;

double ticks_per_ns() {
  static const double rate = [] {
    const double begin = now_ms();
    const std::uint64_t ticks = __rdtsc();
    while (now_ms() - begin < 20) {
    }
    return static_cast<double>(__rdtsc() - ticks) / ((now_ms() - begin) * 1e6);
  }();
  return rate;
}

// Exact below 4,096 ticks, within 1/64 above.
class Histogram {
public:
  void add(std::uint64_t ticks) noexcept {
    ++counts_[index(ticks)];
    worst_ = std::max(worst_, ticks);
  }
  void add(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    worst_ = std::max(worst_, other.worst_);
  }
  std::uint64_t count() const noexcept {
    std::uint64_t sum = 0;
    for (std::uint64_t count : counts_) sum += count;
    return sum;
  }
  double quantile_ns(double q) const noexcept {
    auto rest = static_cast<std::uint64_t>(static_cast<double>(count()) * q);
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (rest < counts_[i]) return static_cast<double>(lowest(i)) / ticks_per_ns();
      rest -= counts_[i];
    }
    return worst_ns();
  }
  double worst_ns() const noexcept { return static_cast<double>(worst_) / ticks_per_ns(); }

private:
  static constexpr std::size_t exact = 4096, parts = 64;
  static std::size_t index(std::uint64_t ticks) noexcept {
    if (ticks < exact) return ticks;
    const auto power = static_cast<unsigned>(63 - __builtin_clzll(ticks)); // at least 12
    return exact + (power - 12) * parts + ((ticks >> (power - 6)) & (parts - 1));
  }
  static std::uint64_t lowest(std::size_t index) noexcept {
    if (index < exact) return index;
    const std::uint64_t above = index - exact;
    return (parts + above % parts) << (above / parts + 6);
  }

  std::array<std::uint64_t, exact + 52 * parts> counts_{};
  std::uint64_t worst_ = 0;
};

// For how long the calling thread has been ready to run without a core, in ns.
std::uint64_t waited_ns() {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/self/task/%ld/schedstat", syscall(SYS_gettid));
  unsigned long long ran = 0, waited = 0;
  if (std::FILE* file = std::fopen(path, "r")) {
    if (std::fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
    std::fclose(file);
  }
  return waited;
}

__attribute__((noinline)) int own_function(int x) {
  __asm__ volatile("" : "+r"(x));
  return x + 1;
}

// What a thread has written, as it would write code: the second word's place is in the first.
class WrittenLines {
public:
  WrittenLines()
      : thread_([this] {
          for (std::size_t next = 1; !stopping_.load(std::memory_order_relaxed); next = (next + 1) % lines_.size()) {
            for (const double end = now_ms() + between_ms; now_ms() < end;) {
            }
            lines_[next].word.store(static_cast<int>(next), std::memory_order_relaxed);
            current_.word.store(static_cast<int>(next), std::memory_order_release);
          }
        }) {}
  ~WrittenLines() {
    stopping_ = true;
    thread_.join();
  }
  int read() const noexcept {
    const auto at = static_cast<std::size_t>(current_.word.load(std::memory_order_acquire));
    return lines_[at].word.load(std::memory_order_relaxed);
  }

private:
  static constexpr double between_ms = 0.006; // about a swap
  struct alignas(128) Line {
    std::atomic<int> word{0};
  };
  Line current_;
  std::array<Line, 64> lines_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

const WrittenLines* written_lines = nullptr;

__attribute__((noinline)) int read_lines(int x) { return x + written_lines->read(); }

struct Measured {
  Histogram calls;
  std::uint64_t waited = 0;
};

void measure(int (*function)(int), tenon::Engine& engine, Measured& into) {
  auto border = engine.border("caller");
  if (!border) return;
  const std::uint64_t waited = waited_ns();
  for (const double end = now_ms() + round_ms; now_ms() < end;)
    for (int i = 0; i < 1000; ++i) {
      unsigned core = 0;
      const std::uint64_t begin = __rdtscp(&core);
      {
        tenon::Border::Entry entry(*border);
        (void)function(i);
      }
      into.calls.add(__rdtscp(&core) - begin);
    }
  into.waited = waited_ns() - waited;
}

Measured measure_all(int (*function)(int), tenon::Engine& engine) {
  const unsigned callers = std::max(2U, std::thread::hardware_concurrency()) - 1;
  std::vector<Measured> each(callers);
  std::vector<std::thread> threads;
  for (Measured& one : each) threads.emplace_back([&] { measure(function, engine, one); });
  for (std::thread& thread : threads) thread.join();
  Measured all;
  for (const Measured& one : each) {
    all.calls.add(one.calls);
    all.waited += one.waited;
  }
  return all;
}

struct Variation {
  const char* name;
  bool swapping;
  bool linked_code; // else a function of this program
  bool lines = false;
  Figure figure = {};
  double worst_ns = 0;
  std::uint64_t calls = 0, waited = 0, swaps = 0;
};

Result<void> take_turn(Variation& one, LiveFunction& live) {
  std::optional<Swapper> swapper;
  std::optional<WrittenLines> lines;
  if (one.swapping) swapper.emplace(live);
  if (one.lines) written_lines = &lines.emplace();
  Measured measured = measure_all(one.linked_code ? live.caller() : (one.lines ? read_lines : own_function), live.engine());
  if (swapper) {
    Result<std::uint64_t> swaps = swapper->stop();
    if (!swaps) return std::move(swaps).error();
    one.swaps += *swaps;
  }
  one.figure.samples.add(measured.calls.quantile_ns(0.9999));
  one.worst_ns = std::max(one.worst_ns, measured.calls.worst_ns());
  one.waited = std::max(one.waited, measured.waited);
  one.calls += measured.calls.count();
  return {};
}

Row run_swap_caller(const Settings& settings) {
  Row row{"swap/caller", "ns", {}, {}, {}};
  auto live = LiveFunction::create();
  if (!live) return row.faults.push_back(live.error().message), row;
  std::array<Variation, 4> variations{Variation{"with", true, true}, Variation{"without", false, true},
                                      Variation{"scheduler", true, false}, Variation{"lines", false, false, true}};
  for (Variation& one : variations) one.figure.name = one.name;
  settings.progress("swap/caller");
  in_turns(variations.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    if (!row.faults.empty()) return;
    if (Result<void> turn = take_turn(variations[index], **live); !turn) row.faults.push_back(turn.error().message);
  });
  if (!row.faults.empty()) return row;
  for (Variation& one : variations) {
    char text[256];
    std::snprintf(text, sizeof text,
                  "%s%s: %.1f M calls, %llu swaps, slowest call %.0f us, waited for a core at most %.1f ms",
                  row.note.empty() ? "" : "; ", one.name, static_cast<double>(one.calls) / 1e6,
                  static_cast<unsigned long long>(one.swaps), one.worst_ns / 1e3, static_cast<double>(one.waited) / 1e6);
    row.note += text;
    row.figures.push_back(std::move(one.figure));
  }
  return row;
}

} // namespace

std::vector<Case> swap_caller_cases() {
  return {{"swap/caller", "the slowest call in 10,000 of a function that is swapped all the time", run_swap_caller}};
}

} // namespace versus

// The summary that --stats prints.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>
#include <tenon/engine.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace tenon::cli {

struct LinkTimes {
  double compile_ms = 0, read_ms = 0, draft_ms = 0, place_ms = 0, link_ms = 0, commit_ms = 0;
  double total_link_ms() const { return draft_ms + place_ms + link_ms + commit_ms; }
};

// What a draft holds, all modules together.
struct LinkSummary {
  std::uint64_t modules = 0, sections = 0, relocations = 0, input_bytes = 0;
  std::uint64_t code = 0, rodata = 0, data = 0, unwind = 0, stubs = 0, got = 0, slots = 0, tls = 0;
  std::uint64_t total() const { return code + rodata + data + unwind + stubs + got + slots + tls; }
};

LinkSummary summarize(const Draft& draft);
std::string format_stats(const LinkSummary& summary, const LinkTimes& times, const EngineUsage& usage);

// Milliseconds since the last lap.
class LapTimer {
public:
  double lap_ms() {
    auto now = std::chrono::steady_clock::now();
    double ms = std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    return ms;
  }

private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

} // namespace tenon::cli

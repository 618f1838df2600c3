// Counting and printing for --stats. Only sections that take part in the program count, and of their relocations all.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "stats.h"

#include <cstdio>

namespace tenon::cli {

namespace {

template <class... Values> void append(std::string& text, const char* format, Values... values) {
  char line[256];
  std::snprintf(line, sizeof line, format, values...);
  text += line;
}

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t i = digits.size(); i > 3;) digits.insert(i -= 3, ",");
  return digits;
}

std::string bytes_text(std::uint64_t bytes) {
  char text[32];
  if (bytes >= 1 << 20)
    std::snprintf(text, sizeof text, "%.1f MiB", double(bytes) / (1 << 20));
  else if (bytes >= 1 << 10)
    std::snprintf(text, sizeof text, "%.1f KiB", double(bytes) / (1 << 10));
  else
    std::snprintf(text, sizeof text, "%u B", unsigned(bytes));
  return text;
}

} // namespace

LinkSummary summarize(const Draft& draft) {
  LinkSummary sum;
  for (const ModuleLayout& layout : draft.layouts()) {
    const Object& object = draft.object(layout.id);
    ++sum.modules;
    sum.input_bytes += object.bytes().size();
    for (const SectionLayout& section : layout.sections) {
      if (section.synthetic || section.id.index >= object.sections().size()) continue;
      ++sum.sections;
      sum.relocations += object.relocations(section.id.index).size();
    }
    sum.code += layout.code;
    sum.rodata += layout.rodata;
    sum.data += layout.data;
    sum.unwind += layout.unwind;
    sum.stubs += layout.stubs;
    sum.got += layout.got;
    sum.slots += layout.slots;
    sum.tls += layout.tls;
  }
  return sum;
}

std::string format_stats(const LinkSummary& sum, const LinkTimes& times, const EngineUsage& usage) {
  std::string text = "tenon: linked " + grouped(sum.modules) + (sum.modules == 1 ? " module, " : " modules, ") +
                     grouped(sum.sections) + " sections, " + grouped(sum.relocations) + " relocations from " +
                     bytes_text(sum.input_bytes) + " of objects\n";
  text += "  bytes    " + grouped(sum.total()) + ": code " + grouped(sum.code) + ", rodata " + grouped(sum.rodata) +
          ", data " + grouped(sum.data) + ", unwind " + grouped(sum.unwind) + ", stubs " + grouped(sum.stubs) + ", got " +
          grouped(sum.got) + ", slots " + grouped(sum.slots) + ", tls " + grouped(sum.tls) + "\n";
  append(text, "  linking  %.3f ms: draft %.3f, place %.3f, link %.3f, commit %.3f", times.total_link_ms(), times.draft_ms,
         times.place_ms, times.link_ms, times.commit_ms);
  append(text, " (before that: compile %.3f ms, read %.3f ms)\n", times.compile_ms, times.read_ms);
  text += "  memory   reserved " + bytes_text(usage.reserved) + ", committed " + bytes_text(usage.committed) + ", live " +
          bytes_text(usage.live) + ", bookkeeping " + bytes_text(usage.bookkeeping) + "\n";
  text += "  engine   " + grouped(usage.modules) + (usage.modules == 1 ? " module, " : " modules, ") +
          grouped(usage.symbols) + " symbols, " + grouped(usage.frames) + " frames\n";
  return text;
}

} // namespace tenon::cli

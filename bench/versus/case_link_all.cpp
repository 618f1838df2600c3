// The cases link/llvm-all and link/llvm-all-{peak,left}: every libLLVM*.a linked at once, where size itself is the matter.
//
// Each participant links in a process of its own, once. The process holds libLLVM.so too, because the participants use it:
// the archives' own definitions win for what the archives refer to, but for GNU_UNIQUE ones, of which a process may have one
// only. Initializers are not run, since they would register LLVM's options twice. ld.lld -shared is a process that reads
// files and writes one; the others have the objects in memory and leave code that can be called.
//
// `tenon` has all members. `tenon_alike` has those that the peers get: thread-local data is left out, as in link/llvm.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "child.h"
#include "participant.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

namespace versus {
namespace {

enum Kind : std::size_t { time, peak, left, kinds };

constexpr std::array<const char*, kinds> case_names = {"link/llvm-all", "link/llvm-all-peak", "link/llvm-all-left"};

std::vector<std::string> all_archives(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::string file = entry.path().filename();
    if (file.starts_with("libLLVM") && file.ends_with(".a")) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

struct Outcome {
  std::array<Row, kinds> rows;

  void add(const std::string& name, double ms, double peak_mb, std::optional<double> left_mb) {
    put(time, name, ms);
    put(peak, name, peak_mb);
    if (left_mb) put(left, name, *left_mb);
  }
  void fault(const std::string& text) {
    for (Row& row : rows) row.faults.push_back(text);
  }

private:
  void put(Kind kind, const std::string& name, double value) {
    auto& figures = rows[kind].figures;
    auto place = std::find_if(figures.begin(), figures.end(), [&](const Figure& one) { return one.name == name; });
    if (place == figures.end()) place = figures.insert(place, {name, {}, {}});
    place->samples.add(value);
  }
};

void link_in_child(Outcome& outcome, const SharedSet& set, const std::string& participant, const std::string& name) {
  auto link = first_link(set, participant);
  if (!link) return outcome.fault(name + ": " + link.error().message);
  outcome.add(name, link->ms, link->peak_mb, link->left_mb);
}

// Its output goes where memory is, if there is such a place: the disk is not the linker's doing.
void link_by_lld(Outcome& outcome, const Settings& settings, const std::vector<std::string>& archives, const char* name,
                 const char* threads) {
  std::filesystem::path folder = "/dev/shm";
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) folder = std::filesystem::temp_directory_path(error);
  std::string out = folder / ("tenon-versus-" + std::to_string(getpid()) + ".so");
  std::vector<std::string> arguments = {settings.llvm_libraries + "/../bin/ld.lld", "-shared", threads, "-o", out};
  for (const char* option : {"--allow-multiple-definition", "--strip-debug", "--whole-archive"})
    arguments.emplace_back(option);
  arguments.insert(arguments.end(), archives.begin(), archives.end());
  auto finished = run_program(arguments);
  std::filesystem::remove(out, error);
  if (!finished) return outcome.fault(std::string(name) + ": " + finished.error().message);
  outcome.add(name, finished->ms, finished->peak_mb, {});
}

std::string describe(const InputSet& all, const InputSet& alike) {
  char text[500];
  auto mb = [](std::size_t bytes) { return static_cast<double>(bytes) / 1e6; };
  std::snprintf(
      text, sizeof text,
      "%zu objects, %.1f MB of content, %.1f MB zero, %zu sections, %zu relocations (COMDAT copies that lose: %.1f "
      "MB, %zu, %zu); %zu of the objects have thread-local data, which only tenon and lld get; the archives' own "
      "definitions win over libLLVM.so's, which the process holds too; initializers not run",
      all.counts.objects, mb(all.counts.content), mb(all.counts.zero), all.counts.sections, all.counts.relocations,
      mb(all.counts.lost_content), all.counts.lost_sections, all.counts.lost_relocations, alike.counts.left_out);
  return text;
}

Outcome measure(const Settings& settings) {
  Outcome outcome;
  for (std::size_t i = 0; i < kinds; ++i) outcome.rows[i] = Row{case_names[i], i == time ? "ms" : "MB", {}, {}, {}};
  settings.progress("link/llvm-all: reading");
  std::vector<std::string> archives = all_archives(settings.llvm_libraries);
  auto all = load_set("llvm-all", archives, {"LLVMGetVersion"}, 1000, ThreadLocal::kept);
  if (!all) return outcome.fault(all.error().message), outcome;
  auto alike = load_set("llvm-all", archives, {"LLVMGetVersion"});
  if (!alike) return outcome.fault(alike.error().message), outcome;
  for (Row& row : outcome.rows) row.note = describe(*all, *alike);
  auto shared = SharedSet::create(*all);
  auto shared_alike = SharedSet::create(*alike);
  if (!shared || !shared_alike) return outcome.fault("no memory for the inputs"), outcome;
  all->objects.clear();
  auto floor = make_floor();
  std::vector<std::uint64_t> found;
  double begin = now_ms();
  if (auto done = floor->link(*alike, found); done) {
    double took = now_ms() - begin;
    auto size = static_cast<double>(alike->plan.total) / 1e6;
    outcome.add("floor", took, size, size);
  }
  (void)floor->remove();
  alike->objects.clear();
  struct Run {
    const char *name, *participant;
    const SharedSet& set;
  };
  // A virtual machine may get its memory from its host at the first touch, which takes longer than a whole link.
  settings.progress("link/llvm-all: touching memory");
  (void)first_link(*shared, "tenon");
  for (std::size_t round = 0; round < std::max<std::size_t>(settings.repeat, 1); ++round) {
    for (const Run& run : {Run{"tenon", "tenon", *shared}, Run{"tenon_alike", "tenon", *shared_alike},
                           Run{"jitlink", "jitlink", *shared_alike}, Run{"orc", "orc", *shared_alike}}) {
      settings.progress(std::string("link/llvm-all: ") + run.name);
      link_in_child(outcome, run.set, run.participant, run.name);
    }
    settings.progress("link/llvm-all: lld");
    link_by_lld(outcome, settings, archives, "lld_1t", "--threads=1");
    link_by_lld(outcome, settings, archives, "lld", "--threads=2");
  }
  return outcome;
}

// The three cases are one measurement.
Row run(Kind kind, const Settings& settings) {
  static const Outcome outcome = measure(settings);
  return outcome.rows[kind];
}

} // namespace

std::vector<Case> link_all_cases() {
  const char* about[] = {"all libLLVM*.a in one change, each participant in a process of its own",
                         "the same: resident memory at most, beyond that of before",
                         "the same: memory afterwards, beyond that of before"};
  std::vector<Case> cases;
  for (Kind kind : {time, peak, left})
    cases.push_back({case_names[kind], about[kind], [kind](const Settings& settings) { return run(kind, settings); }, true});
  return cases;
}

} // namespace versus

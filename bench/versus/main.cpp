// tenon-versus: Tenon beside LLVM's linkers and beside the physical floor, on the same inputs in one process.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "child.h"
#include "table.h"

#include <CLI/CLI.hpp>

#include <dlfcn.h>
#include <fnmatch.h>
#include <unistd.h>

#include <optional>

namespace {

constexpr const char* about =
    R"(Measures Tenon beside LLVM's linkers and beside the physical floor: same inputs, same work, in one process.

Participants of link/*:
  tenon       one warm engine; an anonymous library per round, one change with all objects
  floor       mmap, page faults, memcpy of the sections, one store per relocation, mprotect
  floor_warm  memcpy and stores alone, into memory already faulted in
  jitlink     jitlink::link per object, own symbol table, no ORC
  orc         LLJIT with JITLink, its default; one warm instance, a JITDylib per round
  rtdyld      one RuntimeDyld with a SectionMemoryManager
  orc_rtdyld  LLJIT with the RuntimeDyld layer

They take turns, round by round, a turn being one link to warm up and one that is timed; medians are reported. Timed are
parsing, resolving, placing, relocating, registering frames and looking names up; reading the archives and removing what was
linked are not (the table shows removal by itself).
The rules are alike for all: debug sections are stripped; members with thread-local data are left out (RuntimeDyld aborts on
them); STV_INTERNAL symbols are made STV_HIDDEN (JITLink rejects them); definitions in the set win over the host's; what
neither gives is an absolute symbol; initializers are not run. Each participant's result is called and checked before timing.

Of link/*, these differ:
  link/llvm-cold  the first link of a process, made anew for each
  link/llvm-2t    two threads link copies into one engine; ms of time and of processor time for one copy
  link/llvm-all   all libLLVM*.a at once, each participant in a process of its own, ld.lld -shared beside them; -peak and
                  -left are its memory in MB; takes a minute, so only on request

The other cases change code while it runs; their tables say what each column is:
  call/*      ns for a call of a replaceable function; `direct` is the static linker's, `orc_stub` goes through ORC's stub
  redirect/*  ns to lead a function to another body that is linked already
  swap/*      a whole swap of a function under load: time, what callers notice, memory
  reclaim/*   ms from the last frame's leaving to the memory being free
  collect/*   ms, the longest step of collecting a dead cycle

And there are cases of many modules, of an engine's life and of look-ups; the notes under their tables have what is timed:
  many/*      us a tiny module with .eh_frame: parsed, linked, its frames registered, its function looked up
  remove/*    us for removing one of many such modules; `tenon` and the peers rely on the client's word that no thread is
              inside, for `tenon_prove` the engine sees to that, and the time until all memory is free counts
  teardown    ms for destroying an engine with all its modules
  engine/create, library/churn   us for an engine, or for a library with a module that is called, and its end
  lookup/*    ns for finding a symbol by its name, in random order
  throw       us for an exception through five linked frames; `static` is the same code in this program
  abort       ms for getting to Linked, and for dropping the change there
  memory/*    bytes on the heap for a byte of linked content
Those marked with * by --list take long: they run when a --case names them, or with --full.

Exit status: 0, or 1 if a participant failed (named on standard error), or 2 for misuse.)";

std::vector<versus::Case> all_cases() {
  std::vector<versus::Case> cases;
  for (auto list : {versus::link_cases, versus::link_first_cases, versus::link_all_cases, versus::call_cases,
                    versus::redirect_cases, versus::swap_cases, versus::swap_caller_cases, versus::swap_memory_cases,
                    versus::reclaim_cases, versus::collect_cases, versus::many_cases, versus::many_chain_cases,
                    versus::remove_cases, versus::engine_cases, versus::lookup_cases, versus::throw_cases,
                    versus::abort_cases, versus::memory_cases})
    for (versus::Case& one : list()) cases.push_back(std::move(one));
  return cases;
}

// Progress belongs on a terminal only: one line, overwritten.
void show_progress(const std::string& text) {
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal) std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

bool chosen(const std::vector<std::string>& patterns, const std::string& name) {
  if (patterns.empty()) return true;
  for (const std::string& pattern : patterns)
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
  return false;
}

// A copy relocation moves libc's `stdout` into this executable, where the sets' PC-relative references can't reach it:
// JITLink then fails, and RuntimeDyld truncates in silence. Compiled with -fPIC (-fPIE is not enough) there is none.
bool has_copy_relocations() {
  Dl_info place{};
  Dl_info own{};
  return dladdr(dlsym(RTLD_DEFAULT, "stdout"), &place) != 0 && dladdr(reinterpret_cast<void*>(&show_progress), &own) != 0 &&
         place.dli_fbase == own.dli_fbase;
}

int run(const std::vector<versus::Case>& cases, const versus::Settings& settings, bool json) {
  std::vector<versus::Row> rows;
  bool failed = false;
  for (const versus::Case& one : cases) {
    versus::Row row = one.run(settings);
    show_progress("");
    for (const std::string& fault : row.faults) {
      std::fprintf(stderr, "tenon-versus: %s: %s\n", row.case_name.c_str(), fault.c_str());
      failed = true;
    }
    if (json) {
      std::printf("%s\n", versus::json_line(row).c_str());
      std::fflush(stdout);
    }
    rows.push_back(std::move(row));
  }
  if (!json) versus::print_tables(stdout, rows);
  return failed ? 1 : 0;
}

} // namespace

int main(int argc, char** argv) {
  if (std::optional<int> status = versus::run_as_child(argc, argv)) return *status;
  CLI::App app{about, "tenon-versus"};
  versus::Settings settings;
  settings.progress = show_progress;
  bool json = false;
  bool list = false;
  std::vector<std::string> patterns;
  app.add_flag("--json", json, "print one JSON object per case and nothing else");
  app.add_option("--case", patterns, "run the cases that match a shell pattern; may be repeated")->type_name("GLOB");
  app.add_option("--repeat", settings.repeat, "timed rounds per case instead of the case's own number")
      ->type_name("N")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1000000}));
  app.add_flag("--full", settings.full,
               "the long form of cases that have one (swap/memory: a million swaps), and those that take long");
  app.add_flag("--list", list, "name the cases and stop");
  app.add_option("--system-libraries", settings.system_libraries, "where liblua5.4.a, libsqlite3.a and libzstd.a are")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--llvm-libraries", settings.llvm_libraries, "where libLLVMCore.a and its like are")
      ->type_name("DIR")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  std::vector<versus::Case> cases;
  for (versus::Case& one : all_cases())
    if (chosen(patterns, one.name) && (!one.on_request || list || settings.full || !patterns.empty()))
      cases.push_back(std::move(one));
  if (cases.empty()) {
    std::fprintf(stderr, "tenon-versus: no case matches; --list names them\n");
    return 2;
  }
  if (list) {
    for (const versus::Case& one : cases)
      std::printf("%-14s %s%s\n", one.name.c_str(), one.on_request ? "* " : "", one.about.c_str());
    return 0;
  }
  if (has_copy_relocations()) {
    std::fprintf(stderr, "tenon-versus: built with copy relocations, the peers would fail; compile it with -fPIC\n");
    return 1;
  }
  return run(cases, settings, json);
}

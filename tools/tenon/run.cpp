// `tenon run`: links all files into this process in one change, and is the program from then on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "commands.h"
#include "input_options.h"
#include "inputs.h"
#include "program.h"
#include "report.h"
#include "stats.h"

#include <tenon/engine.h>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

namespace tenon::cli {

namespace {

struct RunOptions {
  InputOptions inputs;
  ProgramOptions program;
  bool stats = false;
};

struct Candidate {
  ModuleId module;
  std::string name;
};

// Functions by which modules can be pinned: a few of each, because hidden ones will not be found.
Result<std::vector<Candidate>> pin_candidates(const Linked& linked) {
  constexpr unsigned enough = 4;
  std::map<std::uint32_t, unsigned> counts;
  std::vector<Candidate> candidates;
  Result<std::vector<PlacedSymbol>> symbols = linked.symbols();
  if (!symbols) return std::move(symbols).error();
  for (const PlacedSymbol& symbol : *symbols)
    if (symbol.type == SymbolType::function && symbol.binding != Binding::local && counts[symbol.module.index]++ < enough)
      candidates.push_back({symbol.module, std::string(symbol.name)});
  return candidates;
}

void pin_modules(Program& program, std::span<const Candidate> candidates) {
  std::set<std::uint32_t> pinned;
  for (const Candidate& candidate : candidates)
    if (!pinned.contains(candidate.module.index) && program.pin(candidate.name)) pinned.insert(candidate.module.index);
}

Result<void> link_all(Program& program, const RunOptions& options, std::vector<Object> objects, LinkSummary& summary,
                      LinkTimes& times) {
  ModuleOptions module_options;
  module_options.unwinding = !options.program.no_unwind;
  LapTimer timer;
  Change change = program.engine->change();
  for (Object& object : objects) change.add(*program.library, std::move(object), module_options);
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  times.draft_ms = timer.lap_ms();
  if (!draft->undefined().empty()) return Error{ErrorCode::undefined, describe(draft->undefined())};
  if (options.stats) summary = summarize(*draft);
  timer.lap_ms();
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  times.place_ms = timer.lap_ms();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  times.link_ms = timer.lap_ms();
  Result<std::vector<Candidate>> candidates = pin_candidates(*linked);
  if (!candidates) return std::move(candidates).error();
  timer.lap_ms();
  Result<Committed> committed = std::move(*linked).commit();
  times.commit_ms = timer.lap_ms();
  if (!committed) return std::move(committed).error();
  pin_modules(program, *candidates);
  return {};
}

// Returns only if it failed.
int run(const RunOptions& options, const std::vector<std::string>& arguments) {
  LinkTimes times;
  LinkSummary summary;
  Program* program = nullptr;
  {
    Result<LoadedInputs> inputs = load_inputs(options.inputs);
    if (!inputs) return fail(inputs.error(), "run");
    times.compile_ms = inputs->compile_ms;
    times.read_ms = inputs->read_ms;
    Result<std::optional<Object>> member = entry_member(inputs->objects, inputs->archives, options.program.entry);
    if (!member) return fail(member.error(), {});
    if (*member) inputs->objects.push_back(std::move(**member));

    Result<Program*> opened = open_program(options.program, std::move(inputs->sources));
    if (!opened) return fail(opened.error(), "run");
    program = *opened;
    if (Result<void> linked = link_all(*program, options, std::move(inputs->objects), summary, times); !linked) {
      int status = fail(linked.error(), "run");
      // A program whose static initializer throws is aborted by its C++ runtime.
      if (linked.error().code == ErrorCode::initializer) std::abort();
      return status;
    }
  }
  auto entry = find_entry(*program, options.program.entry);
  if (!entry) return fail(entry.error(), {});
  if (options.stats) std::fputs(format_stats(summary, times, program->engine->usage()).c_str(), stderr);
  call_entry(*program, *entry, options.inputs.files.front(), arguments);
}

constexpr const char* examples = "FILE is an object, archive, shared object, LLVM IR (.ll, .bc), C, C++ or assembly, or '-' "
                                 "for standard input. What follows\n"
                                 "'--' are the program's arguments; its argv[0] is the first FILE. References are looked "
                                 "for in the files, then in archives\n"
                                 "and shared objects in the order given, those of -l after those among the files, then in "
                                 "this process and its libraries.\n"
                                 "The exit status is the program's; 1 if it could not be linked, 2 for misuse.\n\n"
                                 "Examples:\n"
                                 "  tenon run hello.c -- one two\n"
                                 "  tenon run main.ll util.bc -O3 --stats\n"
                                 "  tenon run driver.c -X -DFAST /usr/lib/x86_64-linux-gnu/libsqlite3.a -lm\n"
                                 "  echo 'int main(void) { return 3; }' | tenon run -\n"
                                 "  tenon run nonpic.o --low-2gib";

} // namespace

Command declare_run(CLI::App& parser, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<RunOptions>();
  parser.footer(examples);
  declare_input_options(parser, options->inputs, "Files to link; the first one gives the program its name");
  declare_program_options(parser, options->program);
  parser.add_flag("--stats", options->stats, "Print to standard error what was linked, before the program begins");
  return [options, &arguments] { return run(*options, arguments); };
}

} // namespace tenon::cli

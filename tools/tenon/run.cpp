// `tenon run`: links all files into this process in one change, and is the program from then on.
//
// The end is the delicate part. The program leaves through exit(), its own call or ours after main has returned, so that its
// handlers, the process' streams and the libraries' destructors run as they do in a program of its own. The engine ends
// inside exit(), too: its handler is registered before anything is linked, hence runs after all handlers of the program, and
// runs the modules' finalizers then. A program that dies by a signal takes us along with that signal, which is what we want.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "commands.h"
#include "input_options.h"
#include "inputs.h"
#include "report.h"
#include "stats.h"

#include <tenon/engine.h>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

extern char** environ;

namespace tenon::cli {

namespace {

struct RunOptions {
  InputOptions inputs;
  std::string entry = "main";
  bool stats = false;
  bool low_2gib = false;
  bool single_mapping = false;
  bool no_unwind = false;
};

// What the program needs until the process ends.
struct Running {
  std::optional<Engine> engine;
  std::optional<Library> library;
  std::vector<std::string> arguments;
  std::vector<char*> argv;
  std::vector<Function<void()>> pins; // one of each module, see pin_modules
};

// Never destroyed: threads of the program may use its arguments, and run its code, until the process is gone.
Running* running = nullptr;

void end_engine() {
  // Runs the finalizers and frees what nothing pins. Nobody is left to hear of an error.
  if (running->library) static_cast<void>(running->library->close());
}

// The archives serve what is missing, so nothing would ask for a program that lives in one: the entry is asked for here.
Result<void> add_entry_member(LoadedInputs& inputs, const std::string& entry) {
  for (const Object& object : inputs.objects)
    for (const Symbol& symbol : object.symbols())
      if (symbol.defined() && !symbol.is_local() && symbol.name() == entry) return {};
  for (const Archive& archive : inputs.archives) {
    Result<std::optional<std::size_t>> index = archive.find(entry);
    if (!index) return std::move(index).error();
    if (!*index) continue;
    Result<Object> member = archive.member(**index);
    if (!member) return std::move(member).error();
    inputs.objects.push_back(std::move(*member));
    return {};
  }
  return Error{ErrorCode::undefined,
               "no file defines the entry '" + entry + "' (hint: --entry NAME names another function to begin with)"};
}

Result<void> open_engine(const RunOptions& options, LoadedInputs& inputs) {
  Options engine_options;
  engine_options.low_2gib = options.low_2gib;
  engine_options.mapping = options.single_mapping ? Mapping::single : Mapping::dual;
  engine_options.unwinding = !options.no_unwind;
  Result<Engine> engine = Engine::create(engine_options);
  if (!engine) return std::move(engine).error();
  Result<Library> library = engine->library("main");
  if (!library) return std::move(library).error();
  std::vector<Source> sources = std::move(inputs.sources);
  sources.push_back(Source::process());
  if (Result<void> searched = library->search(std::move(sources)); !searched) return searched;
  running->engine = std::move(*engine);
  running->library = std::move(*library);
  return {};
}

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

// When main has returned, other threads of a program run on until exit() is through, past the end of the engine: a function
// handle keeps the code mapped, while finalizers run in time.
void pin_modules(std::span<const Candidate> candidates) {
  std::set<std::uint32_t> pinned;
  for (const Candidate& candidate : candidates) {
    if (pinned.contains(candidate.module.index)) continue;
    if (Result<Function<void()>> function = running->library->function<void()>(candidate.name); function) {
      running->pins.push_back(std::move(*function));
      pinned.insert(candidate.module.index);
    }
  }
}

Result<void> link_all(const RunOptions& options, std::vector<Object> objects, LinkSummary& summary, LinkTimes& times) {
  ModuleOptions module_options;
  module_options.unwinding = !options.no_unwind;
  LapTimer timer;
  Change change = running->engine->change();
  for (Object& object : objects) change.add(*running->library, std::move(object), module_options);
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
  pin_modules(*candidates);
  return {};
}

// Without a try block above it: an exception that main lets out ends the process as in a program of its own.
[[noreturn]] void call_entry(Addr entry) {
  using Main = int (*)(int, char**, char**);
  int argc = static_cast<int>(running->argv.size()) - 1;
  int status = entry.as<Main>()(argc, running->argv.data(), environ);
  std::exit(status);
}

void set_arguments(const std::string& program, const std::vector<std::string>& arguments) {
  running->arguments = {program};
  running->arguments.insert(running->arguments.end(), arguments.begin(), arguments.end());
  for (std::string& argument : running->arguments) running->argv.push_back(argument.data());
  running->argv.push_back(nullptr);
}

// Returns only if it failed.
int run(const RunOptions& options, const std::vector<std::string>& arguments) {
  LinkTimes times;
  LinkSummary summary;
  Addr entry;
  {
    Result<LoadedInputs> inputs = load_inputs(options.inputs);
    if (!inputs) return fail(inputs.error(), "run");
    times.compile_ms = inputs->compile_ms;
    times.read_ms = inputs->read_ms;
    if (Result<void> added = add_entry_member(*inputs, options.entry); !added) return fail(added.error(), {});

    running = new Running;
    std::atexit(end_engine);
    set_arguments(options.inputs.files.front(), arguments);
    if (Result<void> opened = open_engine(options, *inputs); !opened) return fail(opened.error(), "run");
    if (Result<void> linked = link_all(options, std::move(inputs->objects), summary, times); !linked) {
      int status = fail(linked.error(), "run");
      // A program whose static initializer throws is aborted by its C++ runtime.
      if (linked.error().code == ErrorCode::initializer) std::abort();
      return status;
    }
    std::optional<Addr> found = running->library->find(options.entry);
    if (!found)
      return fail("the entry '" + options.entry + "' is not visible outside of its file",
                  "--entry NAME names a function that is neither static nor hidden");
    entry = *found;
  }
  if (options.stats) std::fputs(format_stats(summary, times, running->engine->usage()).c_str(), stderr);
  call_entry(entry);
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
  parser.add_option("--entry", options->entry, "The function to call")->type_name("NAME")->capture_default_str();
  parser.add_flag("--stats", options->stats, "Print to standard error what was linked, before the program begins");
  parser.add_flag("--low-2gib", options->low_2gib, "Link below 2 GiB, for objects that were not compiled as PIC");
  parser.add_flag("--single-mapping", options->single_mapping, "Map code once only (emulators, Valgrind)");
  parser.add_flag("--no-unwind", options->no_unwind, "No unwind information: exceptions end the program");
  return [options, &arguments] { return run(*options, arguments); };
}

} // namespace tenon::cli

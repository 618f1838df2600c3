// `tenon live`: `tenon run` for a program whose sources are being edited.
//
// The program's main has the main thread, as everywhere; a thread of ours watches, compiles and swaps. Everything that it
// needs (descriptors, environment, working directory, names of files) is taken before the program begins, which may change
// its own as it likes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "commands.h"
#include "input_options.h"
#include "live_session.h"
#include "report.h"

#include <CLI/CLI.hpp>

#include <cstdlib>
#include <unistd.h>

namespace tenon::cli {

namespace {

bool is_watched(FileKind kind) {
  return kind == FileKind::c || kind == FileKind::cxx || kind == FileKind::assembly || kind == FileKind::ir ||
         kind == FileKind::bitcode || kind == FileKind::object;
}

// Takes the files that are not watched out of `options`, together with the libraries.
Result<InputOptions> take_fixed(LiveOptions& options) {
  InputOptions fixed = options.inputs;
  fixed.files.clear();
  std::vector<std::string> watched;
  for (const std::string& path : options.inputs.files) {
    if (path == "-") return Error{ErrorCode::invalid_argument, "standard input can't be watched (hint: name a file)"};
    Result<InputFile> input = open_input(path, options.inputs.stdin_language);
    if (!input) return std::move(input).error();
    (is_watched(input->kind) ? watched : fixed.files).push_back(path);
  }
  options.inputs.files = std::move(watched);
  return fixed;
}

// Returns only if it failed. `session` lives to the process' end, as the program does.
int live(LiveOptions options, const std::vector<std::string>& arguments) {
  const std::string name = options.inputs.files.front();
  Result<InputOptions> fixed = take_fixed(options);
  if (!fixed) return fail(fixed.error(), "live");
  Result<LoadedInputs> inputs = load_inputs(*fixed);
  if (!inputs) return fail(inputs.error(), "live");
  // The engine first: what it asks of the kernel costs little as long as there is one thread.
  LibraryOptions library;
  library.replaceable = true;
  Result<Program*> program = open_program(options.program, std::move(inputs->sources), library);
  if (!program) return fail(program.error(), "live");

  Result<LiveSession> created = LiveSession::create(options);
  if (!created) return fail(created.error(), "live");
  auto* session = new LiveSession(std::move(*created));
  if (Result<void> compiled = session->compile_all(); !compiled) return fail(compiled.error(), {});
  std::vector<Object> objects = session->objects();
  objects.insert(objects.end(), inputs->objects.begin(), inputs->objects.end());
  Result<std::optional<Object>> member = entry_member(objects, inputs->archives, options.program.entry);
  if (!member) return fail(member.error(), {});
  if (*member) inputs->objects.push_back(std::move(**member));

  // A child that the program forks has no thread that watches, and none to wait for.
  (*program)->before_end = [session, process = getpid()] {
    if (getpid() == process) session->end();
  };
  if (Result<void> linked = session->link_all(**program, std::move(inputs->objects)); !linked) {
    int status = fail(linked.error(), "run");
    // As its C++ runtime would.
    if (linked.error().code == ErrorCode::initializer) std::abort();
    return status;
  }
  auto entry = find_entry(**program, options.program.entry);
  if (!entry) return fail(entry.error(), {});
  session->begin_watching();
  call_entry(**program, *entry, name, arguments);
}

constexpr const char* examples =
    "Runs the program and watches its files: C, C++, assembly, LLVM IR and objects, and the headers that they include\n"
    "(not those of the system). When some are saved, they are compiled, and what has changed takes the place of the old\n"
    "code while it runs: calls from then on go to the new functions, calls under way finish in the old ones. Variables\n"
    "keep their values; main does not begin again, so what it should do differently belongs into functions that it\n"
    "calls. If something can't be compiled or linked, that is said, and the old code runs on. Files that are saved\n"
    "within --settle of each other are one change. Archives and shared objects are linked once.\n"
    "Each change is one line on standard error, or in the file of --log, for programs that have the screen to\n"
    "themselves. What follows '--' are the program's arguments; its argv[0] is the first FILE. The exit status is the\n"
    "program's; 1 if it could not be linked, 2 for misuse.\n\n"
    "Examples:\n"
    "  tenon live game.c draw.c -lm -- --level 3\n"
    "  tenon live -O0 -X -Iinclude main.cpp --log live.log\n"
    "  tenon live main.o kernel.ll --resized reinitialize";

} // namespace

Command declare_live(CLI::App& parser, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<LiveOptions>();
  parser.footer(examples);
  declare_input_options(parser, options->inputs, "Files to link and watch; the first one gives the program its name");
  declare_program_options(parser, options->program);
  parser.add_option("--log", options->log, "Append what is said to FILE")->type_name("FILE");
  auto settle = std::make_shared<unsigned>(static_cast<unsigned>(options->settle.count()));
  parser.add_option("--settle", *settle, "Wait until nothing was saved for that many milliseconds")
      ->type_name("MS")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  using Differing = DataPolicy::Differing;
  const std::map<std::string, Differing> policies = {
      {"refuse", Differing::refuse}, {"keep", Differing::keep}, {"reinitialize", Differing::reinitialize}};
  parser
      .add_option("--resized", options->resized,
                  "Variables whose size has changed: refuse the change; keep them where they fit; reinitialize them")
      ->type_name("HOW")
      ->transform(CLI::CheckedTransformer(policies).description(""))
      ->default_str("refuse");
  return [options, settle, &arguments] {
    options->settle = std::chrono::milliseconds(*settle);
    return live(*options, arguments);
  };
}

} // namespace tenon::cli

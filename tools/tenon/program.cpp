// Beginning and end of the program.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "program.h"

#include <CLI/CLI.hpp>

#include <cstdlib>

extern char** environ;

namespace tenon::cli {

namespace {

Program* program = nullptr;

void end_program() {
  if (program->before_end) program->before_end();
  // Runs the finalizers and frees what nothing pins. Nobody is left to hear of an error.
  if (program->library) static_cast<void>(program->library->close());
}

} // namespace

bool Program::pin(const std::string& function) {
  Result<Function<void()>> found = library->function<void()>(function);
  if (found) pins.push_back(std::move(*found));
  return bool(found);
}

void declare_program_options(CLI::App& parser, ProgramOptions& options) {
  parser.add_option("--entry", options.entry, "The function to call")->type_name("NAME")->capture_default_str();
  parser.add_flag("--low-2gib", options.low_2gib, "Link below 2 GiB, for objects that were not compiled as PIC");
  parser.add_flag("--single-mapping", options.single_mapping, "Map code once only (emulators, Valgrind)");
  parser.add_flag("--no-unwind", options.no_unwind, "No unwind information: exceptions end the program");
}

Result<Program*> open_program(const ProgramOptions& options, std::vector<Source> sources, const LibraryOptions& library) {
  program = new Program;
  std::atexit(end_program);
  Options engine_options;
  engine_options.low_2gib = options.low_2gib;
  engine_options.mapping = options.single_mapping ? Mapping::single : Mapping::dual;
  engine_options.unwinding = !options.no_unwind;
  Result<Engine> engine = Engine::create(engine_options);
  if (!engine) return std::move(engine).error();
  Result<Library> made = engine->library("main", library);
  if (!made) return std::move(made).error();
  sources.push_back(Source::process());
  if (Result<void> searched = made->search(std::move(sources)); !searched) return Error(searched.error());
  program->engine = std::move(*engine);
  program->library = std::move(*made);
  return program;
}

Result<std::optional<Object>> entry_member(std::span<const Object> objects, std::span<const Archive> archives,
                                           const std::string& entry) {
  for (const Object& object : objects)
    for (const Symbol& symbol : object.symbols())
      if (symbol.defined() && !symbol.is_local() && symbol.name() == entry) return std::optional<Object>();
  for (const Archive& archive : archives) {
    Result<std::optional<std::size_t>> index = archive.find(entry);
    if (!index) return std::move(index).error();
    if (!*index) continue;
    Result<Object> member = archive.member(**index);
    if (!member) return std::move(member).error();
    return std::optional<Object>(std::move(*member));
  }
  return Error{ErrorCode::undefined,
               "no file defines the entry '" + entry + "' (hint: --entry NAME names another function to begin with)"};
}

Result<Function<int(int, char**, char**)>> find_entry(const Program& program, const std::string& entry) {
  auto found = program.library->function<int(int, char**, char**)>(entry);
  if (!found)
    return Error{ErrorCode::undefined, "the entry '" + entry +
                                           "' is not visible outside of its file (hint: --entry NAME names a function that "
                                           "is neither static nor hidden)"};
  return found;
}

// Without a try block above it: an exception that main lets out ends the process as in a program of its own.
void call_entry(Program& program, const Function<int(int, char**, char**)>& entry, const std::string& name,
                const std::vector<std::string>& arguments) {
  program.arguments = {name};
  program.arguments.insert(program.arguments.end(), arguments.begin(), arguments.end());
  for (std::string& argument : program.arguments) program.argv.push_back(argument.data());
  program.argv.push_back(nullptr);
  int argc = static_cast<int>(program.argv.size()) - 1;
  std::exit(entry(argc, program.argv.data(), environ));
}

} // namespace tenon::cli

// The program that a process becomes: what `run` and `live` have in common.
//
// The end is the delicate part. The program leaves through exit(), its own call or ours after main has returned, so that its
// handlers, the process' streams and the libraries' destructors run as they do in a program of its own. The engine ends
// inside exit(), too: its handler is registered before anything is linked, hence runs after all handlers of the program, and
// runs the modules' finalizers then. A program that dies by a signal takes us along with that signal, which is what we want.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"

#include <tenon/engine.h>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace tenon::cli {

struct ProgramOptions {
  std::string entry = "main";
  bool low_2gib = false;
  bool single_mapping = false;
  bool no_unwind = false;
};

void declare_program_options(CLI::App& parser, ProgramOptions& options);

// What the program needs until the process ends. Never destroyed: threads of the program may use its arguments, and run its
// code, until the process is gone. There is one.
struct Program {
  std::optional<Engine> engine;
  std::optional<Library> library;
  std::vector<std::string> arguments;
  std::vector<char*> argv;
  std::vector<Function<void()>> pins; // see pin()
  std::function<void()> before_end;   // called inside exit(), before the engine ends

  // Keeps the code of the function's module mapped. When main has returned, other threads of a program run on until exit()
  // is through, past the end of the engine, while finalizers run in time. False: no such function is visible.
  bool pin(const std::string& function);
};

// Makes the engine and its library "main", which searches `sources`, then the process; from here on exit() ends it.
Result<Program*> open_program(const ProgramOptions& options, std::vector<Source> sources,
                              const LibraryOptions& library = {});

// The archives serve what is missing, so nothing would ask for a program that lives in one: the entry is asked for here.
// Null if one of the objects defines it. Errors: undefined.
Result<std::optional<Object>> entry_member(std::span<const Object> objects, std::span<const Archive> archives,
                                           const std::string& entry);

// Errors: undefined.
Result<Function<int(int, char**, char**)>> find_entry(const Program& program, const std::string& entry);

// Calls the entry, with these arguments behind its name, and exits with what it returns.
[[noreturn]] void call_entry(Program& program, const Function<int(int, char**, char**)>& entry, const std::string& name,
                             const std::vector<std::string>& arguments);

} // namespace tenon::cli

// The command line `tenon`: run, live, link, inspect.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "commands.h"
#include "report.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

namespace {

using namespace tenon::cli;

constexpr const char* about =
    "tenon links machine code: into this process, to run it, or for addresses of your choice, to look at it.";
constexpr const char* examples =
    "Examples:\n"
    "  tenon run hello.c -- world          compile, link and run, with an argument\n"
    "  tenon run main.o -lsqlite3 --stats  link with a library, and say what it took\n"
    "  tenon live game.c draw.c            run, and replace what is edited while it runs\n"
    "  tenon link a.o b.o --map            where everything would go\n"
    "  tenon inspect a.o                   what is in a file\n"
    "\n'tenon COMMAND --help' tells more. Exit status: 0 all is well, 1 it failed, 2 misuse; that of `run`\n"
    "and `live` is the program's own.";

struct Parsed {
  std::vector<std::string> ours;    // what the parser sees, without the program's name, in reverse (as CLI11 wants it)
  std::vector<std::string> program; // what stands behind "--"
};

Parsed split(int argc, char** argv) {
  Parsed parsed;
  std::vector<std::string> all(argv + 1, argv + argc);
  auto dashes = std::find(all.begin(), all.end(), "--");
  for (auto argument = all.begin(); argument != dashes; ++argument) {
    // clang's flags begin with a dash, which the parser would take for an option of its own.
    if ((*argument == "-X" || *argument == "--cflag") && argument + 1 != dashes)
      parsed.ours.push_back("--cflag=" + *++argument);
    else
      parsed.ours.push_back(*argument);
  }
  std::reverse(parsed.ours.begin(), parsed.ours.end());
  if (dashes != all.end()) parsed.program.assign(dashes + 1, all.end());
  return parsed;
}

} // namespace

int main(int argc, char** argv) {
  Parsed parsed = split(argc, argv);
  const std::string first = parsed.ours.empty() ? "" : parsed.ours.back();

  CLI::App app(about, "tenon");
  app.footer(examples);
  app.set_version_flag("--version", "tenon " TENON_VERSION);
  app.require_subcommand(1);
  app.fallthrough(false);
  CLI::App* run = app.add_subcommand("run", "Link files into this process and run the program");
  CLI::App* live = app.add_subcommand("live", "Run the program and replace its code as its files are edited");
  CLI::App* link = app.add_subcommand("link", "Link files without running anything");
  CLI::App* inspect = app.add_subcommand("inspect", "Show what is in objects and archives");
  Command run_command = declare_run(*run, parsed.program);
  Command live_command = declare_live(*live, parsed.program);
  Command link_command = declare_link(*link);
  Command inspect_command = declare_inspect(*inspect);

  bool known = first == "run" || first == "live" || first == "link" || first == "inspect";
  const std::string help = known ? "see 'tenon " + first + " --help'" : "see 'tenon --help'";
  try {
    app.parse(parsed.ours);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    if (!known && !first.empty() && first.front() != '-') return misuse("there is no command '" + first + "'", help);
    return misuse(error.what(), help);
  }
  if (!parsed.program.empty() && !run->parsed() && !live->parsed())
    return misuse("arguments behind '--' are for 'tenon run' and 'tenon live' only", help);
  // Outside of the try block: an exception that the program does not catch must find no handler here.
  return run->parsed()    ? run_command()
         : live->parsed() ? live_command()
         : link->parsed() ? link_command()
                          : inspect_command();
}

// `tenon link`: links for addresses that the user names, and runs nothing. What comes out can be looked at (--map), checked
// (--check) and written to a file (-o).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.h"
#include "commands.h"
#include "input_options.h"
#include "inputs.h"
#include "map.h"
#include "place.h"
#include "report.h"

#include <tenon/engine.h>

#include <CLI/CLI.hpp>

#include <optional>
#include <set>

namespace tenon::cli {

namespace {

constexpr const char* see_help = "see 'tenon link --help'";

struct LinkOptions {
  InputOptions inputs;
  std::vector<std::string> defines, places;
  std::vector<std::string> checks;
  std::string map, output;
  std::string check_prefix = "# jitlink-check:";
  bool allow_undefined = false;
};

struct Parsed {
  std::vector<Definition> definitions;
  std::vector<AtRule> rules;
};

Result<Parsed> parse(const LinkOptions& options) {
  Parsed parsed;
  for (const std::string& text : options.defines) {
    Result<AtRule> rule = parse_assignment(text, "--define");
    if (!rule) return std::move(rule).error();
    parsed.definitions.push_back({rule->what, rule->address});
  }
  for (const std::string& text : options.places) {
    Result<AtRule> rule = parse_assignment(text, "--at");
    if (!rule) return std::move(rule).error();
    parsed.rules.push_back(std::move(*rule));
  }
  return parsed;
}

// Nothing of this process takes part: the library sees archives and what --define gives.
Result<Library> make_library(Engine& engine, LoadedInputs& inputs, const Parsed& parsed) {
  Result<Library> library = engine.library("main");
  if (!library) return library;
  if (Result<void> searched = library->search(std::move(inputs.sources)); !searched) return Error(searched.error());
  std::vector<Absolute> absolutes;
  for (const Definition& definition : parsed.definitions) absolutes.push_back({definition.name, definition.address});
  if (Result<void> defined = library->define(absolutes); !defined) return Error(defined.error());
  return library;
}

// Whatever is missing is bound to zero, in every module that refers to it.
Result<void> bind_missing(Draft& draft) {
  std::set<std::string, std::less<>> names;
  for (const Missing& missing : draft.undefined()) names.insert(missing.name);
  std::vector<Edit> edits;
  for (const ModuleLayout& layout : draft.layouts())
    for (const Symbol& symbol : draft.object(layout.id).symbols())
      if (!symbol.defined() && names.contains(symbol.name()))
        edits.push_back(Edit::bind(layout.id, std::string(symbol.name()), Addr{}));
  return edits.empty() ? Result<void>() : draft.edit(std::move(edits));
}

Result<void> show(const LinkOptions& options, const Parsed& parsed, const Linked& linked,
                  std::span<const ModuleLayout> layouts) {
  if (!options.map.empty()) {
    Result<std::string> map = format_map(linked, layouts, parsed.definitions);
    if (!map) return std::move(map).error();
    if (Result<void> written = write_text(options.map, *map); !written) return written;
  }
  if (!options.output.empty())
    if (Result<void> written = write_image(options.output, linked); !written) return written;
  for (const std::string& file : options.checks)
    if (Result<void> held = check_rules(linked, parsed.definitions, file, options.check_prefix); !held) return held;
  return {};
}

Result<void> link_all(const LinkOptions& options, const Parsed& parsed, LoadedInputs inputs) {
  Result<Engine> engine = Engine::create();
  if (!engine) return std::move(engine).error();
  std::vector<Object> objects = std::move(inputs.objects);
  Result<Library> library = make_library(*engine, inputs, parsed);
  if (!library) return std::move(library).error();
  ModuleOptions module_options;
  module_options.initialize = false;
  Change change = engine->change();
  for (Object& object : objects) change.add(*library, std::move(object), module_options);
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  if (options.allow_undefined)
    if (Result<void> bound = bind_missing(*draft); !bound) return bound;
  if (!draft->undefined().empty()) return Error{ErrorCode::undefined, describe(draft->undefined())};

  std::vector<ModuleLayout> layouts(draft->layouts().begin(), draft->layouts().end());
  Result<std::vector<BlockRequest>> blocks = draft->blocks(Granularity::function);
  if (!blocks) return std::move(blocks).error();
  Result<std::vector<Addr>> addresses = choose_addresses(*blocks, layouts, parsed.rules);
  if (!addresses) return std::move(addresses).error();
  Result<Placed> placed = std::move(*draft).place(Granularity::function, *addresses);
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  return show(options, parsed, *linked, layouts);
}

int link(const LinkOptions& options) {
  Result<Parsed> parsed = parse(options);
  if (!parsed) return misuse(parsed.error().message, see_help);
  Result<LoadedInputs> inputs = load_inputs(options.inputs);
  if (!inputs) return fail(inputs.error(), "link");
  if (inputs->objects.empty())
    return fail("there is nothing to link: archives give only what something else needs",
                "--whole-archive links all of their members");
  Result<void> linked = link_all(options, *parsed, std::move(*inputs));
  return linked ? 0 : fail(linked.error(), "link");
}

constexpr const char* examples =
    "Segments are text, stubs, rodata, unwind, got, slots, data, tls, bss. One without --at follows the one before it on a "
    "new\n"
    "page; text begins at 0x10000000. A section that is named by --at leaves its segment. Nothing of this process takes "
    "part:\n"
    "what the files lack comes from archives and --define.\n\n"
    "Examples:\n"
    "  tenon link a.o b.o --map\n"
    "  tenon link a.o --define puts=0x7f0000001000 --at text=0x400000 --at data=0x600000 -o a.bin\n"
    "  tenon link a.o b.o --at a.o:.text=0x400000 --at .text.f=0x500000 --map=a.map\n"
    "  tenon link a.o --define far=0x100000000000 --check a.s     with '# jitlink-check: ...' lines in a.s\n"
    "  tenon link /usr/lib/x86_64-linux-gnu/libsqlite3.a --whole-archive --allow-undefined --map";

} // namespace

Command declare_link(CLI::App& parser) {
  auto options = std::make_shared<LinkOptions>();
  parser.footer(examples);
  declare_input_options(parser, options->inputs, "Files to link, as for 'tenon run'");
  parser.add_option("--define", options->defines, "Define a symbol by its address")
      ->type_name("NAME=ADDR")
      ->allow_extra_args(false);
  parser.add_option("--at", options->places, "Address of a segment, of a section by its exact name, or of FILE:SECTION")
      ->type_name("WHAT=ADDR")
      ->allow_extra_args(false);
  parser.add_flag("--allow-undefined", options->allow_undefined, "Bind what nothing defines to address 0");
  parser.add_flag("--map{-}", options->map, "Write a link map to standard output; --map=FILE to a file");
  parser
      .add_option("-o", options->output, "Write the linked bytes, lowest address first; '%s' stands for the segment's name")
      ->type_name("FILE");
  parser.add_option("--check", options->checks, "Evaluate the checks in FILE, in the language of LLVM's RuntimeDyldChecker")
      ->type_name("FILE")
      ->allow_extra_args(false);
  parser.add_option("--check-prefix", options->check_prefix, "How a line with a check begins")
      ->type_name("TEXT")
      ->capture_default_str();
  return [options] { return link(*options); };
}

} // namespace tenon::cli

// `tenon inspect`: what is in objects and archives, in the words of <tenon/object.h>.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "commands.h"
#include "inputs.h"
#include "relocation_names.h"
#include "report.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <map>

namespace tenon::cli {

namespace {

struct InspectOptions {
  std::vector<std::string> files;
  bool sections = false, symbols = false, relocations = false;
  bool all() const { return !sections && !symbols && !relocations; }
};

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out;
}

const char* kind_name(SectionKind kind) {
  switch (kind) {
  case SectionKind::code: return "code";
  case SectionKind::rodata: return "rodata";
  case SectionKind::data: return "data";
  case SectionKind::zero: return "zero";
  case SectionKind::tls_data: return "tls-data";
  case SectionKind::tls_zero: return "tls-zero";
  case SectionKind::unwind: return "unwind";
  case SectionKind::init: return "init";
  case SectionKind::debug: return "debug";
  case SectionKind::other: break;
  }
  return "other";
}

const char* binding_name(Binding binding) {
  switch (binding) {
  case Binding::local: return "local";
  case Binding::global: return "global";
  case Binding::weak: return "weak";
  case Binding::unique: break;
  }
  return "unique";
}

const char* type_name(SymbolType type) {
  switch (type) {
  case SymbolType::none: return "none";
  case SymbolType::object: return "object";
  case SymbolType::function: return "function";
  case SymbolType::section: return "section";
  case SymbolType::file: return "file";
  case SymbolType::common: return "common";
  case SymbolType::tls: return "tls";
  case SymbolType::ifunc: break;
  }
  return "ifunc";
}

const char* visibility_name(Visibility visibility) {
  switch (visibility) {
  case Visibility::normal: return "default";
  case Visibility::internal: return "internal";
  case Visibility::hidden: return "hidden";
  case Visibility::protected_: break;
  }
  return "protected";
}

const char* machine_name(Machine machine) {
  switch (machine) {
  case Machine::x86_64: return "x86-64";
  case Machine::aarch64: return "AArch64";
  case Machine::riscv64: return "RISC-V 64";
  case Machine::other: break;
  }
  return "unknown machine";
}

std::string flags_of(const Section& section) {
  std::string flags;
  auto add = [&flags](bool set, const char* name) {
    if (set) flags += (flags.empty() ? "" : ",") + std::string(name);
  };
  add(section.writable, "write");
  add(section.executable, "exec");
  add(section.mergeable, "merge");
  add(section.strings, "strings");
  add(section.retain, "retain");
  add(section.compressed, "compressed");
  add(section.large, "large");
  add(section.link_order != 0, "link-order");
  add(section.group >= 0, "group");
  return flags.empty() ? "-" : flags;
}

void print_sections(const Object& object) {
  std::printf("  sections:\n  %5s %-9s %12s %6s %7s %-14s %s\n", "index", "kind", "size", "align", "relocs", "flags",
              "name");
  std::span<const Section> sections = object.sections();
  for (std::size_t i = 1; i < sections.size(); ++i) {
    const Section& section = sections[i];
    std::printf("  %5zu %-9s %12llu %6u %7u %-14s %s\n", i, kind_name(section.kind),
                static_cast<unsigned long long>(section.size), section.alignment,
                static_cast<unsigned>(object.relocations(static_cast<std::uint32_t>(i)).size()), flags_of(section).c_str(),
                printable(section.name).c_str());
  }
  if (!object.groups().empty()) std::printf("  groups:\n");
  for (const Group& group : object.groups()) {
    std::string members;
    for (std::uint32_t index : group.sections)
      if (index < sections.size()) members += " " + printable(sections[index].name);
    std::printf("  %s %s:%s\n", group.comdat ? "comdat" : "group ", printable(group.signature).c_str(), members.c_str());
  }
}

std::string place_of(const Object& object, const Symbol& symbol) {
  if (symbol.section == section_undefined) return "undefined";
  if (symbol.section == section_absolute) return "absolute";
  if (symbol.section == section_common) return "common";
  return symbol.section < object.sections().size() ? printable(object.sections()[symbol.section].name) : "?";
}

void print_symbols(const Object& object) {
  std::printf("  symbols:\n  %5s %16s %10s %-7s %-9s %-9s %-20s %s\n", "index", "value", "size", "binding", "type",
              "visible", "section", "name");
  std::span<const Symbol> symbols = object.symbols();
  for (std::size_t i = 1; i < symbols.size(); ++i) {
    const Symbol& symbol = symbols[i];
    std::printf("  %5zu %016llx %10llu %-7s %-9s %-9s %-20s %s\n", i, static_cast<unsigned long long>(symbol.value),
                static_cast<unsigned long long>(symbol.size), binding_name(symbol.binding), type_name(symbol.type),
                visibility_name(symbol.visibility), place_of(object, symbol).c_str(), printable(symbol.name()).c_str());
  }
}

void print_relocations(const Object& object) {
  std::map<std::uint32_t, std::uint64_t> counts;
  std::map<std::uint32_t, std::uint64_t> debug_counts;
  for (std::uint32_t i = 1; i < object.sections().size(); ++i) {
    auto& into = object.sections()[i].allocated ? counts : debug_counts;
    for (const Relocation& relocation : object.relocations(i)) ++into[std::uint32_t(relocation.type)];
  }
  auto print = [&object](const char* title, const std::map<std::uint32_t, std::uint64_t>& by_type) {
    if (by_type.empty()) return;
    std::printf("  %s:\n", title);
    for (auto [type, count] : by_type)
      std::printf("  %9llu %s\n", static_cast<unsigned long long>(count), relocation_name(object.machine(), type).c_str());
  };
  print("relocations", counts);
  print("relocations of sections that are not loaded", debug_counts);
  if (counts.empty() && debug_counts.empty()) std::printf("  relocations: none\n");
}

void print_object(const Object& object, const InspectOptions& options) {
  std::printf("%s: %s object, %zu bytes, %zu sections, %zu symbols, %zu groups\n", printable(object.name()).c_str(),
              machine_name(object.machine()), object.bytes().size(), object.sections().size() - !object.sections().empty(),
              object.symbols().size() - !object.symbols().empty(), object.groups().size());
  if (options.all() || options.sections) print_sections(object);
  if (options.all() || options.symbols) print_symbols(object);
  if (options.all() || options.relocations) print_relocations(object);
}

// Without selectors an archive shows its members only, in a line each; a broken member does not hide the others.
int print_archive(const Archive& archive, const InspectOptions& options) {
  std::printf("%s: archive, %zu members\n", printable(archive.name()).c_str(), archive.size());
  int status = 0;
  for (std::size_t i = 0; i < archive.size(); ++i) {
    Result<Object> member = archive.member(i);
    if (!member) {
      std::printf("  %s: can't be read\n", printable(archive.member_name(i)).c_str());
      status = fail(member.error(), "inspect");
    } else if (options.all()) {
      std::printf("  %s: %s object, %zu bytes, %zu sections, %zu symbols\n", printable(archive.member_name(i)).c_str(),
                  machine_name(member->machine()), member->bytes().size(),
                  member->sections().size() - !member->sections().empty(),
                  member->symbols().size() - !member->symbols().empty());
    } else {
      print_object(*member, options);
    }
  }
  return status;
}

int inspect_file(const std::string& path, const InspectOptions& options) {
  Result<InputFile> input = open_input(path, "c");
  if (!input) return fail(input.error(), "inspect");
  Bytes content = std::as_bytes(std::span(input->content));
  if (input->kind == FileKind::archive) {
    Result<Archive> archive = input->from_stdin ? Archive::copy(content, input->name) : Archive::read_file(path);
    return archive ? print_archive(*archive, options) : fail(archive.error(), "inspect");
  }
  if (input->kind != FileKind::object && input->kind != FileKind::shared)
    return fail(path + ": is " + to_string(input->kind), "'tenon inspect' reads objects and archives; compile it first");
  Result<Object> object = input->from_stdin ? Object::copy(content, input->name) : Object::read_file(path);
  if (!object) return fail(object.error(), "inspect");
  print_object(*object, options);
  return 0;
}

constexpr const char* examples = "Without a selector everything is shown, of archives the list of members.\n\n"
                                 "Examples:\n"
                                 "  tenon inspect a.o b.o\n"
                                 "  tenon inspect --relocations /usr/lib/x86_64-linux-gnu/libsqlite3.a\n"
                                 "  clang -c x.c -o - | tenon inspect --symbols -";

} // namespace

Command declare_inspect(CLI::App& parser) {
  auto options = std::make_shared<InspectOptions>();
  parser.footer(examples);
  parser.add_option("FILE", options->files, "Objects and archives; '-' is standard input")->required();
  parser.add_flag("--sections", options->sections, "Show sections and groups");
  parser.add_flag("--symbols", options->symbols, "Show symbols");
  parser.add_flag("--relocations", options->relocations, "Count relocations by type");
  return [options] {
    int status = 0;
    for (const std::string& path : options->files)
      if (int failed = inspect_file(path, *options)) status = failed;
    return status;
  };
}

} // namespace tenon::cli

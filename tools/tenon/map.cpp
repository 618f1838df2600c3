// Writing the link map and the image.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "map.h"

#include "place.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <unistd.h>
#include <utility>

namespace tenon::cli {

namespace {

constexpr std::uint64_t image_limit = std::uint64_t(1) << 30;

template <class... Values> void append(std::string& text, const char* format, Values... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  text += line;
}

unsigned long long wide(std::uint64_t value) { return value; }

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out;
}

bool in_image(const PlacedSection& section) {
  return section.kind != SectionKind::debug && section.kind != SectionKind::other && section.size != 0;
}

// Stable: at one address the order stays. (std::stable_sort of libstdc++ 12 does not compile under clang's -Werror.)
template <class T> std::vector<T> by_address(std::span<const T> items) {
  std::vector<std::pair<Addr, std::size_t>> order;
  for (std::size_t i = 0; i < items.size(); ++i) order.emplace_back(items[i].address, i);
  std::sort(order.begin(), order.end());
  std::vector<T> sorted;
  for (const auto& [address, index] : order) sorted.push_back(items[index]);
  return sorted;
}

const char* kind_name(LinkerEntry::Kind kind) {
  switch (kind) {
  case LinkerEntry::Kind::stub: return "stub";
  case LinkerEntry::Kind::got: return "got";
  case LinkerEntry::Kind::slot: return "slot";
  case LinkerEntry::Kind::tls: break;
  }
  return "tls";
}

char binding_letter(Binding binding) {
  switch (binding) {
  case Binding::local: return 'l';
  case Binding::global: return 'g';
  case Binding::weak: return 'w';
  case Binding::unique: break;
  }
  return 'u';
}

void append_sections(std::string& text, const Linked& linked) {
  text += "SECTIONS\n           address         size  align segment name                         module\n";
  for (const PlacedSection& section : by_address(linked.sections())) {
    append(text, "0x%016llx %12llu %6llu %-7s ", wide(section.address.value), wide(section.size), wide(section.alignment),
           to_string(segment_of(section.name, section.kind)));
    text += printable(section.name);
    text.append(section.name.size() < 28 ? 28 - section.name.size() : 0, ' ');
    text += " " + printable(linked.module_name(section.id.module)) + "\n";
  }
}

void append_symbols(std::string& text, const Linked& linked, std::span<const PlacedSymbol> symbols,
                    std::span<const Definition> definitions) {
  text += "\nSYMBOLS\n           address         size b name                                 module\n";
  auto add = [&text](Addr address, std::uint64_t size, char binding, std::string_view name, std::string_view module) {
    append(text, "0x%016llx %12llu %c ", wide(address.value), wide(size), binding);
    text += printable(name);
    text.append(name.size() < 36 ? 36 - name.size() : 0, ' ');
    text += " " + printable(module) + "\n";
  };
  for (const Definition& definition : definitions) add(definition.address, 0, 'a', definition.name, "--define");
  for (const PlacedSymbol& symbol : by_address(symbols))
    if (symbol.type != SymbolType::section && symbol.type != SymbolType::file)
      add(symbol.address, symbol.size, binding_letter(symbol.binding), symbol.name, linked.module_name(symbol.module));
}

void append_entries(std::string& text, const Linked& linked, std::span<const LinkerEntry> entries) {
  text += "\nSTUBS AND GOT\n           address kind             target symbol                               module\n";
  for (const LinkerEntry& entry : by_address(entries)) {
    append(text, "0x%016llx %-4s 0x%016llx ", wide(entry.address.value), kind_name(entry.kind), wide(entry.target.value));
    text += printable(entry.symbol);
    text.append(entry.symbol.size() < 36 ? 36 - entry.symbol.size() : 0, ' ');
    text += " " + printable(linked.module_name(entry.module)) + "\n";
  }
}

void append_sizes(std::string& text, const Linked& linked, std::span<const LinkerEntry> entries) {
  std::uint64_t sizes[segment_count] = {};
  std::uint64_t total = 0;
  for (const PlacedSection& section : linked.sections()) {
    if (!in_image(section)) continue;
    sizes[static_cast<std::size_t>(segment_of(section.name, section.kind))] += section.size;
    total += section.size;
  }
  std::map<LinkerEntry::Kind, std::size_t> counts;
  for (const LinkerEntry& entry : entries) ++counts[entry.kind];
  text += "\nSIZES\n";
  for (std::size_t i = 0; i < segment_count; ++i) append(text, "%-7s %12llu\n", to_string(Segment(i)), wide(sizes[i]));
  append(text, "total   %12llu\n", wide(total));
  for (auto [kind, count] : counts) append(text, "%s entries %zu\n", kind_name(kind), count);
}

// Which calls and jumps could be led elsewhere while threads run them, and which go through stubs in a replaceable library.
void append_branches(std::string& text, const Linked& linked, std::span<const Branch> branches) {
  text += "\nBRANCHES\n           address kind target                               module\n";
  std::size_t retargetable = 0;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> addresses;
  for (const PlacedSection& section : linked.sections())
    addresses[{section.id.module.index, section.id.index}] = section.address.value;
  for (const Branch& branch : branches) {
    retargetable += branch.retargetable ? 1 : 0;
    const std::uint64_t address = addresses[{branch.section.module.index, branch.section.index}] + branch.offset;
    append(text, "0x%016llx %-4s ", wide(address), branch.retargetable ? "site" : "stub");
    text += printable(branch.target);
    text.append(branch.target.size() < 36 ? 36 - branch.target.size() : 0, ' ');
    text += " " + printable(linked.module_name(branch.section.module)) + "\n";
  }
  append(text, "%zu of %zu branches can be retargeted (%.1f %%)\n", retargetable, branches.size(),
         branches.empty() ? 100.0 : 100.0 * double(retargetable) / double(branches.size()));
}

Error system_error(const std::string& path, const char* call) {
  return {ErrorCode::system, path + ": " + call + ": " + std::strerror(errno)};
}

// A sparse file: what is not written reads as zero.
Result<void> write_sections(const std::string& path, const Linked& linked, std::span<const PlacedSection> sections) {
  std::uint64_t begin = sections.front().address.value, end = begin;
  for (const PlacedSection& section : sections) end = std::max(end, section.address.value + section.size);
  if (end - begin >= image_limit)
    return Error{ErrorCode::invalid_argument,
                 path + ": the sections lie more than 1 GiB apart (hint: -o NAME-%s.bin writes one "
                        "file for each segment)"};
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return system_error(path, "open");
  Result<void> result;
  if (ftruncate(file, static_cast<off_t>(end - begin)) != 0) result = system_error(path, "ftruncate");
  for (const PlacedSection& section : sections) {
    Bytes bytes = linked.bytes(section.id);
    std::size_t done = 0;
    while (result.ok() && done < bytes.size()) {
      off_t offset = static_cast<off_t>(section.address.value - begin + done);
      ssize_t count = pwrite(file, bytes.data() + done, bytes.size() - done, offset);
      if (count < 0 && errno != EINTR) result = system_error(path, "write");
      if (count > 0) done += static_cast<std::size_t>(count);
    }
  }
  if (close(file) != 0 && result.ok()) result = system_error(path, "close");
  return result;
}

} // namespace

Result<std::string> format_map(const Linked& linked, std::span<const ModuleLayout> layouts,
                               std::span<const Definition> definitions) {
  Result<std::vector<PlacedSymbol>> symbols = linked.symbols();
  if (!symbols) return std::move(symbols).error();
  Result<std::vector<LinkerEntry>> entries = linked.entries();
  if (!entries) return std::move(entries).error();
  Result<std::vector<Branch>> branches = linked.branches();
  if (!branches) return std::move(branches).error();
  std::string text = "MODULES\n";
  for (const ModuleLayout& layout : layouts)
    append(text, "%6u ", layout.id.index), text += printable(linked.module_name(layout.id)) + "\n";
  text += "\n";
  append_sections(text, linked);
  append_symbols(text, linked, *symbols, definitions);
  append_entries(text, linked, *entries);
  append_branches(text, linked, *branches);
  append_sizes(text, linked, *entries);
  return text;
}

Result<void> write_text(const std::string& path, const std::string& text) {
  if (path == "-") {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
      return system_error("standard output", "write");
    return {};
  }
  FILE* file = std::fopen(path.c_str(), "we");
  if (!file) return system_error(path, "open");
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !written) return system_error(path, "write");
  return {};
}

Result<void> write_image(const std::string& path, const Linked& linked) {
  std::map<Segment, std::vector<PlacedSection>> segments;
  std::vector<PlacedSection> all;
  for (const PlacedSection& section : by_address(linked.sections()))
    if (in_image(section)) {
      segments[segment_of(section.name, section.kind)].push_back(section);
      all.push_back(section);
    }
  if (all.empty()) return write_text(path, "");
  std::size_t pattern = path.find("%s");
  if (pattern == std::string::npos) return write_sections(path, linked, all);
  for (const auto& [segment, sections] : segments) {
    std::string file = std::string(path).replace(pattern, 2, to_string(segment));
    if (Result<void> written = write_sections(file, linked, sections); !written) return written;
  }
  return {};
}

} // namespace tenon::cli

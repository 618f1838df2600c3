// A function is the same if its bytes are, and what its relocations lead to: symbols by name, string literals and constants
// by content, because neither their labels nor their places say anything.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_compare.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <map>
#include <memory>

namespace tenon::cli {

namespace {

constexpr std::uint64_t pc_relative_bias = 4; // the field lies before the end of the instruction, which the CPU counts from
constexpr std::size_t named_at_most = 6;
constexpr std::string_view identifier_characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_$";

std::string_view text(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

struct Definition {
  std::string content;
  std::uint64_t size = 0;
};

using Definitions = std::map<std::string, Definition, std::less<>>;

// What compilers make on their own account. Changes in them are changes of something else.
bool is_made_by_compiler(std::string_view name) {
  for (std::string_view prefix : {"_ZGV", "_GLOBAL__", "__cxx_global", "__tenon_", ".L", "_ZTV", "_ZTS", "_ZTI", "DW.ref."})
    if (name.starts_with(prefix)) return true;
  return name.empty();
}

class Reader {
public:
  explicit Reader(const Object& object) : object_(object) {}

  Definitions functions() const {
    return collect([](const Symbol& symbol, const Section&) { return symbol.type == SymbolType::function; });
  }
  Definitions variables() const {
    return collect([](const Symbol& symbol, const Section& section) {
      return symbol.type == SymbolType::object && (section.kind == SectionKind::data || section.kind == SectionKind::zero);
    });
  }

private:
  template <class Wanted> Definitions collect(Wanted&& wanted) const {
    Definitions all;
    for (const Symbol& symbol : object_.symbols()) {
      if (symbol.section == section_undefined || symbol.section >= object_.sections().size()) continue;
      if (is_made_by_compiler(symbol.name()) || !wanted(symbol, object_.sections()[symbol.section])) continue;
      all.insert_or_assign(std::string(symbol.name()),
                           Definition{content(symbol.section, symbol.value, symbol.size), symbol.size});
    }
    return all;
  }

  std::string content(std::uint32_t section, std::uint64_t begin, std::uint64_t size) const {
    std::string_view all = text(object_.sections()[section].content);
    std::string content(begin <= all.size() ? all.substr(begin, size) : std::string_view());
    for (const Relocation& relocation : object_.relocations(section)) {
      if (relocation.offset < begin || relocation.offset - begin >= size) continue;
      content += '\0' + std::to_string(relocation.offset - begin) + ' ' + std::to_string(relocation.type) + ' ';
      content += target(object_.symbols()[relocation.symbol], relocation.addend);
    }
    return content;
  }

  std::string target(const Symbol& symbol, std::int64_t addend) const {
    bool named = symbol.type != SymbolType::section && !symbol.name().starts_with(".L");
    if (!symbol.defined() || symbol.section >= object_.sections().size() || named)
      return std::string(symbol.name()) + '+' + std::to_string(addend);
    const Section& section = object_.sections()[symbol.section];
    if (section.kind != SectionKind::rodata) return std::string(section.name) + '+' + std::to_string(addend);
    // Which piece of a merged section it is depends on whether the reference counts from its own end.
    std::string_view all = text(section.content);
    if (!section.mergeable) return std::string(all) + tables(symbol.section);
    std::uint64_t at = symbol.value + static_cast<std::uint64_t>(addend) + pc_relative_bias;
    if (at >= all.size()) return std::string(all);
    return std::string(all.substr(at, section.strings ? all.find('\0', at) - at : section.entry_size));
  }

  // Jump tables and tables of pointers differ in their relocations only.
  std::string tables(std::uint32_t section) const {
    std::string content;
    for (const Relocation& relocation : object_.relocations(section))
      content += std::to_string(relocation.offset) + ' ' + std::string(object_.symbols()[relocation.symbol].name()) + '+' +
                 std::to_string(relocation.addend) + ';';
    return content;
  }

  const Object& object_;
};

// What tells lambdas apart is nothing that people could read.
std::string with_plain_lambdas(std::string text) {
  constexpr std::string_view mark = "$_h";
  constexpr std::size_t digits = 16;
  for (std::size_t at = 0; (at = text.find(mark, at)) != text.npos;) text.replace(at, mark.size() + digits, "{lambda}");
  return text;
}

// Empty if it is none of C++.
std::string demangled(const std::string& name) {
  if (!name.starts_with("_Z")) return {}; // what else can be read as a type would be
  int status = 0;
  const std::string plain = name.substr(0, name.find(".closure_")); // see CompileOptions::name_closures
  std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(plain.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 && text ? with_plain_lambdas(text.get()) : std::string();
}

std::string readable(const std::string& name, bool function) {
  std::string text = demangled(name);
  return !text.empty() ? text : function ? name + "()" : name;
}

void compare_functions(const Definitions& before, const Definitions& now, ObjectDifference& result) {
  for (const auto& [name, function] : now) {
    auto old = before.find(name);
    if (old == before.end())
      result.added.push_back(readable(name, true));
    else if (old->second.content != function.content)
      result.changed.push_back(readable(name, true));
  }
  for (const auto& [name, function] : before)
    if (!now.contains(name)) result.gone.push_back(readable(name, true));
}

void compare_variables(const Definitions& before, const Definitions& now, ObjectDifference& result) {
  for (const auto& [name, variable] : now) {
    auto old = before.find(name);
    if (old == before.end() || old->second.size != variable.size) {
      result.new_variables.push_back(readable(name, false));
      continue;
    }
    ++result.kept_variables;
    if (old->second.content != variable.content) result.unused_initial_values.push_back(readable(name, false));
  }
  for (const auto& [name, variable] : before)
    if (!now.contains(name)) result.gone_variables.push_back(readable(name, false));
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), named_at_most); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > named_at_most) text += " and " + std::to_string(names.size() - named_at_most) + " more";
  return text;
}

void add_part(std::string& text, const std::vector<std::string>& names, const char* what, const char* separator) {
  if (names.empty()) return;
  text += (text.empty() ? "" : separator) + list(names) + " " + what;
}

void move_to(std::vector<std::string>& all, std::vector<std::string>& more) {
  for (std::string& name : more)
    // An inline function of a header is in several objects.
    if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(std::move(name));
}

} // namespace

void ObjectDifference::append(ObjectDifference other) {
  move_to(changed, other.changed);
  move_to(added, other.added);
  move_to(gone, other.gone);
  move_to(new_variables, other.new_variables);
  move_to(gone_variables, other.gone_variables);
  move_to(unused_initial_values, other.unused_initial_values);
  kept_variables += other.kept_variables;
}

bool same_bytes(const Object& a, const Object& b) { return std::ranges::equal(a.bytes(), b.bytes()); }

ObjectDifference difference(const Object& before, const Object& now) {
  ObjectDifference result;
  Reader old(before), fresh(now);
  compare_functions(old.functions(), fresh.functions(), result);
  compare_variables(old.variables(), fresh.variables(), result);
  return result;
}

std::string describe(const ObjectDifference& difference) {
  std::string functions;
  add_part(functions, difference.changed, "changed", ", ");
  add_part(functions, difference.added, "new", ", ");
  add_part(functions, difference.gone, "gone", ", ");
  if (functions.empty()) functions = "no function changed";

  std::string variables =
      std::to_string(difference.kept_variables) + (difference.kept_variables == 1 ? " variable kept" : " variables kept");
  add_part(variables, difference.new_variables, "new", ", ");
  add_part(variables, difference.gone_variables, "gone", ", ");
  add_part(variables, difference.unused_initial_values, "with a new initial value that is not used", ", ");
  return functions + "; " + variables;
}

std::string with_readable_names(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t start = std::min(text.find("_Z"), text.size());
    result += text.substr(0, start);
    text.remove_prefix(start);
    const std::string name(text.substr(0, text.find_first_not_of(identifier_characters)));
    const std::string read = demangled(name);
    result += read.empty() ? name : read;
    text.remove_prefix(name.size());
  }
  return result;
}

} // namespace tenon::cli

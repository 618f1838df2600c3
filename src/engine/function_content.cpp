// What functions of numbered lambdas are like. See function_content.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/function_content.h"

#include "base/bytes.h"
#include "engine/name_table.h"
#include "engine/replacement.h"
#include "link/arch/arch.h"

#include <algorithm>
#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <new>
#include <string>
#include <tuple>

namespace tenon::engine {

namespace {

constexpr std::size_t most_visited = 256; // functions and literals that one uses; who uses more is not told

// The compile layer's: what the lambda is like is in the name (CompileOptions::name_closures).
constexpr std::string_view named_mark = ".closure_";

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

// Clang, where nobody else may see them: `3$_0`.
bool has_clang_number(std::string_view name) noexcept {
  constexpr std::string_view mark = "$_";
  for (std::size_t at = name.find(mark); at != name.npos; at = name.find(mark, at + 1))
    if (at + mark.size() < name.size() && is_digit(name[at + mark.size()])) return true;
  return false;
}

// Null: it is no mangled name. May throw std::bad_alloc.
std::unique_ptr<char, void (*)(void*)> demangle(std::string_view name) {
  int status = 0;
  std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(std::string(name).c_str(), nullptr, nullptr, &status),
                                              std::free);
  if (status == -1) throw std::bad_alloc();
  return text;
}

} // namespace

std::string without_closure_numbers(std::string_view name) {
  const std::unique_ptr<char, void (*)(void*)> text = demangle(name);
  std::string result(text != nullptr ? std::string_view(text.get()) : name);
  for (std::size_t at = 0; (at = result.find_first_of("#$", at)) != result.npos; ++at) { // `lambda()#1`, `$_0`
    const std::size_t number = result[at] == '$' ? at + 2 : at + 1;
    std::size_t end = std::min(number, result.size());
    while (end < result.size() && is_digit(result[end])) ++end;
    if (end > number) result.erase(number, end - number);
  }
  return result;
}

bool has_numbered_closure(std::string_view name) {
  if (!name.starts_with("_Z") || name.find(named_mark) != name.npos) return false;
  if (has_clang_number(name)) return true;
  // Itanium C++ ABI, "Unnamed types": Ul <signature> E [number] _, Ut [number] _. Other names may hold those letters.
  if (name.find("Ul") == name.npos && name.find("Ut") == name.npos) return false;
  const std::unique_ptr<char, void (*)(void*)> text = demangle(name);
  if (text == nullptr) return true; // nothing is known of it
  const std::string_view readable(text.get());
  return readable.find("{lambda(") != readable.npos || readable.find("{unnamed type#") != readable.npos;
}

bool is_numbered_function(std::string_view name) noexcept {
  return is_numbered(name) || name.starts_with("__tcf_") || name == "__cxx_global_array_dtor";
}

std::string without_class_numbers(std::string_view name) {
  std::string result(name);
  if (!name.starts_with("_ZZ")) return result;
  // Itanium C++ ABI, "Scope Encoding": _ <digit>, or __ <digits> _, behind the name in its function.
  for (std::size_t at = 0; (at = result.find("E_", at)) != result.npos; ++at) {
    const bool long_one = result.compare(at, 3, "E__") == 0;
    std::size_t end = at + (long_one ? 3 : 2);
    const std::size_t digits = end;
    while (end < result.size() && is_digit(result[end]) && (long_one || end == digits)) ++end;
    if (end == digits || (long_one && (end == result.size() || result[end] != '_'))) continue;
    result.erase(at + 1, end + (long_one ? 1 : 0) - (at + 1));
  }
  return result;
}

void FunctionContents::list_places() {
  if (!places_.empty()) return;
  const std::span<const Symbol> symbols = object_.symbols();
  for (std::uint32_t i = 1; i < symbols.size(); ++i) {
    const Symbol& symbol = symbols[i];
    const bool named = symbol.type == SymbolType::function || symbol.type == SymbolType::object;
    if (named && symbol.defined() && symbol.section < object_.sections().size() && !is_nameless_constant(symbol))
      places_.push_back({symbol.section, symbol.value, i});
  }
  std::sort(places_.begin(), places_.end(), [](const Place& a, const Place& b) {
    return std::tuple(a.section, a.offset, a.symbol) < std::tuple(b.section, b.offset, b.symbol);
  });
}

std::uint32_t FunctionContents::symbol_over(std::uint32_t section, std::uint64_t offset) const noexcept {
  auto after = std::upper_bound(places_.begin(), places_.end(), std::pair(section, offset),
                                [](const auto& at, const Place& p) { return at < std::pair(p.section, p.offset); });
  if (after == places_.begin() || std::prev(after)->section != section) return 0;
  const std::uint64_t begin = std::prev(after)->offset;
  while (after != places_.begin() && std::prev(after)->section == section && std::prev(after)->offset == begin) --after;
  const std::uint64_t size = object_.symbols()[after->symbol].size;
  return offset - begin <= size ? after->symbol : 0; // loops over arrays know their end
}

std::uint64_t FunctionContents::of(std::uint32_t symbol) {
  list_places();
  hash_ = 0x2545'F491'4F6C'DD1D;
  visited_.clear();
  mentioned_.clear();
  told_ = true;
  add_function(symbol);
  if (!told_) return 0;
  return hash_ != 0 ? hash_ : 1;
}

void FunctionContents::add(Bytes bytes) noexcept {
  add(bytes.size());
  while (bytes.size() >= 8) {
    add(base::load_le<std::uint64_t>(bytes.data()));
    bytes = bytes.subspan(8);
  }
  for (std::byte b : bytes) add(std::to_integer<std::uint64_t>(b));
}

void FunctionContents::add_function(std::uint32_t index) {
  const auto seen = std::find(visited_.begin(), visited_.end(), index);
  add(std::uint64_t(seen - visited_.begin()));
  if (seen != visited_.end()) return;
  if (visited_.size() == most_visited) told_ = false;
  if (!told_) return;
  visited_.push_back(index);
  const Symbol& symbol = object_.symbols()[index];
  const Section& section = object_.sections()[symbol.section];
  if (symbol.size == 0 || !base::range_fits(symbol.value, symbol.size, section.content.size())) {
    told_ = false;
    return;
  }
  add_bytes(symbol.section, symbol.value, symbol.value + symbol.size);
}

void FunctionContents::add_bytes(std::uint32_t index, std::uint64_t begin, std::uint64_t end) {
  const Section& section = object_.sections()[index];
  add(section.content.subspan(begin, end - begin));
  for (const Relocation& r : object_.relocations(index)) {
    if (!told_) return;
    if (r.offset < begin || r.offset >= end) continue;
    add(r.offset - begin);
    add(r.type);
    add_target(r, section.kind == SectionKind::code);
  }
}

void FunctionContents::add_target(const Relocation& r, bool code) {
  const Symbol& symbol = object_.symbols()[r.symbol];
  const bool here = symbol.defined() && symbol.section < object_.sections().size();
  if (symbol.type != SymbolType::section && !is_nameless_constant(symbol)) {
    add(std::uint64_t(r.addend));
    return add_symbol(r.symbol);
  }
  if (!here) return;
  const link::arch::LinkedField field = link::arch::field_shape(r);
  const bool displacement = code && field.relative && field.width == 4; // counts from its end
  const std::uint64_t at = symbol.value + std::uint64_t(r.addend) + (displacement ? 4 : 0);
  if (const std::uint32_t over = symbol_over(symbol.section, at)) {
    add(at - object_.symbols()[over].value);
    return add_symbol(over);
  }
  add_literal(symbol.section, at);
}

void FunctionContents::add_symbol(std::uint32_t index) {
  const Symbol& symbol = object_.symbols()[index];
  const std::string_view name = symbol.name();
  mentioned_.push_back(index);
  add(hash_name(name));
  const bool function = symbol.type == SymbolType::function && symbol.is_local() && symbol.defined() &&
                        symbol.section < object_.sections().size();
  if (function && (is_numbered_function(name) || is_part_of_another(name) || has_numbered_closure(name)))
    add_function(index);
}

void FunctionContents::add_literal(std::uint32_t index, std::uint64_t at) {
  const Section& section = object_.sections()[index];
  add(std::uint64_t(section.kind));
  const bool writable = section.kind == SectionKind::data || section.kind == SectionKind::zero;
  if (writable && !section.name.starts_with(".data.rel.ro")) told_ = false; // which variable that is, its name does not say
  if (at >= section.content.size()) return add(section.size);
  if (section.strings) {
    const Bytes rest = section.content.subspan(at);
    return add(rest.first(std::size_t(std::find(rest.begin(), rest.end(), std::byte(0)) - rest.begin())));
  }
  if (section.mergeable && section.entry_size != 0) {
    const std::uint64_t begin = at - at % section.entry_size;
    return add(section.content.subspan(begin, std::min<std::uint64_t>(section.entry_size, section.content.size() - begin)));
  }
  // Tables of jumps and the like: all of the section, once.
  add(at);
  const std::uint64_t mark = std::uint64_t(1) << 32 | index;
  if (section.kind == SectionKind::code || std::find(visited_.begin(), visited_.end(), mark) != visited_.end()) return;
  if (visited_.size() == most_visited) told_ = false;
  if (!told_) return;
  visited_.push_back(mark);
  add_bytes(index, 0, section.content.size());
}

} // namespace tenon::engine

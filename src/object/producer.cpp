// Of options that contradict each other the last one counts, as it does for the compilers. See producer.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/producer.h"

#include <algorithm>

namespace tenon::object {

namespace {

struct Options {
  bool optimized = false;
  bool position_independent = false; // as a shared object is
  bool interposable = false;
  bool recorded = false; // Clang's are all there
};

void apply(Options& options, std::string_view word) noexcept {
  if (word.starts_with("-O"))
    options.optimized = word != "-O0";
  else if (word == "-fPIC" || word == "-fpic")
    options.position_independent = true;
  else if (word == "-fPIE" || word == "-fpie" || word == "-fno-PIC" || word == "-fno-pic" || word == "-fno-PIE" ||
           word == "-fno-pie")
    options.position_independent = false;
  else if (word == "-fsemantic-interposition")
    options.interposable = true;
  else if (word == "-fno-semantic-interposition")
    options.interposable = false;
  else if (word == "-grecord-command-line" || word == "-grecord-gcc-switches")
    options.recorded = true;
  if (word == "-Ofast") options.interposable = false;
}

} // namespace

Knowledge knowledge_of(std::string_view producer) noexcept {
  // "GNU C17", "GNU C++17", "GNU Fortran2008"; not the assembler, nor what comes out of link-time optimization.
  const bool gcc = producer.starts_with("GNU ") && !producer.starts_with("GNU AS") && !producer.starts_with("GNU GIMPLE");
  const bool clang = producer.find("clang version ") != std::string_view::npos;
  if (!gcc && !clang) return Knowledge::any;
  Options options;
  options.interposable = gcc; // unless told otherwise
  for (std::string_view rest = producer; !rest.empty();) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    apply(options, rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (clang && !options.recorded) return Knowledge::any;
  if (!options.optimized) return Knowledge::none;
  return options.position_independent && options.interposable ? Knowledge::not_public : Knowledge::any;
}

bool is_of_gcc(const Object& object) noexcept {
  bool gcc = false;
  for (const Section& section : object.sections()) {
    if (section.allocated || section.name != ".comment" || section.compressed) continue;
    const Bytes content = section.content;
    for (std::string_view rest(reinterpret_cast<const char*>(content.data()), content.size()); !rest.empty();) {
      const std::size_t end = std::min(rest.find('\0'), rest.size());
      const std::string_view text = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (text.empty()) continue;
      if (!text.starts_with("GCC: ")) return false;
      gcc = true;
    }
  }
  return gcc;
}

} // namespace tenon::object

// Error lines. Whatever a file's name or symbol holds, the line stays one line: control characters become '?'.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "report.h"

#include <cstdio>

namespace tenon::cli {

namespace {

int print_error(std::string_view message, std::string_view hint, int status) {
  std::string line = "tenon: error: " + one_line(message);
  if (!hint.empty()) line += " (hint: " + one_line(hint) + ")";
  line += '\n';
  std::fflush(stdout);
  std::fputs(line.c_str(), stderr);
  return status;
}

std::string_view hint_for(ErrorCode code, std::string_view command) {
  bool run = command == "run";
  switch (code) {
  case ErrorCode::malformed: return "is it complete, and what its name says? 'file' tells what it is";
  case ErrorCode::unsupported:
    return command == "inspect" ? "only relocatable files and archives can be inspected"
                                : "x86-64 ELF files of this system's kind can be linked: objects, archives, shared objects";
  case ErrorCode::undefined:
    return run ? "name the object, archive or library that defines them: FILE.o, FILE.a, -l NAME"
               : "name the object or archive that defines them, or use --define NAME=ADDR or --allow-undefined";
  case ErrorCode::duplicate:
    return "leave out one of the files, or put it into an archive, which gives what is missing only";
  case ErrorCode::out_of_range: return run ? "compile with -fPIC, or try --low-2gib" : "choose nearer addresses with --at";
  case ErrorCode::needs_flag: return "compile it again with the flag that is named";
  case ErrorCode::exhausted: return "the code does not fit into one reservation of 2 GiB";
  case ErrorCode::compile: return "'opt-22 -passes=verify' checks IR";
  default: return {};
  }
}

} // namespace

std::string one_line(std::string_view text) {
  std::string line;
  for (char c : text) {
    bool blank = c == '\n' || c == '\t' || c == '\r';
    bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    line += blank ? ' ' : control ? '?' : c;
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

int fail(std::string_view message, std::string_view hint) { return print_error(message, hint, exit_failure); }

int misuse(std::string_view message, std::string_view hint) { return print_error(message, hint, exit_misuse); }

int fail(const Error& error, std::string_view command) {
  // The library's text may give its own advice.
  bool advised = error.message.find("(hint:") != std::string::npos;
  return fail(error.message, advised ? std::string_view{} : hint_for(error.code, command));
}

void warn(std::string_view message) { std::fputs(("tenon: warning: " + one_line(message) + "\n").c_str(), stderr); }

std::string describe(std::span<const Missing> missing) {
  std::string text = missing.size() == 1 ? "undefined symbol: " : std::to_string(missing.size()) + " undefined symbols: ";
  for (std::size_t i = 0; i < missing.size(); ++i) {
    text += i == 0 ? "" : "; ";
    text += missing[i].name;
    for (std::size_t j = 0; j < missing[i].needed_by.size(); ++j)
      text += (j == 0 ? " (needed by " : ", ") + missing[i].needed_by[j];
    text += missing[i].needed_by.empty() ? "" : ")";
  }
  return text;
}

} // namespace tenon::cli

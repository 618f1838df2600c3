// Input files of the command line: what each one is, and how it becomes something that can be linked.
//
// Content decides before the name does, because objects and archives come with any name; only sources, which have no magic
// number, go by their extension (or by -x, on standard input).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/library.h>
#include <tenon/object.h>
#include <tenon/result.h>

#include <string>
#include <string_view>
#include <vector>

namespace tenon::cli {

enum class FileKind : unsigned char { object, archive, shared, script, ir, bitcode, c, cxx, assembly, unknown };

// One file of the command line; "-" is standard input.
struct InputFile {
  std::string path;
  std::string name; // for messages
  FileKind kind = FileKind::unknown;
  bool from_stdin = false;
  std::string content; // of standard input only
};

struct InputOptions {
  std::vector<std::string> files;
  std::vector<std::string> libraries;      // -l
  std::vector<std::string> directories;    // -L
  std::vector<std::string> compiler_flags; // -X
  std::string stdin_language = "c";        // -x
  unsigned level = 2;                      // -O
  bool whole_archive = false;
};

struct LoadedInputs {
  std::vector<Object> objects;   // in the order of the command line; members of archives too, if whole_archive
  std::vector<Source> sources;   // archives and shared objects: those among the files, then those of -l
  std::vector<Archive> archives; // the archives among the sources
  double read_ms = 0, compile_ms = 0;
};

// What a file is, by its first bytes and its name.
FileKind classify(std::string_view content, std::string_view path);
const char* to_string(FileKind kind);

// Looks at a file, or reads standard input to its end. Errors: system (missing, unreadable), malformed (of no known kind).
Result<InputFile> open_input(const std::string& path, std::string_view stdin_language);

// Reads, compiles and loads everything. Nothing of a program has run after an error but what constructors of shared objects
// do.
Result<LoadedInputs> load_inputs(const InputOptions& options);

} // namespace tenon::cli

// Declares the options on input files.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "input_options.h"

#include <CLI/CLI.hpp>

namespace tenon::cli {

void declare_input_options(CLI::App& parser, InputOptions& inputs, const char* file_help) {
  parser.add_option("FILE", inputs.files, file_help)->required();
  parser.add_option("-O", inputs.level, "Optimization of C, C++ and IR: 0 to 3")
      ->type_name("LEVEL")
      ->check(CLI::Range(0, 3))
      ->capture_default_str();
  auto add_list = [&parser](const char* name, std::vector<std::string>& list, const char* help, const char* type) {
    parser.add_option(name, list, help)->type_name(type)->allow_extra_args(false);
  };
  add_list("-l", inputs.libraries, "Search libNAME.so or libNAME.a; ':FILE' names the file itself", "NAME");
  add_list("-L", inputs.directories, "Look for libraries there first", "DIR");
  add_list("-X,--cflag", inputs.compiler_flags, "Give FLAG to clang", "FLAG");
  parser.add_option("-x", inputs.stdin_language, "Language of a source on standard input: c or c++")
      ->type_name("LANGUAGE")
      ->check(CLI::IsMember({"c", "c++"}))
      ->capture_default_str();
  parser.add_flag("--whole-archive", inputs.whole_archive, "Link every member of archives, needed or not");
}

} // namespace tenon::cli

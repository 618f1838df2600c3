// Compiling what is replaced while it runs: every function opaque to its callers, with a list of the files that it came
// from.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"
#include "live_clang.h"

#include <tenon/llvm.h>

#include <optional>
#include <string>
#include <vector>

namespace tenon::cli {

struct LiveCompiled {
  Result<Object> object;
  std::string diagnostics; // what clang said, warnings too
  // Absolute, the file itself among them; of a file that failed, what could be found out. Empty: not known.
  std::vector<std::string> dependencies;
};

class LiveCompiler {
public:
  // Before the program begins: its signals go to none of the threads made here. `working_directory` is the one that names of
  // files are relative to. Errors: system (no clang), unsupported.
  static Result<LiveCompiler> create(const InputOptions& options, std::string working_directory, bool in_colour,
                                     const std::string& first_source);

  // Any kind of file that is compiled, and objects. Several threads may be at it.
  LiveCompiled compile(const InputFile& input);

  // Ends the compilers that run; whoever waits for them gets an error.
  void stop();

private:
  LiveCompiler(const InputOptions& options, std::string working_directory, bool in_colour, CompilerPool pool);

  std::vector<std::string> arguments(const InputFile& input, std::vector<std::string> what) const;
  LiveCompiled compile_source(const InputFile& input);
  Result<Object> compile_ir(std::vector<std::byte> ir, const std::string& name, bool strip_debug_info);
  std::vector<std::string> dependencies_of_broken(const InputFile& input);
  std::string absolute(const std::string& path) const;
  std::vector<std::string> all_absolute(const std::vector<std::string>& paths) const;

  InputOptions options_;
  std::string working_directory_;
  bool in_colour_;
  std::optional<Clang> clang_;
  CompilerPool pool_;
};

// Keeps signals that are meant for the program from this thread, and from those that it makes.
class WithoutSignals {
public:
  WithoutSignals();
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;
  ~WithoutSignals();

private:
  struct Mask;
  std::unique_ptr<Mask> before_;
};

} // namespace tenon::cli

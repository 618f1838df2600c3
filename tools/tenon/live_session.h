// A program whose sources are watched: one round of compiling and swapping for each set of files that are saved together.
//
// What runs is changed as a whole or not at all: a round ends with all files of the set in force, or with the old code
// running on and an error shown. Files that were fine in a round that failed wait for the next one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "live_compare.h"
#include "live_compile.h"
#include "live_log.h"
#include "live_watch.h"
#include "program.h"

#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace tenon::cli {

struct LiveOptions {
  InputOptions inputs;
  ProgramOptions program;
  std::string log;
  std::chrono::milliseconds settle{30};
  DataPolicy::Differing resized = DataPolicy::Differing::refuse;
};

// A file that is compiled, or an object, and what of it is in force.
struct LiveFile {
  InputFile input;
  std::string path;                      // absolute
  std::vector<std::string> dependencies; // absolute, itself among them
  std::optional<Object> running, fresh;  // fresh: compiled, not in force yet
  std::optional<Module> module;
  bool stale = true; // to be compiled
  bool gone = false; // not there when it was last looked for
};

class LiveSession {
public:
  static Result<LiveSession> create(const LiveOptions& options);

  // Compiles and watches. What clang says is shown. Errors: of the first file that has one.
  Result<void> compile_all();

  // In the order of the files; `others` are linked with them, and are not watched.
  Result<void> link_all(Program& program, std::vector<Object> others);

  // In a thread of its own, from now until end(). Says what is watched.
  void begin_watching();

  // Inside exit(): waits until no swap is under way, and lets none begin.
  void end();

  // What is compiled and not in force yet.
  std::vector<Object> objects() const;

private:
  LiveSession(const LiveOptions& options, LiveLog log, FileWatch watch, LiveCompiler compiler, std::vector<LiveFile> files);

  void watch_loop();
  bool mark(const std::vector<FileEvent>& events);
  bool mark(const FileEvent& event);
  Result<void> settle();
  void wait_for_missing();
  void say_who_is_gone();
  void round();
  bool compile_stale();
  void compile_on_threads(std::span<LiveFile* const> files, std::vector<std::optional<LiveCompiled>>& compiled);
  bool accept(LiveFile& file, LiveCompiled compiled, std::chrono::system_clock::time_point begun);
  void swap(double compile_ms);
  Result<void> commit(std::span<LiveFile* const> files, double& link_ms, double& swap_ms);
  void watch_dependencies(LiveFile& file, std::chrono::system_clock::time_point begun);
  void pin_modules();

  LiveOptions options_;
  LiveLog log_;
  FileWatch watch_;
  LiveCompiler compiler_;
  std::vector<LiveFile> files_;
  std::vector<std::string> shown_; // files of this round
  Program* program_ = nullptr;
  std::thread thread_;
};

} // namespace tenon::cli

// clang beside a running program that is not ours.
//
// The program must not notice: a child of its own process would raise SIGCHLD and turn up in its wait(). clang is therefore
// the child of a child that was made without an exit signal, which wait() passes over. It gets the working directory, the
// environment and the signal mask that the process began with, whatever the program has done to its own since.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "descriptor.h"

#include <tenon/result.h>

#include <cstddef>
#include <mutex>
#include <set>
#include <string>
#include <sys/types.h>
#include <vector>

namespace tenon::cli {

struct ClangRun {
  int status = 0;                        // as a shell has it
  std::vector<std::byte> output;         // what went to `-o -`
  std::string diagnostics;               // its standard error
  std::vector<std::string> dependencies; // of `-MF clang_dependencies`: as clang writes them, without the target
};

inline constexpr const char* clang_dependencies = "/dev/fd/3";

class Clang {
public:
  // `path` as find_clang() gives it. Call it before the program begins. Errors: system.
  static Result<Clang> create(std::string path);
  Clang(Clang&& other) noexcept;
  ~Clang() = default;

  // Several threads may be at it. Errors: system.
  Result<ClangRun> run(std::vector<std::string> arguments);

  // Ends what runs, and lets nothing begin.
  void stop();

private:
  Clang(std::string path, Descriptor directory);
  Result<int> run_child(const std::vector<char*>& argv, int output, int diagnostics, int dependencies);

  std::string path_;
  Descriptor directory_;
  std::vector<std::string> environment_;
  std::mutex mutex_; // guards children_ and stopped_
  std::set<pid_t> children_;
  bool stopped_ = false;
};

// The prerequisites of a Make rule: "target: a.c b\ c.h \<newline> d.h".
std::vector<std::string> rule_prerequisites(std::string_view rule);

// Moves a descriptor out of the way of those whose numbers programs rely on.
Descriptor out_of_the_way(Descriptor descriptor);

} // namespace tenon::cli

// Participants in processes of their own: for what happens only once in a process, and for memory that is to be told apart.
//
// The program executes itself again with `--child`; the set goes along in a memfd, so that the child has touched nothing of
// its linker, nor of LLVM's libraries, before it starts the clock.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"

#include <optional>
#include <string>
#include <vector>

namespace versus {

// A set in a memfd that children inherit. It has everything but the plan of the floors.
class SharedSet {
public:
  static Result<SharedSet> create(const InputSet& set);
  SharedSet(SharedSet&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  SharedSet& operator=(SharedSet&&) = delete;
  ~SharedSet();
  int descriptor() const noexcept { return descriptor_; }

private:
  explicit SharedSet(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

// What the first link of a process took and left.
struct FirstLink {
  double ms = 0;      // from before the participant is made to the last name's address
  double peak_mb = 0; // resident at most, beyond what was resident before
  double left_mb = 0; // resident afterwards, each page counted once, beyond what was before
};

// In a child: `participant` (its key) links the set.
Result<FirstLink> first_link(const SharedSet& set, const std::string& participant);

struct Finished {
  double ms = 0;
  double peak_mb = 0;
  std::string output; // of both kinds
};

// Runs a program to its end. An error if it can't be run, or with its output if it fails.
Result<Finished> run_program(const std::vector<std::string>& arguments);

// The exit status of a process that was started by first_link(); none in any other.
std::optional<int> run_as_child(int argc, char** argv);

} // namespace versus

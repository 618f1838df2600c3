// Where `tenon live` speaks to the person at the keyboard, beside a program that may have the terminal in any state.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "descriptor.h"

#include <string>
#include <string_view>

namespace tenon::cli {

class LiveLog {
public:
  // A file that is appended to; standard error if `path` is empty, which is kept even if the program closes it.
  static Result<LiveLog> open(const std::string& path);

  bool is_terminal() const { return terminal_; }

  // One line, in one write.
  void line(std::string_view text);
  // What somebody else says, as it stands.
  void text(std::string_view text);
  // A line for the time being, on terminals only: the next one takes its place.
  void passing(std::string_view text);

private:
  LiveLog(Descriptor out, bool terminal) : out_(std::move(out)), terminal_(terminal) {}

  Descriptor out_;
  bool terminal_;
};

} // namespace tenon::cli

// Lines on terminals begin by erasing what stands there and end with a carriage return, which raw mode does not add.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_log.h"

#include "live_clang.h"
#include "report.h"

#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

namespace tenon::cli {

namespace {

constexpr std::string_view erase_line = "\r\x1b[K";

} // namespace

Result<LiveLog> LiveLog::open(const std::string& path) {
  if (path.empty()) {
    const char* kind = std::getenv("TERM");
    bool terminal = isatty(STDERR_FILENO) == 1 && kind && std::string_view(kind) != "dumb";
    return LiveLog(out_of_the_way(Descriptor(dup(STDERR_FILENO))), terminal);
  }
  constexpr mode_t readable = 0644;
  Descriptor file = out_of_the_way(Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, readable)));
  if (!file.is_open()) return system_error(path + ": open");
  return LiveLog(std::move(file), false);
}

void LiveLog::line(std::string_view text) {
  std::string whole = "tenon: " + one_line(text);
  static_cast<void>(write_all(out_.number(), terminal_ ? std::string(erase_line) + whole + "\r\n" : whole + "\n"));
}

void LiveLog::text(std::string_view text) {
  if (text.empty()) return;
  std::string whole(terminal_ ? erase_line : "");
  for (char c : text) whole += c == '\n' && terminal_ ? std::string("\r\n") : std::string(1, c);
  if (text.back() != '\n') whole += terminal_ ? "\r\n" : "\n";
  static_cast<void>(write_all(out_.number(), whole));
}

void LiveLog::passing(std::string_view text) {
  if (terminal_) static_cast<void>(write_all(out_.number(), std::string(erase_line) + "tenon: " + one_line(text)));
}

} // namespace tenon::cli

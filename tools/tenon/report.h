// What the command line says when something is wrong: one line on standard error, with a hint what to do about it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>
#include <tenon/result.h>

#include <span>
#include <string>
#include <string_view>

namespace tenon::cli {

inline constexpr int exit_failure = 1;
inline constexpr int exit_misuse = 2;

// Print `tenon: error: MESSAGE (hint: HINT)`, in one line whatever the message holds, and return the exit status.
int fail(std::string_view message, std::string_view hint = {});
int misuse(std::string_view message, std::string_view hint);

// The same for an error of the library's; the hint is what its code suggests to a user of `command` ("run" or "link").
int fail(const Error& error, std::string_view command);

// Control characters, line ends among them, become blanks or '?'.
std::string one_line(std::string_view text);

// `tenon: warning: MESSAGE`.
void warn(std::string_view message);

// All that is missing and who needs it, in one line.
std::string describe(std::span<const Missing> missing);

} // namespace tenon::cli

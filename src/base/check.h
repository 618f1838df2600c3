// Our own bugs stop the program with a message, in release builds too: a linker that goes on after a broken invariant writes
// machine code it does not understand. Faults of input or environment are never checked here: they are Results.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

namespace tenon::base {

[[noreturn]] void check_failed(const char* condition, const char* text, const char* file, int line) noexcept;

} // namespace tenon::base

#define TENON_CHECK(condition, text)                                                                                        \
  (static_cast<bool>(condition) ? void(0) : ::tenon::base::check_failed(#condition, text, __FILE__, __LINE__))

// The end of the line for our own bugs: one message on stderr, then abort, so that a core dump shows where.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tenon::base {

void check_failed(const char* condition, const char* text, const char* file, int line) noexcept {
  std::fprintf(stderr, "tenon: internal error: %s (%s) at %s:%d\n", text, condition, file, line);
  std::abort();
}

} // namespace tenon::base

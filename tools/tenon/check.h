// Evaluating `# jitlink-check:` lines on linked bytes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>
#include <tenon/result.h>

#include <span>
#include <string>
#include <vector>

namespace tenon::cli {

struct Definition {
  std::string name;
  Addr address;
};

// Evaluates every rule in `file`, whose lines begin with `prefix`. What does not hold is printed to standard error, with
// both values. Errors: system (no such file), invalid_argument (no rule in it, or one that does not hold or can't be
// evaluated).
Result<void> check_rules(const Linked& linked, std::span<const Definition> definitions, const std::string& file,
                         const std::string& prefix);

} // namespace tenon::cli

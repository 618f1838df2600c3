// Says what is different between two versions of an object, in the words of its author.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::cli {

// Names as people write them: `draw()`, `Ball::move(double)`.
struct ObjectDifference {
  std::vector<std::string> changed, added, gone; // functions
  std::vector<std::string> new_variables;        // also those that begin anew, being of another size
  std::vector<std::string> gone_variables;
  std::vector<std::string> unused_initial_values; // of kept variables: the new one comes too late
  std::size_t kept_variables = 0;

  void append(ObjectDifference other);
};

bool same_bytes(const Object& a, const Object& b);
ObjectDifference difference(const Object& before, const Object& now);

// "draw(), move() changed, bounce() new; 3 variables kept"
std::string describe(const ObjectDifference& difference);

// Mangled names of C++ inside a text, as people write them.
std::string with_readable_names(std::string_view text);

} // namespace tenon::cli

// Relocatable objects of a given shape, made in memory: N of them cost no compiler, and their size is known to the byte.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace scale {

struct Shape {
  unsigned functions = 1; // of 16 bytes or more, each with a symbol and a frame description
  unsigned calls = 1;     // relocations in the first of them
};

// Function k of it is called NAME, NAME.1, NAME.2, ...; the first calls `callee`, a symbol of somebody else's.
std::vector<std::byte> tiny_object(const std::string& name, const std::string& callee, Shape shape);

} // namespace scale

// Throws what the other modules of this program catch.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "exceptions.h"
#include <any>
#include <map>
#include <stdexcept>
#include <vector>

void throw_by_kind(int kind) {
  Trace trace("throw_by_kind");
  switch (kind) {
  case 0: throw AppError("app", 7);
  case 1: throw DerivedError(21);
  case 2: throw 42;
  case 3: throw "literal";
  case 4: throw LocalPayload{{1, 2, 3}};
  case 5: throw std::string("a string of some length, so that it is on the heap");
  case 6: std::vector<int>().at(3); break; // thrown by the host's library
  case 7: std::stoi("not a number"); break;
  case 8: (void)std::any_cast<int>(std::any(1.5)); break;
  case 9: (void)std::map<int, int>().at(1); break;
  case 10: throw std::bad_alloc();
  default: break;
  }
}

[[noreturn]] void rethrow_nested() {
  try {
    throw_by_kind(1);
  } catch (...) {
    std::throw_with_nested(AppError("outer", 1));
  }
  std::abort();
}

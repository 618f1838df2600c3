// The public border of the compile layer: exhausted memory becomes a value there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <new>
#include <utility>

namespace tenon::compile_layer {

// Calls `body`, which returns a Result, and turns std::bad_alloc into one; the text is short enough to need no memory
// itself.
template <class Body> auto at_border(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "out of memory"};
  }
}

} // namespace tenon::compile_layer

// The public border: exhausted memory, whose exceptions pass through the inside, becomes an Error here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace tenon::base {

// The text is short enough to need no memory itself.
inline Error out_of_memory() noexcept { return {ErrorCode::out_of_memory, "out of memory"}; }

// Calls `body`, which returns a Result.
template <class Body> auto guarded(Body&& body) -> std::invoke_result_t<Body> {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::length_error&) { // a std::string or std::vector beyond its max_size()
    return out_of_memory();
  }
}

} // namespace tenon::base

// The public border: std::bad_alloc, the one exception that passes through the inside, becomes an Error here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <new>
#include <type_traits>
#include <utility>

namespace tenon::api {

// The text is short enough to need no memory itself.
inline Error out_of_memory() noexcept { return {ErrorCode::out_of_memory, "out of memory"}; }

template <class F> auto guarded(F&& body) -> std::invoke_result_t<F> {
  try {
    return std::forward<F>(body)();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

} // namespace tenon::api

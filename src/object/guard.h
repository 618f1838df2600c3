// The public border of this folder: memory that can't be had is an Error there like any other fault.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <new>
#include <stdexcept>

namespace tenon::object {

// The message is short enough to need no memory itself.
inline Error out_of_memory() { return {ErrorCode::out_of_memory, "out of memory"}; }

template <class Function> auto guarded(Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::length_error&) { // a std::string or std::vector beyond its max_size()
    return out_of_memory();
  }
}

} // namespace tenon::object

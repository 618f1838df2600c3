// Exit handlers that modules register: atexit, __cxa_atexit, at_quick_exit, pthread_atfork and thread_local destructors.
//
// They go to the C library's own lists under the module's __dso_handle, so that exit() runs them in the right order among
// the host's, and `__cxa_finalize(dso_handle)` runs a module's when it goes. What is kept here is which module has any.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <string_view>

namespace tenon::engine {

struct ExitFunction {
  std::string_view name;
  std::uint64_t address;
  std::uint8_t thunk; // which argument the caller's __dso_handle must be added as; 0: the caller passes it itself
};

// Null if the name is none of them.
const ExitFunction* exit_function(std::string_view name) noexcept;

// Runs a module's handlers, last first.
void run_exit_handlers(void* dso_handle) noexcept;

} // namespace tenon::engine

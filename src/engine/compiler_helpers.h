// The compiler's support functions (libgcc) that no shared library exports: the ones linked into this library serve modules
// too.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <string_view>

namespace tenon::engine {

// Zero if the function is not among them.
std::uint64_t compiler_helper_address(std::string_view name) noexcept;

} // namespace tenon::engine

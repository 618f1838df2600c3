// Names of relocation types.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <cstdint>
#include <string>

namespace tenon::cli {

// "R_X86_64_PC32"; "type 77" for one that the psABI does not have.
std::string relocation_name(Machine machine, std::uint32_t type);

} // namespace tenon::cli

// Compiling the command line's sources: C, C++ and assembly with the system's clang, IR with tenon-llvm.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"

#include <span>
#include <string>
#include <vector>

namespace tenon::cli {

// Objects in the order of `files`, all of which are sources or IR. Several are compiled at once. What clang says about the
// source goes to standard error as it stands. Errors: compile, system (no clang).
Result<std::vector<Object>> compile_inputs(std::span<const InputFile* const> files, const InputOptions& options);

bool is_ir(const InputFile& input);

// The path of the system's clang. Errors: system.
Result<std::string> find_clang(const std::string& for_file);

} // namespace tenon::cli

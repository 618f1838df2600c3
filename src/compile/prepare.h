// What happens to a module before any pass sees it: checked, cloned, and the clone made ready for the target.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/IR/Module.h>
#include <llvm/Target/TargetMachine.h>

namespace tenon::compile_layer {

// Says what is wrong with `module`: not read in, for another target, another data layout, not verifying (if `verify`).
// `broken_debug_info` is set if the module is sound but its debug information is not and has to be stripped.
Result<void> check_module(const llvm::Module& module, const llvm::TargetMachine& machine, bool verify,
                          bool& broken_debug_info);

// Gives the module the target's triple and data layout if it has none.
void adopt_target(llvm::Module& module, const llvm::TargetMachine& machine);

// Makes the module's flags say what it is compiled as: part of a library, not of an executable.
void mark_as_library(llvm::Module& module);

} // namespace tenon::compile_layer

// Functions of closures by what the closure is, not by its number.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <llvm/IR/Module.h>

namespace tenon::compile_layer {

// Before anything else is done to the module. Functions and variables whose names hold closures get names that change with
// what the closures are by the module's debug information: the function that they stand in, what they capture, what they
// take and give. See CompileOptions::name_closures.
void name_closures(llvm::Module& module);

} // namespace tenon::compile_layer

// Target machines from CompileOptions. LLVM's registry of targets is global: it is filled once, with this machine's target
// only.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/Target/TargetMachine.h>

#include <memory>

namespace tenon::compile_layer {

// Fills LLVM's registry: code generator, assembly parser (inline assembly) and disassembler. Any thread, any number of
// times.
void initialize_native_target();

// The triple that modules are compiled for: this process's.
llvm::Triple native_triple();

Result<std::unique_ptr<llvm::TargetMachine>> create_target_machine(const CompileOptions& options);

} // namespace tenon::compile_layer

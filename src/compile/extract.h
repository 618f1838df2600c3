// Takes single functions out of a module, into a module of their own that refers to everything else by name.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/IR/Module.h>

#include <memory>
#include <span>
#include <string_view>

namespace tenon::compile_layer {

// What `replaceable` code generation of the result defines: these functions, by the names and bindings that the same of the
// whole module has; literals, which have no identity; and what is part of its callers, as CompileOptions say. `module` is
// only read, but functions that are not read in yet are; its context is used. Errors: invalid_argument (no such function),
// compile (one does not verify), unsupported (it refers to what has no name).
Result<std::unique_ptr<llvm::Module>> extract_functions(llvm::Module& module, std::span<const std::string_view> functions,
                                                        const CompileOptions& options);

} // namespace tenon::compile_layer

// Textual IR and bitcode from memory.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/IR/DataLayout.h>
#include <llvm/IR/Module.h>

#include <memory>

namespace tenon::compile_layer {

// `layout` is given to a module that states none, before it is parsed: the alignments that textual IR leaves out come from
// it. Does not verify the module. `lazily`: functions of bitcode are read in when they are materialized; `ir` must stay.
Result<std::unique_ptr<llvm::Module>> read_ir(Bytes ir, const std::string& name, const llvm::DataLayout& layout,
                                              llvm::LLVMContext& context, bool lazily = false);

} // namespace tenon::compile_layer

// Code generation into memory: the legacy pass manager with its MCContext and object streamer, kept from module to module.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "compile/opaque.h"

#include <tenon/result.h>

#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <span>

namespace tenon::compile_layer {

class Codegen {
public:
  // `machine` must outlive it. `retargetable`: calls that can be retargeted while threads execute them.
  Codegen(llvm::TargetMachine& machine, bool retargetable);
  Codegen(const Codegen&) = delete;
  Codegen& operator=(const Codegen&) = delete;

  // The object's bytes, valid until the next run. Changes the module. Errors that LLVM reports go to the context's
  // diagnostic handler; after one the bytes are worthless and this Codegen must not be used again. `opaque`, if not null,
  // gets its variables back in between.
  Result<std::span<const std::byte>> run(llvm::Module& module, Opaque* opaque);

private:
  bool add_retargetable_passes();

  llvm::TargetMachine& machine_;
  llvm::SmallVector<char, 0> buffer_;
  llvm::raw_svector_ostream stream_;
  llvm::legacy::PassManager passes_; // refers to the stream
  Opaque* opaque_ = nullptr;         // of the module that is being compiled
  bool built_ = false;
};

} // namespace tenon::compile_layer

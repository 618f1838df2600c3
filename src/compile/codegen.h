// Code generation into memory: the legacy pass manager with its MCContext and object streamer, kept from module to module.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <span>

namespace tenon::compile_layer {

class Codegen {
public:
  explicit Codegen(llvm::TargetMachine& machine); // which must outlive it
  Codegen(const Codegen&) = delete;
  Codegen& operator=(const Codegen&) = delete;

  // The object's bytes, valid until the next run. Changes the module. Errors that LLVM reports go to the context's
  // diagnostic handler; after one the bytes are worthless and this Codegen must not be used again.
  Result<std::span<const std::byte>> run(llvm::Module& module);

private:
  llvm::TargetMachine& machine_;
  llvm::SmallVector<char, 0> buffer_;
  llvm::raw_svector_ostream stream_;
  llvm::legacy::PassManager passes_; // refers to the stream
  bool built_ = false;
};

} // namespace tenon::compile_layer

// The IR optimization pipeline of one level, run over module after module: pass builder and analysis managers are kept (the
// new pass manager).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/Analysis/CGSCCPassManager.h>
#include <llvm/Analysis/LoopAnalysisManager.h>
#include <llvm/IR/PassManager.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Target/TargetMachine.h>

namespace tenon::compile_layer {

class IrPipeline {
public:
  // `machine` must outlive the pipeline: its passes ask it what instructions cost.
  IrPipeline(llvm::TargetMachine& machine, OptLevel level);
  IrPipeline(const IrPipeline&) = delete;
  IrPipeline& operator=(const IrPipeline&) = delete;

  void run(llvm::Module& module);

private:
  OptLevel level_;
  // The order matters: managers refer to those before them, and are destroyed first.
  llvm::LoopAnalysisManager loops_;
  llvm::FunctionAnalysisManager functions_;
  llvm::CGSCCAnalysisManager call_graph_;
  llvm::ModuleAnalysisManager modules_;
  llvm::PassBuilder builder_;
  llvm::ModulePassManager passes_;
};

} // namespace tenon::compile_layer

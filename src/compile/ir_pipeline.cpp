// The pipelines are clang's own, with the same tuning, so that code is as good as clang makes it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/ir_pipeline.h"

#include <llvm/Analysis/TargetLibraryInfo.h>

namespace tenon::compile_layer {

namespace {

llvm::OptimizationLevel llvm_level(OptLevel level) {
  switch (level) {
  case OptLevel::O0: return llvm::OptimizationLevel::O0;
  case OptLevel::O1: return llvm::OptimizationLevel::O1;
  case OptLevel::O2: return llvm::OptimizationLevel::O2;
  case OptLevel::O3: return llvm::OptimizationLevel::O3;
  }
  return llvm::OptimizationLevel::O2;
}

llvm::PipelineTuningOptions tuning(OptLevel level) {
  llvm::PipelineTuningOptions options;
  const bool vectorize = level >= OptLevel::O2;
  options.LoopVectorization = vectorize;
  options.LoopInterleaving = vectorize;
  options.SLPVectorization = vectorize; // off in LLVM's defaults, on in clang's
  return options;
}

} // namespace

IrPipeline::IrPipeline(llvm::TargetMachine& machine, OptLevel level) : level_(level), builder_(&machine, tuning(level)) {
  // Registered before the builder's own, which it then leaves out: the library functions are those of our target.
  const llvm::TargetLibraryInfoImpl library(machine.getTargetTriple());
  functions_.registerPass([library] { return llvm::TargetLibraryAnalysis(library); });
  builder_.registerModuleAnalyses(modules_);
  builder_.registerCGSCCAnalyses(call_graph_);
  builder_.registerFunctionAnalyses(functions_);
  builder_.registerLoopAnalyses(loops_);
  builder_.crossRegisterProxies(loops_, functions_, call_graph_, modules_);
  if (level == OptLevel::O0) passes_ = builder_.buildO0DefaultPipeline(llvm::OptimizationLevel::O0);
}

void IrPipeline::run(llvm::Module& module) {
  // Only the pipeline of -O0 can run twice: in the others LLVM's ModuleInlinerWrapperPass gives its inner passes away.
  if (level_ != OptLevel::O0) passes_ = builder_.buildPerModuleDefaultPipeline(llvm_level(level_));
  passes_.run(module, modules_);
  // Results are keyed by address: one that stayed could be taken for a later module's.
  modules_.clear();
  call_graph_.clear();
  functions_.clear();
  loops_.clear();
}

} // namespace tenon::compile_layer

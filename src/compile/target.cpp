// What a target machine is told, and why, stands here in one place.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/target.h"

#include <llvm/ADT/StringMap.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Target/TargetOptions.h>
#include <llvm/TargetParser/Host.h>
#include <llvm/TargetParser/SubtargetFeature.h>

#include <mutex>

namespace tenon::compile_layer {

namespace {

llvm::CodeGenOptLevel codegen_level(OptLevel level) {
  switch (level) {
  case OptLevel::O0: return llvm::CodeGenOptLevel::None;
  case OptLevel::O1: return llvm::CodeGenOptLevel::Less;
  case OptLevel::O2: return llvm::CodeGenOptLevel::Default;
  case OptLevel::O3: return llvm::CodeGenOptLevel::Aggressive;
  }
  return llvm::CodeGenOptLevel::Default;
}

llvm::CodeModel::Model code_model(CompileOptions::CodeModel model) {
  switch (model) {
  case CompileOptions::CodeModel::small: return llvm::CodeModel::Small;
  case CompileOptions::CodeModel::medium: return llvm::CodeModel::Medium;
  case CompileOptions::CodeModel::large: return llvm::CodeModel::Large;
  }
  return llvm::CodeModel::Small;
}

llvm::TargetOptions target_options(const CompileOptions& options) {
  llvm::TargetOptions target;
  target.FunctionSections = options.function_sections || options.replaceable;
  target.DataSections = options.data_sections || options.replaceable;
  target.UniqueSectionNames = true; // ".text.NAME": maps and errors name the function
  target.UseInitArray = true;       // .ctors run backwards, and only old tools want them
  target.EmulatedTLS = false;       // native thread_local: shared with objects of other compilers
  return target;
}

// All that the processor can do, in the form "+avx2,-sse4a": absent features are named too, because a CPU's name may imply
// some that a hypervisor has masked.
std::string host_features() {
  llvm::SubtargetFeatures features;
  for (const auto& feature : llvm::sys::getHostCPUFeatures()) features.AddFeature(feature.getKey(), feature.getValue());
  return features.getString();
}

} // namespace

void initialize_native_target() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    llvm::InitializeNativeTargetAsmParser();
    llvm::InitializeNativeTargetDisassembler();
  });
}

llvm::Triple native_triple() { return llvm::Triple(llvm::sys::getProcessTriple()); }

Result<std::unique_ptr<llvm::TargetMachine>> create_target_machine(const CompileOptions& options) {
  initialize_native_target();
  const llvm::Triple triple = native_triple();
  std::string why;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(triple, why);
  if (!target) return Error{ErrorCode::unsupported, "LLVM can't compile for " + triple.str() + ": " + why};

  // Found out once: asking takes longer than making the machine.
  static const std::string host_cpu = llvm::sys::getHostCPUName().str();
  static const std::string host_cpu_features = host_features();
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, options.host_cpu ? host_cpu : "x86-64", options.host_cpu ? host_cpu_features : "", target_options(options),
      options.pic ? llvm::Reloc::PIC_ : llvm::Reloc::Static, code_model(options.code_model), codegen_level(options.level),
      /*JIT=*/false)); // true would choose the large code model and relax what a JIT's linker is said not to know
  if (!machine) return Error{ErrorCode::unsupported, "LLVM has no code generator for " + triple.str()};
  return machine;
}

} // namespace tenon::compile_layer

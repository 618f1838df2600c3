// The pass manager is meant to be run again: every pass sets itself up in doInitialization, MachineModuleInfo resets the
// MCContext in doFinalization, and AsmPrinter resets its streamer. For a small module building it costs several times what
// running it does.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/codegen.h"

#include "compile/retargetable.h"

#include <llvm/Analysis/RuntimeLibcallInfo.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/CodeGen/AsmPrinter.h>
#include <llvm/CodeGen/MachineModuleInfo.h>
#include <llvm/CodeGen/Passes.h>
#include <llvm/CodeGen/TargetPassConfig.h>
#include <llvm/IR/Module.h>
#include <llvm/MC/TargetRegistry.h>

namespace tenon::compile_layer {

namespace {

// Legacy passes are finalized last first: behind the one that prints it comes before it, after all functions and before the
// variables.
class RestoreVariables final : public llvm::FunctionPass {
public:
  explicit RestoreVariables(Opaque*& opaque) : FunctionPass(id), opaque_(opaque) {}
  llvm::StringRef getPassName() const override { return "Tenon: linkage of variables"; }
  void getAnalysisUsage(llvm::AnalysisUsage& usage) const override { usage.setPreservesAll(); }
  bool runOnFunction(llvm::Function&) override { return false; }
  bool doFinalization(llvm::Module&) override {
    if (opaque_) opaque_->restore_variables();
    return opaque_ != nullptr;
  }

private:
  static char id;
  Opaque*& opaque_;
};

char RestoreVariables::id = 0;

} // namespace

Codegen::Codegen(llvm::TargetMachine& machine, bool retargetable) : machine_(machine), stream_(buffer_) {
  const llvm::Triple& triple = machine.getTargetTriple();
  passes_.add(new llvm::TargetLibraryInfoWrapperPass(llvm::TargetLibraryInfoImpl(triple)));
  const llvm::TargetOptions& options = machine.Options;
  passes_.add(new llvm::RuntimeLibraryInfoWrapper(triple, options.ExceptionModel, options.FloatABIType, options.EABIVersion,
                                                  options.MCOptions.ABIName, options.VecLib));
  // The IR was verified before it came here; doing it again costs a quarter of -O0 code generation.
  built_ = retargetable ? add_retargetable_passes()
                        : !machine.addPassesToEmitFile(passes_, stream_, nullptr, llvm::CodeGenFileType::ObjectFile,
                                                       /*DisableVerify=*/true);
}

// What addPassesToEmitFile does, but for the streamer.
bool Codegen::add_retargetable_passes() {
  llvm::TargetPassConfig* config = machine_.createPassConfig(passes_);
  if (!config) return false;
  config->setDisableVerify(true);
  passes_.add(config);
  auto* info = new llvm::MachineModuleInfoWrapperPass(&machine_);
  passes_.add(info);
  if (config->addISelPasses()) return false;
  config->addMachinePasses();
  config->setInitialized();
  auto streamer = create_retargetable_streamer(machine_, info->getMMI().getContext(), stream_);
  if (!streamer) return false;
  llvm::FunctionPass* printer = machine_.getTarget().createAsmPrinter(machine_, std::move(streamer));
  if (!printer) return false;
  passes_.add(printer);
  passes_.add(new RestoreVariables(opaque_));
  passes_.add(llvm::createFreeMachineFunctionPass());
  return true;
}

Result<std::span<const std::byte>> Codegen::run(llvm::Module& module, Opaque* opaque) {
  if (!built_)
    return Error{ErrorCode::unsupported,
                 "LLVM can't write object files for " + machine_.getTargetTriple().str() + " on this target machine"};
  // A large module's buffer is not kept for small ones to come.
  constexpr std::size_t kept_bytes = std::size_t(1) << 20;
  if (buffer_.capacity() > kept_bytes) buffer_ = {};
  buffer_.clear();
  opaque_ = opaque;
  passes_.run(module);
  opaque_ = nullptr;
  return std::as_bytes(std::span<const char>(buffer_.data(), buffer_.size()));
}

} // namespace tenon::compile_layer

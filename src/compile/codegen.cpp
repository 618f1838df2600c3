// The pass manager is meant to be run again: every pass sets itself up in doInitialization, MachineModuleInfo resets the
// MCContext in doFinalization, and AsmPrinter resets its streamer. For a small module building it costs several times what
// running it does.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/codegen.h"

#include <llvm/Analysis/RuntimeLibcallInfo.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/IR/Module.h>

namespace tenon::compile_layer {

Codegen::Codegen(llvm::TargetMachine& machine) : machine_(machine), stream_(buffer_) {
  const llvm::Triple& triple = machine.getTargetTriple();
  passes_.add(new llvm::TargetLibraryInfoWrapperPass(llvm::TargetLibraryInfoImpl(triple)));
  const llvm::TargetOptions& options = machine.Options;
  passes_.add(new llvm::RuntimeLibraryInfoWrapper(triple, options.ExceptionModel, options.FloatABIType, options.EABIVersion,
                                                  options.MCOptions.ABIName, options.VecLib));
  // The IR was verified before it came here; doing it again costs a quarter of -O0 code generation.
  built_ = !machine.addPassesToEmitFile(passes_, stream_, nullptr, llvm::CodeGenFileType::ObjectFile,
                                        /*DisableVerify=*/true);
}

Result<std::span<const std::byte>> Codegen::run(llvm::Module& module) {
  if (!built_)
    return Error{ErrorCode::unsupported,
                 "LLVM can't write object files for " + machine_.getTargetTriple().str() + " on this target machine"};
  // A large module's buffer is not kept for small ones to come.
  constexpr std::size_t kept_bytes = std::size_t(1) << 20;
  if (buffer_.capacity() > kept_bytes) buffer_ = {};
  buffer_.clear();
  passes_.run(module);
  return std::as_bytes(std::span<const char>(buffer_.data(), buffer_.size()));
}

} // namespace tenon::compile_layer

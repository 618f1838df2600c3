// The checks come before the clone: cloning a module that does not verify may crash already.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/prepare.h"

#include "compile/diagnostics.h"

#include <llvm/IR/Constants.h>
#include <llvm/IR/Metadata.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/raw_ostream.h>

namespace tenon::compile_layer {

namespace {

std::string name_of(const llvm::Module& module) { return module.getModuleIdentifier(); }

Result<void> check_target(const llvm::Module& module, const llvm::TargetMachine& machine) {
  const llvm::Triple& stated = module.getTargetTriple();
  const llvm::Triple& ours = machine.getTargetTriple();
  const bool same = stated.getArch() == ours.getArch() && stated.getObjectFormat() == ours.getObjectFormat() &&
                    stated.isX32() == ours.isX32();
  if (!stated.empty() && !same)
    return Error{ErrorCode::unsupported, name_of(module) + ": IR for target " + stated.str() + ", but this compiles for " +
                                             ours.str() + "; compile the source for this target"};
  if (!module.getDataLayoutStr().empty() && !machine.isCompatibleDataLayout(module.getDataLayout()))
    return Error{ErrorCode::unsupported, name_of(module) + ": IR with data layout \"" + module.getDataLayoutStr() +
                                             "\", but this target's is \"" +
                                             machine.createDataLayout().getStringRepresentation() + '"'};
  return {};
}

} // namespace

Result<void> check_module(const llvm::Module& module, const llvm::TargetMachine& machine, bool verify,
                          bool& broken_debug_info) {
  broken_debug_info = false;
  if (!module.isMaterialized())
    return Error{ErrorCode::invalid_argument,
                 name_of(module) + ": the module is not read in completely; call materializeAll() first"};
  if (auto target = check_target(module, machine); !target) return target;
  if (!verify) return {};
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (llvm::verifyModule(module, &stream, &broken_debug_info))
    return Error{ErrorCode::compile, name_of(module) + ": the IR does not verify: " + one_line(text)};
  return {};
}

void adopt_target(llvm::Module& module, const llvm::TargetMachine& machine) {
  if (module.getTargetTriple().empty()) module.setTargetTriple(machine.getTargetTriple());
  if (module.getDataLayoutStr().empty()) module.setDataLayout(machine.createDataLayout());
}

void mark_as_library(llvm::Module& module) {
  // clang on Debian compiles for position-independent executables unless told. "PIE Level" makes LLVM choose local-exec for
  // the module's thread-local variables, and their place would have to be in static TLS, which is full once a process runs.
  // Named metadata is replaced and not edited: its nodes are shared with the module that this one was cloned from.
  if (llvm::NamedMDNode* flags = module.getModuleFlagsMetadata()) {
    llvm::SmallVector<llvm::MDNode*, 8> kept;
    for (llvm::MDNode* flag : flags->operands()) {
      const auto* key = llvm::dyn_cast_or_null<llvm::MDString>(flag->getOperand(1));
      if (!key || key->getString() != "PIE Level") kept.push_back(flag);
    }
    flags->clearOperands();
    for (llvm::MDNode* flag : kept) flags->addOperand(flag);
  }
  if (!module.getModuleFlag("PIC Level")) module.setPICLevel(llvm::PICLevel::BigPIC);
}

} // namespace tenon::compile_layer

// Makes the functions and variables of a module opaque to each other for the time of optimization: what is replaced later
// must not have left traces in its callers.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <llvm/IR/Function.h>
#include <llvm/IR/GlobalVariable.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/ValueHandle.h>

#include <string>
#include <vector>

namespace tenon::compile_layer {

// What one module is turned into before its IR pipeline, and back, in two steps: functions before the code generator runs,
// variables when it has seen all functions and emits data.
class Opaque {
public:
  Opaque(llvm::Module& module, const CompileOptions& options);
  Opaque(const Opaque&) = delete;
  Opaque& operator=(const Opaque&) = delete;

  void restore_functions();
  void restore_variables();

private:
  struct Linkage {
    llvm::WeakVH global;
    llvm::GlobalValue::LinkageTypes linkage;
  };

  void hide(llvm::GlobalValue& global, std::vector<Linkage>& saved);
  void hide_function(llvm::Function& function);
  void hide_self_calls(llvm::Function& function);
  void hide_variable(llvm::GlobalVariable& variable);

  llvm::Module& module_;
  const bool hide_inline_;         // what the source declares inline, too
  const bool may_set_sections_;    // they decide what is in reach in other code models than the small one
  std::vector<Linkage> functions_; // and aliases
  std::vector<Linkage> variables_;
  std::vector<llvm::WeakVH> sectioned_;                          // constants in the stand-in section
  std::vector<std::pair<llvm::WeakVH, llvm::WeakVH>> stand_ins_; // a declaration, and the function that it stands for
  std::vector<llvm::GlobalValue*> kept_;
};

// A declaration of a function that can be replaced, and its calls, no longer say what only a body can show.
void forget_body(llvm::Function& declaration);

} // namespace tenon::compile_layer

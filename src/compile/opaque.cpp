// LLVM draws conclusions across a call (inlining, constants, attributes, calling conventions) only where the definition that
// it sees is the one that will run. Linkage says whether it is: `weak` is the one kind that denies it whatever dso_local and
// visibility are, that keeps a definition nobody seems to use, and that the object need not show, because the linkage proper
// comes back before code is generated. Variables are weak for the same reason: their initial value is not their value, their
// uses are not all there are, and a kept one has the alignment that its first version had.
//
// The front end has its share: attributes that clang derives from a body (`nounwind`), and those of IR that was optimized
// before, are taken off definitions and their calls. What was inlined then, or a landing pad left out, can't be brought
// back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/opaque.h"

#include <llvm/IR/AttributeMask.h>
#include <llvm/IR/GlobalAlias.h>
#include <llvm/IR/InstrTypes.h>
#include <llvm/IR/Instructions.h>
#include <llvm/Transforms/Utils/ModuleUtils.h>

#include <algorithm>

namespace tenon::compile_layer {

namespace {

using llvm::Attribute;

// A variable with a section and a stated alignment is not aligned further, which LLVM does for wider moves.
constexpr llvm::StringLiteral stand_in_section = ".tenon.stand_in";
constexpr unsigned function_alignment = 16;
// LLVM drops the registration of a destructor that does nothing, whatever its linkage. A later version's may do something.
constexpr llvm::StringLiteral registrations[] = {"__cxa_atexit", "atexit"};
constexpr llvm::StringLiteral disguise = "__tenon_";

const llvm::AttributeMask& derived_of_functions() {
  static const llvm::AttributeMask mask = [] {
    llvm::AttributeMask made;
    for (auto kind : {Attribute::Memory, Attribute::NoCallback, Attribute::NoFree, Attribute::NoRecurse, Attribute::NoSync,
                      Attribute::NoUnwind, Attribute::Speculatable, Attribute::WillReturn})
      made.addAttribute(kind);
    return made;
  }();
  return mask;
}

const llvm::AttributeMask& derived_of_values() {
  static const llvm::AttributeMask mask = [] {
    llvm::AttributeMask made;
    for (auto kind : {Attribute::Captures, Attribute::DeadOnReturn, Attribute::Initializes, Attribute::NoFree,
                      Attribute::Range, Attribute::ReadNone, Attribute::ReadOnly, Attribute::Returned, Attribute::WriteOnly})
      made.addAttribute(kind);
    return made;
  }();
  return mask;
}

template <class Callee> void forget_derived(Callee& callee, unsigned arguments) {
  callee.removeFnAttrs(derived_of_functions());
  callee.removeRetAttrs(derived_of_values());
  for (unsigned i = 0; i < arguments; ++i) callee.removeParamAttrs(i, derived_of_values());
}

// Calls of declared functions may be `call *NAME@GOTPCREL(%rip)` (-fno-plt), which can't be retargeted.
void call_directly(llvm::Module& module) {
  for (llvm::Function& function : module) function.removeFnAttr(Attribute::NonLazyBind);
  llvm::NamedMDNode* flags = module.getModuleFlagsMetadata();
  if (!flags) return;
  llvm::SmallVector<llvm::MDNode*, 8> kept;
  for (llvm::MDNode* flag : flags->operands()) {
    const auto* key = llvm::dyn_cast_or_null<llvm::MDString>(flag->getOperand(1));
    if (!key || key->getString() != "RtLibUseGOT") kept.push_back(flag);
  }
  flags->clearOperands();
  for (llvm::MDNode* flag : kept) flags->addOperand(flag);
}

void forget_at_calls(llvm::Module& module) {
  for (llvm::Function& function : module)
    for (llvm::BasicBlock& block : function)
      for (llvm::Instruction& instruction : block) {
        auto* call = llvm::dyn_cast<llvm::CallBase>(&instruction);
        if (!call) continue;
        call->removeFnAttr(Attribute::NonLazyBind);
        const llvm::Function* callee = call->getCalledFunction();
        if (callee && !callee->isDeclaration()) forget_derived(*call, static_cast<unsigned>(call->arg_size()));
      }
}

} // namespace

void forget_body(llvm::Function& declaration) {
  forget_derived(declaration, static_cast<unsigned>(declaration.arg_size()));
  for (llvm::User* user : declaration.users())
    if (auto* call = llvm::dyn_cast<llvm::CallBase>(user))
      if (call->getCalledOperand() == &declaration) forget_derived(*call, static_cast<unsigned>(call->arg_size()));
}

Opaque::Opaque(llvm::Module& module, const CompileOptions& options)
    : module_(module), hide_inline_(options.replaceable_inline),
      may_set_sections_(options.code_model == CompileOptions::CodeModel::small) {
  call_directly(module);
  forget_at_calls(module);
  for (llvm::StringRef name : registrations)
    if (llvm::Function* function = module.getFunction(name)) function->setName(disguise + name);
  std::vector<llvm::Function*> defined;
  for (llvm::Function& function : module)
    if (!function.isDeclaration()) defined.push_back(&function);
  for (llvm::Function* function : defined) hide_function(*function);
  for (llvm::GlobalVariable& variable : module.globals()) hide_variable(variable);
  // An alias of an alias may not name a weak one.
  for (llvm::GlobalAlias& alias : module.aliases())
    if (std::none_of(module.alias_begin(), module.alias_end(), [&](const llvm::GlobalAlias& other) {
          return other.getAliasee()->stripInBoundsConstantOffsets() == &alias;
        }))
      hide(alias, functions_);
  if (!kept_.empty()) llvm::appendToCompilerUsed(module, kept_);
  kept_ = {};
}

void Opaque::hide(llvm::GlobalValue& global, std::vector<Linkage>& saved) {
  // A private one has no symbol in the object, by which it could be told.
  const auto linkage = global.hasPrivateLinkage() ? llvm::GlobalValue::InternalLinkage : global.getLinkage();
  saved.push_back({&global, linkage});
  global.setLinkage(llvm::GlobalValue::WeakAnyLinkage);
}

void Opaque::hide_function(llvm::Function& function) {
  const llvm::Align least(function_alignment);
  function.setAlignment(std::max(function.getAlign().value_or(least), least));
  // Where clang puts all that initializes: one piece, not a section for each.
  if (function.getSection() == ".text.startup") function.setSection("");
  // Part of their callers by order of the source, or by leave of the client.
  if (function.hasFnAttribute(Attribute::AlwaysInline)) return;
  if (function.hasLinkOnceODRLinkage() && !hide_inline_) return;
  forget_derived(function, static_cast<unsigned>(function.arg_size()));
  // A copy for inlining, of a definition elsewhere.
  if (function.hasAvailableExternallyLinkage()) {
    function.deleteBody();
    function.setComdat(nullptr);
    return;
  }
  hide(function, functions_);
  hide_self_calls(function);
}

// A call of itself would become a loop: the frame that runs should stay in the old version, but what it calls should not.
void Opaque::hide_self_calls(llvm::Function& function) {
  llvm::SmallVector<llvm::CallBase*, 4> calls;
  for (llvm::User* user : function.users())
    if (auto* call = llvm::dyn_cast<llvm::CallBase>(user))
      if (call->getFunction() == &function && call->getCalledOperand() == &function) calls.push_back(call);
  if (calls.empty()) return;
  llvm::Function* stand_in =
      llvm::Function::Create(function.getFunctionType(), llvm::GlobalValue::ExternalLinkage, function.getAddressSpace(),
                             "__tenon_self." + function.getName(), &module_);
  stand_in->setAttributes(function.getAttributes());
  stand_in->setCallingConv(function.getCallingConv());
  for (llvm::CallBase* call : calls) call->setCalledOperand(stand_in);
  stand_ins_.emplace_back(stand_in, &function);
}

void Opaque::hide_variable(llvm::GlobalVariable& variable) {
  if (variable.isDeclaration() || variable.hasAppendingLinkage() || variable.getName().starts_with("llvm.")) return;
  // At this level nobody may need it in the end, but functions that are compiled alone, at another level, will.
  if (variable.isConstant() && variable.hasLinkOnceLinkage()) kept_.push_back(&variable);
  if (variable.hasAvailableExternallyLinkage()) {
    if (variable.isConstant()) return;
    variable.setInitializer(nullptr);
    variable.setLinkage(llvm::GlobalValue::ExternalLinkage);
    variable.setComdat(nullptr);
  } else if (!variable.isConstant()) {
    if (variable.hasLocalLinkage()) kept_.push_back(&variable);
    hide(variable, variables_);
  } else if (!variable.hasPrivateLinkage() && !variable.hasGlobalUnnamedAddr()) {
    // A constant's value may be used, and clang does so at -O0; but it stays there, as it is.
    if (variable.hasLocalLinkage()) kept_.push_back(&variable);
    if (variable.hasSection() || !variable.getAlign() || !may_set_sections_) return;
    variable.setSection(stand_in_section);
    sectioned_.push_back(&variable);
  }
}

void Opaque::restore_functions() {
  for (llvm::StringRef name : registrations)
    if (llvm::Function* function = module_.getFunction((disguise + name).str())) function->setName(name);
  for (auto& [stand_in, function] : stand_ins_) {
    if (!stand_in) continue;
    auto* declaration = llvm::cast<llvm::Function>(stand_in);
    declaration->replaceAllUsesWith(function);
    declaration->eraseFromParent();
  }
  for (const Linkage& saved : functions_) {
    if (!saved.global) continue;
    auto* global = llvm::cast<llvm::GlobalValue>(static_cast<llvm::Value*>(saved.global));
    global->setLinkage(saved.linkage);
    // Calls of one that is known to be in this library go by a label of its own that no symbol table shows.
    if (global->hasDefaultVisibility() && !global->hasLocalLinkage()) global->setDSOLocal(false);
  }
}

void Opaque::restore_variables() {
  for (const Linkage& saved : variables_)
    if (saved.global) llvm::cast<llvm::GlobalValue>(static_cast<llvm::Value*>(saved.global))->setLinkage(saved.linkage);
  for (const llvm::WeakVH& constant : sectioned_)
    if (constant) llvm::cast<llvm::GlobalVariable>(static_cast<llvm::Value*>(constant))->setSection("");
}

} // namespace tenon::compile_layer

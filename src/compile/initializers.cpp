// clang makes `__cxx_global_var_init` functions, one per variable, called in order by a `_GLOBAL__sub_I_FILE`, in which
// they dissolve at -O1. To initialize the new variables of a version and not those whose values are kept, a linker has to
// find them apart. Nothing in the IR says which variable a function is for, so it is read off what the function does: it
// constructs the variable, stores to it or registers its destructor. Where that leaves a doubt, nothing is guessed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/initializers.h"

#include <llvm/ADT/SetVector.h>
#include <llvm/Demangle/Demangle.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/Function.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/IntrinsicInst.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tenon::compile_layer {

namespace {

using Variables = llvm::SmallSetVector<llvm::GlobalVariable*, 4>;

struct Entry {
  llvm::Constant* priority = nullptr;
  llvm::Function* function = nullptr;
  llvm::Constant* associated = nullptr;
};

std::optional<std::vector<Entry>> read_entries(const llvm::GlobalVariable& constructors) {
  const auto* array =
      constructors.hasInitializer() ? llvm::dyn_cast<llvm::ConstantArray>(constructors.getInitializer()) : nullptr;
  if (!array) return std::nullopt;
  std::vector<Entry> entries;
  for (const llvm::Use& element : array->operands()) {
    const auto* fields = llvm::dyn_cast<llvm::ConstantStruct>(element);
    if (!fields || fields->getNumOperands() != 3) return std::nullopt;
    auto* function = llvm::dyn_cast<llvm::Function>(fields->getOperand(1)->stripPointerCasts());
    if (!function) return std::nullopt;
    entries.push_back({fields->getOperand(0), function, fields->getOperand(2)});
  }
  return entries;
}

void write_entries(llvm::GlobalVariable& constructors, const std::vector<Entry>& entries) {
  auto* type = llvm::cast<llvm::StructType>(llvm::cast<llvm::ArrayType>(constructors.getValueType())->getElementType());
  llvm::SmallVector<llvm::Constant*, 16> elements;
  for (const Entry& entry : entries)
    elements.push_back(llvm::ConstantStruct::get(type, {entry.priority, entry.function, entry.associated}));
  auto* initializer = llvm::ConstantArray::get(llvm::ArrayType::get(type, elements.size()), elements);
  auto* made = new llvm::GlobalVariable(*constructors.getParent(), initializer->getType(), constructors.isConstant(),
                                        constructors.getLinkage(), initializer, "", &constructors);
  made->copyAttributesFrom(&constructors);
  made->takeName(&constructors);
  constructors.eraseFromParent();
}

// By its name, too: a constructor function of the source may look the same, and is its author's to name and to order.
bool is_initializer(const llvm::Function& function) {
  return function.getName().starts_with("__cxx_global_var_init") && !function.isDeclaration() &&
         function.hasLocalLinkage() && function.arg_empty() && function.getReturnType()->isVoidTy();
}

// The functions that `function` calls, if calling them is all it does, and nobody else calls them.
std::optional<std::vector<llvm::Function*>> parts_of(const llvm::Function& function) {
  if (function.isDeclaration() || function.size() != 1) return std::nullopt;
  std::vector<llvm::Function*> parts;
  for (const llvm::Instruction& instruction : function.getEntryBlock()) {
    if (instruction.isTerminator()) {
      if (!llvm::isa<llvm::ReturnInst>(instruction)) return std::nullopt;
      continue;
    }
    if (instruction.isDebugOrPseudoInst()) continue;
    const auto* call = llvm::dyn_cast<llvm::CallInst>(&instruction);
    llvm::Function* callee = call ? call->getCalledFunction() : nullptr;
    if (!callee || !is_initializer(*callee) || !callee->hasOneUse()) return std::nullopt;
    parts.push_back(callee);
  }
  return parts;
}

// Whether a variable can be one that is initialized when the program runs: zero until then.
llvm::GlobalVariable* candidate(llvm::Value* pointer) {
  auto* variable = llvm::dyn_cast<llvm::GlobalVariable>(pointer->stripInBoundsConstantOffsets());
  if (!variable || !variable->hasInitializer() || variable->isConstant() || !variable->hasName()) return nullptr;
  if (!variable->getInitializer()->isNullValue() && !llvm::isa<llvm::UndefValue>(variable->getInitializer())) return nullptr;
  return variable->getName().starts_with("_ZGV") ? nullptr : variable; // guards
}

bool is_constructor(llvm::StringRef name) {
  llvm::ItaniumPartialDemangler demangler;
  return name.starts_with("_Z") && !demangler.partialDemangle(name.str().c_str()) && demangler.isCtorOrDtor();
}

struct Effects {
  Variables registered; // for destruction
  Variables written;
};

void add(Variables& variables, llvm::Value* pointer) {
  if (llvm::GlobalVariable* variable = candidate(pointer)) variables.insert(variable);
}

Effects effects_of(llvm::Function& function) {
  Effects effects;
  for (llvm::BasicBlock& block : function)
    for (llvm::Instruction& instruction : block) {
      if (auto* store = llvm::dyn_cast<llvm::StoreInst>(&instruction)) add(effects.written, store->getPointerOperand());
      if (auto* move = llvm::dyn_cast<llvm::MemIntrinsic>(&instruction)) add(effects.written, move->getDest());
      auto* call = llvm::dyn_cast<llvm::CallBase>(&instruction);
      if (!call || call->arg_empty()) continue;
      const llvm::Function* callee = call->getCalledFunction();
      const bool constructs = callee && is_constructor(callee->getName());
      if (constructs || call->paramHasAttr(0, llvm::Attribute::StructRet)) add(effects.written, call->getArgOperand(0));
      if (callee && callee->getName() == "__cxa_atexit" && call->arg_size() == 3)
        add(effects.registered, call->getArgOperand(1));
    }
  return effects;
}

// The variable of each initializer that has one for sure. What one initializes for sure, others only use.
std::map<llvm::Function*, llvm::GlobalVariable*> owners_of(const std::vector<Entry>& entries) {
  std::map<llvm::Function*, llvm::GlobalVariable*> owners;
  std::map<llvm::GlobalVariable*, unsigned> claims;
  std::vector<std::pair<llvm::Function*, Effects>> open;
  for (const Entry& entry : entries)
    if (is_initializer(*entry.function)) open.emplace_back(entry.function, effects_of(*entry.function));
  for (bool found = true; found;) {
    found = false;
    for (auto& [function, effects] : open) {
      if (owners.contains(function)) continue;
      effects.written.remove_if([&](llvm::GlobalVariable* variable) { return claims.contains(variable); });
      const Variables& told = effects.registered.empty() ? effects.written : effects.registered;
      if (told.size() != 1) continue;
      owners[function] = told.front();
      ++claims[told.front()];
      found = true;
    }
  }
  std::erase_if(owners, [&](const auto& owner) { return claims[owner.second] != 1; });
  return owners;
}

} // namespace

void split_initializers(llvm::Module& module) {
  llvm::GlobalVariable* constructors = module.getNamedGlobal("llvm.global_ctors");
  if (!constructors) return;
  const auto entries = read_entries(*constructors);
  if (!entries) return;
  std::vector<Entry> split;
  std::vector<llvm::Function*> emptied;
  for (const Entry& entry : *entries) {
    const auto parts =
        entry.function->hasLocalLinkage() && entry.function->hasOneUse() ? parts_of(*entry.function) : std::nullopt;
    if (!parts || parts->empty()) {
      split.push_back(entry);
      continue;
    }
    for (llvm::Function* part : *parts) split.push_back({entry.priority, part, entry.associated});
    emptied.push_back(entry.function);
  }
  write_entries(*constructors, split);
  for (llvm::Function* function : emptied) function->eraseFromParent();
  const auto owners = owners_of(split);
  for (const auto& [function, variable] : owners) function->setName("__tenon_init." + variable->getName());
}

} // namespace tenon::compile_layer

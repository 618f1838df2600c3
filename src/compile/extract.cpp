// The work is proportional to the functions that are taken, not to the module: LLVM's mapper asks for each global that a
// body refers to, and gets a declaration of it. Whatever `replaceable` keeps apart is declared; linkage is all that changes.
// What is local to the module becomes hidden: code for it is the same as for a local one, without a GOT entry, but the
// object has an undefined symbol, which the engine binds to the module's own. Thread-local variables are the exception: the
// code for a hidden one asks for the block of the module that the code is in.
//
// Debug information is cloned as far as the functions reach it. Compile units are cloned without their lists of globals and
// types, which would bring the whole module along.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/extract.h"

#include "compile/diagnostics.h"
#include "compile/opaque.h"

#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/DebugInfoMetadata.h>
#include <llvm/IR/GlobalAlias.h>
#include <llvm/IR/GlobalIFunc.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Transforms/Utils/Cloning.h>
#include <llvm/Transforms/Utils/ValueMapper.h>

#include <optional>
#include <string>
#include <vector>

namespace tenon::compile_layer {

namespace {

std::string quoted(llvm::StringRef name) { return "'" + name.str() + "'"; }

// A constant without an identity: a copy serves as well. Of a local one that the source has named, the program may compare
// addresses.
bool is_literal(const llvm::GlobalVariable& variable) {
  return variable.isConstant() && variable.hasInitializer() && !variable.isThreadLocal() &&
         (variable.hasPrivateLinkage() || (variable.hasInternalLinkage() && variable.hasGlobalUnnamedAddr()));
}

// The functions to whose labels a constant refers.
void find_labelled(const llvm::Constant& constant, llvm::SmallPtrSetImpl<const llvm::Constant*>& seen,
                   std::vector<const llvm::Function*>& labelled) {
  if (llvm::isa<llvm::GlobalValue>(constant) || llvm::isa<llvm::ConstantData>(constant) || !seen.insert(&constant).second)
    return;
  if (const auto* address = llvm::dyn_cast<llvm::BlockAddress>(&constant)) {
    labelled.push_back(address->getFunction());
    return;
  }
  for (const llvm::Use& operand : constant.operands()) find_labelled(*llvm::cast<llvm::Constant>(operand), seen, labelled);
}

// The variables that refer to labels of `function`.
void find_label_tables(const llvm::Function& function, llvm::SmallPtrSetImpl<const llvm::GlobalVariable*>& tables) {
  std::vector<const llvm::User*> open;
  for (const llvm::BasicBlock& block : function)
    if (block.hasAddressTaken())
      if (const llvm::BlockAddress* address = llvm::BlockAddress::lookup(&block))
        open.insert(open.end(), address->user_begin(), address->user_end());
  while (!open.empty()) {
    const llvm::User* user = open.back();
    open.pop_back();
    if (const auto* variable = llvm::dyn_cast<llvm::GlobalVariable>(user))
      tables.insert(variable);
    else if (llvm::isa<llvm::Constant>(user))
      open.insert(open.end(), user->user_begin(), user->user_end());
  }
}

class Extraction final : public llvm::ValueMaterializer {
public:
  Extraction(llvm::Module& source, const CompileOptions& options)
      : source_(source), options_(options),
        made_(std::make_unique<llvm::Module>(source.getModuleIdentifier(), source.getContext())) {}

  Result<std::unique_ptr<llvm::Module>> run(std::span<const std::string_view> functions);
  llvm::Value* materialize(llvm::Value* value) override;

private:
  Result<llvm::Function*> find(std::string_view name);
  Result<void> read_in(llvm::Function& function);
  bool is_part_of_callers(const llvm::Function& function) const;
  void begin_module();
  void define(llvm::Function& function);
  llvm::Function* declare(llvm::Function& function);
  llvm::Function* declare_body(llvm::Function& function);
  llvm::GlobalVariable* declare(llvm::GlobalVariable& variable);
  llvm::GlobalVariable* copy_literal(llvm::GlobalVariable& variable);
  void declare_as_known(llvm::GlobalValue& declaration, const llvm::GlobalValue& original);
  Result<void> clone_body(llvm::Function& function);
  Result<void> clone_initializer(llvm::GlobalVariable& variable);
  void note_unit(const llvm::DISubprogram* subprogram);
  void note_units(const llvm::Function& function);
  void refuse(std::string message) {
    if (!refused_) refused_ = std::move(message);
  }

  llvm::Module& source_;
  const CompileOptions& options_;
  std::unique_ptr<llvm::Module> made_;
  llvm::ValueToValueMapTy map_;
  std::vector<llvm::Function*> bodies_;         // to be cloned, in the order in which they are met
  std::vector<llvm::GlobalVariable*> literals_; // likewise
  llvm::SmallPtrSet<const llvm::Function*, 8> cloned_;
  llvm::SmallPtrSet<const llvm::GlobalVariable*, 4> label_tables_;
  std::vector<llvm::Function*> opaque_; // declarations of functions that can be replaced
  llvm::SmallPtrSet<const llvm::DICompileUnit*, 2> units_;
  std::optional<std::string> refused_;
};

Result<void> Extraction::read_in(llvm::Function& function) {
  if (llvm::Error error = function.materialize())
    return Error{ErrorCode::compile,
                 "function " + quoted(function.getName()) + " can't be read: " + one_line(llvm::toString(std::move(error)))};
  return {};
}

// Of these other functions have copies: they are inlined, or may be.
bool Extraction::is_part_of_callers(const llvm::Function& function) const {
  return function.hasFnAttribute(llvm::Attribute::AlwaysInline) ||
         (function.hasLinkOnceODRLinkage() && !options_.replaceable_inline);
}

Result<llvm::Function*> Extraction::find(std::string_view name) {
  llvm::GlobalValue* value = source_.getNamedValue(llvm::StringRef(name.data(), name.size()));
  const auto wrong = [&](std::string what) { return Error{ErrorCode::invalid_argument, quoted(name) + std::move(what)}; };
  if (!value) return wrong(": the module has no function of that name");
  if (auto* alias = llvm::dyn_cast<llvm::GlobalAlias>(value)) {
    const llvm::GlobalObject* object = alias->getAliaseeObject();
    return wrong(" is an alias" + (object ? " of " + quoted(object->getName()) + ": name that" : std::string()));
  }
  auto* function = llvm::dyn_cast<llvm::Function>(value);
  if (!function) return wrong(" is no function");
  if (function->isDeclaration()) return wrong(" is only declared in the module");
  if (function->hasAvailableExternallyLinkage()) return wrong(" is a copy for inlining: another module defines it");
  if (is_part_of_callers(*function)) return wrong(" is inline, a part of those that call it: name these");
  if (auto read = read_in(*function); !read) return std::move(read).error();
  if (!options_.verify) return function;
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (llvm::verifyFunction(*function, &stream))
    return Error{ErrorCode::compile, quoted(name) + ": the IR does not verify: " + one_line(text)};
  return function;
}

void Extraction::begin_module() {
  made_->setSourceFileName(source_.getSourceFileName());
  made_->setTargetTriple(source_.getTargetTriple());
  made_->setDataLayout(source_.getDataLayout());
  if (llvm::NamedMDNode* flags = source_.getModuleFlagsMetadata()) {
    llvm::NamedMDNode* copied = made_->getOrInsertModuleFlagsMetadata();
    for (llvm::MDNode* flag : flags->operands()) copied->addOperand(flag);
  }
  llvm::NamedMDNode* units = source_.getNamedMetadata("llvm.dbg.cu");
  if (!units) return;
  for (llvm::MDNode* node : units->operands()) {
    auto* unit = llvm::cast<llvm::DICompileUnit>(node);
    llvm::DICompileUnit* bare = llvm::MDNode::replaceWithDistinct(unit->clone());
    bare->replaceEnumTypes(nullptr);
    bare->replaceRetainedTypes(nullptr);
    bare->replaceGlobalVariables(nullptr);
    bare->replaceImportedEntities(nullptr);
    bare->replaceMacros(nullptr);
    map_.MD()[unit].reset(bare);
  }
}

// The definition's place, before any body is cloned, so that they can refer to each other.
void Extraction::define(llvm::Function& function) {
  if (map_.count(&function) != 0) return; // named twice
  llvm::Function* made = llvm::Function::Create(function.getFunctionType(), function.getLinkage(),
                                                function.getAddressSpace(), function.getName(), made_.get());
  // Not a group, of which another module's copy might be chosen.
  if (made->hasLinkOnceLinkage())
    made->setLinkage(made->hasLinkOnceODRLinkage() ? llvm::GlobalValue::WeakODRLinkage : llvm::GlobalValue::WeakAnyLinkage);
  map_[&function] = made;
  bodies_.push_back(&function);
}

// What is declared is in this process as it is in the module's own code, if the module defines it.
void Extraction::declare_as_known(llvm::GlobalValue& declaration, const llvm::GlobalValue& original) {
  if (!original.hasName()) refuse("it refers to a function or variable without a name, by which it could be found");
  if (!original.hasLocalLinkage()) return;
  declaration.setVisibility(llvm::GlobalValue::HiddenVisibility);
}

llvm::Function* Extraction::declare(llvm::Function& function) {
  if (is_part_of_callers(function) && !function.isDeclaration()) return declare_body(function);
  const auto linkage =
      function.hasExternalWeakLinkage() ? llvm::GlobalValue::ExternalWeakLinkage : llvm::GlobalValue::ExternalLinkage;
  llvm::Function* made = llvm::Function::Create(function.getFunctionType(), linkage, function.getAddressSpace(),
                                                function.getName(), made_.get());
  made->copyAttributesFrom(&function);
  made->setPersonalityFn(nullptr);
  made->setPrefixData(nullptr);
  made->setPrologueData(nullptr);
  declare_as_known(*made, function);
  if (!function.isDeclaration()) opaque_.push_back(made);
  return made;
}

// A function that comes along with those that call it. What is left of it once it is inlined is the module's own, or yields
// to it.
llvm::Function* Extraction::declare_body(llvm::Function& function) {
  const bool strong = !function.hasLocalLinkage() && !function.hasLinkOnceLinkage();
  const auto linkage = strong                       ? llvm::GlobalValue::AvailableExternallyLinkage
                       : function.hasLocalLinkage() ? llvm::GlobalValue::InternalLinkage
                                                    : function.getLinkage();
  llvm::Function* made = llvm::Function::Create(function.getFunctionType(), linkage, function.getAddressSpace(),
                                                function.getName(), made_.get());
  if (made->hasLinkOnceLinkage()) made->setComdat(made_->getOrInsertComdat(function.getName()));
  bodies_.push_back(&function);
  return made;
}

llvm::GlobalVariable* Extraction::declare(llvm::GlobalVariable& variable) {
  const auto linkage =
      variable.hasExternalWeakLinkage() ? llvm::GlobalValue::ExternalWeakLinkage : llvm::GlobalValue::ExternalLinkage;
  auto* made =
      new llvm::GlobalVariable(*made_, variable.getValueType(), variable.isConstant(), linkage, nullptr, variable.getName(),
                               nullptr, variable.getThreadLocalMode(), variable.getAddressSpace());
  made->copyAttributesFrom(&variable);
  declare_as_known(*made, variable);
  if (variable.isThreadLocal() && !variable.isDeclaration()) {
    made->setVisibility(llvm::GlobalValue::DefaultVisibility);
    made->setDSOLocal(false);
    const auto mode = variable.getThreadLocalMode();
    if (mode == llvm::GlobalValue::LocalDynamicTLSModel || mode == llvm::GlobalValue::LocalExecTLSModel)
      made->setThreadLocalMode(llvm::GlobalValue::GeneralDynamicTLSModel);
  }
  if (label_tables_.contains(&variable))
    refuse("variable " + quoted(variable.getName()) +
           " holds addresses of labels in it, which would lead into the old version; make it constant");
  return made;
}

llvm::GlobalVariable* Extraction::copy_literal(llvm::GlobalVariable& variable) {
  auto* made =
      new llvm::GlobalVariable(*made_, variable.getValueType(), true, llvm::GlobalValue::PrivateLinkage, nullptr,
                               variable.getName(), nullptr, llvm::GlobalValue::NotThreadLocal, variable.getAddressSpace());
  made->copyAttributesFrom(&variable);
  literals_.push_back(&variable);
  return made;
}

// Called by the mapper for what it meets; everything that belongs to this module is known to it already.
llvm::Value* Extraction::materialize(llvm::Value* value) {
  if (auto* function = llvm::dyn_cast<llvm::Function>(value))
    return function->getParent() == &source_ ? declare(*function) : nullptr;
  if (auto* variable = llvm::dyn_cast<llvm::GlobalVariable>(value)) {
    if (variable->getParent() != &source_) return nullptr;
    // A table of labels belongs to the body, whatever it is called.
    const bool table = variable->isConstant() && label_tables_.contains(variable);
    return table || is_literal(*variable) ? copy_literal(*variable) : declare(*variable);
  }
  auto* indirect = llvm::dyn_cast<llvm::GlobalValue>(value); // an alias or IFUNC
  if (!indirect || indirect->getParent() != &source_) return nullptr;
  llvm::GlobalValue* made = nullptr;
  if (auto* type = llvm::dyn_cast<llvm::FunctionType>(indirect->getValueType()))
    made = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, indirect->getAddressSpace(), indirect->getName(),
                                  made_.get());
  else
    made =
        new llvm::GlobalVariable(*made_, indirect->getValueType(), false, llvm::GlobalValue::ExternalLinkage, nullptr,
                                 indirect->getName(), nullptr, indirect->getThreadLocalMode(), indirect->getAddressSpace());
  made->setVisibility(indirect->getVisibility());
  made->setDSOLocal(indirect->isDSOLocal());
  declare_as_known(*made, *indirect);
  return made;
}

void Extraction::note_unit(const llvm::DISubprogram* subprogram) {
  llvm::DICompileUnit* unit = subprogram ? subprogram->getUnit() : nullptr;
  if (unit && units_.insert(unit).second) made_->getOrInsertNamedMetadata("llvm.dbg.cu")->addOperand(unit);
}

// The units of a cloned body: its own, and of what was inlined into it.
void Extraction::note_units(const llvm::Function& function) {
  note_unit(function.getSubprogram());
  const llvm::DILocation* last = nullptr;
  for (const llvm::BasicBlock& block : function)
    for (const llvm::Instruction& instruction : block) {
      const llvm::DILocation* location = instruction.getDebugLoc();
      if (!location || location == last) continue;
      last = location;
      for (; location; location = location->getInlinedAt()) note_unit(location->getScope()->getSubprogram());
    }
}

Result<void> Extraction::clone_body(llvm::Function& function) {
  if (!cloned_.insert(&function).second) return {};
  if (auto read = read_in(function); !read) return read;
  auto* made = llvm::cast<llvm::Function>(static_cast<llvm::Value*>(map_[&function]));
  auto argument = made->arg_begin();
  for (llvm::Argument& original : function.args()) {
    argument->setName(original.getName());
    map_[&original] = &*argument++;
  }
  llvm::SmallVector<llvm::ReturnInst*, 8> returns;
  llvm::CloneFunctionInto(made, &function, map_, llvm::CloneFunctionChangeType::ClonedModule, returns, "", nullptr, nullptr,
                          this);
  note_units(*made);
  return {};
}

Result<void> Extraction::clone_initializer(llvm::GlobalVariable& variable) {
  llvm::SmallPtrSet<const llvm::Constant*, 16> seen;
  std::vector<const llvm::Function*> labelled;
  find_labelled(*variable.getInitializer(), seen, labelled);
  for (const llvm::Function* function : labelled)
    if (!cloned_.contains(function))
      return Error{ErrorCode::unsupported, quoted(variable.getName()) + " has addresses of labels in " +
                                               quoted(function->getName()) + ": name that function, too"};
  auto* made = llvm::cast<llvm::GlobalVariable>(static_cast<llvm::Value*>(map_[&variable]));
  made->setInitializer(llvm::MapValue(variable.getInitializer(), map_, llvm::RF_None, nullptr, this));
  return {};
}

Result<std::unique_ptr<llvm::Module>> Extraction::run(std::span<const std::string_view> functions) {
  if (functions.empty()) return Error{ErrorCode::invalid_argument, "no function is named"};
  begin_module();
  for (std::string_view name : functions) {
    auto function = find(name);
    if (!function) return std::move(function).error();
    find_label_tables(**function, label_tables_);
    define(**function);
  }
  // Each can bring others.
  std::size_t body = 0, literal = 0;
  while (body < bodies_.size() || literal < literals_.size()) {
    auto cloned = body < bodies_.size() ? clone_body(*bodies_[body++]) : clone_initializer(*literals_[literal++]);
    if (!cloned) return std::move(cloned).error();
    if (refused_) return Error{ErrorCode::unsupported, quoted(functions.front()) + ": " + *refused_};
  }
  for (llvm::Function* function : opaque_) forget_body(*function);
  return std::move(made_);
}

} // namespace

Result<std::unique_ptr<llvm::Module>> extract_functions(llvm::Module& module, std::span<const std::string_view> functions,
                                                        const CompileOptions& options) {
  auto made = Extraction(module, options).run(functions);
  if (!made) return std::move(made).error().within(module.getModuleIdentifier());
  const std::string what =
      functions.size() == 1 ? std::string(functions.front()) : std::to_string(functions.size()) + " functions";
  (*made)->setModuleIdentifier(module.getModuleIdentifier() + "(" + what + ")");
  return made;
}

} // namespace tenon::compile_layer

// Clang numbers the closures of a function in their order (`$_0`, `$_1`, or `UlvE_`, `UlvE0_` where others may see them), so
// that one more lambda gives the next one's name to another, with other captures. Whoever holds a closure of before, or
// calls one in a frame that runs on, would have its bytes read as something else.
//
// What a closure is stands in the debug information: its members, its operator()'s type, the function around it. That, as
// text, takes the number's place: `$_0` becomes `$_h` and a hash, which a mangled name has room for. Where modules share a
// definition (`UlvE_`) the number stays, and the hash of what is captured is appended: they must agree on the name whatever
// else is in them. Variables of these keep their names: their types don't depend on what is captured.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/closures.h"

#include "base/stable_sort.h"

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/ADT/StringExtras.h>
#include <llvm/ADT/StringMap.h>
#include <llvm/BinaryFormat/Dwarf.h>
#include <llvm/IR/Comdat.h>
#include <llvm/IR/DebugInfoMetadata.h>
#include <llvm/IR/GlobalAlias.h>
#include <llvm/Support/xxhash.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tenon::compile_layer {

namespace {

using llvm::StringRef;

constexpr StringRef mark = "$_";
constexpr StringRef suffix = ".closure_";
constexpr int deepest = 16; // of types in types
constexpr StringRef guard = "_ZGV";

// The `$_` of the next numbered one, from `at` on.
std::size_t find_numbered(StringRef name, std::size_t at = 0) {
  for (at = name.find(mark, at); at != name.npos; at = name.find(mark, at + mark.size()))
    if (at + mark.size() < name.size() && llvm::isDigit(name[at + mark.size()])) return at;
  return name.npos;
}

bool may_hold_shared(StringRef name) { return name.starts_with("_Z") && name.contains("Ul"); }

// Itanium C++ ABI: an identifier stands behind its length.
std::optional<std::string> without_numbers(StringRef name, StringRef hash) {
  std::string result;
  std::size_t done = 0;
  for (std::size_t at = find_numbered(name); at != name.npos; at = find_numbered(name, at)) {
    std::size_t end = at + mark.size();
    while (end < name.size() && llvm::isDigit(name[end])) ++end;
    const std::string length = std::to_string(end - at);
    if (at < done + length.size() || name.substr(at - length.size(), length.size()) != length) return std::nullopt;
    const std::string identifier = (mark + "h" + hash).str();
    result += name.slice(done, at - length.size()).str() + std::to_string(identifier.size()) + identifier;
    done = at = end;
  }
  return done == 0 ? std::nullopt : std::optional(result + name.substr(done).str());
}

bool is_closure(const llvm::DICompositeType& type) {
  const auto tag = type.getTag();
  return type.getName().empty() && (tag == llvm::dwarf::DW_TAG_class_type || tag == llvm::dwarf::DW_TAG_structure_type ||
                                    tag == llvm::dwarf::DW_TAG_union_type);
}

const llvm::DISubprogram* subprogram_around(const llvm::DIScope* scope) {
  while (scope != nullptr && !llvm::isa<llvm::DISubprogram>(scope)) scope = scope->getScope();
  return llvm::cast_or_null<llvm::DISubprogram>(scope);
}

class Closures {
public:
  explicit Closures(llvm::Module& module) : module_(module) {
    for (llvm::Function& function : module) note_operator(function);
    number_alike();
  }

  void rename() {
    for (llvm::Function& function : module_) rename_function(function);
    for (llvm::GlobalAlias& alias : module_.aliases())
      if (auto* function = llvm::dyn_cast<llvm::Function>(alias.getAliaseeObject()))
        rename_like(alias, function->getSubprogram());
    for (llvm::GlobalVariable& variable : module_.globals()) rename_variable(variable);
    for (llvm::GlobalVariable& variable : module_.globals())
      if (StringRef name = variable.getName(); variable.hasLocalLinkage() && name.starts_with(guard))
        if (auto found = renamed_.find(("_Z" + name.drop_front(guard.size())).str()); found != renamed_.end())
          variable.setName(guard + StringRef(found->second).drop_front(2));
  }

private:
  using Closure = const llvm::DICompositeType;
  struct Seen {
    llvm::SmallPtrSet<const llvm::MDNode*, 16> nodes;
    std::vector<Closure*> closures; // in the order in which they turn up
  };

  void note_operator(const llvm::Function& function) {
    const llvm::DISubprogram* subprogram = function.getSubprogram();
    if (subprogram == nullptr) return;
    const auto* closure = llvm::dyn_cast_or_null<llvm::DICompositeType>(subprogram->getScope());
    if (closure == nullptr || !is_closure(*closure) || subprogram->getName() != "operator()") return;
    if (operators_.try_emplace(closure, subprogram).second) in_order_.push_back(closure);
  }

  // Closures that are the same in all that is known of them go by their order.
  void number_alike() {
    base::stable_sort_by(in_order_, [&](Closure* closure) { return std::pair(closure->getLine(), number_of(closure)); });
    std::map<std::string, unsigned> alike;
    for (Closure* closure : in_order_) {
      const std::string key = context(*closure) + '|' + shape(*closure);
      ordinals_[closure] = alike[key]++;
    }
  }

  unsigned number_of(Closure* closure) const {
    const StringRef name = operators_.lookup(closure)->getLinkageName();
    unsigned number = 0;
    for (std::size_t at = find_numbered(name); at != name.npos; at = find_numbered(name, at + 1)) {
      StringRef rest = name.substr(at + mark.size());
      unsigned here = 0;
      if (!rest.consumeInteger(10, here) && rest.starts_with("cl")) number = here;
    }
    return number;
  }

  // Where it stands, without numbers of its own.
  std::string context(Closure& closure, int depth = 0) const {
    const llvm::DISubprogram* around = subprogram_around(closure.getScope());
    if (around == nullptr || depth > deepest) return {};
    if (const auto* outer = llvm::dyn_cast_or_null<llvm::DICompositeType>(around->getScope());
        outer != nullptr && is_closure(*outer))
      return identity(*outer, depth + 1) + "::" + around->getName().str();
    return (around->getLinkageName().empty() ? around->getName() : around->getLinkageName()).str();
  }

  std::string identity(Closure& closure, int depth = 0) const {
    return context(closure, depth) + '|' + shape(closure) + '|' + std::to_string(ordinals_.lookup(&closure));
  }

  // What a closure's bytes mean, and how it is called.
  std::string shape(Closure& closure) const {
    std::string text = std::to_string(closure.getSizeInBits()) + '{';
    for (const llvm::DINode* element : closure.getElements())
      if (const auto* member = llvm::dyn_cast_or_null<llvm::DIDerivedType>(element))
        text += member->getName().str() + ':' + std::to_string(member->getOffsetInBits()) + ':' +
                type_text(member->getBaseType(), 0) + ';';
    text += '}';
    if (const llvm::DISubprogram* function = operators_.lookup(&closure)) text += type_text(function->getType(), 0);
    return text;
  }

  std::string type_text(const llvm::DIType* type, int depth) const {
    if (type == nullptr || depth > deepest) return "void";
    std::string text = std::to_string(type->getTag()) + type->getName().str();
    if (const auto* derived = llvm::dyn_cast<llvm::DIDerivedType>(type))
      return text + '(' + type_text(derived->getBaseType(), depth + 1) + ')';
    if (const auto* function = llvm::dyn_cast<llvm::DISubroutineType>(type)) {
      for (const llvm::DIType* parameter : function->getTypeArray())
        if (parameter == nullptr || !parameter->isObjectPointer()) text += ',' + type_text(parameter, depth + 1);
      return text;
    }
    if (const auto* composite = llvm::dyn_cast<llvm::DICompositeType>(type)) {
      text += '{' + std::to_string(type->getSizeInBits());
      if (composite->getTag() == llvm::dwarf::DW_TAG_array_type) text += type_text(composite->getBaseType(), depth + 1);
      if (is_closure(*composite) && depth < 4) // one that another has captured
        for (const llvm::DINode* element : composite->getElements())
          if (const auto* member = llvm::dyn_cast_or_null<llvm::DIDerivedType>(element))
            text += ';' + member->getName().str() + type_text(member->getBaseType(), depth + 1);
      return text + '}';
    }
    return text;
  }

  void visit(const llvm::MDNode* node, Seen& seen, int depth) const {
    if (node == nullptr || depth > deepest || !seen.nodes.insert(node).second) return;
    if (const auto* subprogram = llvm::dyn_cast<llvm::DISubprogram>(node)) {
      visit(subprogram->getScope(), seen, depth + 1);
      visit_parameters(subprogram->getTemplateParams(), seen, depth + 1);
      visit(subprogram->getType(), seen, depth + 1);
      visit(subprogram->getDeclaration(), seen, depth + 1);
    } else if (const auto* function = llvm::dyn_cast<llvm::DISubroutineType>(node)) {
      for (const llvm::DIType* parameter : function->getTypeArray()) visit(parameter, seen, depth + 1);
    } else if (const auto* derived = llvm::dyn_cast<llvm::DIDerivedType>(node)) {
      visit(derived->getBaseType(), seen, depth + 1);
    } else if (const auto* composite = llvm::dyn_cast<llvm::DICompositeType>(node)) {
      if (is_closure(*composite)) seen.closures.push_back(composite);
      visit(composite->getScope(), seen, depth + 1);
      visit_parameters(composite->getTemplateParams(), seen, depth + 1);
      visit(composite->getBaseType(), seen, depth + 1);
    } else if (const auto* block = llvm::dyn_cast<llvm::DILexicalBlockBase>(node)) {
      visit(block->getScope(), seen, depth + 1);
    }
  }

  void visit_parameters(llvm::DITemplateParameterArray parameters, Seen& seen, int depth) const {
    for (const llvm::DITemplateParameter* parameter : parameters) visit_parameter(parameter, seen, depth);
  }

  void visit_parameter(const llvm::DITemplateParameter* parameter, Seen& seen, int depth) const {
    if (parameter == nullptr || depth > deepest) return;
    visit(parameter->getType(), seen, depth + 1);
    const auto* value = llvm::dyn_cast<llvm::DITemplateValueParameter>(parameter);
    const auto* pack = value != nullptr ? llvm::dyn_cast_or_null<llvm::MDTuple>(value->getValue()) : nullptr;
    if (pack == nullptr) return;
    for (const llvm::MDOperand& operand : pack->operands())
      visit_parameter(llvm::dyn_cast_or_null<llvm::DITemplateParameter>(operand.get()), seen, depth + 1);
  }

  // Empty: it has nothing to do with a closure that is known.
  std::string hash_of(const llvm::DISubprogram* subprogram, bool shared) const {
    Seen seen;
    visit(subprogram, seen, 0);
    if (seen.closures.empty()) return {};
    std::string text;
    for (Closure* closure : seen.closures) text += (shared ? shape(*closure) : identity(*closure)) + '\n';
    return llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true, /*Width=*/16);
  }

  // False: its name holds no number, or nobody knows what it stands for.
  bool rename_like(llvm::GlobalValue& global, const llvm::DISubprogram* subprogram) {
    if (subprogram == nullptr || !global.hasLocalLinkage() || find_numbered(global.getName()) == StringRef::npos)
      return false;
    const std::string hash = hash_of(subprogram, false);
    std::optional<std::string> name = hash.empty() ? std::nullopt : without_numbers(global.getName(), hash);
    if (!name) return false;
    renamed_[global.getName()] = *name;
    global.setName(*name);
    return true;
  }

  void rename_function(llvm::Function& function) {
    llvm::DISubprogram* subprogram = function.getSubprogram();
    if (subprogram == nullptr || function.isDeclaration()) return;
    const std::string before = function.getName().str();
    if (!rename_like(function, subprogram)) rename_shared(function, *subprogram);
    // Debug information that is kept finds the function by it.
    if (function.getName() != before && subprogram->getLinkageName() == before)
      subprogram->replaceLinkageName(llvm::MDString::get(module_.getContext(), function.getName()));
  }

  void rename_shared(llvm::Function& function, const llvm::DISubprogram& subprogram) {
    const bool shared = function.hasLinkOnceODRLinkage() || function.hasLocalLinkage();
    if (!shared || !may_hold_shared(function.getName())) return;
    const std::string hash = hash_of(&subprogram, true);
    if (hash.empty()) return;
    function.setName(function.getName() + suffix + hash);
    if (const llvm::Comdat* group = function.getComdat()) {
      llvm::Comdat* renamed = module_.getOrInsertComdat((group->getName() + suffix + hash).str());
      renamed->setSelectionKind(group->getSelectionKind());
      function.setComdat(renamed);
    }
  }

  void rename_variable(llvm::GlobalVariable& variable) {
    llvm::SmallVector<llvm::DIGlobalVariableExpression*, 1> expressions;
    variable.getDebugInfo(expressions);
    for (const llvm::DIGlobalVariableExpression* expression : expressions)
      if (rename_like(variable, subprogram_around(expression->getVariable()->getScope()))) return;
  }

  llvm::Module& module_;
  llvm::DenseMap<Closure*, const llvm::DISubprogram*> operators_;
  std::vector<Closure*> in_order_;
  llvm::DenseMap<Closure*, unsigned> ordinals_;
  llvm::StringMap<std::string> renamed_;
};

} // namespace

void name_closures(llvm::Module& module) { Closures(module).rename(); }

} // namespace tenon::compile_layer

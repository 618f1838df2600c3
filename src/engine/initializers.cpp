// Which static initializers of a new version run: those of variables that are new. A kept variable has been constructed.
//
// What an initializer initializes is read off its relocations: the variables that it refers to, itself or through the
// functions that compilers split initializers into. One that refers to kept and to new variables can be neither run nor left
// out. A constructor function that somebody wrote runs if the version before did not have it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "link/arch/arch.h"

#include <algorithm>
#include <set>

namespace tenon::engine {

namespace {

// tenon-llvm names the initializer of one variable so.
constexpr std::string_view one_variable = "__tenon_init.";

class Initializers {
public:
  Initializers(const ChangeState& change, std::uint32_t m) : module_(*change.modules[m]), draft_(change.drafts[m]) {}

  Result<void> judge_all(std::vector<std::uint64_t>& skipped) {
    for (std::uint32_t i : module_.kept()) {
      const InitTable table = module_.sections()[i].init_table;
      if (table == InitTable::none || table == InitTable::fini || table == InitTable::dtors) continue;
      for (const Relocation& r : module_.relocations(i)) {
        Result<bool> skip = is_to_be_skipped(r);
        if (!skip) return std::move(skip).error();
        if (!*skip) continue;
        std::uint64_t function = 0;
        std::copy_n(module_.places[i].local + r.offset, sizeof function, reinterpret_cast<std::byte*>(&function));
        skipped.push_back(function);
      }
    }
    std::sort(skipped.begin(), skipped.end());
    return {};
  }

private:
  // A function of the module; its name if there is a symbol.
  struct Function {
    std::uint32_t section = 0;
    std::uint64_t begin = 0, end = 0;
    std::string_view name;
  };

  Function function_at(std::uint32_t section, std::uint64_t offset) const {
    for (const Symbol& symbol : module_.symbols())
      if (symbol.type == SymbolType::function && symbol.section == section && symbol.value <= offset &&
          (offset < symbol.value + symbol.size || offset == symbol.value))
        return {section, symbol.value, symbol.value + symbol.size, symbol.name()};
    return {section, offset, module_.sections()[section].size, {}};
  }

  bool is_carried(std::uint32_t section) const {
    const auto& carried = draft_.replacement->carried;
    return std::any_of(carried.begin(), carried.end(), [&](const CarriedSection& c) { return c.section == section; });
  }

  static bool belongs_to_initializers(std::string_view name) {
    return name.starts_with("_GLOBAL__") || name.starts_with("__cxx_global_var_init") ||
           name.starts_with("_Z41__static_initialization_and_destruction_0") || name.starts_with(one_variable);
  }

  void walk(const Function& function) {
    if (!seen_.emplace(function.section, function.begin).second) return;
    for (std::uint64_t target : link::arch::resolved_branches(module_, function.section, function.begin, function.end))
      if (const Function called = function_at(function.section, target); belongs_to_initializers(called.name)) walk(called);
    for (const Relocation& r : module_.relocations(function.section)) {
      if (r.offset < function.begin || r.offset >= function.end) continue;
      const link::Target& target = module_.targets[r.symbol];
      const Symbol& symbol = module_.symbols()[r.symbol];
      if (target.kind != link::TargetKind::section || symbol.section >= module_.object_sections()) continue;
      const link::SectionPlace& place = module_.places[symbol.section];
      if (place.run == link::Run::data) (is_carried(symbol.section) ? kept_ : fresh_) = true;
      if (place.run != link::Run::code) continue;
      const std::uint64_t offset = symbol.type == SymbolType::section ? std::uint64_t(r.addend + 4) : symbol.value;
      if (Function called = function_at(symbol.section, offset); belongs_to_initializers(called.name)) walk(called);
    }
  }

  Result<bool> is_to_be_skipped(const Relocation& r) {
    const Symbol& symbol = module_.symbols()[r.symbol];
    if (symbol.section >= module_.object_sections()) return false;
    const std::uint64_t offset = symbol.value + std::uint64_t(r.addend);
    const Function function = function_at(symbol.section, offset);
    if (function.name.starts_with(one_variable)) return has_variable(function.name.substr(one_variable.size()));
    // A constructor function that has been added has not run, whatever it does to kept variables.
    if (!function.name.empty() && !belongs_to_initializers(function.name) && !had_function(function.name)) return false;
    kept_ = fresh_ = false;
    seen_.clear();
    walk(function);
    if (kept_ && fresh_)
      return Error{ErrorCode::needs_flag,
                   "initializer '" + std::string(function.name) +
                       "' is for variables that are kept and for new ones: it can be neither run nor left out; compile with "
                       "tenon-llvm, which makes one for each variable"};
    if (kept_ || fresh_) return kept_;
    return had_function(function.name); // of no variable's: it has run when the module came
  }

  bool has_variable(std::string_view name) const {
    for (const CarriedSection& carried : draft_.replacement->carried)
      for (const Symbol& symbol : module_.symbols())
        if (symbol.section == carried.section && symbol.name() == name) return true;
    return false;
  }
  bool had_function(std::string_view name) const {
    const std::vector<std::unique_ptr<Definition>>& definitions = draft_.replaces->replaceable->definitions;
    // Not by_name, which lacks ambiguous ones.
    return std::any_of(definitions.begin(), definitions.end(), [&](const std::unique_ptr<Definition>& d) {
      return d->kind == DefinitionKind::function && !d->vanished && d->name == name;
    });
  }

  const link::Module& module_;
  const ModuleDraft& draft_;
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen_;
  bool kept_ = false, fresh_ = false;
};

} // namespace

Result<void> find_skipped_initializers(ChangeState& change, std::uint32_t m) {
  return Initializers(change, m).judge_all(change.drafts[m].replacement->skipped_initializers);
}

} // namespace tenon::engine

// What of an object becomes a fragment: all of it, or the functions that the client names with what only they need.
//
// From the sections of the named functions the relocations are followed. A function or variable that the module has already
// is left out, and referred to where it is; so are the initializers. Constants come along, since their content may have
// changed: those that have not are recognized later (unify_constants). What a named function needs and the module lacks
// comes along as well, and is the module's from then on.
//
// Symbols that the object lacks, or that are left out, may stand for what is local to the module. Nobody else sees it: they
// are bound here, by name.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/fragment.h"
#include "engine/function_content.h"

#include "base/printable.h"
#include "object/eh_frame.h"

#include <algorithm>
#include <mutex>

namespace tenon::engine {

namespace {

class Selection {
public:
  Selection(ChangeState& change, std::uint32_t m)
      : object_(*change.modules[m]), draft_(change.drafts[m]), before_(*draft_.replaces->replaceable),
        contents_(object_.object) {}

  Result<void> select() {
    if (Result<void> sound = check_sections(); !sound) return sound;
    list_members();
    if (!draft_.replacement->how->functions.empty()) {
      if (Result<void> chosen = choose(); !chosen) return chosen;
    }
    bind_locals();
    return {};
  }

private:
  std::uint32_t section_count() const { return object_.object_sections(); }
  const Section& section(std::uint32_t i) const { return object_.sections()[i]; }
  static bool is_function(const Symbol& symbol) noexcept {
    return symbol.type == SymbolType::function || symbol.type == SymbolType::ifunc;
  }
  std::string name_of(std::uint32_t i) const { return base::printable(section(i).name, 100); }

  Result<void> check_sections() const {
    for (std::uint32_t i = 1; i < section_count(); ++i) {
      const Section& s = section(i);
      const bool fini = s.init_table == InitTable::fini || s.init_table == InitTable::dtors;
      if (draft_.replacement->how->functions.empty() && s.allocated && fini)
        return Error{ErrorCode::unsupported, name_of(i) +
                                                 " would have to run with the module's finalizers: replace the whole "
                                                 "module"};
    }
    return {};
  }

  // The functions and variables of each section.
  void list_members() {
    members_.resize(section_count());
    const std::span<const Symbol> symbols = object_.symbols();
    for (std::uint32_t i = 1; i < symbols.size(); ++i) {
      const Symbol& symbol = symbols[i];
      const bool named = symbol.type == SymbolType::function || symbol.type == SymbolType::object ||
                         symbol.type == SymbolType::tls || symbol.type == SymbolType::ifunc;
      if (named && symbol.section < section_count() && !is_part_of_another(symbol.name()))
        members_[symbol.section].push_back(i);
    }
  }

  const Definition* earlier(const Symbol& symbol) {
    auto found = before_.by_name.find(symbol.name());
    if (found == before_.by_name.end() || found->second->vanished) return nullptr;
    if (symbol.is_local() && is_function(symbol) && !is_named(symbol.name()) &&
        (is_numbered_function(symbol.name()) || has_numbered_closure(symbol.name()))) {
      const std::uint64_t content = contents_.of(std::uint32_t(&symbol - object_.symbols().data()));
      if (content == 0 || content != found->second->content) return nullptr; // another's number
    }
    const DefinitionKind kind = found->second->kind;
    const bool fits = is_function(symbol) ? kind == DefinitionKind::function
                      : symbol.type == SymbolType::object
                          ? kind == DefinitionKind::variable || kind == DefinitionKind::constant
                      : symbol.type == SymbolType::tls ? kind == DefinitionKind::thread_variable
                                                       : kind != DefinitionKind::other;
    return fits ? found->second : nullptr;
  }

  Result<void> choose() {
    wanted_.assign(section_count(), 0);
    for (const std::string& name : draft_.replacement->how->functions)
      if (Result<void> chosen = choose_function(name); !chosen) return chosen;
    for (std::size_t next = 0; next < pending_.size();) {
      for (; next < pending_.size(); ++next)
        for (const Relocation& r : object_.relocations(pending_[next]))
          if (Result<void> followed = follow(pending_[next], r); !followed) return followed;
      if (Result<void> unwound = follow_unwinding(); !unwound) return unwound;
    }
    if (Result<void> checked = check_initializers(); !checked) return checked;
    draft_.dropped.assign(object_.sections().size(), 0);
    for (std::uint32_t i = 1; i < section_count(); ++i)
      draft_.dropped[i] = section(i).allocated && wanted_[i] == 0 && section(i).kind != SectionKind::unwind;
    return {};
  }

  Result<void> choose_function(const std::string& name) {
    const std::span<const Symbol> symbols = object_.symbols();
    auto found = std::find_if(symbols.begin(), symbols.end(), [&](const Symbol& symbol) {
      return is_function(symbol) && symbol.section < section_count() && symbol.name() == name;
    });
    const std::string module = "module " + draft_.replaces->name;
    if (found == symbols.end())
      return Error{ErrorCode::invalid_argument,
                   "the object does not define the function '" + name + "', which is to replace that of " + module};
    if (earlier(*found) == nullptr)
      return Error{ErrorCode::invalid_argument, module + " has no function '" + name + "' that could be replaced"};
    for (std::uint32_t i : members_[found->section])
      if (const Symbol& other = symbols[i]; other.value != found->value && !is_named(other.name()))
        return Error{ErrorCode::needs_flag, "'" + name + "' can't be taken out of its section " + name_of(found->section) +
                                                ", which holds '" + std::string(other.name()) +
                                                "' besides: compile with -ffunction-sections"};
    want(found->section);
    return {};
  }
  bool is_named(std::string_view name) const {
    const std::vector<std::string>& chosen = draft_.replacement->how->functions;
    return std::find(chosen.begin(), chosen.end(), name) != chosen.end();
  }

  void want(std::uint32_t i) {
    if (std::exchange(wanted_[i], std::uint8_t(1)) == 0) pending_.push_back(i);
  }

  Result<void> follow(std::uint32_t from, const Relocation& r) {
    const Symbol& symbol = object_.symbols()[r.symbol];
    if (symbol.section >= section_count() || symbol.section == from || !section(symbol.section).allocated ||
        wanted_[symbol.section] != 0)
      return {};
    return reach(symbol.section);
  }

  // A section that a wanted one refers to.
  Result<void> reach(std::uint32_t i) {
    std::size_t known = 0;
    for (std::uint32_t member : members_[i]) {
      const Symbol& symbol = object_.symbols()[member];
      const Definition* definition = earlier(symbol);
      if (definition == nullptr || definition->kind == DefinitionKind::constant) continue;
      ++known;
      if (definition->kind != DefinitionKind::function && definition->size != symbol.size)
        return Error{ErrorCode::unsupported,
                     "variable '" + definition->name + "' has " + std::to_string(symbol.size) + " bytes now and " +
                         std::to_string(definition->size) +
                         " in the module, other functions of which use it: replace the whole module"};
    }
    if (known == 0) {
      want(i);
      return {};
    }
    if (known == members_[i].size()) return {};
    return Error{ErrorCode::needs_flag, "section " + name_of(i) +
                                            " holds what the module has already and what it lacks: "
                                            "compile with -ffunction-sections and -fdata-sections"};
  }

  // What describes the frames of wanted functions, and whatever that needs (personality routines, tables of landing pads).
  Result<void> follow_unwinding() {
    for (std::uint32_t i = 1; i < section_count(); ++i) {
      if (section(i).kind != SectionKind::unwind || !section(i).allocated) continue;
      const std::span<const Relocation> all = object_.relocations(i);
      Result<void> walked = object::walk_eh_frame(section(i).content, [&](const object::EhRecord& record) -> Result<void> {
        auto inside = [&](const Relocation& r) { return r.offset - record.offset < record.size; };
        auto start =
            std::find_if(all.begin(), all.end(), [&](const Relocation& r) { return r.offset == record.pc_begin_offset; });
        if (!record.is_cie) {
          if (start == all.end()) return {};
          const std::uint32_t function = object_.symbols()[start->symbol].section;
          if (function >= section_count() || wanted_[function] == 0) return {};
        }
        for (const Relocation& r : all)
          if (inside(r) && (record.is_cie || r.offset != record.pc_begin_offset))
            if (Result<void> followed = follow(i, r); !followed) return followed;
        return {};
      });
      if (!walked) return std::move(walked).error().within(section(i).name);
    }
    return {};
  }

  // Initializers are left out. That would leave a variable that has come along without its value.
  Result<void> check_initializers() const {
    for (std::uint32_t i = 1; i < section_count(); ++i) {
      if (!section(i).allocated || section(i).init_table == InitTable::none) continue;
      for (const Relocation& entry : object_.relocations(i)) {
        const std::uint32_t code = object_.symbols()[entry.symbol].section;
        if (code >= section_count() || !section(code).allocated) continue;
        for (const Relocation& r : object_.relocations(code)) {
          const std::uint32_t data = object_.symbols()[r.symbol].section;
          const bool variable = data < section_count() && wanted_[data] != 0 &&
                                (section(data).kind == SectionKind::data || section(data).kind == SectionKind::zero);
          if (variable && !members_[data].empty())
            return Error{ErrorCode::unsupported, "the new variable '" +
                                                     std::string(object_.symbols()[members_[data][0]].name()) +
                                                     "' has an initializer: replace the whole module"};
        }
      }
    }
    return {};
  }

  // The definition that a symbol stands for, if it is to be bound here.
  Definition* local_definition(std::uint32_t i) {
    const Symbol& symbol = object_.symbols()[i];
    const bool dropped = symbol.section < section_count() && !draft_.dropped.empty() && draft_.dropped[symbol.section] != 0;
    if (symbol.defined() && !dropped) return nullptr;
    const Symbol* named = &symbol;
    if (symbol.type == SymbolType::section) {
      // With a section for each variable and function it is the same as the symbol, or as each of several that are one.
      const std::vector<std::uint32_t>& members = members_[symbol.section];
      const auto begins = [&](std::uint32_t member) { return object_.symbols()[member].value == 0; };
      if (members.empty() || !std::all_of(members.begin(), members.end(), begins)) return nullptr;
      named = &object_.symbols()[members[0]];
    }
    auto found = before_.by_name.find(named->name());
    if (named->name().empty() || found == before_.by_name.end() || found->second->vanished) return nullptr;
    Definition* definition = found->second;
    if (definition->kind == DefinitionKind::other) return nullptr;
    if (symbol.defined() && earlier(*named) != definition) return nullptr;
    return definition->local || symbol.is_local() ? definition : nullptr;
  }

  // A definition of what is local to the module remains so, whatever it was compiled as.
  bool is_local_there(const Symbol& symbol) {
    if (symbol.is_local() || !symbol.defined() || symbol.section >= section_count()) return false;
    const Definition* definition = earlier(symbol);
    return definition != nullptr && definition->local;
  }

  void bind_locals() {
    for (std::uint32_t i = 1; i < object_.symbols().size(); ++i) {
      if (Definition* definition = local_definition(i))
        draft_.replacement->local_bindings.push_back({i, definition});
      else if (is_local_there(object_.symbols()[i]))
        draft_.replacement->localized.push_back(i);
    }
  }

  const link::Module& object_;
  ModuleDraft& draft_;
  const Replaceable& before_;
  FunctionContents contents_;
  std::vector<std::vector<std::uint32_t>> members_;
  std::vector<std::uint8_t> wanted_;
  std::vector<std::uint32_t> pending_;
};

} // namespace

Result<void> select_functions(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> begun = begin_replacing(draft); !begun) return begun;
  return Selection(change, m).select();
}

} // namespace tenon::engine

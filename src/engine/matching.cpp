// Numbered variables find themselves again by debug information. See matching.h.
//
// A variable is in doubt if its name is numbered (GCC: `count.0`; clang: `f.count.1`; C++: `_ZZ1fvE5count_0`), if another's
// is that only differs in the number, in either version, or if there are several of its name. Such a one is never taken for
// one of the same name. Its path (function and name) decides: it must be declared once there in both versions, or as often,
// at the same places, in both. What has no like in the version before is new, if that version's variables are all known.
//
// A lambda's number is part of its variables' names, and debug information knows it by that number, too. Where only one
// variable of the function around it can be meant, in both versions, it is that one; else the lambda must be as it was.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/matching.h"

#include "engine/carry.h"
#include "engine/change_state.h"
#include "engine/function_content.h"
#include "object/debug_info.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <unordered_set>

namespace tenon::engine {

namespace {

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

// Whether it ends with an identifier as mangled names have it: its length, then as many characters.
bool ends_with_identifier(std::string_view text) noexcept {
  for (std::size_t size = 1; size < text.size(); ++size) {
    std::size_t length = 0, scale = 1;
    for (std::size_t at = text.size() - size; at > 0 && is_digit(text[at - 1]) && scale < 1'000'000; --at, scale *= 10) {
      length += std::size_t(text[at - 1] - '0') * scale;
      if (length == size) return true;
    }
  }
  return false;
}

// Itanium C++ ABI, "Scope Encoding": the name of a function's local entity is followed by _ <digit>, or __ <digits> _, for
// all but the first of that name.
std::string_view without_discriminator(std::string_view name) noexcept {
  if (!name.starts_with("_ZZ") && !name.starts_with("_ZGVZ")) return name;
  std::string_view rest = name;
  if (is_digit(rest.back())) {
    rest.remove_suffix(1);
    if (rest.back() != '_') return name;
    rest.remove_suffix(1);
  } else {
    if (rest.back() != '_') return name;
    rest.remove_suffix(1);
    while (is_digit(rest.back())) rest.remove_suffix(1); // ends at the latest at the _Z
    if (!rest.ends_with("__")) return name;
    rest.remove_suffix(2);
  }
  return ends_with_identifier(rest) ? rest : name;
}

// The name without the compiler's number.
std::string_view base_of(std::string_view name) {
  for (;;) {
    const std::size_t dot = name.rfind('.');
    if (dot == name.npos || dot == 0 || dot + 1 == name.size() ||
        !std::all_of(name.begin() + std::ptrdiff_t(dot) + 1, name.end(), is_digit))
      return without_discriminator(name);
    name = name.substr(0, dot);
  }
}

// No person has written it: it says where the variable belongs, and the first of several is not numbered.
bool is_made(std::string_view name) {
  return name.find('.') != name.npos || name.starts_with("_ZZ") || name.starts_with("_ZGVZ");
}

constexpr std::string_view guard_prefix = "_ZGV";

bool is_variable(const link::Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  if (symbol.type != SymbolType::object && symbol.type != SymbolType::tls) return false;
  return symbol.section < module.object_sections() && module.places[symbol.section].kept && !symbol.name().empty();
}

const object::DebugVariable* find_debug(const object::DebugInfo* info, const Symbol& symbol) {
  if (info == nullptr) return nullptr;
  const auto before = [](const object::DebugVariable& v, const Symbol& s) {
    return std::pair(v.section, v.offset) < std::pair(s.section, s.value);
  };
  auto found = std::lower_bound(info->variables.begin(), info->variables.end(), symbol, before);
  if (found == info->variables.end() || found->section != symbol.section || found->offset != symbol.value) return nullptr;
  return &*found;
}

std::string key_of(bool alone, std::string_view place, std::uint64_t piece, std::uint64_t piece_size) {
  std::string key(alone ? std::string_view() : place);
  return key + "[" + std::to_string(piece) + "+" + std::to_string(piece_size) + "]";
}

// One variable of the module, or of the version before.
struct Local {
  std::string_view name;
  std::uint32_t symbol = 0;                     // of the module
  Definition* definition = nullptr;             // of the version before
  const object::DebugVariable* debug = nullptr; // of the module
  const KnownVariable* known = nullptr;         // of the version before
};

class Matcher {
public:
  Matcher(ChangeState& change, std::uint32_t m)
      : module_(*change.modules[m]), draft_(change.drafts[m]), before_(*draft_.replaces), labels_(module_) {}

  Result<void> match() {
    list_module();
    list_before();
    find_crowds();
    for (const Local& local : now_)
      if ((keeps_value(local) || is_thread_local(local)) && has_numbered_closure(local.name))
        if (Result<void> matched = match_in_closure(local); !matched) return matched;
    for (const Local& local : now_) {
      if (!is_in_doubt(local.name) || local.name.starts_with(guard_prefix) || is_matched(local)) continue;
      if (Result<void> matched = match(local); !matched) return matched;
    }
    for (const Local& local : now_)
      if (is_in_doubt(local.name) && local.name.starts_with(guard_prefix) && !is_matched(local))
        if (Result<void> matched = match_guard(local); !matched) return matched;
    return {};
  }

private:
  void list_module() {
    for (std::uint32_t i = 1; i < module_.symbols().size(); ++i) {
      if (!is_variable(module_, i)) continue;
      const Symbol& symbol = module_.symbols()[i];
      if (symbol.is_local())
        now_.push_back({symbol.name(), i, nullptr, find_debug(draft_.replacement->debug.get(), symbol), nullptr});
      else
        globals_now_.insert(symbol.name());
    }
  }

  void list_before() {
    for (const std::unique_ptr<Definition>& definition : before_.replaceable->definitions) {
      const bool variable = definition->kind == DefinitionKind::variable || definition->kind == DefinitionKind::constant ||
                            definition->kind == DefinitionKind::thread_variable;
      if (!variable || definition->vanished) continue;
      if (!definition->local) globals_.insert(definition->name);
      if (!definition->local) continue;
      const KnownVariable* known = nullptr;
      for_each_holder(before_, [&](const ModuleState& holder) {
        if (known == nullptr && holder.extra().debug != nullptr) known = holder.extra().debug->variable(definition.get());
      });
      const bool renamed = known != nullptr && !known->symbol.empty();
      earlier_.push_back(
          {renamed ? std::string_view(known->symbol) : definition->name, 0, definition.get(), nullptr, known});
    }
  }

  void find_crowds() {
    for (const std::vector<Local>* version : {&now_, &earlier_}) {
      std::unordered_set<std::string_view> seen =
          version == &now_ ? globals_now_ : globals_; // parts of one object may have a local and a global one
      for (const Local& local : *version) {
        if (!seen.insert(local.name).second) twice_.insert(local.name);
        if (std::string_view base = base_of(local.name); base != local.name) numbered_.insert(base);
      }
    }
  }

  bool is_in_doubt(std::string_view name) const {
    if (twice_.contains(name)) return true;
    if (numbered_.empty()) return false;
    const std::string_view base = base_of(name);
    return base != name || (is_made(name) && numbered_.contains(base));
  }

  // What a path stands for can be compared.
  bool comparable() const {
    return draft_.replacement->debug != nullptr && before_.extra().debug != nullptr &&
           draft_.replacement->debug->several_units == before_.extra().debug->several_units;
  }

  void index_paths() {
    if (indexed_) return;
    indexed_ = true;
    for (const Local& local : now_)
      if (local.debug != nullptr) now_by_path_[local.debug->path].push_back(&local);
    for (const Local& local : earlier_)
      if (local.known != nullptr) earlier_by_path_[local.known->path].push_back(&local);
  }

  // A variable of before that it might be, as far as names tell; `unknown`: only one whose path is not known.
  bool has_candidate(const Local& local, bool unknown) const {
    const std::string_view base = base_of(local.name);
    return std::any_of(earlier_.begin(), earlier_.end(), [&](const Local& e) {
      return e.definition->kind == DefinitionKind::variable && (!unknown || e.known == nullptr) && base_of(e.name) == base;
    });
  }

  bool keeps_value(const Local& local) {
    const std::uint32_t section = module_.symbols()[local.symbol].section;
    return module_.places[section].run == link::Run::data && !labels_.is(section);
  }
  bool is_thread_local(const Local& local) const { return module_.symbols()[local.symbol].type == SymbolType::tls; }
  bool is_matched(const Local& local) const { return draft_.replacement->matched.contains(local.symbol); }

  void settle(const Local& local, Definition* definition) { draft_.replacement->matched.emplace(local.symbol, definition); }

  Result<void> match(const Local& local) {
    if (local.debug == nullptr || !comparable()) {
      if (keeps_value(local) && has_candidate(local, false)) return untold(local);
      settle(local, nullptr);
      return {};
    }
    index_paths();
    const auto found = earlier_by_path_.find(local.debug->path);
    if (found == earlier_by_path_.end()) {
      if (keeps_value(local) && has_candidate(local, true)) return untold(local);
      settle(local, nullptr);
      return {};
    }
    const std::vector<const Local*>& then = found->second;
    const std::vector<const Local*>& now = now_by_path_[local.debug->path];
    const auto alone = [](const Local* l) { return l->debug != nullptr ? l->debug->alone : l->known->alone; };
    const bool all_alone = std::all_of(then.begin(), then.end(), alone) && std::all_of(now.begin(), now.end(), alone);
    std::vector<std::pair<std::string, Definition*>> theirs;
    std::vector<std::string> ours;
    for (const Local* l : then)
      theirs.emplace_back(key_of(all_alone, l->known->place, l->known->piece, l->known->piece_size), l->definition);
    for (const Local* l : now) ours.push_back(key_of(all_alone, l->debug->place, l->debug->piece, l->debug->piece_size));
    std::sort(theirs.begin(), theirs.end());
    std::sort(ours.begin(), ours.end());
    const bool same =
        std::adjacent_find(ours.begin(), ours.end()) == ours.end() &&
        std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end(), [](auto& a, auto& b) { return a == b.first; });
    if (!same) {
      if (keeps_value(local)) return several(local);
      settle(local, nullptr);
      return {};
    }
    const std::string key = key_of(all_alone, local.debug->place, local.debug->piece, local.debug->piece_size);
    settle(local, std::find_if(theirs.begin(), theirs.end(), [&](auto& t) { return t.first == key; })->second);
    return {};
  }

  using ByBase = std::unordered_map<std::string, std::vector<const Local*>>;
  static ByBase list_by_base(const std::vector<Local>& all) {
    ByBase by_base;
    for (const Local& local : all)
      if (has_numbered_closure(local.name)) by_base[without_closure_numbers(local.name)].push_back(&local);
    return by_base;
  }

  // Of which variables all functions with a lambda's number that get to them have the code that the one of that number has
  // had. (The lambda's own may be inlined into others.) The variable's name, with the number, counts.
  void index_closures() {
    if (closures_indexed_) return;
    closures_indexed_ = true;
    now_by_base_ = list_by_base(now_);
    earlier_by_base_ = list_by_base(earlier_);
    FunctionContents contents(module_.object);
    for (std::uint32_t i = 1; i < module_.symbols().size(); ++i) {
      const Symbol& function = module_.symbols()[i];
      const bool numbered = function.type == SymbolType::function && function.defined() && function.is_local() &&
                            !is_part_of_another(function.name()) && has_numbered_closure(function.name());
      if (!numbered) continue;
      const std::uint64_t content = contents.of(i);
      const auto found = before_.replaceable->by_name.find(function.name());
      const bool same = content != 0 && found != before_.replaceable->by_name.end() && !found->second->vanished &&
                        found->second->content == content;
      closures_untold_ |= content == 0;
      (same ? as_they_were_ : changed_).insert(contents.mentioned().begin(), contents.mentioned().end());
    }
  }

  Result<void> match_in_closure(const Local& local) {
    index_closures();
    const std::string base = without_closure_numbers(local.name);
    const std::vector<const Local*>&then = earlier_by_base_[base], &now = now_by_base_[base];
    if (then.size() <= 1 && now.size() == 1) {
      settle(local, then.empty() ? nullptr : then[0]->definition);
      return {};
    }
    std::vector<const Local*> of_this_name;
    std::copy_if(then.begin(), then.end(), std::back_inserter(of_this_name),
                 [&](const Local* l) { return l->name == local.name; });
    const bool as_it_was = !closures_untold_ && as_they_were_.contains(local.symbol) && !changed_.contains(local.symbol);
    if (of_this_name.size() == 1 && as_it_was) {
      settle(local, of_this_name[0]->definition);
      return {};
    }
    if (then.empty()) {
      settle(local, nullptr);
      return {};
    }
    return Error{ErrorCode::needs_flag,
                 "variable '" + base + "' is one of several in lambdas, which the compiler numbers, and its lambda is not " +
                     "what the earlier version has by that number: which one it was can't be told; give it a name of its " +
                     "own, or let tenon-llvm compile it (CompileOptions::name_closures)"};
  }

  // Debug information does not know guards of initializations: they go with their variables.
  Result<void> match_guard(const Local& guard) {
    const std::string variable = "_Z" + std::string(guard.name.substr(guard_prefix.size()));
    for (const Local& local : now_) {
      if (local.name != variable) continue;
      const auto matched = draft_.replacement->matched.find(local.symbol);
      if (matched == draft_.replacement->matched.end()) break;
      Definition* definition = nullptr;
      for (const Local& e : earlier_)
        if (matched->second != nullptr && e.definition == matched->second) definition = guard_of(e.name);
      settle(guard, definition);
      return {};
    }
    if (has_candidate(guard, false)) return untold(guard);
    settle(guard, nullptr);
    return {};
  }

  Definition* guard_of(std::string_view variable) const {
    if (!variable.starts_with("_Z")) return nullptr;
    const std::string name = std::string(guard_prefix) + std::string(variable.substr(2));
    for (const Local& e : earlier_)
      if (e.name == name) return e.definition;
    return nullptr;
  }

  Error untold(const Local& local) const {
    const bool twice = twice_.contains(local.name) && base_of(local.name) == local.name;
    const std::string_view lacking = draft_.replacement->debug == nullptr ? "; compile with -g"
                                     : before_.extra().debug == nullptr   ? ", which was compiled without -g"
                                                                          : "; its debug information says nothing of it";
    return {ErrorCode::needs_flag,
            (twice ? "there are several local variables '" + std::string(local.name) + "': which one"
                   : "variable '" + std::string(local.name) + "' was numbered by the compiler: which one") +
                " of the earlier version it is can't be told" + std::string(lacking) +
                " (both versions: debug information tells where a variable belongs), or give it a name of its own"};
  }

  Error several(const Local& local) const {
    return {ErrorCode::needs_flag, "variable '" + std::string(local.name) + "' is one of several that are called '" +
                                       local.debug->path +
                                       "', and they are not those of the earlier version, or lie in "
                                       "other blocks: which one it was can't be told; give it a name of "
                                       "its own"};
  }

  link::Module& module_;
  ModuleDraft& draft_;
  const ModuleState& before_;
  LabelTables labels_;
  std::vector<Local> now_, earlier_;
  std::unordered_set<std::string_view> twice_, numbered_;      // names; bases
  std::unordered_set<std::string_view> globals_now_, globals_; // of the module; of the version before
  std::unordered_map<std::string_view, std::vector<const Local*>> now_by_path_, earlier_by_path_;
  bool indexed_ = false;
  ByBase now_by_base_, earlier_by_base_; // variables in numbered lambdas
  std::unordered_set<std::uint32_t> as_they_were_, changed_;
  bool closures_indexed_ = false, closures_untold_ = false;
};

// Whether somebody who is not compiled with the new version may call it.
bool is_called_by_others(const ModuleDraft& draft, const Definition& function) noexcept {
  if (!function.local || draft.replaces->opaque) return true;
  for (const Use* use = function.uses; use != nullptr; use = use->next)
    if (use->address) return true;
  return false;
}

template <class Row> auto find_row(const std::vector<Row>& rows, const Definition* Row::* key, const Definition* wanted) {
  auto found = std::lower_bound(rows.begin(), rows.end(), wanted,
                                [&](const Row& row, const Definition* d) { return std::less<>()(row.*key, d); });
  return found != rows.end() && (*found).*key == wanted ? &*found : nullptr;
}

const object::DebugFunction* find_function(const object::DebugInfo& info, std::string_view name) {
  auto found = std::lower_bound(info.functions.begin(), info.functions.end(), name,
                                [](const object::DebugFunction& f, std::string_view n) { return f.name < n; });
  return found != info.functions.end() && found->name == name ? &*found : nullptr;
}

} // namespace

const KnownVariable* DebugNames::variable(const Definition* definition) const noexcept {
  return find_row(variables, &KnownVariable::definition, definition);
}

std::string_view DebugNames::signature(const Definition* function) const noexcept {
  const Signature* found = find_row(signatures, &Signature::function, function);
  return found != nullptr ? std::string_view(texts).substr(found->begin, found->size) : std::string_view();
}

void read_debug_info(ChangeState& change, std::uint32_t m) {
  const Object& object = change.modules[m]->object;
  if (!is_replaceable(change, change.drafts[m]) || !object::has_debug_info(object)) return;
  // The objects that were added stay, while the change is drafted again and again; members of archives come and go.
  if (change.debug_infos.size() < change.additions.size()) change.debug_infos.resize(change.additions.size());
  const bool stays = m < change.additions.size();
  std::shared_ptr<const object::DebugInfo> read = stays ? change.debug_infos[m] : nullptr;
  if (read == nullptr)
    read = std::make_shared<const object::DebugInfo>(object::read_debug_info(object).value_or(object::DebugInfo()));
  if (stays) change.debug_infos[m] = read;
  change.modules[m]->knowledge = std::min(change.modules[m]->knowledge, read->knowledge);
  if (!read->variables.empty() || !read->functions.empty()) change.drafts[m].replacement->debug = std::move(read);
}

Result<void> match_variables(ChangeState& change, std::uint32_t m) { return Matcher(change, m).match(); }

void compare_signatures(ChangeState& change, std::uint32_t m) {
  const ModuleDraft& draft = change.drafts[m];
  if (draft.replacement->debug == nullptr) return;
  const auto& by_name = draft.replaces->replaceable->by_name;
  for (const Symbol& symbol : change.modules[m]->symbols()) {
    if (symbol.type != SymbolType::function || !symbol.defined()) continue;
    const object::DebugFunction* now = find_function(*draft.replacement->debug, symbol.name());
    auto found = now != nullptr ? by_name.find(symbol.name()) : by_name.end();
    if (found == by_name.end() || found->second->kind != DefinitionKind::function || found->second->vanished) continue;
    const ModuleState* holder = found->second->holder; // of the current body
    if (holder == nullptr || holder->extra().debug == nullptr) continue;
    const std::string_view before = holder->extra().debug->signature(found->second);
    const bool called = draft.partial || is_called_by_others(draft, *found->second);
    if (before.empty() || object::same_signature(before, now->signature) || !called) continue;
    change.warnings.push_back({change.modules[m]->name, now->name,
                               "'" + now->name + "' of module " + change.modules[m]->name + ": was " + std::string(before) +
                                   ", is " + now->signature + ": callers that are not replaced pass what the old one took"});
  }
}

void compare_shared_closures(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  const auto& by_name = change.drafts[m].replaces->replaceable->by_name;
  FunctionContents contents(module.object);
  std::string first;
  std::size_t more = 0;
  for (std::uint32_t i = module.object.first_global(); i < module.symbols().size(); ++i) {
    const Symbol& symbol = module.symbols()[i];
    if (symbol.type != SymbolType::function || !symbol.defined() || !has_numbered_closure(symbol.name())) continue;
    const auto found = by_name.find(symbol.name());
    if (found == by_name.end() || found->second->vanished || found->second->content == 0) continue;
    if (found->second->content == contents.of(i)) continue;
    if (first.empty())
      first = symbol.name();
    else
      ++more;
  }
  if (first.empty()) return;
  change.warnings.push_back({module.name, first,
                             "'" + first + "' of module " + module.name + ", and " + std::to_string(more) +
                                 " more functions of lambdas that the compiler numbers, are not what they were: who holds a "
                                 "closure of before runs what has its number now; let tenon-llvm compile it "
                                 "(CompileOptions::name_closures)"});
}

Definition* earlier_variable(const ChangeState& change, std::uint32_t m, std::uint32_t symbol, DefinitionKind kind,
                             bool vanished_too) {
  const ModuleDraft& draft = change.drafts[m];
  Definition* definition = nullptr;
  if (auto matched = draft.replacement->matched.find(symbol); matched != draft.replacement->matched.end()) {
    definition = matched->second;
  } else {
    const auto& by_name = draft.replaces->replaceable->by_name;
    if (auto found = by_name.find(change.modules[m]->symbols()[symbol].name()); found != by_name.end())
      definition = found->second;
  }
  return definition != nullptr && definition->kind == kind && (vanished_too || !definition->vanished) ? definition : nullptr;
}

void note_debug_names(ChangeState& change, std::uint32_t m) {
  const ModuleDraft& draft = change.drafts[m];
  if (draft.replacement->debug == nullptr) return;
  const link::Module& module = *change.modules[m];
  auto names = std::make_unique<DebugNames>();
  names->several_units = draft.replacement->debug->several_units;
  std::unordered_map<std::string_view, std::uint32_t> texts;
  for (const Provided& p : draft.replacement->provided) {
    const Symbol& symbol = module.symbols()[p.symbol];
    if (p.definition->kind == DefinitionKind::function) {
      const object::DebugFunction* function = find_function(*draft.replacement->debug, symbol.name());
      if (function == nullptr || p.definition->ambiguous) continue;
      auto [text, first] = texts.emplace(function->signature, std::uint32_t(names->texts.size()));
      if (first) names->texts += function->signature;
      names->signatures.push_back({p.definition, text->second, std::uint32_t(function->signature.size())});
    } else if (const object::DebugVariable* debug =
                   symbol.is_local() ? find_debug(draft.replacement->debug.get(), symbol) : nullptr) {
      names->variables.push_back({p.definition, p.definition->name == symbol.name() ? std::string() : symbol.name_begin,
                                  debug->path, debug->place, debug->piece, debug->piece_size, debug->alone});
    }
  }
  const std::less<> less;
  std::sort(names->variables.begin(), names->variables.end(),
            [&](const KnownVariable& a, const KnownVariable& b) { return less(a.definition, b.definition); });
  std::sort(names->signatures.begin(), names->signatures.end(),
            [&](const DebugNames::Signature& a, const DebugNames::Signature& b) { return less(a.function, b.function); });
  draft.state->extra().debug = std::move(names);
}

} // namespace tenon::engine

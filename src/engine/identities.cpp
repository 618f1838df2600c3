// Functions that may be replaced: found among a module's symbols, given their stubs, bound.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/function_content.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

namespace tenon::engine {

namespace {

using link::TargetKind;

bool is_code(const link::Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  return symbol.type == SymbolType::function && symbol.section < module.object_sections() &&
         module.places[symbol.section].kept && module.places[symbol.section].run == link::Run::code;
}

// One that is chosen by a resolver. What stands for it in its version is a stub there, which leads to the resolver's choice.
bool is_ifunc(const link::Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  return symbol.type == SymbolType::ifunc && symbol.section < module.object_sections() && module.places[symbol.section].kept;
}

bool is_data(const link::Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  if (symbol.type != SymbolType::object || symbol.size == 0 || symbol.section >= module.object_sections()) return false;
  const link::SectionPlace& place = module.places[symbol.section];
  return place.kept && place.content_size() != 0 && place.run != link::Run::code;
}

bool is_function(const link::Module& module, std::uint32_t index) {
  return is_ifunc(module, index) || (is_code(module, index) && !is_part_of_another(module.symbols()[index].name()));
}

const Name* name_of(const ChangeState& change, const ModuleDraft& draft, const link::Module& module, std::uint32_t symbol) {
  const std::uint32_t first = module.object.first_global();
  if (symbol < first || draft.names[symbol - first] == link::none) return nullptr;
  return &(*change.names)[draft.names[symbol - first]];
}

const LocalBinding* local_binding(const ModuleDraft& draft, std::uint32_t symbol) {
  const base::Vector<LocalBinding>& bindings = draft.replacement->local_bindings;
  auto found = std::lower_bound(bindings.begin(), bindings.end(), symbol,
                                [](const LocalBinding& b, std::uint32_t s) { return b.symbol < s; });
  return found != bindings.end() && found->symbol == symbol ? &*found : nullptr;
}

// Where the symbol's definition is, if that may be replaced.
bool find_source(const ChangeState& change, std::uint32_t m, std::uint32_t symbol, CalleeSource& source) {
  const link::Module& module = *change.modules[m];
  const link::Target& target = module.targets[symbol];
  switch (target.kind) {
  case TargetKind::section:
    if (!is_replaceable(change, change.drafts[m]) || !is_function(module, symbol)) return false;
    source.module = m;
    source.symbol = symbol;
    return true;
  case TargetKind::module:
    source.module = target.where;
    source.symbol = std::uint32_t(target.address);
    return is_replaceable(change, change.drafts[target.where]) && is_function(*change.modules[target.where], source.symbol);
  case TargetKind::fixed: {
    if (const LocalBinding* local = local_binding(change.drafts[m], symbol)) {
      source.definition = local->definition;
      return source.definition->kind == DefinitionKind::function;
    }
    const Name* name = name_of(change, change.drafts[m], module, symbol);
    if (name == nullptr || name->record == nullptr || name->record->definition() == nullptr) return false;
    source.definition = name->record->definition();
    return source.definition->kind == DefinitionKind::function;
  }
  default: return false;
  }
}

} // namespace

bool is_part_of_another(std::string_view name) noexcept {
  for (std::string_view mark : {".cold", ".part.", ".isra.", ".constprop.", ".lto_priv.", ".warm", ".split"})
    if (name.find(mark) != std::string_view::npos) return true;
  // Of coroutines, as Clang and GCC name them.
  return name.ends_with(".resume") || name.ends_with(".destroy") || name.ends_with(".cleanup") || name.ends_with(".actor");
}

bool is_numbered(std::string_view name) noexcept {
  const std::size_t dot = name.rfind('.');
  return dot != std::string_view::npos && dot + 1 < name.size() &&
         std::all_of(name.begin() + std::ptrdiff_t(dot) + 1, name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_replaceable(const ChangeState& change, const ModuleDraft& draft) noexcept {
  return change.libraries[draft.library]->replaceable &&
         (change.mode == PlaceMode::none || change.mode == PlaceMode::engine);
}

void find_callees(ChangeState& change, std::uint32_t m) {
  link::Module& module = *change.modules[m];
  module.patchable = change.engine->machinery->space->mapping() == memory::Mapping::dual;
  if (!change.has_identities) return;
  module.callees.clear();
  module.callee_of.clear();
  module.own_functions.clear();
  module.parts.clear();
  module.data_objects.clear();
  if (change.drafts[m].replacement == nullptr) change.drafts[m].replacement = std::make_unique<Replacement>();
  Replacement& replacement = *change.drafts[m].replacement;
  replacement.callees.clear();
  if (change.mode != PlaceMode::none && change.mode != PlaceMode::engine) return;
  const std::span<const Symbol> symbols = module.symbols();
  std::shared_lock tables(change.engine->tables); // records of other modules are looked at, which may be replaced just now
  for (std::uint32_t i = 1; i < symbols.size(); ++i) {
    CalleeSource source;
    if (!find_source(change, m, i, source)) {
      if (is_data(module, i))
        module.data_objects.push_back({symbols[i].section, symbols[i].value, symbols[i].value + symbols[i].size});
      if (is_code(module, i) && is_replaceable(change, change.drafts[m]))
        module.parts.push_back({symbols[i].section, symbols[i].value, i});
      continue;
    }
    if (module.callee_of.empty()) module.callee_of.resize(symbols.size());
    if (module.targets[i].kind == TargetKind::section && !is_ifunc(module, i)) // where that lies is its resolver
      module.own_functions.push_back({symbols[i].section, symbols[i].value, std::uint32_t(module.callees.size())});
    module.callees.push_back({0, 0, i, false});
    module.callee_of[i] = std::uint32_t(module.callees.size());
    replacement.callees.push_back(source);
  }
  std::sort(module.parts.begin(), module.parts.end(), [](const link::OwnFunction& a, const link::OwnFunction& b) {
    return std::tuple(a.section, a.offset) < std::tuple(b.section, b.offset);
  });
  std::sort(module.data_objects.begin(), module.data_objects.end(),
            [](const link::DataObject& a, const link::DataObject& b) {
              return std::pair(a.section, a.begin) < std::pair(b.section, b.begin);
            });
  // Of several names for one place the first global one, or else the first, stands for it.
  auto rank = [&](const link::OwnFunction& f) { return symbols[module.callees[f.callee].symbol].is_local() ? 1 : 0; };
  std::sort(module.own_functions.begin(), module.own_functions.end(),
            [&](const link::OwnFunction& a, const link::OwnFunction& b) {
              return std::tuple(a.section, a.offset, rank(a), a.callee) < std::tuple(b.section, b.offset, rank(b), b.callee);
            });
}

namespace {

struct Kind {
  bool named = false;
  DefinitionKind kind = DefinitionKind::other;
};

// What a symbol that the module defines is to later versions.
Kind kind_of(const link::Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  if (symbol.type == SymbolType::section || symbol.type == SymbolType::file || symbol.name().empty()) return {};
  if (!module.callee_of.empty() && module.callee_of[index] != 0) return {true, DefinitionKind::function};
  if (symbol.section >= module.object_sections()) return {!symbol.is_local(), DefinitionKind::other};
  const link::SectionPlace& place = module.places[symbol.section];
  if (symbol.type == SymbolType::object && place.run == link::Run::data) return {true, DefinitionKind::variable};
  if (symbol.type == SymbolType::object && place.run == link::Run::rodata) return {true, DefinitionKind::constant};
  if (symbol.type == SymbolType::tls) return {true, DefinitionKind::thread_variable};
  return {!symbol.is_local(), DefinitionKind::other};
}

Result<std::unique_ptr<Definition>> make_definition(ChangeState& change, std::string_view name, Kind kind, bool local) {
  auto definition = std::make_unique<Definition>();
  definition->name = name;
  definition->kind = kind.kind;
  definition->local = local;
  if (kind.kind == DefinitionKind::function) {
    Result<Stub> stub = change.engine->stubs->take();
    if (!stub) return std::move(stub).error();
    definition->stub = std::move(*stub);
  }
  return definition;
}

Definition* find_earlier(const ModuleDraft& draft, std::string_view name, DefinitionKind kind) {
  if (draft.replaces == nullptr) return nullptr;
  auto found = draft.replaces->replaceable->by_name.find(name);
  return found != draft.replaces->replaceable->by_name.end() && found->second->kind == kind ? found->second : nullptr;
}

bool is_chosen(const ModuleDraft& draft, std::string_view name) noexcept {
  if (draft.replacement->how == nullptr) return false;
  const std::vector<std::string>& chosen = draft.replacement->how->functions;
  return std::find(chosen.begin(), chosen.end(), name) != chosen.end();
}

// The function of a numbered lambda that has this content, which may have been gone for a while.
Definition* find_alike(const ModuleDraft& draft, std::string_view name, std::uint64_t content) {
  Definition* definition = find_earlier(draft, name, DefinitionKind::function);
  if (definition == nullptr || content == 0 || definition->content == content) return content != 0 ? definition : nullptr;
  for (const std::unique_ptr<Definition>& d : draft.replaces->replaceable->definitions)
    if (d->vanished && !d->ambiguous && d->kind == DefinitionKind::function && d->content == content && d->name == name)
      return d.get();
  return nullptr;
}

// What members of local classes are called that share their class's name with another of the same function, in this version
// or the one before.
std::unordered_set<std::string> crowded_classes(const ModuleDraft& draft, const link::Module& module) {
  std::unordered_set<std::string> crowded;
  auto look = [&](std::string_view name) {
    if (!name.starts_with("_ZZ")) return;
    if (std::string plain = without_class_numbers(name); plain != name) crowded.insert(std::move(plain));
  };
  for (const Symbol& symbol : module.symbols())
    if (symbol.is_local() && symbol.type == SymbolType::function) look(symbol.name());
  if (draft.replaces != nullptr)
    for (const std::unique_ptr<Definition>& d : draft.replaces->replaceable->definitions)
      if (d->local && !d->vanished && d->kind == DefinitionKind::function) look(d->name);
  return crowded;
}

// Under EngineState::commit_mutex: earlier definitions are looked up.
Result<void> provide(ChangeState& change, std::uint32_t m) {
  link::Module& module = *change.modules[m];
  ModuleDraft& draft = change.drafts[m];
  Replacement& replacement = *draft.replacement;
  std::span<const Symbol> symbols = module.symbols();
  std::unordered_map<std::string_view, std::uint32_t> seen;
  FunctionContents contents(module.object);
  const std::unordered_set<std::string> crowded = crowded_classes(draft, module);
  for (std::uint32_t i = 1; i < symbols.size(); ++i)
    if (module.targets[i].kind == TargetKind::section && symbols[i].defined()) ++seen[symbols[i].name()];
  for (std::uint32_t i = 1; i < symbols.size(); ++i) {
    const Symbol& symbol = symbols[i];
    if (module.targets[i].kind != TargetKind::section || !symbol.defined()) continue;
    const Kind kind = kind_of(module, i);
    if (!kind.named || (kind.kind == DefinitionKind::constant && is_nameless_constant(symbol))) continue;
    const bool local = symbol.is_local() || draft.names[i - module.object.first_global()] == link::none;
    const bool by_content = kind.kind == DefinitionKind::function && is_numbered_function(symbol.name());
    bool ambiguous = local && (seen[symbol.name()] > 1 || (is_numbered(symbol.name()) && !by_content));
    // By what it is like, since its number says nothing.
    const bool numbered =
        !ambiguous && kind.kind == DefinitionKind::function &&
        (has_numbered_closure(symbol.name()) ||
         (local && (by_content || (!crowded.empty() && crowded.contains(without_class_numbers(symbol.name()))))));
    const bool closure = numbered && local;
    const std::uint64_t content = numbered ? contents.of(i) : 0;
    Definition* definition = nullptr;
    if (const auto matched = replacement.matched.find(i); matched != replacement.matched.end()) {
      if (matched->second != nullptr && matched->second->kind == kind.kind) definition = matched->second;
    } else if (closure && !is_chosen(draft, symbol.name())) {
      definition = find_alike(draft, symbol.name(), content);
      ambiguous = definition == nullptr && draft.partial; // the module goes on having its own of that name
    } else if (!ambiguous) {
      definition = find_earlier(draft, symbol.name(), kind.kind);
    }
    if (definition == nullptr) {
      Result<std::unique_ptr<Definition>> made = make_definition(change, symbol.name(), kind, local);
      if (!made) return std::move(made).error();
      (*made)->ambiguous = ambiguous;
      (*made)->module = draft.identity().get();
      definition = made->get();
      replacement.fresh.push_back(std::move(*made));
    }
    const bool fresh = !replacement.fresh.empty() && replacement.fresh.back().get() == definition;
    Provided& provided = replacement.provided.emplace_back();
    provided.definition = definition;
    provided.symbol = i;
    provided.content = content;
    provided.fresh = fresh;
    provided.local = local;
  }
  return {};
}

} // namespace

Definition* provided_by(const ModuleDraft& draft, std::uint32_t symbol) noexcept {
  if (draft.replacement == nullptr) return nullptr;
  const base::Vector<Provided>& provided = draft.replacement->provided; // in the order of symbols
  auto found = std::lower_bound(provided.begin(), provided.end(), symbol,
                                [](const Provided& p, std::uint32_t s) { return p.symbol < s; });
  return found != provided.end() && found->symbol == symbol ? found->definition : nullptr;
}

Result<void> give_identities(ChangeState& change) {
  if (!change.has_identities) return {};
  std::lock_guard lock(change.engine->commit_mutex);
  for (std::uint32_t m = 0; m < change.modules.size(); ++m)
    if (is_replaceable(change, change.drafts[m])) {
      if (Result<void> provided = provide(change, m); !provided)
        return std::move(provided).error().within(module_context(change, m));
      if (change.drafts[m].replaces == nullptr) change.drafts[m].replacement->replaceable = std::make_unique<Replaceable>();
    }
  for (std::uint32_t m = 0; m < change.modules.size(); ++m)
    for (std::size_t c = 0; c < change.modules[m]->callees.size(); ++c) {
      CalleeSource& source = change.drafts[m].replacement->callees[c];
      link::Callee& callee = change.modules[m]->callees[c];
      if (source.module != link::none) source.definition = provided_by(change.drafts[source.module], source.symbol);
      callee.stub = source.definition->stub.address();
      if (source.module == link::none) callee.body = source.definition->address;
    }
  return {};
}

void settle_callees(ChangeState& change) noexcept {
  if (!change.has_identities) return;
  for (const std::unique_ptr<link::Module>& module : change.modules) {
    auto settle = [&](link::Callee& callee, std::uint64_t body) {
      callee.body = body;
      module->targets[callee.symbol].address = callee.stub;
      module->targets[callee.symbol].flags |= link::target_flag::identity;
    };
    for (const link::OwnFunction& function : module->own_functions)
      settle(module->callees[function.callee], module->places[function.section].address + function.offset);
    for (std::uint32_t i : module->ifuncs)
      if (!module->callee_of.empty() && module->callee_of[i] != 0 && module->targets[i].kind == TargetKind::section)
        settle(module->callees[module->callee_of[i] - 1], module->targets[i].address);
  }
  for (std::uint32_t m = 0; m < change.modules.size(); ++m)
    for (std::size_t c = 0; c < change.modules[m]->callees.size(); ++c) {
      const CalleeSource& source = change.drafts[m].replacement->callees[c];
      if (source.module == link::none || source.module == m) continue;
      const link::Module& definer = *change.modules[source.module];
      change.modules[m]->callees[c].body = definer.callees[definer.callee_of[source.symbol] - 1].body;
    }
}

} // namespace tenon::engine

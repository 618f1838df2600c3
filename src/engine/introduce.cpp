// A module is introduced into a change: COMDAT groups are chosen, sections selected, and its symbols entered among the
// names.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/fragment.h"
#include "engine/group_content.h"

#include "base/printable.h"

#include <algorithm>
#include <array>

namespace tenon::engine {

namespace {

using link::Target;
using link::TargetKind;

// What the change's edits say of one symbol of one module.
struct SymbolEdits {
  std::string_view name;
  bool localized = false;
  const Edit* bound = nullptr;
};

SymbolEdits edited(ChangeState& change, std::uint32_t module, std::string_view name) {
  SymbolEdits result{name};
  for (std::size_t i = 0; i < change.edits.size(); ++i) {
    const Edit& edit = change.edits[i];
    if (edit.module.index != module || edit.symbol != result.name) continue;
    change.edits_used[i] = 1;
    if (edit.kind == Edit::Kind::rename)
      result.name = edit.new_name;
    else if (edit.kind == Edit::Kind::localize)
      result.localized = true;
    else if (edit.kind == Edit::Kind::bind)
      result.bound = &edit;
  }
  return result;
}

// Pointers to personality routines, which frame descriptions reach with 32 bits: each module keeps its own eight bytes, so
// that modules can be far from each other, and so that a removed one need not stay because it had the first.
bool is_kept_by_everybody(std::string_view name) noexcept { return name.starts_with("DW.ref."); }

// Whether another module of the change, a new version of the group's provider, goes on providing it: those who share the
// published group stay bound to that module, whichever module of the change comes first.
bool has_heir(const ChangeState& change, std::uint32_t index, const SymbolRecord& published, std::string_view signature) {
  for (std::uint32_t a = 0; a < change.additions.size(); ++a)
    if (a != index && change.additions[a].replaces.get() == published.module() &&
        published.module()->replaceable != nullptr) {
      const std::span<const Group> groups = change.additions[a].object.groups();
      return std::any_of(groups.begin(), groups.end(),
                         [&](const Group& group) { return group.comdat && group.signature == signature; });
    }
  return false;
}

// The first module of the change, or the library, that has a group provides it; everybody else's copy is dropped.
void choose_groups(ChangeState& change, std::uint32_t index) {
  link::Module& module = *change.modules[index];
  ModuleDraft& draft = change.drafts[index];
  std::span<const Group> groups = module.object.groups();
  LibraryState& library = *change.libraries[draft.library];
  draft.groups.reserve(groups.size());
  std::shared_lock lock(change.engine->tables);
  change.look();
  constexpr std::size_t ahead = 8; // names are cache misses each, see NamesAhead
  std::array<std::uint64_t, ahead> hashes{};
  const auto read = [&](std::size_t at) {
    if (at >= groups.size()) return;
    hashes[at % ahead] = hash_name(groups[at].signature);
    if (!change.names->is_small()) change.names->prefetch_cell(hashes[at % ahead], draft.library);
  };
  for (std::size_t at = 0; at + 1 < ahead; ++at) read(at);
  for (std::size_t at = 0; at < groups.size(); ++at) {
    const Group& group = groups[at];
    read(at + ahead - 1);
    if (at + ahead / 2 < groups.size() && !change.names->is_small())
      change.names->prefetch_name(hashes[(at + ahead / 2) % ahead], draft.library);
    const bool unwanted = !draft.dropped.empty() && std::all_of(group.sections.begin(), group.sections.end(),
                                                                [&](std::uint32_t s) { return draft.dropped[s] != 0; });
    if (!group.comdat || unwanted || is_kept_by_everybody(group.signature)) {
      draft.groups.push_back(link::none);
      continue;
    }
    std::uint32_t id = change.names->intern(group.signature, draft.library, hashes[at % ahead]);
    draft.groups.push_back(id);
    Name& name = (*change.names)[id];
    bool provided_here = false;
    if (name.group == link::none) {
      SymbolRecord* published = library.find_group(name.view(), name.hash);
      // A fragment brings its own copy of what its module has.
      const bool own = published != nullptr && draft.partial && published->module() == draft.replaces.get();
      if (published != nullptr && !own && !leaves(change, *published)) {
        draft.shared_groups.emplace_back(group.signature, published);
        change.shares_groups = true;
        change.pins.push_back(published->module()->shared_from_this());
      } else if (published == nullptr || !has_heir(change, index, *published, group.signature)) {
        name.group = index;
        provided_here = true;
      }
    }
    if (provided_here) continue;
    if (draft.dropped.empty()) draft.dropped.resize(module.sections().size());
    for (std::uint32_t section : group.sections) draft.dropped[section] = 1;
  }
}

Error duplicate(const ChangeState& change, const Name& name, std::uint32_t second) {
  return {ErrorCode::duplicate, "'" + std::string(name.view()) + "' is defined twice: in " +
                                    change.modules[name.module]->name + " and in " + change.modules[second]->name};
}

Strength strength_of(const Symbol& symbol) {
  if (symbol.section == section_common) return Strength::common;
  switch (symbol.binding) {
  case Binding::weak: return Strength::weak;
  case Binding::unique: return Strength::unique;
  default: return Strength::strong;
  }
}

// gABI, "Symbol Table": a strong definition wins over common and weak ones, a common one over weak ones, else the first
// stays.
int rank(Strength strength) {
  switch (strength) {
  case Strength::none: return 0;
  case Strength::weak:
  case Strength::unique: return 1;
  case Strength::common: return 2;
  case Strength::strong: return 3;
  }
  return 0;
}

std::uint8_t definition_flags(const link::Module& module, const Symbol& symbol) {
  std::uint8_t flags = 0;
  if (symbol.section < module.object_sections()) {
    SectionKind kind = module.sections()[symbol.section].kind;
    if (kind == SectionKind::tls_data || kind == SectionKind::tls_zero) flags |= link::target_flag::tls;
  }
  if (symbol.type == SymbolType::object) flags |= link::target_flag::data;
  if (symbol.type == SymbolType::ifunc) flags |= link::target_flag::ifunc;
  return flags;
}

// False: it is defined twice.
inline bool define_name(ChangeState& change, Name& name, std::uint32_t module, std::uint32_t index, const Symbol& symbol) {
  const Strength strength = strength_of(symbol);
  if (strength == Strength::common) {
    if (name.extra == link::none) {
      name.extra = std::uint32_t(change.extras.size());
      change.extras.emplace_back();
    }
    NameExtra& extra = change.extras[name.extra];
    extra.common_size = std::max(extra.common_size, symbol.size);
    extra.common_alignment = std::max(extra.common_alignment, symbol.value);
  }
  change.has_clashes |= name.record != nullptr;
  if (strength == Strength::strong && name.strength == Strength::strong) return false;
  if (rank(strength) > rank(name.strength)) {
    name.module = module;
    name.symbol = index;
    name.strength = strength;
    change.has_unique |= strength == Strength::unique;
    name.absolute = symbol.section == section_absolute;
    name.definition = definition_flags(*change.modules[module], symbol);
  }
  if (symbol.visibility == Visibility::hidden || symbol.visibility == Visibility::internal) name.hidden = true;
  return true;
}

// The type of an undefined symbol says little; relocations decide, see survey.
inline void mention(Name& name, const Symbol& symbol) {
  name.mentioned = true;
  name.needed |= symbol.binding != Binding::weak;
  name.called |= symbol.type == SymbolType::function;
  if (symbol.type == SymbolType::tls) name.flags |= link::target_flag::tls;
}

void mention_forwards(ChangeState& change, Name& name, const Symbol& symbol, const ModuleOptions& options) {
  change.has_forwards = true;
  // Thread-local ones have no one address that a slot could hold.
  for (const std::string& forward : options.forward)
    name.forward |= symbol.type != SymbolType::tls && (forward == "*" || forward == name.view());
}

bool is_dropped(const ModuleDraft& draft, std::uint32_t section) {
  return !draft.dropped.empty() && section < draft.dropped.size() && draft.dropped[section] != 0;
}

Target local_target(const link::Module& module, const ModuleDraft& draft, const Symbol& symbol) {
  Target target;
  if (symbol.section == section_absolute || symbol.section == section_undefined) {
    target.kind = TargetKind::fixed;
    target.address = symbol.value;
    return target;
  }
  target.kind = is_dropped(draft, symbol.section) ? TargetKind::discarded : TargetKind::section;
  target.where = symbol.section;
  if (target.kind == TargetKind::section) target.address = symbol.value;
  const SectionKind kind = module.sections()[symbol.section].kind;
  if (kind == SectionKind::tls_data || kind == SectionKind::tls_zero) target.flags |= link::target_flag::tls;
  if (symbol.type == SymbolType::ifunc) target.flags |= link::target_flag::ifunc;
  return target;
}

// What the module that a fragment belongs to has, and others don't see.
Target target_of(const Definition& definition) {
  Target target;
  target.kind = TargetKind::fixed;
  target.address = definition.identity();
  if (definition.kind == DefinitionKind::thread_variable)
    target.flags = link::target_flag::tls;
  else if (definition.kind != DefinitionKind::function)
    target.flags = link::target_flag::data;
  return target;
}

// What is called to learn a function's address must be code.
bool is_code(const link::Module& module, const ModuleDraft& draft, std::uint32_t section) {
  return is_dropped(draft, section) || (section < module.object_sections() && module.places[section].kept &&
                                        module.sections()[section].kind == SectionKind::code);
}

Error malformed_symbol(std::uint32_t index, const Symbol& symbol, std::string_view what) {
  return {ErrorCode::malformed,
          "symbol [" + std::to_string(index) + "] " + base::printable(symbol.name()) + " " + std::string(what)};
}

// Names that begin in the middle of others share their ends; a table where that goes on and on would make the time
// quadratic.
class NameBudget {
public:
  explicit NameBudget(const link::Module& module) : left_(module.object.bytes().size() * 64) {}

  bool spend(std::size_t bytes) noexcept {
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }

private:
  std::uint64_t left_;
};

// Names and hashes of some global symbols. Every name is several cache misses, in its object and in the table of names: each
// step asks for what the next one needs, for all of them.
class NamesAhead {
public:
  static constexpr std::uint32_t most = 64;

  // Of symbols from `first` on, `most` or as many as there are.
  void read(std::span<const Symbol> symbols, std::uint32_t first, const NameTable& names, std::uint32_t library) {
    count_ = std::min(std::uint32_t(symbols.size()) - first, most);
    constexpr std::uint32_t ahead = 8;
    const bool far = names.is_large();
    for (std::uint32_t i = 0; i < count_; ++i) {
      if (i + ahead < count_) __builtin_prefetch(symbols[first + i + ahead].name_begin);
      entries_[i].hash = 0;
      if (symbols[first + i].is_local()) continue;
      const std::string_view name = symbols[first + i].name();
      entries_[i] = {name.data(), name.size(), hash_name(name)};
      if (far) names.prefetch_cell(entries_[i].hash, library);
    }
    for (std::uint32_t i = 0; far && i < count_; ++i)
      if (!symbols[first + i].is_local()) names.prefetch_name(entries_[i].hash, library);
  }
  std::string_view name(std::uint32_t i) const noexcept { return {entries_[i].text, entries_[i].size}; }
  std::uint64_t hash(std::uint32_t i) const noexcept { return entries_[i].hash; }
  // Of a name that is entered soon.
  void prefetch_text(std::uint32_t i, const NameTable& names, std::uint32_t library) const noexcept {
    if (i < count_ && names.is_large()) names.prefetch_text(entries_[i].hash, library);
  }

private:
  struct Entry { // nothing of it is set before it is read: most modules are small
    const char* text;
    std::size_t size;
    std::uint64_t hash;
  };
  std::array<Entry, most> entries_;
  std::uint32_t count_ = 0;
};

class Symbols {
public:
  Symbols(ChangeState& change, std::uint32_t index)
      : change_(change), index_(index), module_(*change.modules[index]), draft_(change.drafts[index]),
        symbols_(module_.symbols()), first_(module_.object.file().first_global),
        has_edits_(
            std::any_of(change.edits.begin(), change.edits.end(), [&](const Edit& e) { return e.module.index == index; })),
        has_forwards_(!draft_.options->forward.empty()), budget_(module_) {
    if (draft_.partial) bound_here_ = draft_.replacement->local_bindings;
  }

  Result<void> enter() {
    module_.targets.assign(symbols_.size(), {});
    module_.targets[0].kind = TargetKind::fixed; // the null symbol: an absolute zero
    const auto count = std::uint32_t(symbols_.size());
    const std::uint32_t first = std::min(first_, count);
    draft_.names.assign(count - first, link::none);
    for (std::uint32_t i = 1; i < first; ++i) {
      const Symbol& symbol = symbols_[i];
      if (symbol.type != SymbolType::ifunc && symbol.section != section_common && bound_here_.empty())
        module_.targets[i] = local_target(module_, draft_, symbol);
      else if (Result<void> entered = enter_local(i); !entered)
        return entered;
    }
    NamesAhead names;
    for (std::uint32_t begin = first; begin < count; begin += NamesAhead::most) {
      names.read(symbols_, begin, *change_.names, draft_.library);
      const std::uint32_t end = begin + std::min(count - begin, NamesAhead::most);
      for (std::uint32_t i = begin; i < end; ++i) {
        names.prefetch_text(i - begin + 4, *change_.names, draft_.library);
        const Symbol& symbol = symbols_[i];
        const std::string_view name = names.name(i - begin);
        // Nearly all: nothing of what enter_global() asks for.
        if (is_plain_global(symbol) && !has_edits_ && !draft_.partial && budget_.spend(name.size())) {
          if (!enter_name(i, change_.names->intern(name, draft_.library, names.hash(i - begin)))) return duplicate_at(i);
          continue;
        }
        Result<void> entered = symbol.is_local() ? enter_local(i) : enter_global(i, name, names.hash(i - begin));
        if (!entered) return entered;
      }
    }
    return {};
  }

private:
  static bool is_plain_global(const Symbol& symbol) noexcept {
    return !symbol.is_local() && symbol.type != SymbolType::ifunc && symbol.visibility != Visibility::hidden;
  }
  // Whether it is what the module that a fragment belongs to has.
  bool is_bound_here(std::uint32_t i) {
    if (bound_here_.empty() || bound_here_.front().symbol != i) return false;
    module_.targets[i] = target_of(*bound_here_.front().definition);
    bound_here_ = bound_here_.subspan(1);
    return true;
  }
  Result<void> check_ifunc(std::uint32_t i) const {
    if (is_code(module_, draft_, symbols_[i].section)) return {};
    return malformed_symbol(i, symbols_[i], "is an IFUNC, but does not lie in code");
  }
  void list_ifunc(std::uint32_t i) {
    const Symbol& symbol = symbols_[i];
    if (symbol.defined() && symbol.section < module_.object_sections() && !is_dropped(draft_, symbol.section)) {
      module_.ifuncs.push_back(i);
      change_.has_ifuncs = true;
    }
  }

  Result<void> enter_local(std::uint32_t i) {
    const Symbol& symbol = symbols_[i];
    if (is_bound_here(i)) return {};
    if (symbol.type == SymbolType::ifunc && symbol.defined())
      if (Result<void> code = check_ifunc(i); !code) return code;
    if (symbol.section == section_common) return malformed_symbol(i, symbol, "is common, but local");
    module_.targets[i] = local_target(module_, draft_, symbol);
    if (symbol.type == SymbolType::ifunc) list_ifunc(i);
    return {};
  }

  Result<void> enter_global(std::uint32_t i, std::string_view name, std::uint64_t hash) {
    const Symbol& symbol = symbols_[i];
    if (is_bound_here(i)) return {};
    if (symbol.type == SymbolType::ifunc && symbol.defined())
      if (Result<void> code = check_ifunc(i); !code) return code;
    if (!budget_.spend(name.size()))
      return malformed_symbol(i, symbol, "brings the names of symbols to an impossible total");
    SymbolEdits edits{name};
    if (has_edits_) {
      edits = edited(change_, index_, name);
      if (edits.bound != nullptr)
        if (Result<void> bound = bind(i, *edits.bound); !bound) return bound;
    }
    const bool own = edits.localized || (draft_.partial && is_localized(i)) ||
                     (symbol.visibility == Visibility::hidden && is_kept_by_everybody(name));
    if (own && symbol.defined() && symbol.section != section_common) {
      module_.targets[i] = local_target(module_, draft_, symbol);
    } else {
      const std::uint32_t id = edits.name.data() == name.data() ? change_.names->intern(name, draft_.library, hash)
                                                                : change_.names->intern(edits.name, draft_.library);
      if (!enter_name(i, id)) return duplicate_at(i);
    }
    if (symbol.type == SymbolType::ifunc) list_ifunc(i);
    return {};
  }
  // False: it is defined twice.
  bool enter_name(std::uint32_t i, std::uint32_t id) {
    const Symbol& symbol = symbols_[i];
    draft_.names[i - first_] = id;
    Name& name = (*change_.names)[id];
    if (symbol.defined() && !is_dropped(draft_, symbol.section))
      if (!define_name(change_, name, index_, i, symbol)) return false;
    mention(name, symbol);
    if (has_forwards_) mention_forwards(change_, name, symbol, *draft_.options);
    return true;
  }
  Error duplicate_at(std::uint32_t i) const {
    return duplicate(change_, (*change_.names)[draft_.names[i - first_]], index_);
  }
  bool is_localized(std::uint32_t i) const {
    const base::Vector<std::uint32_t>& localized = draft_.replacement->localized;
    return std::binary_search(localized.begin(), localized.end(), i);
  }
  Result<void> bind(std::uint32_t i, const Edit& edit) {
    const Symbol& symbol = symbols_[i];
    if (symbol.defined() && (symbol.type == SymbolType::tls || symbol.type == SymbolType::ifunc))
      return Error{ErrorCode::invalid_argument,
                   "'" + edit.symbol + "' can't be bound to an address: it is defined as " +
                       (symbol.type == SymbolType::tls ? "a thread-local variable" : "an IFUNC")};
    draft_.edited->bound.push_back({i, edit.address.value, {}});
    return {};
  }

  ChangeState& change_;
  std::uint32_t index_;
  link::Module& module_;
  ModuleDraft& draft_;
  std::span<const Symbol> symbols_;
  std::uint32_t first_;
  bool has_edits_;
  bool has_forwards_;
  NameBudget budget_;
  std::span<const LocalBinding> bound_here_; // those that are still to come
};

} // namespace

Result<void> introduce_module(ChangeState& change, std::uint32_t index) {
  link::Module& module = *change.modules[index];
  if (module.object.machine() != Machine::x86_64)
    return Error{ErrorCode::unsupported, "the object is for another machine than x86-64"};
  if (change.drafts[index].partial)
    if (Result<void> selected = select_functions(change, index); !selected) return selected;
  if (!module.object.file().groups.empty()) choose_groups(change, index);
  const bool replaceable = change.drafts[index].replacement != nullptr;
  if (replaceable) compare_groups(change, index);
  if (Result<void> selected = link::select_sections(module, change.drafts[index].dropped); !selected) return selected;
  if (change.drafts[index].partial && module.tls_size != 0)
    return Error{ErrorCode::unsupported,
                 "thread-local variables can't come with single functions: replace the whole module"};
  if (replaceable) {
    read_debug_info(change, index);
    if (Result<void> carried = carry_variables(change, index); !carried) return carried;
  }
  return Symbols(change, index).enter();
}

} // namespace tenon::engine

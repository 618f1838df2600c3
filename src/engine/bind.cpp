// From names to the linker's targets, and the list of what is missing.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/align.h"
#include "base/hex.h"
#include "base/printable.h"
#include "link/arch/arch.h"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace tenon::engine {

namespace {

using link::Synthetic;
using link::Target;
using link::TargetKind;
namespace flag = link::target_flag;

std::uint8_t definition_flags(const link::Module& module, const Symbol& symbol) {
  std::uint8_t flags = 0;
  if (symbol.section < module.object_sections()) {
    SectionKind kind = module.sections()[symbol.section].kind;
    if (kind == SectionKind::tls_data || kind == SectionKind::tls_zero)
      flags |= flag::tls;
  }
  if (symbol.type == SymbolType::function)
    flags |= flag::function;
  if (symbol.type == SymbolType::object)
    flags |= flag::data;
  if (symbol.type == SymbolType::ifunc)
    flags |= flag::ifunc | flag::function;
  return flags;
}

Target target_in_change(const ChangeState& change, const Name& name, std::uint32_t module, std::uint32_t index) {
  const link::Module& owner = *change.modules[name.module];
  const Symbol& symbol = owner.symbols()[name.symbol];
  Target target;
  target.flags = definition_flags(owner, symbol);
  if (symbol.section == section_absolute) {
    target.kind = TargetKind::fixed;
    target.address = symbol.value;
  } else if (name.module != module || name.symbol != index) {
    // Another symbol, if only of the same module: an edit may have made them one, or the object has the name twice.
    target.kind = TargetKind::module;
    target.where = name.module;
    target.address = name.symbol;
    target.flags &= std::uint8_t(~flag::ifunc);
  } else if (name.strength == Strength::common) {
    target.kind = TargetKind::section;
    target.where = owner.synthetic_index(Synthetic::common);
    target.address = name.address;
    target.flags |= flag::data;
  } else {
    target.kind = TargetKind::section;
    target.where = symbol.section;
  }
  return target;
}

// A module's kept sections by name, listed when they are first asked for.
class SectionNames {
public:
  struct Range {
    std::uint32_t first, last;
  };

  const Range* find(link::Module& module, std::string_view name) {
    if (module.namesakes.empty())
      list(module);
    auto found = ranges_.find(name);
    return found != ranges_.end() ? &found->second : nullptr;
  }

private:
  void list(link::Module& module) {
    module.namesakes.resize(module.object_sections());
    for (std::uint32_t i : module.kept) {
      auto [range, added] = ranges_.try_emplace(module.sections()[i].name, Range{i, i});
      if (!added)
        module.namesakes[range->second.last].next = i;
      range->second.last = i;
    }
  }

  std::unordered_map<std::string_view, Range> ranges_;
};

// __start_X and __stop_X bound the module's sections called X (of a C identifier), which lie next to each other.
bool bind_section_bound(link::Module& module, SectionNames& names, std::string_view name, Target& target) {
  bool start = name.starts_with("__start_"), stop = name.starts_with("__stop_");
  if (!start && !stop)
    return false;
  const SectionNames::Range* range = names.find(module, name.substr(start ? 8 : 7));
  if (range == nullptr)
    return false;
  if (!module.namesakes[range->first].bounded)
    for (std::uint32_t i = range->first; i != 0; i = module.namesakes[i].next) {
      module.namesakes[i].bounded = true;
      module.namesakes[i].follows = i != range->first;
    }
  target.kind = TargetKind::section;
  target.where = link::bound_section;
  target.address = module.bounds.size();
  module.bounds.push_back({range->first, range->last, stop});
  return true;
}

// Names that mean something else in every module.
bool bind_own(link::Module& module, SectionNames& names, std::string_view name, Target& target) {
  if (name == "__dso_handle") {
    target.kind = TargetKind::section;
    target.where = module.synthetic_index(Synthetic::dso_handle);
    target.address = 0;
    module.wants_dso_handle = true;
    return true;
  }
  if (name == "_GLOBAL_OFFSET_TABLE_") {
    target.kind = TargetKind::section;
    target.where = module.synthetic_index(Synthetic::got);
    target.address = 0;
    module.wants_got_base = true;
    return true;
  }
  // The TLS ABI's name for the beginning of the module's own block, which descriptor sequences use for local-dynamic access.
  if (name == "_TLS_MODULE_BASE_") {
    std::span<const Section> sections = module.object.sections();
    for (std::uint32_t i = 1; i < sections.size(); ++i) {
      bool tls = sections[i].kind == SectionKind::tls_data || sections[i].kind == SectionKind::tls_zero;
      if (!tls || !module.places[i].kept || module.places[i].offset != 0)
        continue;
      target.kind = TargetKind::section;
      target.where = i;
      target.flags = flag::tls;
      return true;
    }
  }
  return bind_section_bound(module, names, name, target);
}

Target target_outside(const Name& name) {
  Target target;
  target.kind = name.kind;
  target.address = name.address;
  target.flags = name.flags;
  target.thunk = name.thunk;
  if (name.kind == TargetKind::missing && name.forward && name.needed)
    target.kind = TargetKind::slot; // its slot is allocated when the change is placed
  else if (name.kind == TargetKind::missing && !name.needed)
    target.kind = TargetKind::null;
  return target;
}

const Edit* bound_by_edit(const ChangeState& change, std::uint32_t module, std::string_view name) {
  for (const Edit& edit : change.edits)
    if (edit.kind == Edit::Kind::bind && edit.module.index == module && edit.symbol == name)
      return &edit;
  return nullptr;
}

// Who refers to the missing ones: a walk over all relocations, for the error only.
std::map<std::uint32_t, std::vector<std::string>> users_of_missing(const ChangeState& change) {
  constexpr std::size_t enough = 4;
  std::map<std::uint32_t, std::vector<std::string>> users;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    const std::vector<std::uint32_t>& names = change.drafts[m].names;
    std::uint32_t first = module.object.first_global();
    std::map<std::uint32_t, std::size_t> told;
    for (std::uint32_t s = 1; s < module.object_sections(); ++s) {
      if (!module.places[s].kept)
        continue;
      for (const Relocation& r : module.relocations(s)) {
        if (r.symbol < first || r.symbol - first >= names.size() || module.targets[r.symbol].kind != TargetKind::missing)
          continue;
        std::uint32_t id = names[r.symbol - first];
        if (id == link::none || told[id]++ >= enough)
          continue;
        users[id].push_back(module.name + ": " + base::printable(module.sections()[s].name, 100) + "+" + base::hex(r.offset));
      }
    }
  }
  return users;
}

} // namespace

constexpr std::uint64_t most_common = std::uint64_t(1) << 60;

// Common symbols are given room in the module that first has one; their offset stands in Name::address.
void allocate_commons(ChangeState& change) {
  for (const std::unique_ptr<link::Module>& module : change.modules) {
    module->common_size = 0;
    module->common_alignment = 1;
  }
  for (std::uint32_t i = 0; !change.extras.empty() && i < change.names->size(); ++i) {
    Name& name = (*change.names)[i];
    if (name.module == link::none || name.strength != Strength::common)
      continue;
    link::Module& module = *change.modules[name.module];
    const NameExtra& extra = change.extras[name.extra];
    std::uint64_t alignment = base::is_power_of_two(extra.common_alignment) ? extra.common_alignment : 16;
    // Sizes come from the object: their sum stops where it is absurd, which the layout reports, and never wraps around.
    module.common_size = base::align_up(std::min(module.common_size, most_common), alignment);
    name.address = module.common_size;
    module.common_size += extra.common_size;
    module.common_alignment = std::max(module.common_alignment, std::uint32_t(alignment));
  }
}

void bind_targets(ChangeState& change, std::uint32_t index) {
  link::Module& module = *change.modules[index];
  const ModuleDraft& draft = change.drafts[index];
  std::uint32_t first = module.object.first_global();
  module.tls_bindings.clear();
  module.bounds.clear();
  module.namesakes.clear();
  SectionNames section_names;
  module.wants_dso_handle = module.wants_got_base = false;
  for (std::uint32_t i = 0; i < draft.names.size(); ++i) {
    if (draft.names[i] == link::none)
      continue;
    const Name& name = (*change.names)[draft.names[i]];
    Target& target = module.targets[first + i];
    if (name.module != link::none)
      target = target_in_change(change, name, index, first + i);
    else if (target = {}; name.kind != TargetKind::missing || !bind_own(module, section_names, name.view(), target))
      target = target_outside(name);
    if (target.kind == TargetKind::thunk)
      module.wants_dso_handle = true;
    if (target.kind == TargetKind::fixed && (target.flags & flag::tls) != 0 && name.extra != link::none)
      module.tls_bindings.push_back({first + i, change.extras[name.extra].tls_key, change.extras[name.extra].tls_static_offset});
    if (change.edits.empty())
      continue;
    if (const Edit* edit = bound_by_edit(change, index, module.symbols()[first + i].name())) {
      target = {};
      target.kind = TargetKind::fixed;
      target.address = edit->address.value;
      target.flags = flag::host;
    }
  }
}

void list_missing(ChangeState& change) {
  change.missing.clear();
  bool any = false;
  for (const std::unique_ptr<link::Module>& module : change.modules)
    any = any || std::any_of(module->targets.begin(), module->targets.end(),
                             [](const Target& target) { return target.kind == TargetKind::missing; });
  if (!any)
    return;
  // A symbol that no relocation refers to is not missed, whatever the symbol table says.
  for (auto& [id, users] : users_of_missing(change))
    change.missing.push_back({std::string((*change.names)[id].view()), std::move(users)});
  std::sort(change.missing.begin(), change.missing.end(), [](const Missing& a, const Missing& b) { return a.name < b.name; });
}

} // namespace tenon::engine

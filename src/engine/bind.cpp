// From names to the linker's targets, and the list of what is missing.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/align.h"
#include "base/hex.h"
#include "base/printable.h"
#include "link/arch/arch.h"

#include <algorithm>
#include <map>
#include <mutex>

namespace tenon::engine {

namespace {

using link::Synthetic;
using link::Target;
using link::TargetKind;
namespace flag = link::target_flag;

Target target_in_change(const ChangeState& change, const Name& name, std::uint32_t module, std::uint32_t index) {
  Target target;
  target.flags = name.definition;
  // The definition's own tables are looked at only where they must be: they are far away, and references are many.
  auto symbol = [&]() -> const Symbol& { return change.modules[name.module]->symbols()[name.symbol]; };
  if (name.absolute) {
    target.kind = TargetKind::fixed;
    target.address = symbol().value;
  } else if (name.module != module || name.symbol != index) {
    // Another symbol, if only of the same module: an edit may have made them one, or the object has the name twice.
    target.kind = TargetKind::module;
    target.where = name.module;
    target.address = name.symbol;
    target.flags &= std::uint8_t(~flag::ifunc);
  } else if (name.strength == Strength::common) {
    target.kind = TargetKind::section;
    target.where = change.modules[name.module]->synthetic_index(Synthetic::common);
    target.address = name.address;
    target.flags |= flag::data;
  } else {
    target.kind = TargetKind::section;
    target.where = symbol().section;
    target.address = symbol().value;
  }
  return target;
}

// __start_X and __stop_X bound the sections called X (a C identifier) of the change's modules in one library.
bool bind_section_bound(const ChangeState& change, link::Module& module, std::uint32_t name, Target& target) {
  auto bound = std::lower_bound(change.section_bounds.begin(), change.section_bounds.end(), name,
                                [](const auto& entry, std::uint32_t n) { return entry.first < n; });
  if (bound == change.section_bounds.end() || bound->first != name) return false;
  target.kind = TargetKind::section;
  target.where = link::bound_section;
  target.address = module.bounds.size();
  module.bounds.push_back(bound->second);
  return true;
}

// Names that mean something else in every module.
bool bind_own(const ChangeState& change, std::uint32_t index, std::uint32_t id, Target& target) {
  link::Module& module = *change.modules[index];
  std::string_view name = (*change.names)[id].view();
  // Exit handlers that earlier versions have registered stay where they are: all versions have one handle.
  if (name == "__dso_handle" && change.drafts[index].replaces != nullptr) {
    // Another change may be giving it one; this one conflicts with it then.
    std::lock_guard lock(change.engine->commit_mutex);
    if (const std::uint64_t handle = change.drafts[index].replaces->rare().dso_handle; handle != 0) {
      target.kind = TargetKind::fixed;
      target.address = handle;
      return true;
    }
  }
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
    target.kind = TargetKind::section;
    target.where = link::tls_block;
    target.flags = flag::tls;
    return true;
  }
  return bind_section_bound(change, module, id, target);
}

Target target_outside(const Name& name) {
  Target target;
  target.kind = name.kind;
  target.address = name.address;
  target.flags = name.flags;
  target.where = name.thunk;
  if (name.kind == TargetKind::missing && name.forward && name.needed)
    target.kind = TargetKind::slot; // its slot is allocated when the change is placed
  else if (name.kind == TargetKind::missing && !name.needed)
    target.kind = TargetKind::null;
  return target;
}

const BoundSymbol* find_bound(const ModuleDraft& draft, std::uint32_t symbol) noexcept {
  if (draft.edited == nullptr) return nullptr;
  for (const BoundSymbol& bound : draft.edited->bound)
    if (bound.symbol == symbol) return &bound;
  return nullptr;
}

// References of the module go where the edits say; a definition under that name stays what it was for everybody else.
void bind_edited(ChangeState& change, std::uint32_t index) {
  link::Module& module = *change.modules[index];
  for (BoundSymbol& bound : change.drafts[index].edited->bound) {
    Target& target = module.targets[bound.symbol];
    bool own =
        target.kind == TargetKind::section || (target.kind == TargetKind::fixed && module.symbols()[bound.symbol].defined());
    bound.definition = own ? target : Target{};
    target = {};
    target.kind = TargetKind::fixed;
    target.address = bound.address;
    target.flags = flag::host;
  }
}

// Who refers to the missing ones: a walk over all relocations, for the error only.
std::map<std::uint32_t, std::vector<std::string>> users_of_missing(const ChangeState& change) {
  constexpr std::size_t enough = 4;
  std::map<std::uint32_t, std::vector<std::string>> users;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    const std::span<const std::uint32_t> names = change.drafts[m].names;
    std::uint32_t first = module.object.first_global();
    std::map<std::uint32_t, std::size_t> told;
    for (std::uint32_t s = 1; s < module.object_sections(); ++s) {
      if (!module.places[s].kept) continue;
      for (const Relocation& r : module.relocations(s)) {
        if (r.symbol < first || r.symbol - first >= names.size() || module.targets[r.symbol].kind != TargetKind::missing)
          continue;
        std::uint32_t id = names[r.symbol - first];
        if (id == link::none || told[id]++ >= enough) continue;
        users[id].push_back(module.name + ": " + base::printable(module.sections()[s].name, 100) + "+" +
                            base::hex(r.offset));
      }
    }
  }
  return users;
}

} // namespace

constexpr std::uint64_t most_common = std::uint64_t(1) << 60;

// Common symbols are given room in the module that first has one; their offset stands in Name::address.
void allocate_commons(ChangeState& change) {
  if (change.extras.empty()) return;
  for (const std::unique_ptr<link::Module>& module : change.modules) {
    module->common_size = 0;
    module->common_alignment = 1;
  }
  for (std::uint32_t i = 0; i < change.names->size(); ++i) {
    Name& name = (*change.names)[i];
    if (name.module == link::none || name.strength != Strength::common) continue;
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
  ModuleDraft& draft = change.drafts[index];
  if (draft.edited != nullptr) draft.edited->redirects.clear();
  draft.records_bytes = 0;
  const std::uint32_t first = module.object.file().first_global, count = std::uint32_t(draft.names.size());
  module.tls_bindings.clear();
  module.bounds.clear();
  module.wants_dso_handle = module.wants_got_base = false;
  const auto usual = has_narrow_records(change, draft) ? SymbolRecord::Form::narrow : SymbolRecord::Form::wide;
  for (std::uint32_t i = 0; i < count; ++i) {
    constexpr std::uint32_t ahead = 8;
    if (i + ahead < count) change.names->prefetch(draft.names[i + ahead]);
    if (draft.names[i] == link::none) continue;
    const Name& name = (*change.names)[draft.names[i]];
    Target& target = module.targets[first + i];
    if (name.module != link::none) {
      target = target_in_change(change, name, index, first + i);
      if (name.module == index && name.symbol == first + i)
        draft.records_bytes += SymbolRecord::bytes(name.size, record_form(usual, name, module.symbols()[first + i]));
    } else if (target = {}; name.kind != TargetKind::missing || !bind_own(change, index, draft.names[i], target))
      target = target_outside(name);
    change.has_missing |= target.kind == TargetKind::missing;
    if (target.kind == TargetKind::thunk) module.wants_dso_handle = true;
    if (target.kind == TargetKind::fixed && (target.flags & flag::tls) != 0 && name.extra != link::none)
      module.tls_bindings.push_back({first + i, change.extras[name.extra].tls_key,
                                     change.extras[name.extra].tls_static_offset, change.extras[name.extra].tls_owner});
    if (target.kind != TargetKind::module || draft.edited == nullptr ||
        find_bound(change.drafts[target.where], std::uint32_t(target.address)) == nullptr)
      continue;
    // Until it is placed it counts as being anywhere in the engine's memory.
    draft.edited->redirects.push_back({first + i, target.where, std::uint32_t(target.address)});
    target.kind = TargetKind::fixed;
    target.where = 0;
    target.address = change.engine->machinery->space->begin().value;
  }
  if (draft.partial) {
    for (const LocalBinding& local : draft.replacement->local_bindings)
      if (local.definition->kind == DefinitionKind::thread_variable)
        module.tls_bindings.push_back({local.symbol, draft.replaces->tls_key(), 0, draft.replaces->name});
    std::sort(module.tls_bindings.begin(), module.tls_bindings.end(),
              [](const link::TlsBinding& a, const link::TlsBinding& b) { return a.symbol < b.symbol; });
  }
  if (draft.edited != nullptr) bind_edited(change, index);
}

void settle_bound(ChangeState& change) noexcept {
  if (change.edits.empty()) return;
  for (std::size_t m = 0; m < change.drafts.size(); ++m)
    for (BoundSymbol& bound : change.drafts[m].edited->bound) {
      Target& definition = bound.definition;
      if (definition.kind != TargetKind::section) continue;
      const link::Module& module = *change.modules[m];
      definition.address += module.places[definition.where].address; // as in settle_own()
    }
  for (std::size_t m = 0; m < change.drafts.size(); ++m)
    for (const Redirect& redirect : change.drafts[m].edited->redirects)
      change.modules[m]->targets[redirect.symbol].address =
          definition_of(change, redirect.module, redirect.definition).address;
}

const Target& definition_before_edits(const ChangeState& change, std::uint32_t module, std::uint32_t symbol) noexcept {
  const BoundSymbol* bound = find_bound(change.drafts[module], symbol);
  return bound != nullptr && bound->definition.kind != TargetKind::missing ? bound->definition
                                                                           : change.modules[module]->targets[symbol];
}

void list_missing(ChangeState& change) {
  change.missing.clear();
  if (!change.has_missing) return;
  // A symbol that no relocation refers to is not missed, whatever the symbol table says.
  for (auto& [id, users] : users_of_missing(change))
    change.missing.push_back({std::string((*change.names)[id].view()), std::move(users)});
  std::sort(change.missing.begin(), change.missing.end(),
            [](const Missing& a, const Missing& b) { return a.name < b.name; });
}

} // namespace tenon::engine

// Inline functions, and other COMDAT groups, that a module provides for others and whose new version lacks them.
//
// Any copy of a group is as good as another, and those who share it have dropped theirs: so the provider's stays. The
// version that has it is held, its names are found as before, and what it refers to counts among the module's dependencies.
// A later version that has the group again provides it from then on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include <algorithm>
#include <functional>
#include <unordered_map>
#include <unordered_set>

namespace tenon::engine {

namespace {

// How many of a group's users the change replaces or removes.
using Users = std::unordered_map<const SymbolRecord*, std::uint32_t>;

Users count_changing(const ChangeState& change) {
  std::unordered_set<const ModuleState*> modules;
  for (const std::shared_ptr<ModuleState>& module : change.removals) modules.insert(module.get());
  for (const Addition& addition : change.additions)
    if (addition.replaces != nullptr && !addition.partial) modules.insert(addition.replaces.get());
  Users users;
  for (const ModuleState* module : modules)
    for_each_holder(*module, [&](const ModuleState& holder) {
      for (const SymbolRecord* group : holder.groups) ++users[group];
      for (const Dependency& dependency : holder.dependencies)
        if (dependency.group != nullptr) ++users[dependency.group];
    });
  return users;
}

// An unloaded module has nothing but what earlier versions keep.
bool has_body(const ModuleState& module, const SymbolRecord& group) {
  if (module.extra().recalls == nullptr) return true;
  bool has = true;
  module.for_each_record([&](const SymbolRecord& record) {
    const Definition* definition = record.group() == &group ? record.definition() : nullptr;
    if (definition != nullptr) has &= definition->holder != nullptr && definition->holder->held;
  });
  return has;
}

// Of the module's groups those that `object` lacks.
void find_lacking(const ModuleState& module, const Object& object, std::vector<const SymbolRecord*>& lacking) {
  if (module.replaceable == nullptr) return;
  std::unordered_set<std::string_view> has;
  module.for_each_record([&](const SymbolRecord& record) {
    const bool published = (record.flags & symbol_flag::group) != 0 && (record.flags & symbol_flag::erased) == 0;
    if (!published) return;
    if (has.empty())
      for (const Group& group : object.groups())
        if (group.comdat) has.insert(group.signature);
    if (!has.contains(record.name()) && has_body(module, record)) lacking.push_back(&record);
  });
}

} // namespace

std::vector<const SymbolRecord*> find_kept_groups(const ChangeState& change) {
  std::vector<const SymbolRecord*> kept;
  for (const Addition& addition : change.additions)
    if (addition.replaces != nullptr && !addition.partial) find_lacking(*addition.replaces, addition.object, kept);
  if (kept.empty()) return kept;
  const Users changing = count_changing(change);
  std::erase_if(kept, [&](const SymbolRecord* group) {
    const auto ours = changing.find(group);
    return group->users() <= (ours != changing.end() ? ours->second : 0);
  });
  std::sort(kept.begin(), kept.end(), std::less<>());
  return kept;
}

bool is_kept(const ChangeState& change, const SymbolRecord& record) noexcept {
  const SymbolRecord* group = (record.flags & symbol_flag::group) != 0 ? &record : record.group();
  return group != nullptr && !change.kept_groups.empty() &&
         std::binary_search(change.kept_groups.begin(), change.kept_groups.end(), group, std::less<>());
}

void keep_groups(ChangeState& change) {
  change.kept_groups = find_kept_groups(change);
  if (change.kept_groups.empty()) return;
  for (ModuleDraft& draft : change.drafts) {
    if (draft.replaces == nullptr || draft.partial) continue;
    Replacement& replacement = *draft.replacement;
    std::unordered_set<const ModuleState*> holders;
    draft.replaces->for_each_record([&](const SymbolRecord& record) {
      Definition* definition = record.definition();
      if (definition == nullptr || definition->vanished || !is_kept(change, record)) return;
      replacement.kept.push_back(definition);
      if (definition->holder != nullptr) holders.insert(definition->holder);
    });
    std::sort(replacement.kept.begin(), replacement.kept.end(), std::less<>());
    for (const ModuleState* holder : holders)
      for (const Dependency& dependency : holder->dependencies)
        if (dependency.group == nullptr && dependency.module != draft.replaces.get()) {
          replacement.kept_dependencies.push_back(dependency);
          change.pins.push_back(dependency.module->shared_from_this());
        }
  }
}

} // namespace tenon::engine

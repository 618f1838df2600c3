// Marks what old code leads to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/onward.h"

#include "engine/recall.h"
#include "engine/transition.h"
#include "engine/walk.h"

#include <utility>

namespace tenon::engine {

namespace {

bool has_code_at(const ModuleState& module, std::uint64_t address) noexcept {
  const Addr at{address};
  auto holds = [&](const auto& block) {
    return block && block->area == memory::AreaKind::code && block->begin <= at && at < block->end();
  };
  bool has = std::any_of(module.rare().stale.begin(), module.rare().stale.end(),
                         [&](const Stretch& stretch) { return stretch.begin <= at && at < stretch.end; });
  for_each_holder(module, [&](const ModuleState& holder) {
    const auto blocks = holder.blocks.all();
    has = has || std::any_of(blocks.begin(), blocks.end(), holds) ||
          std::any_of(holder.extra().parts.begin(), holder.extra().parts.end(), holds);
  });
  return has;
}

} // namespace

void Onward::reach(ModuleState* module) noexcept {
  if (module == nullptr || !module->removed || std::exchange(module->onward_by, number_) == number_) return;
  module->next_reached = std::exchange(pending_, module);
}

void Onward::reach_code(std::uint64_t address) noexcept {
  for (const std::shared_ptr<ModuleState>& other : engine_.removed)
    if (has_code_at(*other, address)) reach(other.get());
}

void Onward::look_at(ModuleState& module) noexcept {
  for_each_holder(module, [&](const ModuleState& holder) {
    for (const Dependency& dependency : holder.dependencies) reach(dependency.module);
    for (const SymbolRecord* group : holder.groups) reach(group->module());
    if (!holder.extra().strays) return;
    for (const Use& use : holder.extra().uses) {
      if (use.frozen && !use.sites.empty()) reach_code(use.bound);
      if (!use.through_stub || use.definition == nullptr || !use.definition->vanished) continue;
      reach_code(use.definition->entry);
      if (const Choice* choice = use.definition->choice) reach_code(choice->after.load(std::memory_order_relaxed));
    }
  });
  if (module.rare().stale_of != 0)
    for (const std::shared_ptr<ModuleState>& other : engine_.removed)
      if (other->extra().serial == module.rare().stale_of) reach(other.get());
  if (module.superseded) reach(module.rare().current.get());
  for (const ModuleState* unloaded : {&module, module.superseded ? module.rare().current.get() : nullptr})
    if (unloaded != nullptr && unloaded->extra().recalls != nullptr)
      for (const RecallEntry& entry : unloaded->extra().recalls->entries)
        if (entry.before != 0) reach_code(entry.before);
  if (module.rare().transition != nullptr) // switches
    for (const Choice& choice : module.rare().transition->choices) reach_code(choice.after.load(std::memory_order_relaxed));
  if (module.replaceable == nullptr) return;
  for (const std::shared_ptr<ModuleState>& version : module.replaceable->held) reach(version.get());
  for (const Led& led : module.replaceable->led) reach(led.target);
}

bool Onward::find(std::span<ModuleState* const> from) noexcept {
  // What these lead to is there as long as they are, but for what frozen calls lead to: hence the walk.
  Walk walk(engine_);
  auto next = from.begin();
  bool begun = false;
  walk.in_steps([&] {
    if (!std::exchange(begun, true)) number_ = ++engine_.onward_number;
    StepBudget budget = StepBudget::step();
    do {
      if (pending_ != nullptr)
        look_at(*std::exchange(pending_, pending_->next_reached));
      else if (next != from.end())
        look_at(**next++);
      else
        return true;
    } while (!budget.spent());
    return false;
  });
  return walk.end();
}

} // namespace tenon::engine

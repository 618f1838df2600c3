// Redirect: a definition that follows another until it is told otherwise.
//
// What takes time is the lock, the gate of the writers, and one store for the slot and each site; nothing else may be added
// to it lightly.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/engine.h>

#include "base/guarded.h"
#include "engine/engine_state.h"

#include <mutex>

namespace tenon {

struct Redirect::State {
  std::shared_ptr<engine::EngineState> engine;
  engine::Pin pin; // the definition is its module's
  engine::Definition* definition;

  State(std::shared_ptr<engine::EngineState> owner, std::shared_ptr<engine::ModuleState> module,
        engine::Definition& function)
      : engine(owner), pin(std::move(owner), std::move(module)), definition(&function) {}
  ~State() {
    std::lock_guard lock(engine->commit_mutex);
    lead_back();
  }

  // All under commit_mutex.
  bool can_lead_to(const State& target) const noexcept {
    auto is_there = [](const engine::Definition& function) {
      return !function.vanished && function.module->live.load(std::memory_order_relaxed);
    };
    // What is collected goes by what the linker has resolved; a redirection is not among that.
    const bool kept = target.definition->module->collectable == nullptr || target.definition->module == definition->module;
    return engine == target.engine && is_there(*definition) && is_there(*target.definition) && kept;
  }
  void lead_to(const State& target) const noexcept {
    if (target.definition == definition) {
      if (definition->redirector != nullptr) engine::back(*engine->machinery->space, *definition);
      return;
    }
    engine::redirect(*engine->machinery->space, *definition, *target.definition, this);
  }
  void lead_back() const noexcept {
    if (definition->redirector == this) engine::back(*engine->machinery->space, *definition);
  }
};

namespace {

// Why can_lead_to() has said no.
Error refused(const Redirect::State& function, const Redirect::State& target) {
  auto describe = [](const engine::Definition& one) { return "'" + one.name + "' of module " + one.module->name; };
  const std::string what = describe(*function.definition) + " can't be redirected to " + describe(*target.definition);
  return {ErrorCode::invalid_argument,
          what + (function.engine == target.engine
                      ? ": one of them has vanished, its module was removed, or the target's library is collected"
                      : ": they are of different engines")};
}

} // namespace

Result<void> Redirect::to(const Redirect& target) const {
  {
    std::lock_guard lock(state_->engine->commit_mutex);
    if (state_->can_lead_to(*target.state_)) [[likely]] {
      state_->lead_to(*target.state_);
      return {};
    }
  }
  return base::guarded([&]() -> Result<void> { return refused(*state_, *target.state_); });
}

void Redirect::back() const noexcept {
  std::lock_guard lock(state_->engine->commit_mutex);
  state_->lead_back();
}

Result<void> Engine::redirect(std::span<const Redirection> batch) {
  return base::guarded([&]() -> Result<void> {
    std::lock_guard lock(state_->commit_mutex);
    for (const Redirection& one : batch) {
      const Redirect::State& function = *one.function->state();
      if (function.engine != state_) return Error{ErrorCode::invalid_argument, "a redirection of another engine's function"};
      if (one.to != nullptr && !function.can_lead_to(*one.to->state())) return refused(function, *one.to->state());
    }
    for (const Redirection& one : batch)
      one.to != nullptr ? one.function->state()->lead_to(*one.to->state()) : one.function->state()->lead_back();
    return {};
  });
}

Result<Redirect> Library::redirect(std::string_view function) const {
  return base::guarded([&]() -> Result<Redirect> {
    const std::string name(function);
    std::shared_lock lock(handle_->engine->tables);
    const engine::SymbolRecord* record = handle_->state->find_symbol(name, engine::hash_name(name));
    constexpr auto unseen = engine::symbol_flag::hidden | engine::symbol_flag::forward;
    if (record == nullptr || (record->flags & unseen) != 0)
      return Error{ErrorCode::undefined, "library " + handle_->state->name + " has no function '" + name + "'"};
    if (record->definition() == nullptr || record->definition()->kind != engine::DefinitionKind::function)
      return Error{ErrorCode::unsupported, "'" + name + "' can't be redirected: it is no function of a replaceable library"};
    engine::reach(handle_->engine->collection, *record->module());
    return Redirect(
        std::make_shared<Redirect::State>(handle_->engine, record->module()->shared_from_this(), *record->definition()));
  });
}

} // namespace tenon

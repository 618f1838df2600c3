// The one part of tenon-versus that sees the engine from the inside.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tenon_redirect.h"

#include "engine/engine_state.h"

#include <mutex>

namespace versus {

namespace inside = tenon::engine;

struct Redirector::State {
  struct Function {
    inside::Definition* definition;
    std::uint64_t bodies[2];
  };
  std::shared_ptr<inside::EngineState> engine;
  std::vector<Function> functions;
};

namespace {

inside::Definition* find(const tenon::Module& module, const std::string& name) {
  inside::Replaceable* replaceable = module.state()->replaceable.get();
  if (replaceable == nullptr) return nullptr;
  auto place = replaceable->by_name.find(name);
  return place != replaceable->by_name.end() ? place->second : nullptr;
}

} // namespace

Redirector::Redirector(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Redirector>> Redirector::create(const LiveChain& chain, std::size_t count) {
  auto state = std::make_unique<State>();
  state->engine = chain.engine().state();
  std::lock_guard lock(state->engine->commit_mutex);
  for (std::size_t i = 0; i < count; ++i) {
    inside::Definition* own = find(chain.targets(), "target" + std::to_string(i));
    inside::Definition* other = find(chain.others(), "other" + std::to_string(i));
    if (own == nullptr || other == nullptr)
      return Error{ErrorCode::undefined, "target " + std::to_string(i) + " has no slot"};
    state->functions.push_back({own, {own->address, other->address}});
  }
  return std::unique_ptr<Redirector>(new Redirector(std::move(state)));
}

Redirector::~Redirector() { redirect_all(false); }

void Redirector::redirect(std::size_t index, bool to_other) noexcept {
  State::Function& function = state_->functions[index];
  std::lock_guard lock(state_->engine->commit_mutex);
  inside::retarget(*state_->engine->machinery->space, *function.definition, function.bodies[to_other ? 1 : 0]);
}

void Redirector::redirect_all(bool to_other) noexcept {
  std::lock_guard lock(state_->engine->commit_mutex);
  for (State::Function& function : state_->functions)
    inside::retarget(*state_->engine->machinery->space, *function.definition, function.bodies[to_other ? 1 : 0]);
}

} // namespace versus

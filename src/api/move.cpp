// Engine: moving code.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/move.h"

#include "base/guarded.h"

namespace tenon {

using base::guarded;

namespace {

Result<Moved> move(engine::EngineState& engine, const Module& module, std::string_view function) {
  std::shared_ptr<engine::LibraryState> library = module.state()->library.lock();
  if (library == nullptr || library->engine.lock().get() != &engine)
    return Error{ErrorCode::invalid_argument, "module " + module.name() + " belongs to another engine, or to none"};
  return engine::move_module(engine, module.state(), function);
}

} // namespace

Result<Moved> Engine::move(const Module& module) {
  return guarded([&] { return tenon::move(*state_, module, {}); });
}

Result<Moved> Engine::move(const Module& module, std::string_view function) {
  return guarded([&]() -> Result<Moved> {
    if (function.empty()) return Error{ErrorCode::invalid_argument, "a function to move has a name"};
    return tenon::move(*state_, module, function);
  });
}

Result<Compaction> Engine::compact() {
  return guarded([&] { return engine::compact(*state_); });
}

} // namespace tenon

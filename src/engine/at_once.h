// The removal of a single module that nothing needs once its symbols are gone: it ends then and there, without being listed
// and looked for as what may be needed longer is (sweep.cpp).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/engine_state.h"

namespace tenon::engine {

// Under commit_mutex, of one that can be removed and that no thread is inside of, if it is not pinned either. Nothing can need
// it that is removed already, as there is nothing; nor can anybody else: see sweep.cpp for who could.
bool ends_at_once(const EngineState& engine, const ModuleState& module) noexcept;
// Takes it out of its library, under commit_mutex and tables. True: there is something to sweep(), not of this module's.
[[nodiscard]] bool leave_at_once(EngineState& engine, ModuleState& module) noexcept;
// Frees it, without a lock.
void end_at_once(EngineState& engine, std::shared_ptr<ModuleState> module) noexcept;

// Modules that go in another order than they came lie all over memory, and so does what belongs to each: that is asked for
// ahead, the state when the change is told of the module, what the state points to when it is drafted.
inline void prefetch(const ModuleState& module) noexcept {
  constexpr std::size_t line = 64;
  for (std::size_t at = 0; at < sizeof module; at += line)
    __builtin_prefetch(reinterpret_cast<const char*>(&module) + at, 1);
}
void prefetch_leaving(const EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules) noexcept;

} // namespace tenon::engine

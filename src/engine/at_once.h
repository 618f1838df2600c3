// The removal of a single module that nothing needs once its symbols are gone: it ends then and there, without being listed
// and looked for as what may be needed longer is (sweep.cpp).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/prefetch.h"
#include "engine/engine_state.h"

namespace tenon::engine {

// Under commit_mutex, of one that can be removed and that no thread is inside of, if it is not pinned either. Nothing can
// need it that is removed already, as there is nothing; nor can anybody else: see sweep.cpp for who could.
bool ends_at_once(const EngineState& engine, const ModuleState& module) noexcept;
// Takes it out of its library, under commit_mutex and tables. True: there is something to sweep(), not of this module's.
[[nodiscard]] bool leave_at_once(EngineState& engine, ModuleState& module, std::shared_ptr<LibraryState> library) noexcept;
// Frees it, without a lock. What the two give back to the pool is best gathered.
void end_at_once(EngineState& engine, std::shared_ptr<ModuleState> module) noexcept;

// Modules that go in another order than they came lie all over memory, and so does what belongs to each: that is asked for
// ahead, the state when the change is told of the module, what the state points to when it is drafted, and what that leads
// to at the end of that.
inline void prefetch(const ModuleState& module) noexcept {
  constexpr std::size_t line = 64;
  for (std::size_t at = 0; at < sizeof module; at += line)
    base::prefetch_to_write(reinterpret_cast<const char*>(&module) + at);
}
void prefetch_leaving(std::span<const std::shared_ptr<ModuleState>> modules) noexcept;
// Under commit_mutex, of one that can be removed.
void prefetch_places(const LibraryState& library, const ModuleState& module) noexcept;

} // namespace tenon::engine

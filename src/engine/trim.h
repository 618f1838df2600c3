// A removed module whose COMDAT groups others share keeps what those need, and gives the rest of its memory back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"

namespace tenon::engine {

// Frees every section that no shared group of the module needs, directly or through other sections. The module is removed,
// its finalizers have run, nobody pins it and nobody needs it but for its groups. Under EngineState::commit_mutex. Without
// memory for its lists it does nothing: the next call may.
void trim(ModuleState& module) noexcept;

} // namespace tenon::engine

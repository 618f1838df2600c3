// A removed module whose COMDAT groups others share keeps what those need, and gives the rest of its memory back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"

#include <vector>

namespace tenon::engine {

// Moves to `freed` every section that no shared group of the module needs, directly or through other sections; a module
// whose shared groups reach anything writable keeps all. The module is removed, its finalizers have run, nobody pins it and
// nobody needs it but for its groups. Under EngineState::commit_mutex; `freed` is for the caller to destroy without it.
// Without memory for its lists it does nothing: the next call may.
void trim(ModuleState& module, std::vector<OwnedBlock>& freed) noexcept;

} // namespace tenon::engine

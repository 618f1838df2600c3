// Where threads in old code may go on into: what it refers to, the module whose storage and current functions it uses, and
// what its frozen calls lead to, which follow nothing any more.
//
// Old code is seen to be left by each thread for itself, once. A thread that leaves it by a tail call leaves no return
// address behind. So as long as a thread is inside of one piece of old code, it counts as not seen outside of all that this
// one leads to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/engine_state.h"

#include <algorithm>
#include <span>

namespace tenon::engine {

// The body of the function in this version, or null.
inline const OwnFunction* own_function(const Version& version, const Definition* definition) noexcept {
  const auto found = std::find_if(version.extra().functions.begin(), version.extra().functions.end(),
                                  [&](const OwnFunction& f) { return f.definition == definition; });
  return found != version.extra().functions.end() ? &*found : nullptr;
}

// Members of an old set go on calling each other, also where a thread has declared no entry. But one that stays for good
// (ModuleState::held) follows those that don't. What is led elsewhere is not theirs: it may be replaced and freed without
// them.
template <class IsMember> void freeze_members(ModuleState& version, IsMember&& is_member) noexcept {
  for (Use& use : version.extra().uses) {
    if (use.frozen || use.definition->leader != nullptr || !is_member(*use.definition)) continue;
    if (version.held) {
      const OwnFunction* own = own_function(version, use.definition);
      if (!use.sites.empty() && (own == nullptr || own->address != use.bound)) continue;
    } else {
      version.extra().strays = true;
    }
    use.frozen = true;
  }
}

// Finds all entries of EngineState::removed that threads in one of these may get to. One at a time (Reclaimer::mutex_).
class Onward {
public:
  explicit Onward(EngineState& engine) noexcept : engine_(engine) {}

  // Forgets what was found before. The caller holds no lock. True: a sweep is left to the caller.
  bool find(std::span<ModuleState* const> from) noexcept;
  bool finds(const ModuleState& module) const noexcept { return module.onward_by == number_; }

private:
  void reach(ModuleState* module) noexcept;
  void reach_code(std::uint64_t address) noexcept;
  void look_at(ModuleState& module) noexcept;

  EngineState& engine_;
  std::uint64_t number_ = 0;
  ModuleState* pending_ = nullptr;
};

} // namespace tenon::engine

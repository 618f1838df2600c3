// Functions that vanish with a new version, and what whoever refers to them reaches from then on (Change::lead).
//
// Owner: the change; once committed, Definition::leader and Replaceable::led. Lock: commit_mutex.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/result.h>

#include <memory>
#include <string>

namespace tenon::engine {

struct ChangeState;
struct Definition;
struct ModuleState;

struct Lead {
  std::shared_ptr<ModuleState> module;
  std::string name;
  std::string to; // empty: `address`
  Addr address;

  // From resolve_leads() on.
  Definition* definition = nullptr;
  Definition* target = nullptr; // none: `body`
  std::uint64_t body = 0;       // of the target, if that is not published yet; or the address
  ModuleState* needs = nullptr; // the target's, if it is another
};

// Under the locks, before anything is exchanged. May throw std::bad_alloc. Errors: see Change::lead.
Result<void> resolve_leads(ChangeState& change);
bool is_led(const ChangeState& change, const Definition& definition) noexcept;
void apply_leads(ChangeState& change) noexcept;
// The function is there again.
void end_lead(Definition& definition) noexcept;

} // namespace tenon::engine

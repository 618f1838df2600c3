// Sizes of symbols, for the relocations that ask for one (psABI: Z). A reference says nothing of it; whatever the symbol was
// resolved to does, if anything.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/host.h"

#include <optional>
#include <shared_mutex>

namespace tenon::engine {

namespace {

std::optional<std::uint64_t> size_of_name(const ChangeState& change, const Name& name) {
  if (name.module != link::none)
    return name.strength == Strength::common ? change.extras[name.extra].common_size
                                             : change.modules[name.module]->symbols()[name.symbol].size;
  if (name.record != nullptr && name.record->module() != nullptr) {
    std::shared_lock tables(change.engine->tables); // it may be replaced just now
    return name.record->size();
  }
  if (name.kind == link::TargetKind::missing || name.kind == link::TargetKind::null)
    return 0; // reported elsewhere if it is needed
  return (name.flags & link::target_flag::tls) != 0 ? std::nullopt : host_size(name.address);
}

std::optional<std::uint64_t> size_of(const ChangeState& change, std::uint32_t m, std::uint32_t symbol) {
  const link::Module& module = *change.modules[m];
  std::uint32_t first = module.object.first_global();
  std::uint32_t id = symbol < first ? link::none : change.drafts[m].names[symbol - first];
  // A section's own symbol has no size, as in other linkers.
  if (id == link::none || module.targets[symbol].kind == link::TargetKind::section)
    if (id == link::none || (*change.names)[id].strength != Strength::common) return module.symbols()[symbol].size;
  return size_of_name(change, (*change.names)[id]);
}

} // namespace

Result<void> find_sizes(ChangeState& change, std::uint32_t m) {
  link::Module& module = *change.modules[m];
  for (std::size_t i = 0; i < module.needs.size(); ++i) {
    if ((module.needs[i].what & link::need::size) == 0) continue;
    const std::uint32_t symbol = module.needs[i].symbol;
    std::optional<std::uint64_t> size = size_of(change, m, symbol);
    if (!size)
      return Error{ErrorCode::unsupported,
                   "a relocation asks for the size of '" + std::string(module.symbols()[symbol].name()) +
                       "', which is not known: what defines it is outside of the engine and has no size"};
    module.entries[i].size = *size;
  }
  return {};
}

} // namespace tenon::engine

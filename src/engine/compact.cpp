// Live code is packed: from the highest address on, what fits into a hole further down goes there; then what is free at the
// end goes back to the system.
//
// Old places are free only once no thread is inside. So it goes in rounds, with a look at the threads in between: what one
// round has left behind is where the next one may move code to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/pool.h"
#include "engine/move.h"
#include "engine/reclaimer.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace tenon::engine {

namespace {

// One block of code of one module, or of a fragment of it.
struct Candidate {
  std::shared_ptr<ModuleState> module, holder;
  Stretch block;
};

std::vector<Candidate> find_candidates(EngineState& engine) {
  std::vector<Candidate> candidates;
  std::lock_guard lock(engine.commit_mutex);
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries) {
    std::shared_ptr<LibraryState> library = weak.lock();
    if (!library || !library->replaceable) continue;
    for (const std::shared_ptr<ModuleState>& module : library->modules) {
      if (module->replaceable == nullptr || module->extra().client.memory != nullptr) continue;
      for_each_holder(*module, [&](ModuleState& holder) {
        auto add = [&](const auto& block) {
          if (block && block->area == memory::AreaKind::code)
            candidates.push_back({module, holder.shared_from_this(), {block->begin, block->end()}});
        };
        for (const RunBlocks::View& block : holder.blocks.all()) add(block);
        for (const OwnedBlock& part : holder.extra().parts) add(part);
      });
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.block.begin > b.block.begin; });
  return candidates;
}

// What another change or too little room stands in the way of stays where it is.
bool may_be_skipped(const Error& error) noexcept {
  return error.code == ErrorCode::unsupported || error.code == ErrorCode::conflict || error.code == ErrorCode::exhausted ||
         error.code == ErrorCode::out_of_range;
}

Result<std::uint64_t> move_all(EngineState& engine, Compaction& compaction) {
  std::uint64_t bytes = 0;
  for (const Candidate& candidate : find_candidates(engine)) {
    const std::uint64_t size = candidate.block.end - candidate.block.begin;
    if (!engine.machinery->space->has_room_before(memory::AreaKind::code, size, candidate.block.begin)) continue;
    MoveRequest request;
    request.within = candidate.block;
    request.lower = true;
    Result<Moved> moved = move_code(engine, candidate.module, *candidate.holder, request);
    if (!moved && !may_be_skipped(moved.error())) return std::move(moved).error();
    if (!moved) continue;
    bytes += moved->bytes;
    compaction.functions += moved->functions;
  }
  compaction.bytes += bytes;
  return bytes;
}

// Frees what no thread is inside of. A thread that was running just now is looked at once more a moment later.
Result<void> reclaim(EngineState& engine) {
  constexpr int patience = 8;
  Result<Reclaimer*> reclaimer = reclaimer_of(engine);
  if (!reclaimer) return std::move(reclaimer).error();
  for (int i = 0; i < patience; ++i) {
    Result<std::size_t> left = (*reclaimer)->check();
    if (!left) return std::move(left).error();
    if (*left == 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

} // namespace

Result<Compaction> compact(EngineState& engine) {
  constexpr int rounds = 4;
  memory::Space& space = *engine.machinery->space;
  if (space.mapping() != memory::Mapping::dual)
    return Error{ErrorCode::unsupported, "code can't be moved in an engine with a single mapping of its memory"};
  Compaction compaction;
  compaction.used_before = space.used(memory::AreaKind::code);
  compaction.committed_before = space.usage(memory::AreaKind::code).committed;
  for (int i = 0; i < rounds; ++i) {
    if (Result<void> reclaimed = reclaim(engine); !reclaimed) return std::move(reclaimed).error();
    Result<std::uint64_t> moved = move_all(engine, compaction);
    if (!moved) return std::move(moved).error();
    if (*moved == 0) break;
  }
  if (Result<void> reclaimed = reclaim(engine); !reclaimed) return std::move(reclaimed).error();
  for (const memory::AreaKind area :
       {memory::AreaKind::code, memory::AreaKind::rodata, memory::AreaKind::slots, memory::AreaKind::data})
    space.release_unused(area);
  base::pool::release_unused();
  compaction.used_after = space.used(memory::AreaKind::code);
  compaction.committed_after = space.usage(memory::AreaKind::code).committed;
  return compaction;
}

} // namespace tenon::engine

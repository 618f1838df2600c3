// A module's end: finalizers, then memory.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/module_state.h"

#include "engine/engine_state.h"
#include "engine/exit_handlers.h"

#include <cstdio>
#include <cstdlib>

namespace tenon::engine {

ClientMemory::~ClientMemory() {
  frames.clear(); // the unwinder forgets before the memory goes
  if (memory != nullptr)
    for (const Placement& placement : placements)
      memory->release(placement);
}

ModuleState::~ModuleState() {
  finalize();
  release_memory();
}

void ModuleState::finalize() noexcept {
  // Also of one that was never initialized: its functions may have registered handlers all the same.
  if (has_exit_handlers.exchange(false, std::memory_order_relaxed) && dso_handle != 0)
    run_exit_handlers(reinterpret_cast<void*>(dso_handle));
  if (!initialized.exchange(false, std::memory_order_acq_rel))
    return;
  for (std::uint64_t finalizer : finalizers)
    reinterpret_cast<void (*)()>(finalizer)();
}

void ModuleState::release_memory() noexcept {
  tls = {};
  client = {};
  for (OwnedBlock& block : blocks)
    block.reset();
}

ModuleState* module_of_dso_handle(const void* dso_handle) noexcept {
  if (dso_handle == nullptr)
    return nullptr;
  const auto* words = static_cast<const std::uint64_t*>(dso_handle);
  return words[0] == dso_handle_magic ? reinterpret_cast<ModuleState*>(words[1]) : nullptr;
}

Pin::Pin(std::shared_ptr<EngineState> engine, std::shared_ptr<ModuleState> module) noexcept
    : engine_(std::move(engine)), module_(std::move(module)) {
  module_->pins.fetch_add(1, std::memory_order_relaxed); // whoever pins can see the module: nobody frees it meanwhile
}

Pin::~Pin() {
  // Release: what the holder did with the module's memory happens before a sweep that sees no pins frees it.
  bool last = module_->pins.fetch_sub(1, std::memory_order_acq_rel) == 1;
  if (last && engine_ && !module_->live.load(std::memory_order_acquire))
    sweep(*engine_);
}

namespace {
[[noreturn]] void unresolved() {
  std::fputs("tenon: a function was called that had been declared as a forward reference and is not defined yet\n", stderr);
  std::abort();
}
} // namespace

std::uint64_t unresolved_function() noexcept { return reinterpret_cast<std::uint64_t>(&unresolved); }

} // namespace tenon::engine

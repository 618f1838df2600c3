// A module's end: finalizers, then memory.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/module_state.h"

#include "engine/code_graph.h"
#include "engine/engine_state.h"
#include "engine/exit_handlers.h"
#include "engine/recall.h"
#include "engine/reclaimer.h"
#include "engine/transition.h"

#include <cstdio>
#include <cstdlib>

namespace tenon::engine {

ClientMemory::~ClientMemory() {
  frames.clear(); // the unwinder forgets before the memory goes
  if (memory != nullptr)
    for (const Placement& placement : placements) memory->release(placement);
}

namespace {

// Also of a module that was never initialized: its functions may have registered handlers all the same.
void run_own_exit_handlers(ModuleState& module) noexcept {
  if (!module.has_exit_handlers.load(std::memory_order_relaxed)) return; // few have: saves an atomic operation
  if (module.has_exit_handlers.exchange(false, std::memory_order_relaxed) && module.rare().dso_handle != 0)
    run_exit_handlers(reinterpret_cast<void*>(module.rare().dso_handle));
}

bool begin_finalizers(ModuleState& module) noexcept {
  return module.initialized.load(std::memory_order_acquire) && module.initialized.exchange(false, std::memory_order_acq_rel);
}

void call(const InitCall& finalizer) { reinterpret_cast<void (*)()>(finalizer.function)(); }

} // namespace

Usage Version::usage() const noexcept {
  Usage usage = extra().usage != nullptr ? *extra().usage : usage_.sizes();
  usage.bookkeeping = bookkeeping();
  return usage;
}

void Version::set_usage(const Usage& usage) {
  usage_ = KeptUsage(usage);
  if (!usage_.is(usage))
    make_extra().usage = std::make_unique<Usage>(usage);
  else if (has_extra())
    extra().usage.reset();
}

ModuleState::ModuleState() = default;

std::shared_ptr<ModuleState> make_state() { return std::allocate_shared<ModuleState>(base::PoolAllocator<ModuleState>()); }

std::shared_ptr<ModuleState> make_full_state() {
  std::shared_ptr<ModuleState> state = make_state();
  state->make_extra();
  state->make_rare();
  return state;
}

template <class T> void Elsewhere<T>::operator()(T* gone) const noexcept { delete gone; }
template struct Elsewhere<CodeGraph>;
template struct Elsewhere<Transition>;

std::string ModuleState::function_at(Addr address) const {
  const OwnFunction* nearest = nullptr;
  for_each_holder(*this, [&](const ModuleState& holder) {
    auto after = std::upper_bound(holder.extra().functions.begin(), holder.extra().functions.end(), address.value,
                                  [](std::uint64_t a, const OwnFunction& f) { return a < f.address; });
    if (after != holder.extra().functions.begin() && (nearest == nullptr || std::prev(after)->address > nearest->address))
      nearest = &*std::prev(after);
  });
  if (nearest != nullptr) return nearest->definition->name;
  const SymbolRecord* best = nullptr;
  for_each_record([&](const SymbolRecord& record) {
    constexpr auto no_function = symbol_flag::data | symbol_flag::tls | symbol_flag::group;
    const bool before = (record.flags & no_function) == 0 && record.address() <= address.value;
    if (before && (best == nullptr || record.address() > best->address())) best = &record;
  });
  return best != nullptr ? std::string(best->name()) : std::string();
}

ModuleState::~ModuleState() {
  base::pool::begin_gathering(); // until its members have gone
  // Finalizers have run, or never will: they may ask for the module's owner, which there is none of any more. What a pending
  // thread exit has registered late goes here.
  run_own_exit_handlers(*this);
  release_memory();
}

void finalize_all(std::span<const std::shared_ptr<ModuleState>> modules) noexcept {
  bool any = false;
  for (auto module = modules.rbegin(); module != modules.rend(); ++module) {
    run_own_exit_handlers(**module);
    (*module)->ending = begin_finalizers(**module);
    any |= (*module)->ending && !(*module)->extra().finalizers.empty();
  }
  // One round for each priority that occurs, highest first: nearly always there is one, and no memory is needed.
  for (std::uint64_t below = std::uint64_t(1) << 32; any;) {
    any = false;
    std::uint32_t next = 0;
    for (const std::shared_ptr<ModuleState>& module : modules)
      for (const InitCall& finalizer : module->extra().finalizers)
        if (module->ending && finalizer.priority < below && (!any || finalizer.priority > next)) {
          next = finalizer.priority;
          any = true;
        }
    for (auto module = modules.rbegin(); any && module != modules.rend(); ++module)
      for (const InitCall& finalizer : (*module)->extra().finalizers)
        if ((*module)->ending && finalizer.priority == next) call(finalizer);
    below = next;
  }
}

void ModuleState::release_memory() noexcept {
  if (has_extra()) {
    extra().tls.reset();
    extra().recalls.reset();
    extra().client = {};
  }
  blocks.reset();
  if (has_extra()) {
    extra().parts.clear();
    extra().copies.clear();
  }
  if (replaceable != nullptr) {
    replaceable->kept.clear();
    replaceable->held.clear();
    for (const std::shared_ptr<ModuleState>& fragment : replaceable->fragments) fragment->release_memory();
    replaceable->fragments.clear();
  }
  if (has_rare()) rare().current.reset();
}

std::mutex& endings() noexcept {
  static constinit std::mutex mutex;
  return mutex;
}

ModuleState* module_of_dso_handle(const void* dso_handle) noexcept {
  if (dso_handle == nullptr) return nullptr;
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
  if (!last || !engine_) return;
  if (!module_->live.load(std::memory_order_acquire))
    sweep(*engine_);
  else if (module_->collectable != nullptr)
    want_collection(*engine_);
}

namespace {
[[noreturn]] void unresolved(const char* name) {
  std::fprintf(stderr, "tenon: '%s' was called, a forward reference that nothing has defined yet\n",
               name != nullptr ? name : "a function");
  std::abort();
}
} // namespace

std::uint64_t unresolved_function() noexcept { return reinterpret_cast<std::uint64_t>(&unresolved); }

} // namespace tenon::engine

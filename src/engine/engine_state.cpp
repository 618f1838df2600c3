// Engines begin and end; libraries are made and closed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/engine_state.h"

#include "engine/at_once.h"
#include "engine/forwards.h"
#include "engine/recall.h"
#include "engine/reclaimer.h"
#include "engine/tls.h"
#include "engine/transition.h"
#include "link/arch/arch.h"
#include "memory/spare.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

namespace tenon::engine {

namespace {

Result<std::shared_ptr<Machinery>> make_machinery(const memory::SpaceOptions& options, bool unwinding) {
  auto machinery = Machinery::make(); // before there is a range to give back
  machinery->space = memory::spare::take(options, unwinding);
  if (machinery->space == nullptr) {
    Result<memory::AddressRange> range = unwinding ? notify::reserve_anchor(options) : memory::reserve(options);
    if (!range) return std::move(range).error();
    memory::SpaceOptions granted = options;
    granted.size = range->size; // the low 2 GiB may have had room for less
    Result<std::shared_ptr<memory::Space>> space = memory::Space::create(granted, *range);
    if (!space) return std::move(space).error();
    machinery->space = std::move(*space);
  }
  if (unwinding) {
    Result<notify::Frames> frames = notify::Frames::create(*machinery->space);
    if (!frames) return std::move(frames).error();
    machinery->frames.emplace(std::move(*frames));
    // Who wants memory ahead of its use is told here if there is none.
    if (options.prefault != memory::Prefault::none)
      if (Result<void> present = machinery->space->commit_frames(1); !present) return std::move(present).error();
  }
  return machinery;
}

// Into room that is there.
void collect_all_modules(EngineState& engine) noexcept {
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries)
    if (std::shared_ptr<LibraryState> library = weak.lock()) {
      std::move(library->modules.begin(), library->modules.end(), std::back_inserter(engine.last));
      library->modules.clear();
    }
  std::move(engine.removed.begin(), engine.removed.end(), std::back_inserter(engine.last));
}

// At the engine's end, finalizers have run: whether the memory goes as a whole with the last module. It does not if released
// code is left, or what a thread calls at its end, nor if somebody may hold on to a stub or a slot: then what is gone has to
// be filled with traps, and pages of single-mapping mode go back to the system.
bool may_hold_memory(const ModuleState& module) noexcept {
  return module.pins.load(std::memory_order_acquire) != 0 || module.replaceable != nullptr;
}
bool can_drop_memory(const EngineState& engine, bool any_holds) noexcept {
  if (any_holds) return false;
  if (engine.machinery->space->mapping() != memory::Mapping::dual) return false;
  // Acquire: what such code has done to its memory is over.
  if (engine.machinery->codes.load(std::memory_order_acquire) != 0) return false;
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries)
    if (const std::shared_ptr<LibraryState> library = weak.lock(); library && !library->own_slots.empty()) return false;
  return true;
}
bool any_holds_memory(const EngineState& engine) noexcept {
  return std::any_of(engine.last.begin(), engine.last.end(),
                     [](const std::shared_ptr<ModuleState>& module) { return may_hold_memory(*module); });
}

// Its end looks at nothing that others have.
bool is_alone(const ModuleState& module) noexcept {
  return module.replaceable == nullptr && module.collectable == nullptr && module.rare().transition == nullptr &&
         module.rare().current == nullptr && !module.superseded;
}

// Modules lie all over the heap, and each is looked at once: how many are asked for ahead. To look takes a tenth of the time
// that ending takes.
constexpr std::ptrdiff_t prefetched = 4;
constexpr std::size_t prefetched_to_look = 12;

// What the end has to do with the modules, seen in one pass: of many, each is a row of cache misses.
struct LastLook {
  bool released = false, unsorted = false, finalized = false, held = false; // what some of them are, or are to be

  explicit LastLook(std::span<const std::shared_ptr<ModuleState>> modules) noexcept {
    std::uint64_t before = 0;
    for (std::size_t i = 0; i < modules.size(); ++i) {
      if (i + prefetched_to_look < modules.size()) prefetch(*modules[i + prefetched_to_look]);
      const ModuleState& module = *modules[i];
      released |= module.codes != 0;
      unsorted |= module.sequence < std::exchange(before, module.sequence);
      finalized |= module.has_exit_handlers.load(std::memory_order_relaxed) ||
                   (module.initialized.load(std::memory_order_acquire) && !module.extra().finalizers.empty());
      held |= may_hold_memory(module);
    }
  }
};

} // namespace

Result<std::shared_ptr<EngineState>> EngineState::create(const Options& options) {
  auto engine = std::make_shared<EngineState>();
  engine->options = options;
  memory::SpaceOptions space;
  space.size = options.reservation_bytes;
  space.low_2gib = options.low_2gib;
  space.mapping = options.mapping == Mapping::dual ? memory::Mapping::dual : memory::Mapping::single;
  space.prefault = options.prefault == Prefault::lock       ? memory::Prefault::lock
                   : options.prefault == Prefault::populate ? memory::Prefault::populate
                                                            : memory::Prefault::none;
  Result<std::shared_ptr<Machinery>> machinery = make_machinery(space, options.unwinding);
  if (!machinery) return std::move(machinery).error().within("creating an engine");
  engine->machinery = std::move(*machinery);
  engine->stubs = std::make_unique<StubPool>(engine->machinery);
  engine->options.reservation_bytes = engine->machinery->space->end() - engine->machinery->space->begin();
  // Once, before the first engine links anything: it is read without a lock.
  static const bool entered = (link::arch::tls_entry_points = {tls_get_addr_entry(), tls_descriptor_entry()}, true);
  (void)entered;
  if (options.prefault != Prefault::none) {
    touch_choose_version();
    for (const std::uint64_t entry : {tls_get_addr_entry(), tls_descriptor_entry()})
      (void)*reinterpret_cast<const volatile char*>(entry);
  }
  reclaim::process::barrier(); // late it costs milliseconds, once
  Result<void> ready = ready_tls();
  if (ready) ready = register_for_fork(*engine);
  if (!ready) return std::move(ready).error().within("creating an engine");
  return engine;
}

EngineState::EngineState() = default;

EngineState::~EngineState() {
  recall_at_engine_end(*this);
  if (reclaimer) reclaimer->stop();
  unregister_for_fork(*this);
  for (const std::weak_ptr<LibraryState>& weak : libraries)
    if (std::shared_ptr<LibraryState> library = weak.lock())
      library->sources = nullptr; // libraries may search each other in cycles
  collect_all_modules(*this);
  // Modules that released code refers to end with that code.
  auto ours = last.end();
  std::optional<LastLook> look;
  if (machinery) {
    std::lock_guard lock(endings());
    machinery->ended = true;
    look.emplace(last);
    if (look->released)
      ours = std::partition(last.begin(), last.end(),
                            [](const std::shared_ptr<ModuleState>& module) { return module->codes == 0; });
    for (auto module = ours; module != last.end(); ++module) (*module)->live.store(false, std::memory_order_release);
  }
  // What no finalizer runs for is as it was when it was looked at.
  const auto earlier = [](const auto& a, const auto& b) { return a->sequence < b->sequence; };
  if (!look || look->unsorted || look->released) std::sort(last.begin(), ours, earlier);
  if (!look || look->finalized) finalize_all({last.begin(), ours});
  if (machinery && can_drop_memory(*this, look->finalized ? any_holds_memory(*this) : look->held))
    machinery->dropped.store(true, std::memory_order_relaxed);
  const base::pool::Ending ending; // once what is gathered has gone
  const base::pool::Gathering gathering;
  for (auto module = last.begin(); module != ours; ++module) {
    if (ours - module > prefetched) prefetch(**(module + prefetched));
    (*module)->live.store(false, std::memory_order_release);
    (*module)->initialized.store(false, std::memory_order_relaxed); // nobody ends it once more
    // What a finalizer has left for the end of this thread keeps the module until then.
    if ((*module)->pins.load(std::memory_order_acquire) != 0) continue;
    (*module)->release_memory();
    if (is_alone(**module)) module->reset(); // while it is in the cache
  }
}

Result<std::shared_ptr<LibraryState>> EngineState::library(std::string_view name, const LibraryOptions& wanted) {
  std::lock_guard lock(commit_mutex);
  if (!name.empty())
    if (auto found = named.find(name); found != named.end()) {
      const bool replaceable = found->second->replaceable, collected = found->second->collected;
      if (replaceable == wanted.replaceable && collected == wanted.collected) return found->second;
      return Error{ErrorCode::invalid_argument,
                   "library " + std::string(name) + " was made " +
                       (replaceable != wanted.replaceable
                            ? replaceable ? "with the option replaceable" : "without the option replaceable"
                        : collected ? "with the option collected"
                                    : "without the option collected")};
    }
  auto library = std::make_shared<LibraryState>();
  library->replaceable = wanted.replaceable;
  library->collected = wanted.collected;
  library->collection = &collection;
  library->name = name;
  library->engine = weak_from_this();
  static const auto process = std::make_shared<const std::vector<Source>>(1, Source::process());
  library->sources = process;
  if (libraries.size() == libraries.capacity())
    std::erase_if(libraries, [](const std::weak_ptr<LibraryState>& weak) { return weak.expired(); });
  libraries.push_back(library);
  orphans.reserve(libraries.capacity()); // whoever drops a library's last handle can't be told of a failure
  if (!name.empty()) named.emplace(name, library);
  return library;
}

Result<void> close_library(EngineState& engine, const std::shared_ptr<LibraryState>& library, Quiet quiet) {
  std::optional<Removal> removal;
  for (bool again = true; !removal; again = false) {
    std::unique_lock lock(engine.commit_mutex);
    if (library->closed) return {};
    if (needs_recall_to_end(library->modules) && check_removable(engine, library->modules)) {
      const auto modules = library->modules;
      lock.unlock();
      if (Result<void> recalled = recall_to_end(engine, modules); !recalled) return recalled;
      continue;
    }
    if (Result<void> removable = check_removable(engine, library->modules); !removable) {
      lock.unlock();
      if (again && collect_users(engine, removable.error())) continue;
      return removable;
    }
    removal.emplace(library->modules);
    removal->all_quiet = quiet == Quiet::caller_guarantees;
    std::unique_lock tables(engine.tables);
    unpublish(engine, *removal);
    library->closed = true;
    if (auto found = engine.named.find(library->name); found != engine.named.end() && found->second == library)
      engine.named.erase(found);
  }
  retire(engine, *removal);
  return {};
}

namespace {

// A symbol of the client's, in a record of the library's own.
Result<SymbolRecord*> make_absolute(EngineState& engine, LibraryState& library, const Absolute& symbol) {
  auto bytes = std::make_unique<std::byte[]>(SymbolRecord::bytes_for(symbol.name.size(), SymbolRecord::Form::wide));
  SymbolRecord* record = SymbolRecord::make(bytes.get(), symbol.name, hash_name(symbol.name), SymbolRecord::Form::wide);
  record->set_address(symbol.address.value);
  record->flags = symbol.rebindable ? symbol_flag::rebindable : std::uint16_t(0);
  if (symbol.rebindable) {
    Result<OwnedBlock> slot = OwnedBlock::allocate(engine.machinery, memory::AreaKind::slots, 8, 8, 0);
    if (!slot) return std::move(slot).error();
    record->set_slot((*slot)->begin.value);
    library.own_slots.push_back(std::move(*slot));
  }
  library.own_records.push_back(std::move(bytes));
  return record;
}

// Under commit_mutex. Dead modules give their names up.
SymbolRecord* find_to_define(EngineState& engine, LibraryState& library, std::string_view name) {
  const std::uint64_t hash = hash_name(name);
  SymbolRecord* record = library.symbols.find(name, hash);
  if (record == nullptr || !is_gone(engine.collection, *record)) return record;
  std::unique_lock tables(engine.tables);
  return find_alive(engine, library.symbols, name, hash);
}

} // namespace

Result<void> define(EngineState& engine, LibraryState& library, std::span<const Absolute> symbols) {
  std::lock_guard lock(engine.commit_mutex);
  std::vector<SymbolRecord*> records(symbols.size());
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (symbols[i].name.empty() || !seen.insert(symbols[i].name).second)
      return Error{ErrorCode::duplicate, "define() got '" + std::string(symbols[i].name) + "' twice, or without a name"};
    SymbolRecord* there = find_to_define(engine, library, symbols[i].name);
    bool rebound = there != nullptr && (there->flags & symbol_flag::rebindable) != 0 && symbols[i].rebindable;
    if (there != nullptr && (there->flags & symbol_flag::forward) == 0 && !rebound)
      return Error{ErrorCode::duplicate,
                   "'" + std::string(symbols[i].name) + "' is defined already" +
                       (there->module() != nullptr ? " by " + there->module()->name : ", and not as rebindable")};
    records[i] = there;
  }
  // New records first: what can fail, fails before anything is visible.
  std::size_t records_before = library.own_records.size(), slots_before = library.own_slots.size();
  auto undo = [&] {
    library.own_records.resize(records_before);
    library.own_slots.resize(slots_before);
  };
  std::vector<SymbolRecord*> fresh;
  std::unique_lock tables(engine.tables);
  try {
    fresh.reserve(symbols.size());
    library.symbols.reserve(symbols.size());
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      if (records[i] != nullptr) continue;
      Result<SymbolRecord*> made = make_absolute(engine, library, symbols[i]);
      if (!made) {
        undo();
        return std::move(made).error();
      }
      fresh.push_back(*made);
    }
  } catch (const std::bad_alloc&) {
    undo();
    throw;
  }
  for (std::size_t i = 0; i < symbols.size(); ++i)
    if (records[i] != nullptr && (records[i]->flags & symbol_flag::forward) != 0) {
      define_forward(*engine.machinery->space, library, *records[i], symbols[i]);
    } else if (records[i] != nullptr) {
      records[i]->set_address(symbols[i].address.value);
      store_slot(*engine.machinery->space, records[i]->slot(), records[i]->address());
    }
  for (SymbolRecord* record : fresh) {
    if (record->slot() != 0) store_slot(*engine.machinery->space, record->slot(), record->address());
    library.symbols.insert(record);
  }
  return {};
}

} // namespace tenon::engine

// The first call of an unloaded module's function: the client's callback makes the module again, others wait, all go on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/recall.h"

#include "base/guarded.h"
#include "engine/change_state.h"
#include "engine/transition.h"

#include <cxxabi.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace tenon::engine {

// A thread, as far as it runs callbacks or waits for those of others.
struct Caller {
  Recalls* waits_for = nullptr;
};

namespace {

constinit thread_local Caller self;

struct Turns {
  std::mutex mutex;
  std::condition_variable ended; // a callback of any module
  Recalls* running = nullptr;
};

Turns& turns() {
  static auto* instance = new Turns; // never destroyed: threads may call while the process ends
  return *instance;
}

// One thread at a time makes a module again. Given up before the client is told of a failure.
class Turn {
public:
  // Waits for whoever has it. False: this thread would wait for itself.
  bool take(Recalls& recalls) {
    std::unique_lock lock(turns().mutex);
    struct Waiting {
      ~Waiting() { self.waits_for = nullptr; }
    } waiting;
    while (recalls.runner != nullptr) {
      for (const Recalls* at = &recalls; at != nullptr && at->runner != nullptr; at = at->runner->waits_for)
        if (at->runner == &self) return false;
      self.waits_for = &recalls;
      turns().ended.wait(lock);
    }
    recalls.runner = &self;
    recalls.next_running = std::exchange(turns().running, &recalls);
    taken_ = &recalls;
    return true;
  }
  void give_up() noexcept {
    if (taken_ == nullptr) return;
    std::lock_guard lock(turns().mutex);
    for (Recalls** at = &turns().running; *at != nullptr; at = &(*at)->next_running)
      if (*at == taken_) {
        *at = taken_->next_running;
        break;
      }
    taken_->runner = nullptr;
    taken_ = nullptr;
    turns().ended.notify_all();
  }
  ~Turn() { give_up(); }

private:
  Recalls* taken_ = nullptr;
};

// Whether the trampolines still stand for the module.
bool is_unloaded(EngineState& engine, const ModuleState& module, const Recalls& recalls) {
  std::lock_guard lock(engine.commit_mutex);
  return module.extra().recalls.get() == &recalls;
}

Result<void> commit_again(const std::shared_ptr<EngineState>& engine, const std::shared_ptr<ModuleState>& module,
                          const Recalls& recalls, Object object) {
  std::shared_ptr<LibraryState> library = module->library.lock();
  if (library == nullptr) return Error{ErrorCode::conflict, "its library is gone"};
  ChangeState change(engine);
  ModuleOptions options = recalls.options != nullptr ? *recalls.options : ModuleOptions();
  if (options.name.empty()) options.name = module->name;
  change.additions.push_back({change.library_index(library), false, std::move(object), std::move(options), module,
                              std::make_shared<const Replacing>(Replacing{recalls.recall.data, {}})});
  for (int attempt = 0;; ++attempt) {
    Result<void> done = draft(change);
    // Somebody else may have replaced it while the callback ran: from here on that is a conflict, but not before.
    if (!is_unloaded(*engine, *module, recalls)) return {};
    if (done) done = place_in_engine(change);
    if (done) done = link_bytes(change);
    if (done) {
      std::shared_ptr<const void> keeps;
      Result<std::vector<Module>> committed = commit(change, true, keeps);
      if (committed) return {};
      done = std::move(committed).error();
    }
    if (done.error().code != ErrorCode::conflict || attempt == 100) return done;
    if (!is_unloaded(*engine, *module, recalls)) return {}; // somebody else has replaced it
    change.undo_draft();
  }
}

// The caller has the turn, and holds no lock.
Result<void> make_again(const std::shared_ptr<EngineState>& engine, const std::shared_ptr<ModuleState>& module,
                        const Recalls& recalls, std::string_view function) {
  if (!is_unloaded(*engine, *module, recalls)) return {};
  if (!module->live.load(std::memory_order_acquire)) return Error{ErrorCode::conflict, "the module has been removed"};
  if (!recalls.recall.make) return Error{ErrorCode::invalid_argument, "there is no callback"};
  Result<std::optional<Object>> made = recalls.recall.make(Module(module), function);
  if (!made) return std::move(made).error();
  if (*made)
    if (Result<void> done = commit_again(engine, module, recalls, std::move(**made)); !done) return done;
  if (is_unloaded(*engine, *module, recalls))
    return Error{ErrorCode::undefined, "the callback has neither returned an object nor committed one"};
  return {};
}

constexpr std::uint64_t call_bytes = 5; // recall.S

// A call by a site goes on by that site, whatever it leads to by then. By the stub it could get to a later version than the
// site's next call: in a version that a set has superseded meanwhile sites stay where they led, and the stub leads to what
// came. No order of locks and stores could prevent that, because the thread leaves for the stub without a lock; who calls
// once more reads where it goes once, as any other call. Nothing but the calling code has to stay for it, and its address is
// on this thread's stack. It can't come back to the trampoline for ever: the site does not lead there any more, and never
// does again. The function that the call was for is the same also if a tail call has got here from another version of it.
bool can_call_again(const EngineState& engine, const RecallEntry& entry, std::uint64_t return_address) noexcept {
  const std::uint64_t site = return_address - 4; // the displacement comes last
  for (const Use* use = entry.definition->uses; use != nullptr; use = use->next)
    if (std::find(use->sites.begin(), use->sites.end(), site) != use->sites.end())
      return !may_lead_to(engine, use->bound, entry.trampoline);
  return false;
}

// Where the call goes on. The trampoline's address on this thread's stack keeps `recalls` and the definition.
Result<std::uint64_t> recall(Turn& turn, Recalls& recalls, const RecallEntry& entry, std::uint64_t return_address) {
  const Definition& definition = *entry.definition;
  std::shared_ptr<EngineState> engine = recalls.engine.lock();
  std::shared_ptr<ModuleState> module = recalls.module.lock();
  if (engine == nullptr || module == nullptr) return Error{ErrorCode::conflict, "the engine is gone"};
  if (!turn.take(recalls))
    return Error{ErrorCode::conflict, "the callback that makes it waits for itself: it calls, or waits for a thread that "
                                      "calls, a function of the module"};
  if (Result<void> made = make_again(engine, module, recalls, definition.name); !made) return std::move(made).error();
  turn.give_up();
  std::lock_guard lock(engine->commit_mutex);
  if (definition.vanished && !definition.led && entry.before != 0) return entry.before; // kept by Onward
  if (definition.vanished && !definition.led) return Error{ErrorCode::undefined, "the module's new version lacks it"};
  // While a set is being exchanged, the stub may lead back here: entries of before have no other version.
  const std::uint64_t body = definition.leader == nullptr ? version_after(*engine, definition, entry.trampoline) : 0;
  if (body != 0) return body;
  return can_call_again(*engine, entry, return_address) ? return_address - call_bytes : definition.stub.address();
}

template <class Work> auto without_exceptions(Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const abi::__forced_unwind&) {
    throw; // the thread ends
  } catch (const std::bad_alloc&) {
    return base::out_of_memory();
  } catch (const std::exception& thrown) {
    return Error{ErrorCode::resolver, std::string("the callback threw: ") + thrown.what()};
  } catch (...) {
    return Error{ErrorCode::resolver, "the callback threw"};
  }
}

// Without the turn: who is told may leave by any way, and the next caller tries again.
[[noreturn]] void fail(const Recalls& recalls, const Definition& definition, const Error& error) {
  std::shared_ptr<ModuleState> module = recalls.module.lock();
  if (recalls.recall.failed && module != nullptr) recalls.recall.failed(Module(module), definition.name, error);
  std::fprintf(stderr, "tenon: '%s' of module %s was called, which is unloaded, and could not be made again: %s\n",
               definition.name.c_str(), module != nullptr ? module->name.c_str() : "(gone)", error.message.c_str());
  std::abort();
}

// Also of an engine that nobody holds any more.
std::shared_ptr<EngineState> borrow(EngineState& engine) {
  std::shared_ptr<EngineState> held = engine.weak_from_this().lock();
  return held != nullptr ? held : std::shared_ptr<EngineState>(std::shared_ptr<void>(), &engine);
}

std::shared_ptr<Recalls> recalls_of(EngineState& engine, const ModuleState& module) {
  std::lock_guard lock(engine.commit_mutex);
  return module.live.load(std::memory_order_relaxed) ? module.extra().recalls : nullptr;
}

Result<void> recall_module(EngineState& engine, const std::shared_ptr<ModuleState>& module) {
  const std::shared_ptr<Recalls> recalls = recalls_of(engine, *module);
  if (recalls == nullptr) return {};
  Result<void> made = without_exceptions([&]() -> Result<void> {
    Turn turn;
    if (!turn.take(*recalls))
      return Error{ErrorCode::conflict, "the callback that makes it waits for itself: it is ending the module"};
    return make_again(borrow(engine), module, *recalls, {});
  });
  if (made) return {};
  return Error{made.error().code, "module " + module->name +
                                      " is unloaded and could not be made again, which its end needs (finalizers, "
                                      "destructors of static objects, atexit): " +
                                      made.error().message};
}

} // namespace

bool has_an_end(const ModuleState& module) noexcept {
  return module.has_exit_handlers.load(std::memory_order_relaxed) ||
         (module.initialized.load(std::memory_order_relaxed) && !module.extra().finalizers.empty()) ||
         (module.has_thread_exits.load(std::memory_order_relaxed) && module.pins.load(std::memory_order_relaxed) != 0);
}

bool needs_recall_to_end(std::span<const std::shared_ptr<ModuleState>> modules) noexcept {
  const auto unloaded = [](const std::shared_ptr<ModuleState>& m) { return m->extra().recalls != nullptr; };
  const auto ends = [](const std::shared_ptr<ModuleState>& m) { return has_an_end(*m); };
  return std::any_of(modules.begin(), modules.end(), unloaded) && std::any_of(modules.begin(), modules.end(), ends);
}

Result<void> recall_to_end(EngineState& engine, std::span<const std::shared_ptr<ModuleState>> modules) {
  // One that is unloaded just now is found when the modules are about to go.
  if (modules.empty() || !engine.unloads.load(std::memory_order_relaxed)) return {};
  {
    std::lock_guard lock(engine.commit_mutex);
    if (!needs_recall_to_end(modules)) return {};
  }
  for (const std::shared_ptr<ModuleState>& module : modules)
    if (Result<void> made = recall_module(engine, module); !made) return made;
  return {};
}

namespace {

// Without a list, which would touch every module twice.
bool is_any_unloaded(EngineState& engine) noexcept {
  if (!engine.unloads.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(engine.commit_mutex);
  for (const std::weak_ptr<LibraryState>& weak : engine.libraries)
    if (const std::shared_ptr<LibraryState> library = weak.lock())
      for (const std::shared_ptr<ModuleState>& module : library->modules)
        if (module->extra().recalls != nullptr) return true;
  return false;
}

} // namespace

void recall_at_engine_end(EngineState& engine) noexcept {
  if (!is_any_unloaded(engine)) return;
  std::vector<std::shared_ptr<ModuleState>> modules;
  const auto gather = [&]() -> Result<void> {
    for (const std::weak_ptr<LibraryState>& weak : engine.libraries)
      if (const std::shared_ptr<LibraryState> library = weak.lock())
        modules.insert(modules.end(), library->modules.begin(), library->modules.end());
    return {};
  };
  // Without memory for a list nothing is made again: a trampoline that is called then says so.
  if (!without_exceptions(gather) || !needs_recall_to_end(modules)) return;
  for (const std::shared_ptr<ModuleState>& module : modules) {
    const Result<void> made = recall_module(engine, module);
    if (made || !has_an_end(*module)) continue;
    std::fprintf(stderr, "tenon: %s\n", made.error().message.c_str());
    std::abort();
  }
}

void lock_recalls() noexcept { turns().mutex.lock(); }
void unlock_recalls() noexcept { turns().mutex.unlock(); }

void forget_other_threads_recalls() noexcept {
  Turns& all = turns();
  for (Recalls** at = &all.running; *at != nullptr;) {
    Recalls* recalls = *at;
    if (recalls->runner == &self) {
      at = &recalls->next_running;
      continue;
    }
    *at = recalls->next_running;
    recalls->runner = nullptr;
  }
  new (&all.ended) std::condition_variable; // threads may have been waiting that are not here
}

} // namespace tenon::engine

// Called by tenon_recall (recall.S). The answer: where the call goes on.
extern "C" __attribute__((visibility("hidden"))) std::uint64_t tenon_recall_function(const tenon::engine::RecallEntry* entry,
                                                                                     std::uint64_t return_address) {
  using namespace tenon::engine;
  const int saved = errno; // which nobody expects a call to change before it has begun
  // A client that throws unwinds past the trampoline, which may go then.
  const std::shared_ptr<Recalls> recalls = entry->recalls->shared_from_this();
  tenon::Result<std::uint64_t> target = [&] {
    Turn turn;
    return without_exceptions([&] { return recall(turn, *recalls, *entry, return_address); });
  }();
  if (!target) fail(*recalls, *entry->definition, target.error());
  errno = saved;
  return *target;
}

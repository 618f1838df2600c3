// Wrappers around the C library's registration functions, which note that the calling module has handlers.
// Itanium C++ ABI, section 3.3.6.3 (__cxa_atexit, __cxa_finalize); glibc's __cxa_thread_atexit_impl and __register_atfork.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/exit_handlers.h"

#include "engine/engine_state.h"
#include "engine/module_state.h"

#include <algorithm>
#include <iterator>
#include <new>

extern "C" {
int __cxa_atexit(void (*function)(void*), void* argument, void* dso_handle) noexcept;
void __cxa_finalize(void* dso_handle);
int __cxa_at_quick_exit(void (*function)(void*), void* dso_handle) noexcept;
int __cxa_thread_atexit_impl(void (*function)(void*), void* object, void* dso_handle);
int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(), void* dso_handle) noexcept;
extern void* __dso_handle;
}

namespace tenon::engine {

namespace {

void note(void* dso_handle) noexcept {
  if (ModuleState* module = module_of_dso_handle(dso_handle))
    module->has_exit_handlers.store(true, std::memory_order_relaxed);
}

int cxa_atexit(void (*function)(void*), void* argument, void* dso_handle) noexcept {
  note(dso_handle);
  return __cxa_atexit(function, argument, dso_handle);
}

// The C library passes the argument in a register that a function without parameters ignores (psABI 3.2.3).
int atexit_for(void (*function)(), void* dso_handle) noexcept {
  note(dso_handle);
  return __cxa_atexit(reinterpret_cast<void (*)(void*)>(reinterpret_cast<void*>(function)), nullptr, dso_handle);
}

// glibc never withdraws quick-exit handlers: ours remember whether their module is still there.
struct QuickExit {
  void (*function)();
  std::weak_ptr<ModuleState> module;
  QuickExit* next;
};
std::atomic<QuickExit*> quick_exits{nullptr};

void run_quick_exit(void*) noexcept {
  // glibc calls us once for each registration, last first: so does this list give them out.
  QuickExit* top = quick_exits.load(std::memory_order_acquire);
  if (top == nullptr) return;
  quick_exits.store(top->next, std::memory_order_relaxed); // quick_exit runs handlers in one thread, one after another
  std::shared_ptr<ModuleState> module = top->module.lock();
  if (module && module->live.load(std::memory_order_acquire)) top->function();
}

int at_quick_exit_for(void (*function)(), void* dso_handle) noexcept {
  ModuleState* module = module_of_dso_handle(dso_handle);
  if (module == nullptr)
    return __cxa_at_quick_exit(reinterpret_cast<void (*)(void*)>(reinterpret_cast<void*>(function)), dso_handle);
  auto* entry = new (std::nothrow) QuickExit{function, module->weak_from_this(), nullptr};
  if (entry == nullptr || __cxa_at_quick_exit(run_quick_exit, &__dso_handle) != 0) {
    delete entry;
    return 1;
  }
  // Release: whoever takes the entry off the list sees it whole.
  entry->next = quick_exits.load(std::memory_order_relaxed);
  while (!quick_exits.compare_exchange_weak(entry->next, entry, std::memory_order_release, std::memory_order_relaxed)) {
  }
  return 0;
}

int pthread_atfork_for(void (*prepare)(), void (*parent)(), void (*child)(), void* dso_handle) noexcept {
  note(dso_handle); // __cxa_finalize withdraws them
  return __register_atfork(prepare, parent, child, dso_handle);
}

// A thread's destructors may run long after the module was removed: each keeps the module's memory.
struct ThreadExit {
  void (*function)(void*);
  void* object;
  Pin module;
};

void run_thread_exit(void* pointer) {
  std::unique_ptr<ThreadExit> entry(static_cast<ThreadExit*>(pointer));
  entry->function(entry->object);
}

int cxa_thread_atexit(void (*function)(void*), void* object, void* dso_handle) noexcept {
  ModuleState* module = module_of_dso_handle(dso_handle);
  if (module == nullptr) return __cxa_thread_atexit_impl(function, object, dso_handle);
  std::shared_ptr<LibraryState> library = module->library.lock();
  std::shared_ptr<EngineState> engine = library ? library->engine.lock() : nullptr;
  std::shared_ptr<ModuleState> state = module->weak_from_this().lock();
  if (state == nullptr) return -1; // nobody could keep the module for it
  state->has_thread_exits.store(true, std::memory_order_relaxed);
  auto* entry = new (std::nothrow) ThreadExit{function, object, Pin(std::move(engine), std::move(state))};
  if (entry == nullptr) return -1;
  int status = __cxa_thread_atexit_impl(run_thread_exit, entry, &__dso_handle);
  if (status != 0) delete entry;
  return status;
}

template <class F> std::uint64_t address(F* function) { return reinterpret_cast<std::uint64_t>(function); }

} // namespace

const ExitFunction* exit_function(std::string_view name) noexcept {
  static const ExitFunction functions[] = {
      {"__cxa_atexit", address(&cxa_atexit), 0},
      {"atexit", address(&atexit_for), 2},
      {"at_quick_exit", address(&at_quick_exit_for), 2},
      {"pthread_atfork", address(&pthread_atfork_for), 4},
      {"__cxa_thread_atexit", address(&cxa_thread_atexit), 0},
      {"__cxa_thread_atexit_impl", address(&cxa_thread_atexit), 0},
  };
  auto found =
      std::find_if(std::begin(functions), std::end(functions), [&](const ExitFunction& f) { return f.name == name; });
  return found == std::end(functions) ? nullptr : found;
}

void run_exit_handlers(void* dso_handle) noexcept { __cxa_finalize(dso_handle); }

} // namespace tenon::engine

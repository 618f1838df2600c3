// Engine, Library, Source and Module: the public classes over the engine's state.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/engine.h>

#include "api/border_state.h"
#include "base/guarded.h"
#include "engine/change_state.h"
#include "engine/host.h"

#include <dlfcn.h>

#include <algorithm>
#include <optional>

namespace tenon {

using base::guarded;

Result<Engine> Engine::create(const Options& options) {
  return guarded([&]() -> Result<Engine> {
    Result<std::shared_ptr<engine::EngineState>> state = engine::EngineState::create(options);
    if (!state) return std::move(state).error();
    return Engine(std::move(*state));
  });
}

Result<Library> Engine::library(std::string_view name, const LibraryOptions& options) {
  return guarded([&]() -> Result<Library> {
    Result<std::shared_ptr<engine::LibraryState>> library = state_->library(name, options);
    if (!library) return std::move(library).error();
    return Library(std::make_shared<Library::Handle>(state_, std::move(*library)));
  });
}

Change Engine::change() noexcept {
  try {
    return Change(std::make_unique<engine::ChangeState>(state_));
  } catch (const std::bad_alloc&) {
    return Change(nullptr);
  }
}

Result<std::vector<Delay>> Engine::collect() {
  return guarded([&]() -> Result<std::vector<Delay>> {
    Result<engine::Reclaimer*> reclaimer = engine::reclaimer_of(*state_);
    if (!reclaimer) return std::move(reclaimer).error();
    if (engine::collect_unreferenced(*state_)) engine::sweep(*state_);
    std::vector<Delay> delays;
    if (Result<std::size_t> checked = (*reclaimer)->check(&delays); !checked) return std::move(checked).error();
    return delays;
  });
}

Result<Border> Engine::border(std::string_view thread_name) {
  return guarded([&]() -> Result<Border> {
    Result<engine::Reclaimer*> reclaimer = engine::reclaimer_of(*state_);
    if (!reclaimer) return std::move(reclaimer).error();
    return Border(std::make_unique<Border::State>(state_, **reclaimer, thread_name));
  });
}

Result<void> Engine::declare_stack(Addr begin, Addr end) {
  return guarded([&]() -> Result<void> {
    Result<engine::Reclaimer*> reclaimer = engine::reclaimer_of(*state_);
    if (!reclaimer) return std::move(reclaimer).error();
    (*reclaimer)->stacks().declare_stack(begin, end);
    return {};
  });
}

void Engine::undeclare_stack(Addr begin) noexcept {
  if (state_->reclaimer) state_->reclaimer->stacks().undeclare_stack(begin);
}

const Options& Engine::options() const noexcept { return state_->options; }

namespace {

void count_modules(engine::EngineState& engine, EngineUsage& usage) noexcept {
  std::lock_guard lock(engine.commit_mutex);
  auto count = [&](const engine::ModuleState& module) {
    ++(module.auxiliary ? usage.superseded : usage.modules);
    usage.bookkeeping += module.bookkeeping();
  };
  for (const std::weak_ptr<engine::LibraryState>& weak : engine.libraries) {
    std::shared_ptr<engine::LibraryState> library = weak.lock();
    if (!library) continue;
    usage.symbols += library->symbols.size();
    usage.bookkeeping += library->symbols.bytes() + library->groups.bytes();
    for (const auto& module : library->modules) count(*module);
  }
  for (const auto& module : engine.removed) count(*module);
  usage.modules += engine.modules_leaving.load(std::memory_order_acquire);
  usage.superseded += engine.versions_leaving.load(std::memory_order_acquire);
}

} // namespace

EngineUsage Engine::usage() const noexcept {
  EngineUsage usage;
  count_modules(*state_, usage);
  // After these: what is not counted there any more is not in memory either.
  const memory::Space& space = *state_->machinery->space;
  for (std::size_t area = 0; area < memory::area_kinds; ++area) {
    memory::AreaUsage used = space.usage(memory::AreaKind(area));
    usage.reserved += used.reserved;
    usage.committed += used.committed;
    usage.live += used.live;
  }
  usage.frames = state_->machinery->frames ? space.slot_count() : 0;
  return usage;
}

Library::Handle::~Handle() {
  // A named library is its engine's; an anonymous one goes with its last handle, unless others still need its modules: then
  // it stays until they are gone, or the engine is.
  if (!state->name.empty() || state->closed) return;
  bool closed = false;
  try {
    closed = !state->collected && engine::close_library(*engine, state).ok();
  } catch (const std::bad_alloc&) {
    // Nothing was changed.
  }
  if (closed) return;
  {
    std::lock_guard lock(engine->commit_mutex);
    engine->orphans.push_back(state); // has the capacity
  }
  if (state->collected) engine::sweep(*engine); // closes it once its modules are gone
}

const std::string& Library::name() const noexcept { return handle_->state->name; }

Result<void> Library::search(std::vector<Source> sources) {
  return guarded([&]() -> Result<void> {
    for (const Source& source : sources)
      if (source.state().library && source.state().library->engine.lock() != handle_->engine)
        return Error{ErrorCode::invalid_argument, "a library can't search one of another engine"};
    auto shared = std::make_shared<const std::vector<Source>>(std::move(sources));
    std::unique_lock lock(handle_->engine->tables);
    handle_->state->sources.swap(shared);
    return {};
  });
}

Result<void> Library::define(std::span<const Absolute> symbols) {
  return guarded([&] { return engine::define(*handle_->engine, *handle_->state, symbols); });
}

namespace {

std::optional<Addr> address_of(const engine::SymbolRecord* record) noexcept {
  using namespace engine::symbol_flag;
  if (record == nullptr || (record->flags & (hidden | forward | tls)) != 0) return std::nullopt;
  return Addr{record->address()};
}

} // namespace

[[gnu::flatten]] std::optional<Addr> Library::find(std::string_view name) const noexcept {
  std::uint64_t hash = engine::hash_name(name);
  const base::SpreadMutex::Shared lock(handle_->engine->tables);
  return address_of(handle_->state->find_symbol(name, hash));
}

std::size_t Library::find(std::span<const std::string_view> names, std::span<Addr> addresses) const noexcept {
  std::size_t found = 0;
  std::shared_lock lock(handle_->engine->tables);
  for (std::size_t i = 0; i < names.size() && i < addresses.size(); ++i) {
    std::optional<Addr> address = address_of(handle_->state->find_symbol(names[i], engine::hash_name(names[i])));
    addresses[i] = address.value_or(Addr{});
    found += address ? 1 : 0;
  }
  return found;
}

namespace {

// Absent in an archive: a look-up links nothing in. `name` ends in a NUL.
Result<std::optional<Addr>> look_in(const Source::State& source, engine::EngineState& engine, const std::string& name) {
  switch (source.kind) {
  case Source::State::Kind::process:
  case Source::State::Kind::shared: {
    void* handle = source.kind == Source::State::Kind::process ? RTLD_DEFAULT : source.handle;
    std::optional<engine::HostSymbol> host = engine::host_symbol(handle, name.c_str(), false);
    return host ? std::optional(Addr{host->address}) : std::nullopt;
  }
  case Source::State::Kind::library: {
    std::shared_lock lock(engine.tables);
    return address_of(source.library->find_symbol(name, engine::hash_name(name)));
  }
  case Source::State::Kind::archive: return std::optional<Addr>();
  case Source::State::Kind::resolver: break;
  }
  Needed needed{name, true, false};
  Answer answer;
  if (Result<void> asked = source.resolver->resolve({&needed, 1}, {&answer, 1}); !asked) {
    Error error = std::move(asked).error();
    if (error.code != ErrorCode::out_of_memory) error.code = ErrorCode::resolver;
    return error;
  }
  return answer.kind == Answer::Kind::address ? std::optional(answer.address) : std::nullopt;
}

} // namespace

Result<std::optional<Addr>> Library::find_anywhere(std::string_view name) const {
  return guarded([&]() -> Result<std::optional<Addr>> {
    if (std::optional<Addr> own = find(name)) return own;
    std::shared_ptr<const std::vector<Source>> sources;
    {
      std::shared_lock lock(handle_->engine->tables);
      sources = handle_->state->sources;
    }
    std::string text(name);
    for (const Source& source : *sources) {
      Result<std::optional<Addr>> found = look_in(source.state(), *handle_->engine, text);
      if (!found || *found) return found;
    }
    return std::optional<Addr>();
  });
}

Result<Library::Pinned> Library::pin(std::string_view name) const {
  return guarded([&]() -> Result<Pinned> {
    std::shared_lock lock(handle_->engine->tables);
    const engine::SymbolRecord* record = handle_->state->find_symbol(name, engine::hash_name(name));
    std::optional<Addr> address = address_of(record);
    if (!address)
      return Error{ErrorCode::undefined, "library " + handle_->state->name + " has no symbol '" + std::string(name) + "'"};
    if (record->module() == nullptr) return Pinned{*address, handle_->engine};
    auto pinned = std::make_shared<engine::Pin>(handle_->engine, record->module()->shared_from_this());
    engine::reach(handle_->engine->collection, *record->module());
    return Pinned{*address, std::move(pinned)};
  });
}

Result<Kept> Library::keep(std::string_view name) const {
  Result<Pinned> pinned = pin(name);
  if (!pinned) return std::move(pinned).error();
  return Kept(pinned->address, std::move(pinned->keeps));
}

Result<Kept> Library::keep(const Module& module) const {
  return guarded([&]() -> Result<Kept> {
    const std::shared_ptr<engine::ModuleState>& state = module.state();
    if (state->library.lock() != handle_->state)
      return Error{ErrorCode::invalid_argument, "module " + state->name + " is not of library " + handle_->state->name};
    std::shared_lock lock(handle_->engine->tables);
    if (!state->live.load(std::memory_order_relaxed) || engine::is_dead(handle_->engine->collection, *state))
      return Error{ErrorCode::undefined, "module " + state->name + " has been removed or collected"};
    auto pinned = std::make_shared<engine::Pin>(handle_->engine, state);
    engine::reach(handle_->engine->collection, *state);
    return Kept({}, std::move(pinned));
  });
}

Result<std::vector<Module>> Library::modules() const {
  return guarded([&]() -> Result<std::vector<Module>> {
    std::vector<Module> modules;
    {
      std::lock_guard lock(handle_->engine->commit_mutex);
      modules.reserve(handle_->state->modules.size());
      for (const auto& module : handle_->state->modules)
        if (!engine::is_dead(handle_->engine->collection, *module)) modules.emplace_back(module);
    }
    std::sort(modules.begin(), modules.end(),
              [](const Module& a, const Module& b) { return a.state()->sequence < b.state()->sequence; });
    return modules;
  });
}

Result<void> Library::close(Quiet quiet) {
  return guarded([&] { return engine::close_library(*handle_->engine, handle_->state, quiet); });
}

Source Source::process() noexcept { return Source(State{}); }

Source Source::shared(void* dlopen_handle) noexcept {
  State state;
  state.kind = State::Kind::shared;
  state.handle = dlopen_handle;
  return Source(std::move(state));
}

Source Source::library(const Library& library) noexcept {
  State state;
  state.kind = State::Kind::library;
  state.library = library.handle().state;
  return Source(std::move(state));
}

Source Source::archive(Archive archive) noexcept {
  State state;
  state.kind = State::Kind::archive;
  state.archive = std::move(archive);
  return Source(std::move(state));
}

Source Source::resolver(std::shared_ptr<Resolver> resolver) noexcept {
  State state;
  state.kind = State::Kind::resolver;
  state.resolver = std::move(resolver);
  return Source(std::move(state));
}

const std::string& Module::name() const noexcept { return state_->name; }
bool Module::linked() const noexcept { return state_->live.load(std::memory_order_acquire); }

Result<void> Module::touch_thread_locals() const {
  std::shared_ptr<engine::LibraryState> library = state_->library.lock();
  std::shared_ptr<engine::EngineState> owner = library ? library->engine.lock() : nullptr;
  if (owner == nullptr) return {};
  std::optional<engine::Pin> pin; // whose end may sweep, which needs the lock
  std::shared_ptr<engine::TlsBlock> block;
  {
    std::lock_guard lock(owner->commit_mutex); // a new version may be taking the old one's place
    if (!linked() || state_->extra().tls == nullptr) return {};
    pin.emplace(owner, state_);
    block = state_->extra().tls;
  }
  const bool touched = engine::touch_tls(block->key);
  block.reset(); // before the memory that its content lies in
  return touched ? Result<void>() : base::out_of_memory();
}

Usage Module::usage() const noexcept {
  std::shared_ptr<engine::LibraryState> library = state_->library.lock();
  std::shared_ptr<engine::EngineState> owner = library ? library->engine.lock() : nullptr;
  if (owner == nullptr) return state_->usage();
  std::lock_guard lock(owner->commit_mutex); // a new version may be taking the old one's place
  return state_->usage();
}

} // namespace tenon

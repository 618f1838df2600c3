// The stages of a change: each hands the one state to the next.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/change.h>

#include "base/check.h"
#include "base/guarded.h"
#include "engine/at_once.h"
#include "engine/change_state.h"

#include <algorithm>
#include <cstring>

namespace tenon {

using base::guarded;

Change::Change(std::unique_ptr<engine::ChangeState> state) noexcept
    : state_(std::move(state)), starved_(state_ == nullptr) {}
Change::Change(Change&&) noexcept = default;
Change& Change::operator=(Change&&) noexcept = default;
Change::~Change() = default;
Draft::Draft(std::unique_ptr<engine::ChangeState> state) noexcept : state_(std::move(state)) {}
Draft::Draft(Draft&&) noexcept = default;
Draft& Draft::operator=(Draft&&) noexcept = default;
Draft::~Draft() = default;
Placed::Placed(std::unique_ptr<engine::ChangeState> state) noexcept : state_(std::move(state)) {}
Placed::Placed(Placed&&) noexcept = default;
Placed& Placed::operator=(Placed&&) noexcept = default;
Placed::~Placed() = default;
Linked::Linked(std::unique_ptr<engine::ChangeState> state) noexcept : state_(std::move(state)) {}
Linked::Linked(Linked&&) noexcept = default;
Linked& Linked::operator=(Linked&&) noexcept = default;
Linked::~Linked() = default;

namespace {

// Stages are consumed; using one twice is a bug of the caller.
std::unique_ptr<engine::ChangeState> take(std::unique_ptr<engine::ChangeState>& state) {
  TENON_CHECK(state != nullptr, "a stage of a change was used after it had been consumed");
  return std::move(state);
}

void misuse(engine::ChangeState& state, std::string text) {
  if (!state.misuse) state.misuse = Error{ErrorCode::invalid_argument, std::move(text)};
}

// Compares as lock() would, without counting.
template <class T> bool is_same(const std::weak_ptr<T>& weak, const std::shared_ptr<T>& strong) noexcept {
  return !weak.owner_before(strong) && !strong.owner_before(weak);
}

// An allocation that fails while a change is collected is reported by draft().
template <class F> void collected(engine::ChangeState& state, F&& body) noexcept {
  try {
    body();
  } catch (const std::bad_alloc&) {
    if (!state.misuse) state.misuse = base::out_of_memory();
  }
}

} // namespace

ModuleId Change::add(const Library& library, Object object, ModuleOptions options) noexcept {
  if (starved_) return {};
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  ModuleId id{std::uint32_t(state_->additions.size())};
  collected(*state_, [&] {
    if (library.handle().engine != state_->engine)
      return misuse(*state_, "the library of module " + object.name() + " belongs to another engine");
    std::uint32_t index = state_->library_index(library.handle().state);
    if (state_->additions.capacity() == 0) state_->additions.reserve(2);
    state_->additions.emplace_back(index, false, std::move(object), std::move(options), nullptr, nullptr);
  });
  return id;
}

namespace {

// The module's library; null, and what is wrong noted, if it can't be replaced by this change.
std::shared_ptr<engine::LibraryState> library_to_replace_in(engine::ChangeState& state, const Module& module, bool partial) {
  std::shared_ptr<engine::LibraryState> library = module.state()->library.lock();
  auto refuse = [&](std::string text) {
    misuse(state, "module " + module.name() + text);
    return nullptr;
  };
  if (library == nullptr || library->engine.lock() != state.engine) return refuse(" belongs to another engine, or to none");
  if (!library->replaceable) return refuse(" can't be replaced: its library was made without the option replaceable");
  for (const engine::Addition& addition : state.additions)
    if (addition.replaces == module.state() && !(partial && addition.partial))
      return refuse(" is replaced twice in one change");
  for (const auto& leaving : state.removals)
    if (leaving == module.state()) return refuse(" is both removed and replaced");
  for (const engine::Unload& unload : state.unloads)
    if (unload.module == module.state()) return refuse(" is both unloaded and replaced");
  return library;
}

} // namespace

ModuleId Change::replace(Module module, Object object, DataPolicy data, ModuleOptions options) noexcept {
  if (starved_) return {};
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  ModuleId id{std::uint32_t(state_->additions.size())};
  collected(*state_, [&] {
    std::shared_ptr<engine::LibraryState> library = library_to_replace_in(*state_, module, false);
    if (library == nullptr) return;
    std::uint32_t index = state_->library_index(library);
    if (options.name.empty()) options.name = module.name();
    state_->additions.push_back({index, false, std::move(object), std::move(options), module.state(),
                                 std::make_shared<const engine::Replacing>(engine::Replacing{std::move(data), {}})});
  });
  return id;
}

ModuleId Change::replace_functions(Module module, Object object, std::vector<std::string> functions, DataPolicy data,
                                   ModuleOptions options) noexcept {
  if (starved_) return {};
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  ModuleId id{std::uint32_t(state_->additions.size())};
  collected(*state_, [&] {
    std::shared_ptr<engine::LibraryState> library = library_to_replace_in(*state_, module, true);
    if (library == nullptr) return;
    std::uint32_t index = state_->library_index(library);
    if (options.name.empty()) options.name = module.name();
    auto how = std::make_shared<const engine::Replacing>(engine::Replacing{std::move(data), std::move(functions)});
    state_->additions.push_back({index, true, std::move(object), std::move(options), module.state(), std::move(how)});
  });
  return id;
}

void Change::remove(Module module, Quiet quiet) noexcept {
  if (starved_) return;
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  collected(*state_, [&] {
    engine::prefetch(*module.state());
    for (const auto& there : state_->removals)
      if (there == module.state()) return misuse(*state_, "module " + module.name() + " is removed twice in one change");
    for (const engine::Addition& addition : state_->additions)
      if (addition.replaces == module.state())
        return misuse(*state_, "module " + module.name() + " is both removed and replaced");
    for (const engine::Unload& unload : state_->unloads)
      if (unload.module == module.state())
        return misuse(*state_, "module " + module.name() + " is both unloaded and removed");
    std::shared_ptr<engine::LibraryState> library = module.state()->library.lock();
    if (library == nullptr || !is_same(library->engine, state_->engine))
      return misuse(*state_, "module " + module.name() + " belongs to another engine, or to none");
    state_->removals.push_back(module.state());
    if (quiet == Quiet::caller_guarantees) state_->quiet.push_back(module.state().get());
    state_->leaving = std::move(library);
  });
}

namespace {

// Its library, if modules of that can be replaced by this change.
std::shared_ptr<engine::LibraryState> replaceable_library(engine::ChangeState& state, const Module& module,
                                                          std::string_view done) {
  std::shared_ptr<engine::LibraryState> library = module.state()->library.lock();
  if (library == nullptr || library->engine.lock() != state.engine) {
    misuse(state, "module " + module.name() + " belongs to another engine, or to none");
    return nullptr;
  }
  if (library->replaceable) return library;
  misuse(state, "module " + module.name() + " can't be " + std::string(done) +
                    ": its library was made without the option replaceable");
  return nullptr;
}

void collect_lead(engine::ChangeState& state, const Module& module, std::string name, std::string to, Addr address) {
  if (replaceable_library(state, module, "led elsewhere") == nullptr) return;
  for (const engine::Lead& lead : state.leads)
    if (lead.module == module.state() && lead.name == name)
      return misuse(state, "'" + name + "' of module " + module.name() + " is led elsewhere twice in one change");
  state.leads.push_back({module.state(), std::move(name), std::move(to), address});
}

} // namespace

void Change::unload(Module module, Recall recall) noexcept {
  if (starved_) return;
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  collected(*state_, [&] {
    std::shared_ptr<engine::LibraryState> library = replaceable_library(*state_, module, "unloaded");
    if (library == nullptr) return;
    auto is_it = [&](const std::shared_ptr<engine::ModuleState>& other) { return other == module.state(); };
    if (std::any_of(state_->additions.begin(), state_->additions.end(), [&](const auto& a) { return is_it(a.replaces); }) ||
        std::any_of(state_->removals.begin(), state_->removals.end(), is_it) ||
        std::any_of(state_->unloads.begin(), state_->unloads.end(), [&](const auto& u) { return is_it(u.module); }))
      return misuse(*state_, "module " + module.name() + " is unloaded, and something else, in one change");
    (void)state_->library_index(library);
    state_->unloads.push_back({module.state(), std::move(recall), nullptr, {}});
  });
}

void Change::lead(Module module, std::string name, std::string to) noexcept {
  if (starved_) return;
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  collected(*state_, [&] {
    if (to.empty()) return misuse(*state_, "'" + name + "' of module " + module.name() + " is to be led to no name");
    collect_lead(*state_, module, std::move(name), std::move(to), {});
  });
}

void Change::lead(Module module, std::string name, Addr to) noexcept {
  if (starved_) return;
  TENON_CHECK(state_ != nullptr, "a change was used after it had been consumed");
  collected(*state_, [&] { collect_lead(*state_, module, std::move(name), {}, to); });
}

Result<Draft> Change::draft() && {
  if (starved_) return base::out_of_memory();
  return guarded([&]() -> Result<Draft> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    if (Result<void> drafted = engine::draft(*state); !drafted) return std::move(drafted).error();
    return Draft(std::move(state));
  });
}

Edit Edit::rename(ModuleId module, std::string symbol, std::string new_name) noexcept {
  return {Kind::rename, module, std::move(symbol), std::move(new_name), {}};
}
Edit Edit::localize(ModuleId module, std::string symbol) noexcept {
  return {Kind::localize, module, std::move(symbol), {}, {}};
}
Edit Edit::bind(ModuleId module, std::string symbol, Addr address) noexcept {
  return {Kind::bind, module, std::move(symbol), {}, address};
}

std::span<const ModuleLayout> Draft::layouts() const noexcept {
  engine::describe_layouts(*state_);
  return state_->shown.layouts();
}
std::span<const Missing> Draft::undefined() const noexcept { return state_->missing; }
std::span<const Warning> Draft::warnings() const noexcept { return state_->warnings; }
const Object& Draft::object(ModuleId module) const noexcept { return state_->modules[module.index]->object; }

Result<std::vector<BlockRequest>> Draft::blocks(Granularity granularity) const {
  return guarded([&]() -> Result<std::vector<BlockRequest>> { return engine::client_requests(*state_, granularity); });
}

Result<void> Draft::edit(std::vector<Edit> edits) {
  return guarded([&]() -> Result<void> {
    Result<std::unique_ptr<engine::ChangeState>> edited = engine::edit(*state_, std::move(edits));
    if (!edited) return std::move(edited).error();
    state_ = std::move(*edited);
    return {};
  });
}

namespace {

constexpr int attempts = 100;

// Another thread may have committed the same COMDAT groups, replaced the same module or taken away what this change found,
// since the draft: then it is drafted anew from its inputs. Where the client knows addresses or bytes, or provides the
// memory, it has to do that itself.
bool may_begin_anew(const engine::ChangeState& state, const Error& error, int attempt) noexcept {
  return error.code == ErrorCode::conflict && state.mode == engine::PlaceMode::engine && !state.observed &&
         attempt < attempts;
}

Result<void> place(engine::ChangeState& state) {
  for (int attempt = 0;; ++attempt) {
    Result<void> placed = engine::place_in_engine(state);
    if (placed || !may_begin_anew(state, placed.error(), attempt)) return placed;
    state.undo_draft();
    if (Result<void> drafted = engine::draft(state); !drafted) return drafted;
  }
}

Result<void> place_anew(engine::ChangeState& state) {
  state.undo_draft();
  if (Result<void> drafted = engine::draft(state); !drafted) return drafted;
  return place(state);
}

} // namespace

Result<Placed> Draft::place() && {
  return guarded([&]() -> Result<Placed> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    if (Result<void> placed = tenon::place(*state); !placed) return std::move(placed).error();
    return Placed(std::move(state));
  });
}

Result<Placed> Draft::place(Memory& memory) && {
  return guarded([&]() -> Result<Placed> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    if (Result<void> placed = engine::place_in_client(*state, memory); !placed) return std::move(placed).error();
    return Placed(std::move(state));
  });
}

Result<Placed> Draft::place(Granularity granularity, std::span<const Addr> addresses) && {
  return guarded([&]() -> Result<Placed> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    if (Result<void> placed = engine::place_at(*state, granularity, addresses); !placed) return std::move(placed).error();
    return Placed(std::move(state));
  });
}

std::span<const PlacedSection> Placed::sections() const noexcept {
  state_->observed = true;
  engine::describe_places(*state_);
  return state_->shown.places();
}

namespace {

Result<Linked> linked(std::unique_ptr<engine::ChangeState> state) {
  for (int attempt = 0;; ++attempt) {
    Result<void> done = engine::link_bytes(*state);
    if (done) break;
    if (!may_begin_anew(*state, done.error(), attempt)) return std::move(done).error();
    if (Result<void> placed = place_anew(*state); !placed) return std::move(placed).error();
  }
  if (!state->inspector) return Linked(std::move(state));
  // What the inspector looks at is not held against the change: should it be linked anew, the inspector is asked again.
  Inspector inspector = state->inspector;
  engine::ChangeState& inspected = *state;
  bool observed = inspected.observed;
  Linked result(std::move(state));
  Result<void> passed = inspector(result);
  inspected.observed = observed;
  if (!passed) {
    Error error = std::move(passed).error();
    error.code = ErrorCode::vetoed;
    return std::move(error).within("the inspector rejects the change");
  }
  return result;
}

} // namespace

Result<Linked> Placed::link(const Inspector& inspector) && {
  return guarded([&]() -> Result<Linked> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    state->inspector = inspector;
    return linked(std::move(state));
  });
}

std::span<const PlacedSection> Linked::sections() const noexcept {
  state_->observed = true;
  engine::describe_places(*state_);
  return state_->shown.places();
}
std::string_view Linked::module_name(ModuleId module) const noexcept { return state_->modules[module.index]->name; }
const Object& Linked::object(ModuleId module) const noexcept { return state_->modules[module.index]->object; }

Bytes Linked::bytes(SectionId section) const noexcept {
  state_->observed = true;
  if (section.module.index >= state_->modules.size()) return {};
  const link::Module& module = *state_->modules[section.module.index];
  if (section.index >= module.places.size() || module.places[section.index].local == nullptr) return {};
  return {module.places[section.index].local, module.places[section.index].content_size()};
}

std::span<const Relocation> Linked::relocations(SectionId section) const noexcept {
  if (section.module.index >= state_->modules.size()) return {};
  const link::Module& module = *state_->modules[section.module.index];
  return section.index < module.object_sections() ? module.object.relocations(section.index) : std::span<const Relocation>();
}

Result<std::vector<PlacedSymbol>> Linked::symbols() const {
  state_->observed = true;
  return guarded([&]() -> Result<std::vector<PlacedSymbol>> { return engine::placed_symbols(*state_); });
}

Result<std::vector<LinkerEntry>> Linked::entries() const {
  state_->observed = true;
  return guarded([&]() -> Result<std::vector<LinkerEntry>> { return engine::linker_entries(*state_); });
}

Result<std::vector<Branch>> Linked::branches() const {
  state_->observed = true;
  return guarded([&]() -> Result<std::vector<Branch>> { return engine::direct_branches(*state_); });
}

Result<void> Linked::copy_out(std::span<const std::span<std::byte>> buffers) const {
  return guarded([&] { return engine::copy_out(*state_, buffers); });
}

Result<Committed> Linked::commit(Initialize initialize, Switch how) && {
  return guarded([&]() -> Result<Committed> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    state->atomic = how == Switch::atomic;
    for (int attempt = 0;; ++attempt) {
      std::shared_ptr<const void> keeps;
      Result<std::vector<Module>> modules = engine::commit(*state, initialize == Initialize::run, keeps);
      if (modules) return Committed(std::move(*modules), std::move(keeps));
      if (!may_begin_anew(*state, modules.error(), attempt)) return std::move(modules).error();
      if (Result<void> placed = place_anew(*state); !placed) return std::move(placed).error();
      Result<Linked> again = linked(std::move(state));
      if (!again) return std::move(again).error();
      state = std::move(again->state_);
    }
  });
}

Module Committed::module(ModuleId id) const noexcept { return modules_[id.index]; }

struct Code::State {
  std::weak_ptr<engine::EngineState> engine;
  std::shared_ptr<engine::Machinery> machinery;
  std::vector<std::shared_ptr<engine::ModuleState>> modules;
  std::vector<std::shared_ptr<engine::ModuleState>> needed; // of the engine's, kept even when the engine is gone

  ~State() {
    engine::finalize_all(modules);
    std::shared_ptr<engine::EngineState> alive = engine.lock();
    if (alive) engine::end_released(*alive, modules);
    // What waits for the end of a thread keeps its module until then.
    bool all = true;
    for (const auto& module : modules)
      if (module->pins.load(std::memory_order_acquire) == 0)
        module->release_memory();
      else
        all = false;
    engine::unpin_needed(*machinery, needed);
    if (all) machinery->codes.fetch_sub(1, std::memory_order_release);
    if (alive) engine::sweep(*alive);
  }
};

Result<Code> Linked::release(Initialize initialize) && {
  return guarded([&]() -> Result<Code> {
    std::unique_ptr<engine::ChangeState> state = take(state_);
    auto code = std::make_shared<Code::State>();
    code->engine = state->engine;
    code->machinery = state->engine->machinery;
    code->machinery->codes.fetch_add(1, std::memory_order_relaxed);
    Result<std::vector<std::shared_ptr<engine::ModuleState>>> modules =
        engine::release(*state, code->needed, initialize == Initialize::run);
    if (!modules) return std::move(modules).error();
    code->modules = std::move(*modules);
    return Code(std::move(code));
  });
}

std::optional<Addr> Code::find(std::string_view name) const noexcept {
  std::optional<Addr> found;
  for (const auto& module : state_->modules)
    module->for_each_record([&](const engine::SymbolRecord& record) {
      constexpr auto skipped = engine::symbol_flag::hidden | engine::symbol_flag::group | engine::symbol_flag::tls;
      if (!found && (record.flags & skipped) == 0 && record.name() == name) found = Addr{record.address()};
    });
  return found;
}

Usage Code::usage() const noexcept {
  Usage sum;
  for (const auto& module : state_->modules) {
    const Usage u = module->usage();
    sum.code += u.code;
    sum.rodata += u.rodata;
    sum.data += u.data;
    sum.stubs += u.stubs;
    sum.got += u.got;
    sum.slots += u.slots;
    sum.tls += u.tls;
    sum.unwind += u.unwind;
    sum.bookkeeping += u.bookkeeping;
  }
  return sum;
}

} // namespace tenon

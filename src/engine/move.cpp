// The copy is made, and takes over.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/move.h"

#include "engine/move_plan.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

namespace tenon::engine {

namespace {

Error cannot_move(const std::string& module, std::string_view why) {
  return {ErrorCode::unsupported, "module " + module + " can't be moved: " + std::string(why)};
}

// Under commit_mutex.
Result<void> check_movable(const EngineState& engine, const ModuleState& module, const ModuleState& holder) {
  if (!module.live.load(std::memory_order_relaxed))
    return Error{ErrorCode::conflict, "module " + module.name + " has been removed already"};
  if (&holder != &module && (holder.superseded || holder.rare().fragment_of != &module))
    return Error{ErrorCode::conflict, "functions of module " + module.name + " were replaced meanwhile"};
  if (holder.extra().recalls != nullptr) return cannot_move(module.name, "it is unloaded, and has no code");
  if (module.replaceable == nullptr || holder.extra().client.memory != nullptr)
    return cannot_move(module.name, "addresses of its functions may be anywhere; only modules of replaceable libraries that "
                                    "lie in the engine's memory can");
  const bool shrinking = std::any_of(engine.removed.begin(), engine.removed.end(),
                                     [&](const auto& other) { return other->rare().stale_of == holder.extra().serial; });
  if (engine.stale_parts != 0 && shrinking)
    return Error{ErrorCode::conflict, "module " + module.name +
                                          " can't be moved now: functions of it that were replaced singly are not free yet"};
  if (engine.machinery->space->mapping() != memory::Mapping::dual)
    return cannot_move(module.name, "the engine has a single mapping of its memory, in which code is never written");
  return {};
}

Result<std::vector<std::uint32_t>> find_seeds(const MoveSnapshot& snapshot, const ModuleState& holder,
                                              const MoveRequest& request) {
  std::vector<std::uint32_t> seeds;
  if (!request.function.empty()) {
    for (std::size_t i = 0; i < holder.extra().functions.size(); ++i)
      if (holder.extra().functions[i].definition->name == request.function && snapshot.functions[i].section != link::none)
        seeds.push_back(snapshot.functions[i].section);
    if (!seeds.empty()) return seeds;
    return Error{ErrorCode::undefined,
                 "module " + snapshot.name + " has no function '" + std::string(request.function) + "' that could be moved"};
  }
  const bool all = request.within.begin == request.within.end;
  for (std::uint32_t i = 0; i < snapshot.places.size(); ++i) {
    const Addr address{snapshot.places[i].address};
    if (snapshot.is_code(i) && (all || (address >= request.within.begin && address < request.within.end)))
      seeds.push_back(i);
  }
  return seeds;
}

// Memory with the copy in it, which the unwinder knows.
struct Copy {
  OwnedBlock code;
  std::shared_ptr<OwnedBlock> data; // gone after the code's frames
  MovedBytes bytes;
};

Result<OwnedBlock> allocate(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area, std::uint64_t size,
                            std::uint64_t alignment, std::uint32_t frames, std::optional<Addr> below) {
  Result<OwnedBlock> block =
      OwnedBlock::allocate_low(machinery, area, size, alignment, frames, below.value_or(machinery->space->area_end(area)));
  if (block || below || block.error().code != ErrorCode::exhausted) return block;
  return OwnedBlock::allocate(machinery, area, size, alignment, frames);
}

Result<void> make_copy(const std::shared_ptr<Machinery>& machinery, const MoveSnapshot& snapshot, const MovePlan& plan,
                       bool lower, Copy& copy) {
  if (plan.data_size != 0) {
    Result<OwnedBlock> data = allocate(machinery, memory::AreaKind::rodata, plan.data_size, 16, 0, std::nullopt);
    if (!data) return std::move(data).error();
    copy.data = std::make_shared<OwnedBlock>(std::move(*data));
  }
  Result<OwnedBlock> code = allocate(machinery, memory::AreaKind::code, plan.code_size, plan.code_alignment,
                                     plan.frame_entries(), lower ? std::optional(Addr{plan.lowest}) : std::nullopt);
  if (!code) return std::move(code).error();
  copy.code = std::move(*code);
  const Addr data_at = copy.data != nullptr ? (*copy.data)->begin : Addr{};
  Result<MovedBytes> bytes = move_bytes(snapshot, plan, copy.code->begin.value, data_at.value);
  if (!bytes) return std::move(bytes).error();
  copy.bytes = std::move(*bytes);
  memory::Space& space = *machinery->space;
  memory::WriteGuard guard(space);
  std::copy(copy.bytes.code.begin(), copy.bytes.code.end(), space.writable(copy.code->begin));
  if (copy.data != nullptr) std::copy(copy.bytes.data.begin(), copy.bytes.data.end(), space.writable(data_at));
  if (machinery->frames) machinery->frames->add(*copy.code, copy.bytes.frames);
  return {};
}

// Under commit_mutex: everything that needs memory, then what can't fail.
class Exchange {
public:
  Exchange(EngineState& engine, const std::shared_ptr<ModuleState>& module, ModuleState& holder,
           const MoveSnapshot& snapshot, const MovePlan& plan, Copy& copy)
      : engine_(engine), module_(module), holder_(holder), s_(snapshot), plan_(plan), copy_(copy),
        moved_(snapshot.places.size()) {
    for (const MovePlan::Section& section : plan_.sections) moved_[section.index] = 1;
  }

  // Errors: conflict.
  Result<void> prepare() {
    if (engine_.last.capacity() < engine_.module_count + 1)
      engine_.last.reserve(std::max(engine_.module_count + 1, engine_.last.capacity() * 2));
    // Frames at earlier places go through stubs that lie here until now.
    if (plan_.stubs)
      for_each_before([](ModuleState& before) { before.dependencies.reserve(before.dependencies.size() + 2); });
    before_.push_back(make_full_state());
    old().name = module_->name;
    old().extra().functions.reserve(plan_.functions);
    functions_.reserve(holder_.extra().functions.size());
    for (std::size_t i = 0; i < holder_.extra().functions.size(); ++i) {
      const OwnFunction& function = holder_.extra().functions[i];
      const std::uint32_t section = s_.functions[i].section;
      const bool moves = section != link::none && moved_[section] != 0;
      functions_.push_back(function);
      if (!moves) continue;
      if (function.definition->choice != nullptr)
        return Error{ErrorCode::conflict,
                     "module " + module_->name + " can't be moved now: it is part of an atomic commit that is not over yet"};
      functions_.back().address += std::uint64_t(copy_.bytes.distance[section]);
      bodies_.emplace_back(function, functions_.back().address);
      old().extra().functions.push_back(function);
      if (function.definition->address == function.address) retargets_.push_back(functions_.back());
    }
    std::sort(functions_.begin(), functions_.end(),
              [](const OwnFunction& a, const OwnFunction& b) { return a.address < b.address; });
    prepare_uses();
    prepare_references();
    base::List<std::uint32_t> sections;
    for (const MovePlan::Section& section : plan_.sections) sections.push_back(section.index);
    holder_.extra().copies.reserve(holder_.extra().copies.size() + 1);
    copies_.emplace_back(copy_.data, std::move(sections));
    divide_blocks();
    return {};
  }

  // Fails no more.
  void commit() noexcept {
    ++holder_.extra().moves;
    take_over_places();
    take_over_uses();
    old().rare().current = module_;
    old().superseded = old().removed = old().auxiliary = old().waiting = true;
    old().rare().moved_of = holder_.extra().serial;
    old().extra().initializing = holder_.extra().initializing;
    old().opaque = holder_.opaque;
    old().library = module_->library;
    old().sequence = module_->sequence;
    memory::Space& space = *engine_.machinery->space;
    for (const OwnFunction& moved : retargets_) retarget(space, *moved.definition, moved.address);
    take_frozen_along(space);
    if (plan_.stubs)
      for_each_before([&](ModuleState& before) { before.dependencies.push_back({&old(), nullptr, ""}); }); // has the room
    ++engine_.module_count;
    engine_.removed.splice(engine_.removed.end(), before_);
  }

private:
  ModuleState& old() noexcept { return *before_.front(); }

  // Earlier places that are not free yet.
  template <class Visit> void for_each_before(Visit&& visit) {
    for (const std::shared_ptr<ModuleState>& before : engine_.removed)
      if (before->rare().moved_of != 0 && before->rare().moved_of == holder_.extra().serial) visit(*before);
  }

  // The distance that a site goes.
  std::int64_t distance_of(std::uint64_t address) const noexcept {
    auto after = std::upper_bound(
        plan_.sections.begin(), plan_.sections.end(), address,
        [&](std::uint64_t a, const MovePlan::Section& section) { return a < s_.places[section.index].address; });
    // Empty sections may begin where another one does.
    while (after != plan_.sections.begin()) {
      const std::uint32_t section = (--after)->index;
      if (address - s_.places[section].address < s_.places[section].size) return copy_.bytes.distance[section];
      if (s_.places[section].size != 0) break;
    }
    return 0;
  }

  // Old frames have the sites in the old code; the version has those in the new.
  void prepare_uses() {
    uses_ = holder_.extra().uses;
    sites_.reserve(holder_.extra().sites.size());
    old().extra().uses = holder_.extra().uses;
    old().extra().sites.reserve(holder_.extra().sites.size());
    for (std::size_t i = 0; i < uses_.size(); ++i) {
      const std::size_t first = sites_.size(), first_old = old().extra().sites.size();
      for (std::uint64_t site : holder_.extra().uses[i].sites) {
        const std::int64_t distance = distance_of(site);
        if (distance != 0) old().extra().sites.push_back(site);
        sites_.push_back(site + std::uint64_t(distance));
      }
      uses_[i].sites = std::span<const std::uint64_t>(sites_).subspan(first);
      old().extra().uses[i].sites = std::span<const std::uint64_t>(old().extra().sites).subspan(first_old);
    }
  }

  // What old frames may need for as long as there are any, whatever becomes of the module meanwhile.
  void prepare_references() {
    old().dependencies.reserve(holder_.dependencies.size() + 1); // one for leave_moved()
    old().dependencies = holder_.dependencies;
    for (Dependency& dependency : old().dependencies) dependency.symbol = ""; // may go before
    old().groups = holder_.groups;
    old().extra().copies.reserve(holder_.extra().copies.size());
    for (const MovedCopy& copy : holder_.extra().copies) old().extra().copies.push_back({copy.block, {}});
    old().extra().borrowed = holder_.extra().borrowed;
    auto borrow = [&](const auto& block) {
      if (block && block->area != memory::AreaKind::code) old().extra().borrowed.push_back({block->begin, block->end()});
    };
    for (const RunBlocks::View& block : holder_.blocks.all()) borrow(block);
    for (const OwnedBlock& part : holder_.extra().parts) borrow(part);
  }

  // The old code's memory goes; what shares a granule with code that stays does not.
  void divide_blocks() {
    std::vector<Stretch> kept;
    for (std::uint32_t i = 0; i < s_.places.size(); ++i)
      if (const link::SectionPlace& place = s_.places[i]; s_.is_code(i) && moved_[i] == 0)
        kept.push_back({{place.address}, {place.address + place.size}});
    kept = whole_granules(std::move(kept));
    const std::size_t most = (holder_.extra().parts.size() + 1) * (2 * kept.size() + 2);
    std::vector<OwnedBlock> pieces, gone;
    pieces.reserve(most);
    gone.reserve(most);
    holder_.extra().parts.reserve(holder_.extra().parts.size() + 1 + 2 * most);
    old().extra().parts.reserve(most);
    auto is_code = [](const OwnedBlock& block) { return block && block->area == memory::AreaKind::code; };
    auto take = [&](OwnedBlock& block) {
      if (is_code(block)) pieces.push_back(std::move(block));
    };
    if (OwnedBlock block = holder_.blocks.take(link::Run::code)) pieces.push_back(std::move(block));
    for (OwnedBlock& part : holder_.extra().parts) take(part);
    auto put_back = [&](std::vector<OwnedBlock>& from) {
      for (OwnedBlock& piece : from)
        if (piece) holder_.extra().parts.push_back(std::move(piece)); // has the room
    };
    try {
      for (std::size_t i = 0, count = pieces.size(); i < count; ++i) OwnedBlock::keep_only(pieces, i, kept, gone);
    } catch (const std::bad_alloc&) {
      base::erase_if(holder_.extra().parts, [](const OwnedBlock& part) { return !part; });
      put_back(pieces);
      put_back(gone);
      throw;
    }
    base::erase_if(holder_.extra().parts, [](const OwnedBlock& part) { return !part; });
    put_back(pieces);
    for (OwnedBlock& piece : gone) old().extra().parts.push_back(std::move(piece)); // has the room
  }

  void take_over_places() noexcept {
    holder_.blocks.put(link::Run::code, std::move(copy_.code));
    for (MovedCopy& copy : holder_.extra().copies)
      base::erase_if(copy.sections, [&](std::uint32_t section) { return moved_[section] != 0; });
    base::erase_if(holder_.extra().copies, [](const MovedCopy& copy) { return copy.sections.empty(); });
    if (copy_.data != nullptr) holder_.extra().copies.push_back(std::move(copies_.front())); // has the room
    for (const MovePlan::Section& section : plan_.sections)
      holder_.linking.move(section.index, std::uint64_t(copy_.bytes.distance[section.index]));
    holder_.extra().functions.swap(functions_);
    holder_.extra().graph.reset(); // made of addresses
  }

  void take_over_uses() noexcept {
    memory::Space& space = *engine_.machinery->space;
    memory::WriteGuard guard(space);
    for (std::size_t i = 0; i < uses_.size(); ++i) {
      Use& use = holder_.extra().uses[i];
      uses_[i].bound = old().extra().uses[i].bound = use.bound;
      unlink_use(use);
    }
    holder_.extra().uses.swap(uses_);
    holder_.extra().sites.swap(sites_);
    for (Use& use : holder_.extra().uses) {
      bind_sites(space, use, use.bound); // nobody runs the new code yet
      link_use(use);
    }
    for (Use& use : old().extra().uses) link_use(use);
  }

  // Members of sets that were exchanged atomically call each other for as long as there are frames in them. One whose body
  // is part of a live version, because other functions share its section, may be among what is moved.
  void take_frozen_along(memory::Space& space) noexcept {
    memory::WriteGuard guard(space);
    for (const auto& [function, address] : bodies_)
      for (Use* use = function.definition->uses; use != nullptr; use = use->next)
        if (use->frozen && use->bound == function.address) bind_sites(space, *use, address);
  }

  EngineState& engine_;
  const std::shared_ptr<ModuleState>& module_;
  ModuleState& holder_;
  const MoveSnapshot& s_;
  const MovePlan& plan_;
  Copy& copy_;
  ModuleList before_; // the old place, for EngineState::removed
  std::vector<std::uint8_t> moved_;
  base::List<OwnFunction> functions_;
  std::vector<OwnFunction> retargets_;
  std::vector<std::pair<OwnFunction, std::uint64_t>> bodies_; // of all that moves, with their new addresses
  base::List<Use> uses_;
  base::List<std::uint64_t> sites_;
  std::vector<MovedCopy> copies_;
};

// Nothing: what the snapshot was taken of has changed.
Result<std::optional<Moved>> try_move(EngineState& engine, const std::shared_ptr<ModuleState>& module, ModuleState& holder,
                                      const MoveRequest& request) {
  std::optional<MoveSnapshot> snapshot;
  std::vector<std::uint32_t> seeds;
  {
    std::lock_guard lock(engine.commit_mutex);
    if (Result<void> movable = check_movable(engine, *module, holder); !movable) return std::move(movable).error();
    snapshot = MoveSnapshot::of(*module, holder);
    Result<std::vector<std::uint32_t>> found = find_seeds(*snapshot, holder, request);
    if (!found) return std::move(found).error();
    seeds = std::move(*found);
  }
  Result<MovePlan> plan = plan_move(*snapshot, seeds, engine.machinery->frames.has_value());
  if (!plan) return std::move(plan).error();
  Moved moved;
  moved.bytes = plan->bytes;
  moved.functions = plan->functions;
  moved.sections_kept = plan->stayed;
  moved.why_kept = plan->why;
  if (plan->code_size == 0) {
    if (plan->stayed != 0) return cannot_move(module->name, plan->why);
    return std::optional(moved);
  }
  Copy copy;
  if (Result<void> made = make_copy(engine.machinery, *snapshot, *plan, request.lower, copy); !made)
    return std::move(made).error().within("moving " + module->name);
  std::lock_guard lock(engine.commit_mutex);
  const bool changed = !module->live.load(std::memory_order_relaxed) || module->replaceable->version != snapshot->version ||
                       holder.extra().moves != snapshot->moves;
  if (changed) return std::optional<Moved>();
  Exchange exchange(engine, module, holder, *snapshot, *plan, copy);
  if (Result<void> prepared = exchange.prepare(); !prepared) return std::move(prepared).error();
  exchange.commit();
  return std::optional(std::move(moved));
}

} // namespace

Result<Moved> move_code(EngineState& engine, const std::shared_ptr<ModuleState>& module, ModuleState& holder,
                        const MoveRequest& request) {
  constexpr int tries = 8;
  for (int i = 0; i < tries; ++i) {
    Result<std::optional<Moved>> moved = try_move(engine, module, holder, request);
    if (!moved) return std::move(moved).error();
    if (!*moved) continue;
    reclaim_later(engine);
    return std::move(**moved);
  }
  return Error{ErrorCode::conflict, "module " + module->name + " was replaced again and again while it was to be moved"};
}

void leave_moved(EngineState& engine, ModuleState& version) noexcept {
  if (version.extra().moves == 0) return;
  for (const std::shared_ptr<ModuleState>& before : engine.removed) {
    if (before->rare().moved_of == 0 || before->rare().moved_of != version.extra().serial) continue;
    before->rare().moved_of = 0;
    before->dependencies.push_back({&version, nullptr, ""}); // has the room
  }
}

namespace {

// The module's Version and its fragments'; with a function, whoever has that.
std::vector<std::shared_ptr<ModuleState>> holders_of(EngineState& engine, const std::shared_ptr<ModuleState>& module,
                                                     std::string_view function) {
  std::vector<std::shared_ptr<ModuleState>> holders;
  std::lock_guard lock(engine.commit_mutex);
  auto wanted = [&](const ModuleState& holder) {
    return function.empty() ||
           std::any_of(holder.extra().functions.begin(), holder.extra().functions.end(), [&](const OwnFunction& f) {
             return f.definition->name == function && f.definition->holder == &holder;
           });
  };
  if (module->replaceable != nullptr)
    for (const std::shared_ptr<ModuleState>& fragment : module->replaceable->fragments)
      if (wanted(*fragment)) holders.push_back(fragment);
  if (holders.empty() || wanted(*module)) holders.push_back(module);
  return holders;
}

} // namespace

Result<Moved> move_module(EngineState& engine, const std::shared_ptr<ModuleState>& module, std::string_view function) {
  MoveRequest request;
  request.function = function;
  Moved all;
  std::optional<Error> error;
  for (const std::shared_ptr<ModuleState>& holder : holders_of(engine, module, function)) {
    Result<Moved> moved = move_code(engine, module, *holder, request);
    if (!moved) {
      error = std::move(moved).error();
      continue;
    }
    all.bytes += moved->bytes;
    all.functions += moved->functions;
    all.sections_kept += moved->sections_kept;
    if (all.why_kept.empty()) all.why_kept = std::move(moved->why_kept);
  }
  if (error && all.functions == 0) return std::move(*error);
  return all;
}

} // namespace tenon::engine

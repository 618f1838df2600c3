// Unloading: a version of trampolines takes the place of a module's code.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/recall.h"

#include "base/check.h"
#include "engine/change_state.h"
#include "engine/transition.h"
#include "link/arch/arch.h"

#include <algorithm>

extern "C" void tenon_recall();

namespace tenon::engine {

namespace {

bool lies_in_code(const ModuleState& module, std::uint64_t address) noexcept {
  auto holds = [&](const auto& block) {
    return block && block->area == memory::AreaKind::code && block->begin.value <= address && address < block->end().value;
  };
  const auto blocks = module.blocks.all();
  return std::any_of(blocks.begin(), blocks.end(), holds) ||
         std::any_of(module.extra().parts.begin(), module.extra().parts.end(), holds);
}

bool address_was_taken(const Definition& definition) noexcept {
  for (const Use* use = definition.uses; use != nullptr; use = use->next)
    if (use->address) return true;
  return false;
}

// By which a function of the module can be called whether its code is there or not; 0: there is none.
std::uint64_t stub_for(const ModuleState& module, std::uint64_t function) noexcept {
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
    if (definition->kind == DefinitionKind::function && !definition->vanished &&
        (definition->address == function || definition->stub.address() == function))
      return definition->stub.address();
  return 0;
}

// What a trampoline can't stand for.
Result<void> check_unloadable(const ModuleState& module) {
  if (!module.live.load(std::memory_order_relaxed))
    return Error{ErrorCode::conflict, "module " + module.name + " was removed meanwhile"};
  if (module.replaceable == nullptr)
    return Error{ErrorCode::invalid_argument,
                 "module " + module.name + " can't be unloaded: it lies in the client's memory, and has no stubs"};
  if (module.collectable != nullptr && has_an_end(module))
    return Error{ErrorCode::unsupported,
                 "module " + module.name +
                     " can't be unloaded: functions of it are to run at its end (finalizers, destructors of static objects, "
                     "atexit), and nobody could make it again when it is collected; put it into a library that is not "
                     "collected"};
  for (const InitCall& finalizer : module.extra().finalizers)
    if (stub_for(module, finalizer.function) == 0)
      return Error{ErrorCode::unsupported, "module " + module.name +
                                               " can't be unloaded: one of its finalizers is no function that can be "
                                               "replaced; give it a symbol of type function"};
  bool escaped = false;
  for_each_holder(module, [&](const ModuleState& holder) { escaped = escaped || !holder.extra().escaped_parts.empty(); });
  if (escaped)
    return Error{ErrorCode::unsupported, "module " + module.name +
                                             " can't be unloaded: pointers into its functions may be held, as suspended "
                                             "coroutines do"};
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
    if (definition->ambiguous && !definition->vanished && definition->kind == DefinitionKind::function &&
        address_was_taken(*definition))
      return Error{ErrorCode::needs_flag, "module " + module.name + " can't be unloaded: a pointer to its local function '" +
                                              definition->name +
                                              "' may be held, and which one that is in another version can't be told; give "
                                              "it a name of its own"};
  const SymbolRecord* odd = nullptr;
  module.for_each_record([&](const SymbolRecord& record) {
    constexpr auto elsewhere = symbol_flag::tls | symbol_flag::group | symbol_flag::erased;
    if ((record.flags & elsewhere) == 0 && lies_in_code(module, record.address())) odd = &record;
  });
  if (odd != nullptr)
    return Error{ErrorCode::unsupported, "module " + module.name + " can't be unloaded: its '" + std::string(odd->name()) +
                                             "' lies in its code, but is no function that can be replaced"};
  return {};
}

// The storage that goes on being used while the module has no code.
void borrow_all(const ModuleState& module, base::List<Stretch>& borrowed) {
  auto add = [&](std::uint64_t address, std::uint64_t size) {
    if (address != 0 && size != 0) borrowed.push_back({{address}, {address + size}});
  };
  auto add_data = [&](const auto& block) {
    if (block && block->area == memory::AreaKind::data) add(block->begin.value, block->size);
  };
  for_each_holder(module, [&](const ModuleState& holder) {
    borrowed.append(holder.extra().borrowed.begin(), holder.extra().borrowed.end());
    for (const RunBlocks::View& block : holder.blocks.all()) add_data(block);
    for (const OwnedBlock& part : holder.extra().parts) add_data(part);
    for (const Anonymous& anonymous : holder.extra().anonymous) add(anonymous.address, anonymous.size);
  });
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions) {
    if (definition->vanished || definition->kind == DefinitionKind::function ||
        definition->kind == DefinitionKind::thread_variable)
      continue;
    if (definition->kind != DefinitionKind::other) add(definition->section_address, definition->section_size);
    if (!lies_in_code(module, definition->address)) add(definition->address, definition->size);
  }
  borrowed.append(module.extra().tls_image.begin(), module.extra().tls_image.end());
  if (module.rare().dso_handle != 0) add(module.rare().dso_handle, 16);
}

// What the empty version has of the one before: all but code.
void fill(const std::shared_ptr<ModuleState>& module, ModuleState& version) {
  version.name = module->name;
  version.library = module->library;
  version.extra().tls = module->extra().tls;
  version.extra().tls_size = module->extra().tls_size;
  version.extra().tls_image_size = module->extra().tls_image_size;
  version.extra().tls_alignment = module->extra().tls_alignment;
  version.extra().tls_image = module->extra().tls_image;
  version.opaque = module->opaque;
  for (const InitCall& finalizer : module->extra().finalizers)
    version.extra().finalizers.push_back({stub_for(*module, finalizer.function), finalizer.priority});
  version.extra().options = module->extra().options;
  for_each_holder(*module, [&](const ModuleState& holder) {
    auto append = [](auto& to, const auto& from) { to.append(from.begin(), from.end()); };
    for (Dependency dependency : holder.dependencies) {
      if (&holder != module.get()) dependency.symbol = ""; // a fragment's own text goes with it
      version.dependencies.push_back(dependency);
    }
    append(version.groups, holder.groups);
    append(version.extra().forward_pointers, holder.extra().forward_pointers);
    append(version.extra().forwards, holder.extra().forwards);
    append(version.extra().anonymous, holder.extra().anonymous);
  });
  borrow_all(*module, version.extra().borrowed);
  // It goes on referring to all of it: what comes back will call it, and its variables may hold pointers to it.
  for_each_holder(*module, [&](const ModuleState& holder) {
    for (const Use& use : holder.extra().uses) {
      Use& kept = version.extra().uses.emplace_back();
      kept.definition = use.definition;
      kept.user = module.get();
      kept.address = use.address;
    }
  });
  version.set_bookkeeping(module->bookkeeping());
}

Result<void> allocate(const std::shared_ptr<Machinery>& machinery, ModuleState& version, std::uint64_t trampolines) {
  auto take = [&](link::Run run, memory::AreaKind area, std::uint64_t size, std::uint32_t frames) -> Result<void> {
    Result<OwnedBlock> block = OwnedBlock::allocate(machinery, area, size, 16, frames);
    if (!block) return std::move(block).error();
    version.blocks.put(run, std::move(*block));
    return {};
  };
  Result<void> done = take(link::Run::code, memory::AreaKind::code, trampolines + 8, 1); // and the cell
  if (done && machinery->frames)
    done = take(link::Run::rodata, memory::AreaKind::rodata, link::arch::frame_head_bytes + link::arch::stub_frame_bytes + 4,
                0);
  return done;
}

// A trampoline's frame is a stub's: at each of its instructions' beginnings, and where it is returned to, the caller's
// return address is on top of the stack.
void write(memory::Space& space, ModuleState& version, std::uint64_t trampolines) {
  const std::uint64_t code = version.blocks[link::Run::code]->begin.value, cell = code + trampolines;
  memory::WriteGuard guard(space);
  const auto recall = reinterpret_cast<std::uint64_t>(&tenon_recall);
  std::memcpy(space.writable({cell}), &recall, sizeof recall);
  bool near = true;
  std::uint64_t at = code;
  for (RecallEntry& entry : version.extra().recalls->entries) {
    entry.trampoline = at;
    near &= link::arch::write_recall(space.writable({at}), at, cell, &entry);
    version.extra().functions.push_back({at, entry.definition});
    at += link::arch::recall_bytes;
  }
  if (const RunBlocks::View frames = version.blocks[link::Run::rodata]) {
    const std::uint64_t description = frames->begin.value + link::arch::frame_head_bytes;
    link::arch::write_frame_head(space.writable(frames->begin));
    link::arch::write_stub_frame(space.writable({description}), trampolines);
    near &= link::arch::set_frame_address(space.writable({description}), description, code);
  }
  TENON_CHECK(near, "a reservation in which something is out of reach");
}

Result<void> publish(Machinery& machinery, const ModuleState& version) {
  for (const RunBlocks::View& block : version.blocks.all())
    if (block)
      if (Result<void> done = machinery.space->publish(*block); !done) return done;
  const RunBlocks::View frames = version.blocks[link::Run::rodata];
  if (!machinery.frames || !frames) return {};
  const RunBlocks::View code = version.blocks[link::Run::code];
  const notify::Frame frame{code->begin, frames->begin + link::arch::frame_head_bytes};
  memory::WriteGuard guard(*machinery.space);
  machinery.frames->add(*code, {&frame, 1});
  return {};
}

Result<void> make_trampolines(const std::shared_ptr<Machinery>& machinery, ModuleState& version) {
  const std::uint64_t bytes = version.extra().recalls->entries.size() * link::arch::recall_bytes;
  if (bytes == 0) return {};
  version.extra().functions.reserve(version.extra().recalls->entries.size());
  if (Result<void> done = allocate(machinery, version, bytes); !done) return done;
  write(*machinery->space, version, bytes);
  Usage usage;
  usage.code = bytes;
  version.set_usage(usage);
  return publish(*machinery, version);
}

// It is an earlier version's, which stays.
bool is_held(const Definition& definition) noexcept { return definition.holder != nullptr && definition.holder->held; }

// Under EngineState::commit_mutex: what the module is right now.
Result<void> look_at(const ChangeState& change, Unload& unload, std::shared_ptr<Recalls>& recalls) {
  ModuleState& module = *unload.module;
  if (Result<void> able = check_unloadable(module); !able) return able;
  unload.number = module.replaceable->version;
  module.replaceable->drafts.fetch_add(1, std::memory_order_relaxed);
  unload.counted = true;
  unload.version = make_full_state();
  unload.version->extra().serial = change.engine->next_serial.fetch_add(1, std::memory_order_relaxed);
  unload.node.push_back(unload.version);
  if (module.collectable != nullptr) unload.version->collectable = std::make_unique<Collectable>();
  fill(unload.module, *unload.version);
  recalls->options = module.extra().options;
  recalls->engine = change.engine;
  recalls->module = unload.module;
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
    if (definition->kind == DefinitionKind::function && !definition->vanished && !is_held(*definition))
      recalls->entries.push_back({recalls.get(), definition.get()});
  unload.version->extra().recalls = std::move(recalls);
  return {};
}

} // namespace

Result<void> prepare_unloads(ChangeState& change) {
  for (Unload& unload : change.unloads) {
    auto recalls = std::make_shared<Recalls>();
    recalls->recall = unload.recall; // the client's functions are copied, and destroyed, without a lock
    {
      std::lock_guard lock(change.engine->commit_mutex);
      if (Result<void> looked = look_at(change, unload, recalls); !looked) return looked;
    }
    if (Result<void> made = make_trampolines(change.engine->machinery, *unload.version); !made)
      return std::move(made).error().within("unloading module " + unload.module->name);
  }
  return {};
}

Result<void> check_unloads(ChangeState& change) {
  if (change.unloads.empty()) return {};
  for (const Unload& unload : change.unloads)
    if (!unload.module->live.load(std::memory_order_relaxed) || unload.module->replaceable->version != unload.number ||
        (unload.module->collectable != nullptr && has_an_end(*unload.module)))
      return Error{ErrorCode::conflict, "module " + unload.module->name +
                                            " was replaced or removed meanwhile, or functions to run at its end were "
                                            "registered; draft the change again"};
  for (const Unload& unload : change.unloads) {
    Replaceable& replaceable = *unload.module->replaceable;
    replaceable.held.reserve(replaceable.held.size() + replaceable.fragments.size());
  }
  auto& last = change.engine->last;
  if (std::size_t wanted = change.engine->module_count + change.drafts.size() + change.unloads.size() + 1;
      wanted > last.capacity())
    last.reserve(std::max(wanted, last.capacity() * 2));
  return {};
}

namespace {

// Frames of before that call a local function through the switch of a set: it leads to a trampoline from now on.
void keep_from_switch(memory::Space& space, Definition& definition) noexcept {
  if (definition.choice == nullptr) return;
  memory::WriteGuard guard(space);
  for (Use* use = definition.uses; use != nullptr; use = use->next)
    if (use->frozen && use->bound == definition.choice->switch_address) bind_sites(space, *use, definition.address);
}

} // namespace

void publish_unloads(ChangeState& change) noexcept {
  if (!change.unloads.empty()) change.engine->unloads.store(true, std::memory_order_relaxed);
  memory::Space& space = *change.engine->machinery->space;
  for (Unload& unload : change.unloads) {
    ModuleState& module = *unload.module;
    count_references(*change.engine, *unload.version);
    // Frames of what goes call the local functions that they were compiled with: nobody knows whether the version that comes
    // has them, and the frame that makes it come could not go on.
    for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
      if (definition->kind == DefinitionKind::function && definition->local && !definition->vanished) {
        let_own_frames_call(*change.engine, module, *definition);
        keep_from_switch(space, *definition);
      }
    for_each_holder(module, [&](ModuleState& holder) { keep_own_calls(*change.engine, holder, holder); });
    supersede(change, unload.module, *unload.version, false);
    // The dependencies that it keeps name symbols by these.
    module.extra().texts = std::move(unload.version->extra().texts);
    std::uint64_t at = module.extra().recalls->entries.empty() ? 0 : module.blocks[link::Run::code]->begin.value;
    for (RecallEntry& entry : module.extra().recalls->entries) {
      const Definition& definition = *entry.definition;
      entry.before = definition.local && definition.choice != nullptr ? definition.address : 0;
      retarget(space, *entry.definition, at);
      entry.definition->holder = &module;
      at += link::arch::recall_bytes;
    }
    for (Use& use : module.extra().uses) link_use(use);
    change.engine->removed.splice(change.engine->removed.end(), unload.node);
  }
}

void undo_unloads(ChangeState& change) noexcept {
  for (Unload& unload : change.unloads) {
    if (std::exchange(unload.counted, false)) unload.module->replaceable->drafts.fetch_sub(1, std::memory_order_release);
    unload.node.clear();
    unload.version.reset();
  }
}

bool is_recalled_by_others(const ModuleState& module, std::span<const std::shared_ptr<ModuleState>> leaving) noexcept {
  if (module.extra().recalls == nullptr) return false;
  auto users_among = [&](const SymbolRecord* group) {
    std::uint32_t users = 0;
    for (const std::shared_ptr<ModuleState>& other : leaving) {
      users += std::uint32_t(std::count(other->groups.begin(), other->groups.end(), group));
      for (const Dependency& dependency : other->dependencies) users += dependency.group == group ? 1 : 0;
    }
    return users;
  };
  return std::any_of(module.groups.begin(), module.groups.end(), [&](const SymbolRecord* group) {
    return group->module() == &module && group->users() > users_among(group);
  });
}

} // namespace tenon::engine

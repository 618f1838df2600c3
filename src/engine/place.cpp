// Addresses are chosen: in the engine's memory, in the client's, or as the client says.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/check.h"
#include "link/arch/arch.h"
#include "memory/fork.h"

#include <algorithm>
#include <array>

namespace tenon::engine {

namespace {

using link::Run;
using link::TargetKind;

Error undefined(std::span<const Missing> missing) {
  std::string text = std::to_string(missing.size()) + (missing.size() == 1 ? " symbol is" : " symbols are") + " undefined:";
  for (const Missing& one : missing) {
    text += " '" + one.name + "' (needed by ";
    for (std::size_t i = 0; i < one.needed_by.size(); ++i) text += (i != 0 ? ", " : "") + one.needed_by[i];
    text += ")";
    text += &one == &missing.back() ? "" : ",";
  }
  return {ErrorCode::undefined, std::move(text)};
}

// A few bytes of code that end the program with a message that names the function.
Result<OwnedBlock> make_trap(const std::shared_ptr<Machinery>& machinery, const Name& name) {
  Result<OwnedBlock> trap =
      OwnedBlock::allocate(machinery, memory::AreaKind::code, link::arch::trap_bytes + name.size + 1, 16, 0);
  if (!trap) return trap;
  {
    memory::WriteGuard guard(*machinery->space);
    link::arch::write_trap(machinery->space->writable((*trap)->begin), unresolved_function(), name.view());
  }
  if (Result<void> published = machinery->space->publish(**trap); !published) return std::move(published).error();
  return trap;
}

// Slots of names that a later change will define. One for each name; modules of the change share it.
Result<void> allocate_forward_slots(ChangeState& change) {
  if (!change.has_forwards) return {};
  bool any = false;
  for (std::uint32_t i = 0; i < change.names->size(); ++i) {
    Name& name = (*change.names)[i];
    if (name.module != link::none || name.kind != TargetKind::missing || !name.forward || !name.needed) continue;
    Result<OwnedBlock> slot = OwnedBlock::allocate(change.engine->machinery, memory::AreaKind::slots, 8, 8, 0);
    if (!slot) return std::move(slot).error();
    Result<OwnedBlock> trap = make_trap(change.engine->machinery, name);
    if (!trap) return std::move(trap).error();
    name.address = (*slot)->begin.value;
    change.forward_slots.push_back(std::move(*slot));
    change.forward_traps.push_back(std::move(*trap));
    any = true;
  }
  if (!any) return {};
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    link::Module& module = *change.modules[m];
    const std::span<const std::uint32_t> names = change.drafts[m].names;
    for (std::uint32_t i = 0; i < names.size(); ++i) {
      link::Target& target = module.targets[module.object.first_global() + i];
      if (names[i] != link::none && target.kind == TargetKind::slot && target.address == 0)
        target.address = (*change.names)[names[i]].address;
    }
  }
  return {};
}

// Before bytes are written: the module's state, whose address its __dso_handle will hold, and its TLS key.
void begin_state(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  const std::shared_ptr<LibraryState>& library = change.libraries[draft.library];
  draft.state = library->replaceable ? make_full_state() : make_state();
  ModuleState& state = *draft.state;
  state.name = change.modules[m]->name;
  state.library = library;
  state.opaque = draft.options->opaque;
  if (library->replaceable) {
    state.extra().serial = change.engine->next_serial.fetch_add(1, std::memory_order_relaxed);
    state.extra().options = std::make_shared<const ModuleOptions>(*draft.options);
  }
  if (library->collected) {
    state.collectable = std::make_unique<Collectable>();
    state.collectable->entry.emplace_back();
  }
  if (draft.replaces != nullptr) (draft.partial ? draft.replacement->fragment : change.superseded).push_back(draft.state);
}

void begin_states(ChangeState& change) {
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) begin_state(change, m);
}

Result<void> place_module(ChangeState& change, std::uint32_t index) {
  link::Module& module = *change.modules[index];
  ModuleState& state = *change.drafts[index].state;
  const std::shared_ptr<Machinery>& machinery = change.engine->machinery;
  std::array<link::RunPlace, link::runs> run_places;
  const memory::fork::Inside inside; // once for all blocks: each would enter for itself
  for (std::size_t run = 0; run < link::runs; ++run) {
    const link::RunSize& size = module.run_sizes[run];
    if (size.size == 0) continue;
    std::uint32_t frames =
        Run(run) == Run::code && machinery->frames ? module.frame_count + link::foreign_frames(module, change.modules) : 0;
    Result<Addr> begin = state.blocks.allocate(machinery, Run(run), size, frames);
    if (!begin) return std::move(begin).error();
    run_places[run] = {begin->value, machinery->space->writable(*begin)};
  }
  // Symbols of empty sections have addresses too, near everything else.
  for (std::size_t run = 0; run < link::runs; ++run)
    if (run_places[run].address == 0) {
      Addr begin = machinery->space->area_begin(area_of(Run(run)));
      run_places[run] = {begin.value, machinery->space->writable(begin)};
    }
  link::set_runs(module, change.modules, run_places);
  return {};
}

Result<void> require_defined(const ChangeState& change) {
  return change.missing.empty() ? Result<void>() : undefined(change.missing);
}

// Client memory: addresses may be anywhere, so that stubs and GOT entries are counted for the farthest.
Result<void> survey_for_client(ChangeState& change, Granularity granularity) {
  change.granularity = granularity;
  if (Result<void> surveyed = survey_and_lay_out(change, false); !surveyed) return surveyed;
  change.requests.clear();
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    Result<std::vector<BlockRequest>> blocks = link::client_blocks(*change.modules[m], {m}, granularity);
    if (!blocks) return std::move(blocks).error().within(module_context(change, m));
    std::move(blocks->begin(), blocks->end(), std::back_inserter(change.requests));
  }
  return {};
}

Result<void> check_placements(const ChangeState& change) {
  for (std::size_t i = 0; i < change.requests.size(); ++i) {
    const BlockRequest& request = change.requests[i];
    std::uint64_t address = change.placements[i].address.value;
    if (address % request.alignment != 0)
      return Error{ErrorCode::invalid_argument,
                   "the address for " + request.name + " is not aligned to " + std::to_string(request.alignment)};
    if (address + request.size < address)
      return Error{ErrorCode::invalid_argument,
                   "the address for " + request.name + " leaves no room for its " + std::to_string(request.size) + " bytes"};
  }
  return {};
}

// How much of a block has content: zero fill lies at its end.
std::uint64_t content_end(const ChangeState& change, const BlockRequest& request) {
  std::uint64_t end = 0;
  for (const BlockRequest::Part& part : request.parts)
    if (std::uint64_t size = change.modules[part.section.module.index]->places[part.section.index].content_size(); size != 0)
      end = std::max(end, part.offset + size);
  return end;
}

// Content is bounded by the objects; what absurd alignments put in between is not.
constexpr std::uint64_t most_buffered = std::uint64_t(1) << 30;

// Where the client gives no local bytes, the change keeps a buffer.
Result<void> use_placements(ChangeState& change) {
  change.buffers.resize(change.requests.size());
  std::uint64_t buffered = 0;
  for (std::size_t i = 0; i < change.requests.size(); ++i) {
    const BlockRequest& request = change.requests[i];
    std::byte* local = change.placements[i].local;
    bool own = local == nullptr;
    if (own) {
      std::uint64_t content = content_end(change, request);
      if (content > most_buffered - buffered)
        return Error{ErrorCode::exhausted, "the blocks up to " + request.name + " need more than " +
                                               std::to_string(most_buffered) + " bytes of buffers"};
      buffered += content;
      change.buffers[i].resize(content);
      local = change.buffers[i].data();
    }
    for (const BlockRequest::Part& part : request.parts) {
      link::Module& module = *change.modules[part.section.module.index];
      bool has_bytes = !own || module.places[part.section.index].content_size() != 0;
      link::set_section(module, part.section.index, change.placements[i].address.value + part.offset,
                        has_bytes ? local + part.offset : nullptr);
    }
  }
  settle_bound(change);
  change.shown.clear_places();
  return {};
}

} // namespace

namespace {

// Modules get blocks of their own, one after another; what all of them need is known.
constexpr std::array expected_runs = {link::Run::code, link::Run::rodata};
void expect_runs(const ChangeState& change) noexcept {
  for (const link::Run run : expected_runs) {
    std::uint64_t bytes = 0;
    for (const std::unique_ptr<link::Module>& module : change.modules) bytes += module->run_sizes[std::size_t(run)].size;
    change.engine->machinery->space->expect(area_of(run), bytes);
  }
}

} // namespace

Result<void> place_in_engine(ChangeState& change) {
  if (Result<void> defined = require_defined(change); !defined) return defined;
  if (change.mode == PlaceMode::none) change.mode = PlaceMode::engine;
  if (change.only_removes()) return {};
  if (change.has_forwards)
    if (Result<void> slots = allocate_forward_slots(change); !slots) return slots;
  if (change.has_identities) {
    begin_states(change);
    if (Result<void> given = give_identities(change); !given) return given;
  }
  if (change.modules.size() > 1) expect_runs(change);
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    if (!change.has_identities) begin_state(change, m);
    if (Result<void> placed = place_module(change, m); !placed) {
      for (const link::Run run : expected_runs) change.engine->machinery->space->release_unused(area_of(run));
      return std::move(placed).error().within(module_context(change, m));
    }
  }
  settle_bound(change);
  change.shown.clear_places();
  return {};
}

namespace {

// Versions share storage and stubs, which are the engine's.
Result<void> refuse_replacements(const ChangeState& change) {
  for (const ModuleDraft& draft : change.drafts)
    if (draft.replaces != nullptr)
      return Error{ErrorCode::invalid_argument,
                   "module " + draft.replaces->name + " can be replaced in the engine's memory only"};
  return {};
}

} // namespace

Result<void> place_in_client(ChangeState& change, Memory& memory) {
  if (Result<void> defined = require_defined(change); !defined) return defined;
  if (Result<void> own = refuse_replacements(change); !own) return own;
  change.mode = PlaceMode::client;
  change.memory = &memory;
  if (Result<void> slots = allocate_forward_slots(change); !slots) return slots;
  if (Result<void> surveyed = survey_for_client(change, memory.granularity()); !surveyed) return surveyed;
  begin_states(change);
  change.placements.assign(change.requests.size(), {});
  if (Result<void> placed = memory.place(change.requests, change.placements); !placed)
    return std::move(placed).error().within("the client's memory");
  change.placements_owned = true;
  if (Result<void> sound = check_placements(change); !sound) return sound;
  return use_placements(change);
}

Result<void> place_at(ChangeState& change, Granularity granularity, std::span<const Addr> addresses) {
  if (Result<void> defined = require_defined(change); !defined) return defined;
  if (Result<void> own = refuse_replacements(change); !own) return own;
  change.mode = PlaceMode::addresses;
  if (Result<void> surveyed = survey_for_client(change, granularity); !surveyed) return surveyed;
  if (addresses.size() != change.requests.size())
    return Error{ErrorCode::invalid_argument, "place() got " + std::to_string(addresses.size()) + " addresses for " +
                                                  std::to_string(change.requests.size()) + " blocks"};
  begin_states(change);
  change.placements.assign(addresses.size(), {});
  for (std::size_t i = 0; i < addresses.size(); ++i) change.placements[i].address = addresses[i];
  if (Result<void> sound = check_placements(change); !sound) return sound;
  return use_placements(change);
}

namespace {

// Where the image of a module lies that has a block of its own: new threads copy what the program sees.
const std::byte* own_image(const link::Module& module) {
  for (std::uint32_t i : module.kept())
    if (module.sections()[i].kind == SectionKind::tls_data)
      return reinterpret_cast<const std::byte*>(module.places[i].address - module.places[i].offset);
  return nullptr;
}

// One key for each module, or one for all of them where their local-dynamic code must reach each other's variables.
Result<void> give_tls_keys(ChangeState& change) {
  Result<link::SharedTls> shared = link::share_tls(change.modules);
  if (!shared) return std::move(shared).error();
  std::shared_ptr<TlsBlock> common;
  if (shared->wanted) {
    for (const ModuleDraft& draft : change.drafts)
      if (draft.replaces != nullptr)
        return Error{ErrorCode::unsupported,
                     "module " + draft.replaces->name +
                         ": local-dynamic code reaches thread-local variables of another module of the "
                         "change, so that its own can't be kept: compile with -ftls-model=global-dynamic"};
    common = std::make_shared<TlsBlock>();
    common->image.resize(shared->image_size);
    common->key = TlsKey({common->image.data(), shared->image_size, shared->size, shared->alignment});
  }
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    link::Module& module = *change.modules[m];
    if (common == nullptr && module.tls_size == 0 && change.drafts[m].replaces == nullptr) continue;
    ModuleState& state = *change.drafts[m].state;
    if (common != nullptr) {
      state.make_extra().tls = common;
    } else if (Result<bool> kept = keep_tls(change, m); !kept || *kept) {
      if (!kept) return std::move(kept).error();
    } else if (module.tls_size != 0 && state.extra().tls == nullptr) {
      auto own = std::make_shared<TlsBlock>();
      own->key = TlsKey({own_image(module), module.tls_image_size, module.tls_size, module.tls_alignment});
      state.make_extra().tls = std::move(own);
    }
    module.tls_key = state.tls_key();
  }
  return {};
}

} // namespace

void settle_definitions(ChangeState& change) {
  for (const std::unique_ptr<link::Module>& module : change.modules) link::settle_own(*module, change.modules);
  settle_callees(change);
}

void settle_all(ChangeState& change) {
  settle_definitions(change);
  change.references_settled = true;
  for (const std::unique_ptr<link::Module>& module : change.modules) link::settle_references(*module, change.modules);
}

namespace {

// Through the alias, so that a fork waits for it: no lock that a fork takes may be waited for in here.
Result<void> write_bytes(ChangeState& change) {
  link::FixUpOptions options;
  options.low_2gib = change.engine->options.low_2gib;
  options.private_memory = change.mode == PlaceMode::engine;
  memory::Space& space = *change.engine->machinery->space;
  memory::WriteGuard guard(space);
  for (std::size_t i = 0; i < change.forward_slots.size(); ++i)
    std::memcpy(space.writable(change.forward_slots[i]->begin), &change.forward_traps[i]->begin.value,
                sizeof(std::uint64_t));
  options.unresolved_slot = unresolved_function();
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    options.dso_handle_content[0] = dso_handle_magic;
    options.dso_handle_content[1] = reinterpret_cast<std::uint64_t>(change.drafts[m].identity().get());
    if (!change.references_settled) // now, so that they are in the cache when bytes are fixed up
      link::settle_references(*change.modules[m], change.modules);
    if (Result<void> fixed = link::fix_up(*change.modules[m], change.modules, options); !fixed)
      return std::move(fixed).error().within(module_context(change, m));
    if (change.mode != PlaceMode::addresses) keep_linked(change, m); // what can't be committed needs nothing
  }
  if (!change.drafts.empty())
    if (const std::shared_ptr<TlsBlock>& block = change.drafts[0].state->extra().tls;
        block != nullptr && !block->image.empty())
      link::copy_shared_image(change.modules, block->image);
  if (!change.section_bounds.empty()) link::hand_over_frames(change.modules);
  for (std::uint32_t m = 0; change.has_identities && m < change.modules.size(); ++m) note_version(change, m);
  return {};
}

} // namespace

Result<void> link_bytes(ChangeState& change) {
  change.references_settled = false;
  if (change.only_removes()) return {};
  if (Result<void> keyed = give_tls_keys(change); !keyed) return keyed;
  if (!change.has_identities)
    settle_definitions(change);
  else if (Result<void> unified = unify_constants(change); !unified)
    return unified;
  if (Result<void> written = write_bytes(change); !written) return written;
  for (std::uint32_t m = 0; change.has_identities && m < change.modules.size(); ++m)
    if (Result<void> taken = take_over(change, m); !taken) return std::move(taken).error().within(module_context(change, m));
  return {};
}

} // namespace tenon::engine

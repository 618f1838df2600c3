// Counts, before any memory is asked for, what the relocations of a module need: GOT entries, stubs, TLS pairs, thunks,
// frames. Entries are deduplicated: one for each symbol, in the order in which the relocations first need them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/arch.h"
#include "link/frames.h"
#include "link/passes.h"

#include <algorithm>
#include <tuple>

namespace tenon::link {

namespace {

void reset(Module& module) {
  for (const Need& need : module.needs) module.targets[need.symbol].entry = 0;
  module.entries.clear();
  module.needs.clear();
  module.thunks.clear();
  module.thunk_frames.clear();
  module.thunk_frame_bytes.clear();
  module.plain_stub_size = 0;
  module.got_size = module.stub_size = module.slot_size = 0;
  module.needs_tls_ld = module.wants_shared_tls = false;
  module.tls_ld = none;
  module.frame_spots.clear();
  module.relocation_count = 0;
  for (Callee& callee : module.callees) {
    callee.wants_veneer = false;
    callee.veneer = none;
  }
}

// Offsets within GOT and stubs. A stub jumps through a GOT cell, except that a slot's own cell is used directly.
class Allocator {
public:
  explicit Allocator(Module& module) : module_(module) {}

  void add(Entry& entry, std::uint8_t needs) {
    const Target& target = module_.targets[entry.symbol];
    bool through_slot = target.kind == TargetKind::slot || (target.flags & target_flag::ifunc) != 0;
    bool wants_cell = (needs & need::got) != 0 || ((needs & need::stub) != 0 && !through_slot);
    if (wants_cell && target.kind != TargetKind::slot) entry.got = got(8);
    if (target.kind == TargetKind::thunk && (needs & need::got) != 0) entry.address_cell = got(8);
    if ((needs & need::stub) != 0 && entry.stub == none)
      entry.stub = stub(target.kind == TargetKind::thunk ? arch::dso_stub_bytes : arch::stub_bytes);
    if (needs & (need::tls_pair | need::tls_descriptor)) entry.tls_pair = got(16);
    if (needs & need::tls_descriptor) entry.tls_descriptor = got(16);
    if (needs & need::tls_offset) entry.tls_offset = got(8);
  }

  // Every IFUNC that the module defines has a slot and a stub, which is its address.
  void add_ifunc(Entry& entry) {
    entry.slot = module_.slot_size;
    module_.slot_size += 8;
    entry.stub = stub(arch::stub_bytes);
  }

  std::uint32_t got(std::uint32_t bytes) {
    const std::uint32_t offset = module_.got_size;
    module_.got_size += bytes;
    return offset;
  }
  std::uint32_t stub(std::uint64_t bytes) {
    const std::uint32_t offset = module_.stub_size;
    module_.stub_size += std::uint32_t(bytes);
    return offset;
  }

private:
  Module& module_;
};

// Frames of code that takes part, and where they are described.
Result<void> survey_frames(Module& module, std::uint32_t section, std::size_t relocations) {
  bool astray = false;
  module.frame_spots.reserve(module.frame_spots.size() + relocations); // one or two for each
  Result<void> walked = for_each_frame(module, section, [&](const Relocation& start, const object::EhRecord& record) {
    if (!frame_is_of_code(module, start)) return;
    const std::uint32_t where = module.targets[start.symbol].where;
    const std::uint64_t offset = frame_offset(module, start), size = module.places[where].size;
    if (offset < size)
      module.frame_spots.push_back({where, section, offset, record.offset});
    else
      astray |= offset > size;
  });
  if (walked && astray)
    return Error{ErrorCode::malformed, "describes frames of a function that would lie outside of its section"};
  return walked;
}

Result<void> survey_place(Module& module, const SectionPlace& place, const Reach& reach, const Reach& code_reach,
                          bool veneers) {
  const bool code = place.kind == SectionKind::code;
  const std::span<const Relocation> relocations = module.relocations(place.section);
  if (relocations.empty() && !place.unwind) return {};
  module.relocation_count += std::uint32_t(relocations.size());
  if (Result<void> done = arch::survey_section(module, place, relocations, code ? code_reach : reach); !done) return done;
  if (veneers && code) arch::want_veneers(module, place.section);
  return place.unwind && module.unwinding ? survey_frames(module, place.section, relocations.size()) : Result<void>();
}

// GOT, stubs, slots and thunks for what was found. The entries of IFUNCs come first.
Result<void> allocate_entries(Module& module, std::size_t ifuncs) {
  if (module.needs.size() > most_entries)
    return Error{ErrorCode::exhausted,
                 "more than " + std::to_string(most_entries) + " symbols need a GOT entry or a stub: split the object"};
  Allocator allocator(module);
  module.entries.resize(module.needs.size());
  for (std::size_t i = 0; i < module.needs.size(); ++i) module.entries[i].symbol = module.needs[i].symbol;
  for (std::size_t i = 0; i < ifuncs; ++i) allocator.add_ifunc(module.entries[i]);
  for (std::size_t i = 0; i < module.needs.size(); ++i) allocator.add(module.entries[i], module.needs[i].what);
  for (Callee& callee : module.callees)
    if (callee.wants_veneer) callee.veneer = allocator.stub(arch::veneer_bytes);
  if (module.needs_tls_ld) module.tls_ld = allocator.got(16);
  auto thunk_order = [](const Thunk& a, const Thunk& b) {
    return std::tie(a.section, a.offset, a.symbol, a.addend) < std::tie(b.section, b.offset, b.symbol, b.addend);
  };
  if (!std::is_sorted(module.thunks.begin(), module.thunks.end(), thunk_order))
    std::sort(module.thunks.begin(), module.thunks.end(), thunk_order);
  module.plain_stub_size = module.stub_size;
  for (Thunk& thunk : module.thunks) thunk.stub = allocator.stub(arch::thunk_bytes);
  if (module.plain_stub_size != 0 && module.unwinding) ++module.frame_count;
  if (module.thunks.empty()) return {};
  if (Result<void> described = describe_thunks(module); !described) return described;
  module.frame_count += std::uint32_t(module.thunk_frames.size());
  return {};
}

} // namespace

void note_need(Module& module, std::uint32_t symbol, std::uint8_t what) {
  Target& target = module.targets[symbol];
  if (target.entry == 0 && module.needs.size() <= most_entries) {
    module.needs.push_back({symbol, 0});
    if (module.needs.size() <= most_entries) target.entry = std::uint32_t(module.needs.size()); // else the survey fails
  }
  if (target.entry != 0) module.needs[target.entry - 1U].what |= what;
}

Result<void> survey(Module& module, const Reach& reach) {
  if (module.surveyed) reset(module);
  module.surveyed = true;
  // One that a stronger definition beats is not chosen.
  for (std::uint32_t symbol : module.ifuncs)
    if (module.targets[symbol].kind == TargetKind::section) note_need(module, symbol, 0);
  const std::size_t ifuncs = module.needs.size();
  const Reach code_reach = reach.from_code();
  const bool veneers = !module.callees.empty() && module.patchable && module.knowledge != object::Knowledge::none;
  const std::span<const SectionPlace> places = module.places.of_object();
  for (std::size_t position = 0; position < places.size(); ++position) {
    // Tables of a few relocations each: every one is a cache miss unless it is asked for ahead.
    constexpr std::size_t ahead = 6;
    if (position + ahead < places.size()) {
      const std::span<const Relocation> next = module.relocations(places[position + ahead].section);
      constexpr std::size_t per_line = 64 / sizeof(Relocation);
      if (!next.empty()) __builtin_prefetch(&next.front());
      if (next.size() > per_line) __builtin_prefetch(&next[per_line]);
    }
    const SectionPlace& place = places[position];
    if (!place.kept) continue;
    if (Result<void> done = survey_place(module, place, reach, code_reach, veneers); !done)
      return std::move(done).error().within(module.sections()[place.section].name);
  }
  module.frame_count = std::uint32_t(module.frame_spots.size());
  if (!module.needs.empty() || !module.thunks.empty() || !module.callees.empty() || module.needs_tls_ld)
    if (Result<void> allocated = allocate_entries(module, ifuncs); !allocated) return allocated;
  if (module.got_size == 0 && module.wants_got_base) module.got_size = 8; // _GLOBAL_OFFSET_TABLE_ must lie somewhere
  return {};
}

} // namespace tenon::link

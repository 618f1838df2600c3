// Linking what is linked already.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/relink.h"

#include "base/bytes.h"
#include "link/arch/arch.h"
#include "object/eh_frame.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tenon::engine {

namespace {

using link::Synthetic;
using link::TargetKind;

bool is_address(const link::Target& target) { return (target.flags & link::target_flag::tls) == 0; }

bool is_code(const link::SectionPlace& place) { return place.run == link::Run::code; }

// Where a symbol goes.
struct SymbolMove {
  std::uint64_t from = 0, to = 0;
  bool at_end = false; // of its section: another module may begin there
};

bool is_before(const SymbolMove& a, const SymbolMove& b) {
  return std::pair(a.from, a.at_end) < std::pair(b.from, b.at_end);
}

std::vector<link::Target> all_bindings(const ModuleState& state) {
  const KeptBindings all = state.bindings();
  std::vector<link::Target> list;
  list.reserve(all.size());
  for (const link::Target& target : all) list.push_back(target);
  return list;
}

link::Target binding(const ModuleState& state, std::size_t symbol) noexcept { return state.bindings()[symbol]; }

} // namespace

Relink::Relink(const ModuleState& state) : state_(&state), targets_(all_bindings(state)) {
  // As they are kept they don't know their entries.
  link::Bound kept;
  state.relocations().complete(kept);
  for (link::Target& target : targets_) target.entry = 0;
  for (std::uint32_t i = 0; i < kept.entries.size(); ++i) targets_[kept.entries[i].symbol].entry = i + 1;
  addresses_.reserve(state.places().size());
  for (const link::SectionPlace& place : state.places()) addresses_.push_back(place.address);
}

Result<Relink> Relink::create(const ModuleState& state, std::span<const SectionMove> moves) {
  Relink relink(state);
  for (const SectionMove& move : moves) relink.addresses_[move.section] = move.address;
  const link::Bound bound = relink.bound();
  for (link::Target& target : relink.targets_) {
    if (target.kind != TargetKind::section || !is_address(target) || target.where >= state.places().size()) continue;
    if ((target.flags & link::target_flag::identity) != 0) continue; // the permanent stub stays
    if ((target.flags & link::target_flag::ifunc) != 0 && target.entry != 0)
      target.address = bound.stubs + bound.entries[target.entry - 1].stub;
    else
      target.address += relink.addresses_[target.where] - state.places()[target.where].address;
  }
  if (Result<void> moved = relink.move_bounds(); !moved) return std::move(moved).error();
  return relink;
}

// __start_ and __stop_ symbols are at the ends of sections, and know no section.
Result<void> Relink::move_bounds() {
  bool any = false, differ = false;
  std::uint64_t distance = 0;
  for (std::uint32_t i = 0; i < addresses_.size(); ++i) {
    const link::SectionPlace& place = state_->places()[i];
    if (!place.kept || (!place.leads && !place.follows)) continue;
    differ |= any && addresses_[i] - place.address != distance;
    distance = addresses_[i] - place.address;
    any = true;
  }
  if (differ)
    return Error{ErrorCode::unsupported, "sections that __start_ and __stop_ symbols bound can be moved together only"};
  if (any)
    for (link::Target& target : targets_)
      if (target.kind == TargetKind::section && target.where == link::bound_section) target.address += distance;
  return {};
}

void Relink::follow(const Relink& other) {
  const KeptPlaces places = other.state_->places();
  std::vector<SymbolMove> moves;
  for (std::size_t i = 0; i < other.targets_.size(); ++i) {
    const link::Target& linked = other.state_->bindings()[i];
    if (linked.kind != TargetKind::section || !is_address(linked)) continue;
    const bool at_end =
        linked.where < places.size() && linked.address - places[linked.where].address == places[linked.where].size;
    moves.push_back({linked.address, other.targets_[i].address, at_end});
  }
  std::sort(moves.begin(), moves.end(), is_before);
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    link::Target& target = targets_[i];
    // As it is linked: where one module is to go, another may lie still.
    const std::uint64_t linked = binding(*state_, i).address;
    if (target.kind != TargetKind::fixed || !is_address(target)) continue;
    auto move = std::lower_bound(moves.begin(), moves.end(), SymbolMove{linked, 0, false}, is_before);
    if (move != moves.end() && move->from == linked && (!move->at_end || target.address == linked))
      target.address = move->to;
  }
}

std::uint32_t Relink::own(Synthetic which) const noexcept {
  return std::uint32_t(addresses_.size() - link::synthetic_sections + std::size_t(which));
}

bool Relink::has_thunk(std::uint32_t section) const noexcept {
  const link::Bound bound = this->bound();
  auto of = std::partition_point(bound.thunks.begin(), bound.thunks.end(),
                                 [&](const link::Thunk& thunk) { return thunk.section < section; });
  return of != bound.thunks.end() && of->section == section;
}

bool Relink::moves(Synthetic which) const noexcept { return address(which) != state_->places()[own(which)].address; }

link::Bound Relink::bound() const {
  link::Bound bound;
  state_->relocations().complete(bound);
  bound.targets = targets_;
  bound.got = address(Synthetic::got);
  bound.stubs = address(Synthetic::stubs);
  bound.slots = address(Synthetic::slots);
  bound.dso_handle = address(Synthetic::dso_handle);
  bound.low_2gib = true; // no advice on how to create the engine: it exists
  return bound;
}

Result<void> Relink::section(std::uint32_t section, std::span<std::byte> bytes) const {
  const link::Bound bound = this->bound();
  if (section == own(Synthetic::stubs)) return stubs(bound, bytes);
  if (section == own(Synthetic::stub_frames)) return frames(bytes);
  if (section == own(Synthetic::got) && !bytes.empty()) link::write_address_cells(bound, bytes.data());
  if (section >= own(Synthetic::stubs)) return {};
  return object_section(bound, section, bytes);
}

Result<void> Relink::object_section(const link::Bound& bound, std::uint32_t section, std::span<std::byte> bytes) const {
  const bool code = is_code(state_->places()[section]);
  state_->relocations().restore(section, bytes, code);
  // Fields of odd objects may overlap: instructions are looked at as they were before the first was applied.
  std::vector<std::byte> copy;
  if (state_->relocations().keeps_bytes_of(section)) copy.assign(bytes.begin(), bytes.end());
  const Bytes original = copy.empty() ? Bytes(bytes) : Bytes(copy);
  const link::SectionBytes site{section, addresses_[section], bytes.data(), original, code, false};
  Result<void> done;
  state_->relocations().for_each_of(section, [&](const Relocation& r) {
    if (done) done = link::arch::relocate(bound, site, r);
  });
  for (const link::Thunk& thunk : bound.thunks)
    if (done && thunk.section == section && link::arch::thunk_is_used(bound, thunk, addresses_[section]))
      done = link::arch::write_thunk_site(bound, thunk, addresses_[section], bytes.data());
  return done;
}

Result<void> Relink::references(std::uint32_t section, std::span<std::byte> bytes) const {
  // What goes through the linker's own sections is not told from what does not; nor are fields that overlap, or thunks'
  // sites.
  const bool all = moves(Synthetic::stubs) || moves(Synthetic::got) || moves(Synthetic::slots) ||
                   addresses_[section] != state_->places()[section].address || section >= own(Synthetic::stubs) ||
                   state_->relocations().keeps_bytes_of(section) || has_thunk(section);
  if (all) return this->section(section, bytes);
  const link::Bound bound = this->bound();
  const bool code = is_code(state_->places()[section]);
  const link::SectionBytes site{section, addresses_[section], bytes.data(), bytes, code, false};
  Result<void> done;
  state_->relocations().for_each_of(section, [&](const Relocation& r) {
    if (!done || targets_[r.symbol].address == binding(*state_, r.symbol).address) return;
    state_->relocations().restore(section, bytes, code, r);
    done = link::arch::relocate(bound, site, r);
  });
  return done;
}

Result<void> Relink::stubs(const link::Bound& bound, std::span<std::byte> bytes) const {
  if (bytes.empty()) return {};
  Result<void> done = link::write_stubs(bound, bytes.data());
  for (const link::Thunk& thunk : bound.thunks) {
    if (!done) return done;
    if (thunk.length != 0 && link::arch::thunk_is_used(bound, thunk, addresses_[thunk.section]))
      done = link::arch::write_thunk(bound, thunk, addresses_[thunk.section], bytes.data() + thunk.stub);
    else
      std::memset(bytes.data() + thunk.stub, 0xCC, link::arch::thunk_bytes);
  }
  return done;
}

// Descriptions name what they are for by its distance.
Result<void> Relink::frames(std::span<std::byte> bytes) const {
  const std::uint32_t stubs = own(Synthetic::stubs), frames = own(Synthetic::stub_frames);
  bool near = true;
  Result<void> walked = object::walk_eh_frame(bytes, [&](const object::EhRecord& record) {
    if (record.is_cie) return;
    std::byte* description = bytes.data() + record.offset;
    std::uint64_t distance = std::uint64_t(base::load_le<std::int32_t>(description + link::arch::frame_address_field));
    std::uint64_t field = state_->places()[frames].address + record.offset + link::arch::frame_address_field;
    std::uint64_t stub = field + distance - state_->places()[stubs].address;
    near &= link::arch::set_frame_address(description, addresses_[frames] + record.offset, addresses_[stubs] + stub);
  });
  if (walked && !near)
    return Error{ErrorCode::out_of_range, "stubs would be too far from their frame description, .tenon.eh_frame"};
  return walked;
}

} // namespace tenon::engine

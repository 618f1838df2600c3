// A version's content, copied to be worked on without a lock; and what a field of its code leads to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/move_plan.h"

#include <algorithm>
#include <unordered_map>

namespace tenon::engine {

namespace {

using link::Run;
using link::arch::FieldUse;

void copy_bytes(MoveSnapshot& snapshot) {
  std::size_t size = 0;
  snapshot.at.resize(snapshot.places.size());
  auto is_wanted = [&](std::uint32_t i) {
    return snapshot.is_code(i) || (snapshot.places[i].kept && snapshot.places[i].unwind);
  };
  for (std::uint32_t i = 0; i < snapshot.places.size(); ++i)
    if (is_wanted(i)) size += snapshot.places[i].size;
  snapshot.bytes.reserve(size);
  for (std::uint32_t i = 0; i < snapshot.places.size(); ++i) {
    if (!is_wanted(i)) continue;
    const auto* from = Addr{snapshot.places[i].address}.as<const std::byte*>();
    snapshot.at[i] = snapshot.bytes.size();
    snapshot.bytes.insert(snapshot.bytes.end(), from, from + snapshot.places[i].size);
  }
}

// Jump tables look the same but for what they hold.
void find_stub_distances(MoveSnapshot& snapshot) {
  // Of each function: its section, and where that would have to begin for the stub to lie in it as the function does.
  std::vector<std::pair<std::uint32_t, std::uint64_t>> stubs;
  snapshot.relocations.for_each([&](std::uint32_t section, const Relocation& r) {
    const link::SectionPlace& place = snapshot.places[section];
    const link::Target& target = snapshot.binding(r.symbol);
    if (!place.kept || place.run != Run::rodata || place.serves_all || !snapshot.is_section(target) ||
        !snapshot.is_code(target.where) || MoveSnapshot::has_stub(target))
      return;
    if (const link::arch::LinkedField shape = link::arch::field_shape(r); !shape.relative || shape.to_got) return;
    if (stubs.empty()) {
      for (const MoveSnapshot::Function& f : snapshot.functions)
        if (f.section != link::none)
          stubs.emplace_back(f.section, f.stub - (f.address - snapshot.places[f.section].address));
      std::sort(stubs.begin(), stubs.end());
    }
    const auto* bytes = Addr{place.address}.as<const std::byte*>();
    const std::uint64_t begin = link::arch::linked_field(bytes, place.address, 0, r, false).symbol;
    if (std::binary_search(stubs.begin(), stubs.end(), std::pair(target.where, begin)))
      snapshot.stub_distances.emplace_back(section, r.offset);
  });
  std::sort(snapshot.stub_distances.begin(), snapshot.stub_distances.end());
}

} // namespace

MoveSnapshot MoveSnapshot::of(const ModuleState& module, const ModuleState& holder) {
  MoveSnapshot snapshot;
  snapshot.name = module.name;
  snapshot.linking = holder.linking.copy();
  snapshot.places = snapshot.linking.places();
  snapshot.bindings = snapshot.linking.bindings();
  snapshot.relocations = snapshot.linking.relocations();
  snapshot.sites.assign(holder.extra().sites.begin(), holder.extra().sites.end());
  std::sort(snapshot.sites.begin(), snapshot.sites.end());
  std::unordered_map<std::uint64_t, std::uint32_t> section_of; // by stub
  for (const link::Target& target : snapshot.bindings)
    // What stands for an IFUNC is in no section of the object: its own section is its resolver's.
    if (snapshot.is_section(target) && (target.flags & link::target_flag::identity) != 0 &&
        (target.flags & link::target_flag::ifunc) == 0)
      section_of.emplace(target.address, target.where);
  snapshot.functions.reserve(holder.extra().functions.size());
  for (const OwnFunction& function : holder.extra().functions) {
    auto section = section_of.find(function.definition->stub.address());
    snapshot.bodies.emplace(function.definition->stub.address(), function.address);
    snapshot.functions.push_back(
        {function.address, function.definition->stub.address(), section != section_of.end() ? section->second : link::none});
  }
  module.for_each_record([&](const SymbolRecord& record) {
    if ((record.flags & (symbol_flag::tls | symbol_flag::group | symbol_flag::erased)) == 0)
      snapshot.exported.push_back(record.address());
  });
  snapshot.exported.insert(snapshot.exported.end(), holder.extra().escaped_parts.begin(),
                           holder.extra().escaped_parts.end());
  std::sort(snapshot.exported.begin(), snapshot.exported.end());
  copy_bytes(snapshot);
  find_stub_distances(snapshot);
  snapshot.version = module.replaceable->version;
  snapshot.moves = holder.extra().moves;
  return snapshot;
}

bool MoveSnapshot::begins_function(std::uint32_t section, std::uint64_t offset) const noexcept {
  const std::uint64_t address = places[section].address + offset;
  auto found = std::lower_bound(functions.begin(), functions.end(), address,
                                [](const Function& f, std::uint64_t a) { return f.address < a; });
  for (; found != functions.end() && found->address == address; ++found)
    if (found->section == section) return true;
  return false;
}

std::uint64_t MoveSnapshot::code_address(const link::Target& target) const noexcept {
  if ((target.flags & link::target_flag::identity) == 0) return target.address;
  auto body = bodies.find(target.address);
  return body != bodies.end() ? body->second : target.address;
}

MoveSnapshot::Reference MoveSnapshot::reference(std::uint32_t section, const Relocation& r) const noexcept {
  using To = Reference::To;
  const link::SectionPlace& place = places[section];
  Reference found;
  found.field = link::arch::linked_field(bytes_of(section), place.address, places[own(link::Synthetic::got)].address, r,
                                         is_code(section));
  if (found.field.width == 0) return found;
  if (std::binary_search(sites.begin(), sites.end(), place.address + found.field.offset)) {
    found.to = To::site;
    return found;
  }
  const link::Target& target = binding(r.symbol);
  const link::SectionPlace& stubs = places[own(link::Synthetic::stubs)];
  if (stubs.kept && found.field.symbol - stubs.address < stubs.size) {
    // Nothing but what goes through a stub has its address there: symbols are in the object's sections.
    found.to = To::stubs;
    return found;
  }
  if (!is_section(target)) return found;
  const link::SectionPlace& where = places[target.where];
  found.section = target.where;
  if (is_code(target.where)) {
    // A function's address is its stub's; its body is what branches into it lead to. A section's symbol may stand for a
    // function, and so for its stub, too.
    const bool identity = (target.flags & link::target_flag::identity) != 0;
    const bool body = identity ? found.field.symbol - where.address <= where.size && found.field.symbol != target.address
                               : found.field.symbol == target.address;
    if (body && (target.flags & link::target_flag::ifunc) == 0) found.to = To::code;
  } else if (where.kept && where.run == Run::rodata && !where.serves_all) {
    found.to = To::table; // if there is one
    const std::uint64_t tail = found.field.relative && is_code(section) ? 4 : 0;
    found.offset = target.address - where.address + std::uint64_t(r.addend) + tail;
  }
  return found;
}

} // namespace tenon::engine

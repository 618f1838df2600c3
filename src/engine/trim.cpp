// Which sections a shared COMDAT group needs is read off the kept relocations: the group's own sections, what these refer
// to, and so on. Unwind information refers to every function of its module, so it is kept but not followed into code.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/trim.h"

#include "base/align.h"
#include "memory/free_space.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

namespace tenon::engine {

namespace {

// An edge of the module's own reference graph.
struct Edge {
  std::uint32_t from = 0, to = 0;
};

struct Needed {
  std::vector<std::uint8_t> sections; // by index: 1 if it stays
  std::vector<std::uint32_t> pending;

  explicit Needed(std::size_t count) : sections(count) { pending.reserve(count); }
  void reach(std::uint32_t section) noexcept {
    if (std::exchange(sections[section], std::uint8_t(1)) == 0) pending.push_back(section);
  }
};

bool is_shared(const SymbolRecord& record) noexcept { return record.group != nullptr && record.group->users != 0; }

std::uint32_t count_shared(const ModuleState& module) noexcept {
  std::uint32_t count = 0;
  module.for_each_record(
      [&](const SymbolRecord& record) { count += (record.flags & symbol_flag::group) != 0 && record.users != 0; });
  return count;
}

// Sorted by `from`: relocations are kept in the order of sections.
std::vector<Edge> edges_of(const ModuleState& module) {
  std::vector<Edge> edges;
  module.relocations.for_each([&](std::uint32_t section, const Relocation& relocation) {
    const link::Target& target = module.bindings[relocation.symbol];
    if (target.kind != link::TargetKind::section || target.where >= module.places.size()) return;
    Edge edge{section, target.where};
    if (edges.empty() || edges.back().from != edge.from || edges.back().to != edge.to) edges.push_back(edge);
  });
  return edges;
}

// The sections in which symbols of shared groups are defined. `by_address`: placed sections in the order of addresses.
void reach_groups(const ModuleState& module, const std::vector<std::uint32_t>& by_address, Needed& needed) {
  module.for_each_record([&](const SymbolRecord& record) {
    if (!is_shared(record) || (record.flags & symbol_flag::tls) != 0) return;
    auto after = std::upper_bound(
        by_address.begin(), by_address.end(), record.address,
        [&](std::uint64_t address, std::uint32_t section) { return address < module.places[section].address; });
    // Every section that begins at or before the address and reaches it: empty ones may share their first byte.
    while (after != by_address.begin()) {
      const link::SectionPlace& place = module.places[*--after];
      if (record.address - place.address > place.size) break;
      needed.reach(*after);
      if (record.address != place.address) break;
    }
  });
}

void follow(const ModuleState& module, const std::vector<Edge>& edges, Needed& needed) {
  // The linker's own sections serve whatever is left. Unwind information and thread-local images stay whole, and so does
  // what frames refer to besides their functions: tables of landing pads, pointers to personality routines.
  for (std::uint32_t i = 0; i < module.places.size(); ++i)
    if (module.places[i].serves_all) needed.sections[i] = 1;
  for (const Edge& edge : edges)
    if (module.places[edge.from].serves_all && module.places[edge.to].run != link::Run::code) needed.reach(edge.to);
  while (!needed.pending.empty()) {
    std::uint32_t section = needed.pending.back();
    needed.pending.pop_back();
    auto edge = std::lower_bound(edges.begin(), edges.end(), section,
                                 [](const Edge& e, std::uint32_t from) { return e.from < from; });
    for (; edge != edges.end() && edge->from == section; ++edge) needed.reach(edge->to);
  }
}

std::vector<std::uint32_t> in_order(const ModuleState& module) {
  std::vector<std::uint32_t> by_address;
  for (std::uint32_t i = 0; i < module.places.size(); ++i)
    if (module.places[i].kept) by_address.push_back(i);
  std::sort(by_address.begin(), by_address.end(),
            [&](std::uint32_t a, std::uint32_t b) { return module.places[a].address < module.places[b].address; });
  return by_address;
}

// What stays, in whole granules.
std::vector<Stretch> stretches(const ModuleState& module, const std::vector<std::uint32_t>& by_address,
                               const Needed& needed) {
  std::vector<Stretch> kept;
  for (std::uint32_t i : by_address) {
    const link::SectionPlace& place = module.places[i];
    if (needed.sections[i] == 0 || place.size == 0) continue;
    Addr begin{base::align_down(place.address, memory::granule)};
    Addr end{base::align_up(place.address + place.size, memory::granule)};
    if (!kept.empty() && begin <= kept.back().end)
      kept.back().end = std::max(kept.back().end, end);
    else
      kept.push_back({begin, end});
  }
  return kept;
}

} // namespace

void trim(ModuleState& module) noexcept {
  // In the client's memory blocks are the client's, and sections that __start_ symbols bound lie among other modules'.
  const bool divisible =
      module.client.memory == nullptr && std::none_of(module.places.begin(), module.places.end(),
                                                      [](const auto& place) { return place.leads || place.follows; });
  const std::uint32_t shared = count_shared(module);
  if (!divisible || shared == 0 || shared == module.trimmed_for) return;
  try {
    const std::vector<std::uint32_t> by_address = in_order(module);
    Needed needed(module.places.size());
    reach_groups(module, by_address, needed);
    follow(module, edges_of(module), needed);
    const std::vector<Stretch> kept = stretches(module, by_address, needed);

    module.parts.reserve(module.parts.size() + module.blocks.size());
    for (OwnedBlock& block : module.blocks)
      if (block) module.parts.push_back(std::move(block));
    for (std::size_t i = 0, count = module.parts.size(); i < count; ++i) OwnedBlock::keep_only(module.parts, i, kept);
    std::erase_if(module.parts, [](const OwnedBlock& part) { return !part; });
    module.trimmed_for = shared;
  } catch (const std::bad_alloc&) {
    // Nothing that is needed was freed; what was not freed waits for another time.
  }
}

} // namespace tenon::engine

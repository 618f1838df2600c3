// What shared COMDAT groups need is read off the kept relocations: the sections that their symbols lie in, what these refer
// to, and so on. That is all there is only where nothing can have been stored meanwhile: a pointer in writable memory, put
// there by an initializer or by any call, may lead anywhere in the module. So a module is trimmed only if its shared groups
// reach nothing writable, and have no part in what is the linker's to fill while the program runs: thread-local memory,
// slots. Any other remnant stays whole.
//
// Unwind information refers to every function of its module. It is kept, and followed except to the functions that it is of:
// the unwinder does read tables of landing pads and pointers to personality routines. If it leads to more code, a routine of
// the module's own, the module stays whole too, since that may in turn look at anything.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/trim.h"

#include "object/eh_frame.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

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
  // `edges`: sorted by `from`.
  void follow(const std::vector<Edge>& edges) noexcept {
    while (!pending.empty()) {
      const std::uint32_t section = pending.back();
      pending.pop_back();
      auto edge = std::lower_bound(edges.begin(), edges.end(), section,
                                   [](const Edge& e, std::uint32_t from) { return e.from < from; });
      for (; edge != edges.end() && edge->from == section; ++edge) reach(edge->to);
    }
  }
};

bool is_shared(const SymbolRecord& record) noexcept { return record.group() != nullptr && record.group()->users() != 0; }

std::uint32_t count_shared(const ModuleState& module) noexcept {
  std::uint32_t count = 0;
  module.for_each_record(
      [&](const SymbolRecord& record) { count += (record.flags & symbol_flag::group) != 0 && record.users() != 0; });
  return count;
}

// In the client's memory blocks are the client's, and sections that __start_ symbols bound lie among other modules'.
bool is_divisible(const ModuleState& module) noexcept {
  return module.extra().client.memory == nullptr && module.extra().recalls == nullptr && module.extra().tls == nullptr &&
         module.rare().stale.empty() && (module.replaceable == nullptr || module.replaceable->fragments.empty()) &&
         std::none_of(module.places().begin(), module.places().end(), [](const link::SectionPlace& place) {
           return place.leads || place.follows || (place.kept && place.run == link::Run::slots);
         });
}

bool is_writable(const link::SectionPlace& place) noexcept { return place.run == link::Run::data && place.size != 0; }

// The fields of an .eh_frame section that name the functions, in order; nothing if it can't be read.
std::optional<std::vector<std::uint64_t>> function_fields(const link::SectionPlace& place) {
  std::vector<std::uint64_t> fields;
  const Bytes linked(Addr{place.address}.as<const std::byte*>(), place.size);
  Result<void> walked = object::walk_eh_frame(linked, [&](const object::EhRecord& record) {
    if (!record.is_cie) fields.push_back(record.pc_begin_offset);
  });
  if (!walked) return std::nullopt;
  return fields;
}

// Sorted by `from`: relocations are kept in the order of sections. Without those from unwind information to the functions
// that it describes. Nothing if there is no telling.
std::optional<std::vector<Edge>> edges_of(const ModuleState& module) {
  std::vector<Edge> edges;
  std::optional<std::vector<std::uint64_t>> functions;
  std::uint32_t functions_of = link::none;
  bool sound = true;
  module.relocations().for_each([&](std::uint32_t section, const Relocation& relocation) {
    const link::Target& target = module.bindings()[relocation.symbol];
    if (target.kind != link::TargetKind::section || target.where >= module.places().size() || !sound) return;
    const std::uint64_t field = relocation.offset; // a packed field has no address to pass on
    if (const link::SectionPlace& from = module.places()[section]; from.serves_all) {
      if (std::exchange(functions_of, section) != section) functions = function_fields(from);
      sound = functions.has_value();
      if (!sound || (module.places()[target.where].run == link::Run::code &&
                     std::binary_search(functions->begin(), functions->end(), field)))
        return;
    }
    const Edge edge{section, target.where};
    if (edges.empty() || edges.back().from != edge.from || edges.back().to != edge.to) edges.push_back(edge);
  });
  if (!sound) return std::nullopt;
  return edges;
}

// The sections in which symbols of shared groups are defined. Records don't know theirs; the symbols of the object do, and
// are at the same addresses.
bool reach_groups(const ModuleState& module, Needed& needed) {
  std::vector<std::uint64_t> addresses;
  module.for_each_record([&](const SymbolRecord& record) {
    if (is_shared(record)) addresses.push_back(record.address());
  });
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  std::vector<std::uint8_t> found(addresses.size());
  for (const link::Target& target : module.bindings()) {
    if (target.kind != link::TargetKind::section || target.where >= module.places().size()) continue;
    auto at = std::lower_bound(addresses.begin(), addresses.end(), target.address);
    if (at == addresses.end() || *at != target.address) continue;
    found[std::size_t(at - addresses.begin())] = 1;
    needed.reach(target.where);
  }
  return std::find(found.begin(), found.end(), 0) == found.end();
}

// What has to stay; nothing: all of it.
std::optional<Needed> find_needed(const ModuleState& module) {
  const std::optional<std::vector<Edge>> edges = edges_of(module);
  Needed needed(module.places().size());
  if (!edges || !reach_groups(module, needed)) return std::nullopt;
  needed.follow(*edges);
  for (std::uint32_t i = 0; i < module.places().size(); ++i)
    if (needed.sections[i] != 0 && is_writable(module.places()[i])) return std::nullopt;

  // The linker's own sections serve whatever is left.
  for (std::uint32_t i = 0; i < module.places().size(); ++i)
    if (module.places()[i].serves_all) needed.sections[i] = 1;
  const std::vector<std::uint8_t> by_program = needed.sections;
  for (const Edge& edge : *edges)
    if (module.places()[edge.from].serves_all) needed.reach(edge.to);
  needed.follow(*edges);
  for (std::uint32_t i = 0; i < module.places().size(); ++i)
    if (needed.sections[i] != by_program[i] && module.places()[i].run == link::Run::code) return std::nullopt;
  return needed;
}

// What stays, in whole granules.
std::vector<Stretch> stretches(const ModuleState& module, const Needed& needed) {
  std::vector<Stretch> kept;
  for (std::uint32_t i = 0; i < module.places().size(); ++i)
    if (const link::SectionPlace& place = module.places()[i]; place.kept && !place.overlies && needed.sections[i] != 0)
      kept.push_back({{place.address}, {place.address + place.size}});
  return whole_granules(std::move(kept));
}

// Nobody may lead calls elsewhere that lie in memory which is given back.
void forget_sites(ModuleState& module) noexcept {
  auto is_there = [&](std::uint64_t site) {
    return std::any_of(module.extra().parts.begin(), module.extra().parts.end(), [&](const OwnedBlock& part) {
      return part && part->begin.value <= site && site < part->end().value;
    });
  };
  for (Use& use : module.extra().uses) drop_sites(use, [&](std::uint64_t site) { return !is_there(site); });
}

void take_rest(ModuleState& module, const Needed& needed, std::vector<OwnedBlock>& freed) {
  const std::vector<Stretch> kept = stretches(module, needed);
  base::List<OwnedBlock>& parts = module.make_extra().parts;
  parts.reserve(parts.size() + link::runs);
  for (std::size_t run = 0; run < link::runs; ++run)
    if (OwnedBlock block = module.blocks.take(link::Run(run))) parts.push_back(std::move(block));
  for (std::size_t i = 0, count = parts.size(); i < count; ++i) OwnedBlock::keep_only(parts, i, kept, freed);
  base::erase_if(parts, [](const OwnedBlock& part) { return !part; });
  forget_sites(module);
}

} // namespace

void trim(ModuleState& module, std::vector<OwnedBlock>& freed) noexcept {
  const std::uint32_t shared = count_shared(module);
  if (shared == 0 || shared == module.trimmed_for || !is_divisible(module)) return;
  try {
    if (const std::optional<Needed> needed = find_needed(module)) take_rest(module, *needed, freed);
    module.trimmed_for = shared;
  } catch (const std::bad_alloc&) {
    // Nothing that is needed was taken; what was not taken waits for another time.
  }
}

} // namespace tenon::engine

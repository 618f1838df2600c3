// What a version's code sections need of each other.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/code_graph.h"

#include "base/align.h"
#include "link/arch/arch.h"
#include "memory/free_space.h"

#include <algorithm>
#include <tuple>

namespace tenon::engine {

namespace {

bool begins_function(const ModuleState& holder, std::uint64_t address) {
  auto found = std::lower_bound(holder.extra().functions.begin(), holder.extra().functions.end(), address,
                                [](const OwnFunction& f, std::uint64_t a) { return f.address < a; });
  return found != holder.extra().functions.end() && found->address == address;
}

bool is_code(const link::SectionPlace& place) {
  return place.kept && place.run == link::Run::code && place.size != 0 && !place.serves_all;
}

} // namespace

CodeGraph::CodeGraph(const ModuleState& holder, const ModuleState& module) {
  for (std::uint32_t i = 0; i < holder.places().size(); ++i)
    if (const link::SectionPlace& place = holder.places()[i]; is_code(place))
      // What __start_ and __stop_ symbols bound is reached by walking from one to the other.
      sections_.push_back({place.address, place.address + place.size, i, 0, place.leads || place.follows, false});
  std::sort(sections_.begin(), sections_.end(), [](const Section& a, const Section& b) { return a.begin < b.begin; });
  for (const OwnFunction& function : holder.extra().functions)
    if (const std::uint32_t i = at(function.address); i != link::none && function.definition->address == function.address)
      ++sections_[i].live;
  // Labels that others may know by name.
  for (const std::unique_ptr<Definition>& definition : module.replaceable->definitions)
    if (definition->kind == DefinitionKind::other && !definition->vanished)
      if (const std::uint32_t i = at(definition->address); i != link::none) sections_[i].pinned = true;

  for (std::uint64_t part : holder.extra().escaped_parts)
    if (const std::uint32_t i = at(part); i != link::none) sections_[i].pinned = true;

  sites_.assign(holder.extra().sites.begin(), holder.extra().sites.end());
  std::sort(sites_.begin(), sites_.end());
  holder.relocations().for_each([&](std::uint32_t place, const Relocation& relocation) {
    if (!holder.places()[place].kept) return; // replaced already, and perhaps freed
    is_code(holder.places()[place]) ? follow_code(holder, place, relocation) : follow_data(holder, place, relocation);
  });
  sites_ = {};
  auto by_from = [](const Edge& a, const Edge& b) { return std::tie(a.from, a.to) < std::tie(b.from, b.to); };
  auto same = [](const Edge& a, const Edge& b) { return a.from == b.from && a.to == b.to; };
  std::sort(out_.begin(), out_.end(), by_from);
  out_.erase(std::unique(out_.begin(), out_.end(), same), out_.end());
  in_ = out_;
  std::sort(in_.begin(), in_.end(),
            [](const Edge& a, const Edge& b) { return std::tie(a.to, a.from) < std::tie(b.to, b.from); });
}

std::uint32_t CodeGraph::at(std::uint64_t address) const noexcept {
  auto after = std::upper_bound(sections_.begin(), sections_.end(), address,
                                [](std::uint64_t a, const Section& section) { return a < section.begin; });
  if (after == sections_.begin() || std::prev(after)->end <= address) return link::none;
  return std::uint32_t(std::prev(after) - sections_.begin());
}

// Where the bytes lead: the linker has led every reference to a function to its stub, or made it a site.
void CodeGraph::follow_code(const ModuleState& holder, std::uint32_t place, const Relocation& relocation) {
  const std::uint64_t begin = holder.places()[place].address;
  const std::size_t got = holder.places().size() - link::synthetic_sections + std::size_t(link::Synthetic::got);
  const link::arch::LinkedField field =
      link::arch::linked_field(Addr{begin}.as<const std::byte*>(), begin, holder.places()[got].address, relocation, true);
  if (field.width == 0 || std::binary_search(sites_.begin(), sites_.end(), begin + field.offset)) return;
  // A displacement counts from where its field ends, or a few bytes behind that, where the instruction does.
  const bool displacement = field.relative && field.width == 4;
  const std::uint64_t target = field.symbol + std::uint64_t(relocation.addend) + (displacement ? 4 : 0);
  const std::uint32_t from = at(begin + field.offset);
  std::uint32_t to = at(target);
  if (to == link::none && displacement) to = at(target + 8);
  if (from == link::none || to == link::none || from == to) return;
  out_.push_back({from, to});
}

void CodeGraph::follow_data(const ModuleState& holder, std::uint32_t place, const Relocation& relocation) {
  const link::SectionPlace& from = holder.places()[place];
  const link::Target& target = holder.bindings()[relocation.symbol];
  if (from.serves_all || target.kind != link::TargetKind::section) return;
  const link::arch::LinkedField field = link::arch::field_shape(relocation);
  if (field.width == 0 || field.relative) return;
  // Writable data may hold something else by now; it was linked to hold the address.
  const std::uint64_t address = target.address + std::uint64_t(relocation.addend);
  if (const std::uint32_t to = at(address); to != link::none && !begins_function(holder, address))
    sections_[to].pinned = true;
}

std::vector<std::uint32_t> CodeGraph::find_stale(std::span<const std::uint64_t> bodies) const {
  std::vector<std::uint32_t> leaving(sections_.size()), found;
  std::vector<std::uint8_t> chosen(sections_.size());
  for (std::uint64_t body : bodies)
    if (const std::uint32_t i = at(body); i != link::none) ++leaving[i];
  auto reach = [&](std::uint32_t i) {
    const Section& section = sections_[i];
    if (chosen[i] != 0 || section.stale || section.pinned || section.live != leaving[i]) return;
    chosen[i] = 1;
    found.push_back(i);
  };
  for (std::uint64_t body : bodies)
    if (const std::uint32_t i = at(body); i != link::none) reach(i);
  for (std::size_t next = 0; next < found.size(); ++next) {
    auto edge =
        std::lower_bound(out_.begin(), out_.end(), found[next], [](const Edge& e, std::uint32_t s) { return e.from < s; });
    for (; edge != out_.end() && edge->from == found[next]; ++edge) reach(edge->to);
  }
  // What somebody else leads to stays, and what that leads to.
  for (bool changed = true; changed;) {
    changed = false;
    for (std::uint32_t i : found) {
      if (chosen[i] == 0) continue;
      auto edge = std::lower_bound(in_.begin(), in_.end(), i, [](const Edge& e, std::uint32_t s) { return e.to < s; });
      for (; edge != in_.end() && edge->to == i; ++edge) {
        if (chosen[edge->from] != 0 || sections_[edge->from].stale) continue;
        chosen[i] = 0;
        changed = true;
        break;
      }
    }
  }
  std::erase_if(found, [&](std::uint32_t i) { return chosen[i] == 0; });
  return found;
}

void CodeGraph::supersede(std::span<const std::uint64_t> bodies, std::span<const std::uint32_t> stale) noexcept {
  for (std::uint64_t body : bodies)
    if (const std::uint32_t i = at(body); i != link::none && sections_[i].live != 0) --sections_[i].live;
  for (std::uint32_t i : stale) sections_[i].stale = true;
}

Stretch CodeGraph::freeable(std::uint32_t index) const noexcept {
  const Section& section = sections_[index];
  // A neighbour may begin in the granule in which this one ends.
  const bool shares_begin = index != 0 && sections_[index - 1].end > base::align_down(section.begin, memory::granule);
  const bool shares_end =
      index + 1 != sections_.size() && sections_[index + 1].begin < base::align_up(section.end, memory::granule);
  const std::uint64_t begin =
      shares_begin ? base::align_up(section.begin, memory::granule) : base::align_down(section.begin, memory::granule);
  const std::uint64_t end =
      shares_end ? base::align_down(section.end, memory::granule) : base::align_up(section.end, memory::granule);
  return {{begin}, {std::max(begin, end)}};
}

} // namespace tenon::engine

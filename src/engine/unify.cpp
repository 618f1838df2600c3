// Constants keep their addresses if they are the same to the last byte, relocated at the old address: heap objects hold
// pointers to virtual tables, and string literals may be held by anybody.
//
// The old address is that of any earlier version: what comes again goes where it was, so that versions that take turns do
// not pile up. Constants refer to each other, and whether one is the same as before depends on where those are that it
// refers to. So these are decided first; those that refer to each other in a circle have all moved whenever one has, and are
// tried together, each at its first place, then each at its second.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/carry.h"

#include "link/arch/arch.h"
#include "link/distances.h"

#include <algorithm>
#include <cstring>
#include <mutex>

namespace tenon::engine {

namespace {

// A section of constants that may turn out to be the same as one of an earlier version.
struct Candidate {
  std::uint32_t module = 0, section = 0;
  std::vector<std::uint64_t> places; // never empty
  std::uint64_t new_address = 0;
  std::vector<std::uint32_t> needs; // the other candidates that it refers to
  bool needs_itself = false;
};

// Candidates that refer to each other.
struct Circle {
  std::vector<std::uint32_t> members;
  std::size_t place = 0; // which one of each member's they are tried at
  bool decided = false;
  bool same = false;
};

bool begins_function(const link::Module& module, std::uint32_t section, std::uint64_t offset) {
  const std::pair key(section, offset);
  auto found =
      std::lower_bound(module.own_functions.begin(), module.own_functions.end(), key,
                       [](const link::OwnFunction& f, const auto& k) { return std::pair(f.section, f.offset) < k; });
  return found != module.own_functions.end() && std::pair(found->section, found->offset) == key;
}

} // namespace

bool leads_into_code(const link::Module& module, std::uint32_t i) {
  const std::span<const Relocation> relocations = module.relocations(i);
  link::Distances distances(module);
  return std::any_of(relocations.begin(), relocations.end(), [&](const Relocation& r) {
    const std::uint32_t section = module.symbols()[r.symbol].section;
    const bool own = module.targets[r.symbol].kind == link::TargetKind::section && section < module.object_sections();
    if (!own || module.places[section].run != link::Run::code) return false;
    const bool function = !module.callee_of.empty() && module.callee_of[r.symbol] != 0;
    // Assemblers name a local function by its section.
    if (!function && link::arch::field_shape(r).relative) return distances.function(i, r) == nullptr;
    return !function && !(module.symbols()[r.symbol].type == SymbolType::section && r.addend >= 0 &&
                          begins_function(module, section, std::uint64_t(r.addend)));
  });
}

namespace {

bool may_be_unified(const link::Module& module, std::uint32_t i) {
  const link::SectionPlace& place = module.places[i];
  if (leads_into_code(module, i)) return false;
  return place.run == link::Run::rodata && place.content_size() != 0 && !place.serves_all && !place.leads &&
         !place.follows && module.section_kind(i) != SectionKind::init &&
         !module.section_name(i).starts_with(".gcc_except_table");
}

// Where constants without names lie that may be the same as the section's; those with nothing to relocate are compared at
// once.
std::vector<std::uint64_t> same_literals(const link::Module& module, std::uint32_t section, const ModuleState& before) {
  const link::SectionPlace& place = module.places[section];
  const Bytes content = module.sections()[section].content;
  const bool plain = module.relocations(section).empty() && content.size() == place.size;
  std::vector<std::uint64_t> found;
  auto look = [&](const Anonymous& there) {
    if ((plain && !found.empty()) || there.size != place.size || there.address % place.alignment() != 0 ||
        there.section != module.section_name(section))
      return;
    if (!plain || std::memcmp(content.data(), Addr{there.address}.as<const void*>(), content.size()) == 0)
      found.push_back(there.address);
  };
  for_each_holder(before, [&](const ModuleState& holder) {
    std::for_each(holder.extra().anonymous.begin(), holder.extra().anonymous.end(), look);
  });
  std::for_each(before.replaceable->literals.begin(), before.replaceable->literals.end(), look);
  return found;
}

void find_candidates(ChangeState& change, std::uint32_t m, std::vector<Candidate>& candidates) {
  const ModuleDraft& draft = change.drafts[m];
  const link::Module& module = *change.modules[m];
  std::vector<std::uint8_t> named(module.object_sections());
  auto add = [&](std::uint32_t section, std::vector<std::uint64_t> places) {
    if (!places.empty()) candidates.push_back({m, section, std::move(places), module.places[section].address, {}, false});
  };
  const std::vector<Member> all = members_of(module, link::Run::rodata);
  (void)for_each_section(all, [&](std::span<const Member> section) -> Result<void> {
    const std::uint32_t i = section[0].section;
    named[i] = 1;
    if (!may_be_unified(module, i)) return {};
    std::vector<std::uint64_t> places;
    for (const Storage& there : earlier_storages(change, m, section, DefinitionKind::constant))
      places.push_back(there.address);
    add(i, std::move(places));
    return {};
  });
  for (std::uint32_t i : module.kept())
    if (named[i] == 0 && may_be_unified(module, i)) add(i, same_literals(module, i, *draft.replaces));
}

void find_needs(const ChangeState& change, std::vector<Candidate>& candidates) {
  std::vector<std::vector<std::uint32_t>> index(change.modules.size()); // of the candidate that a section is, and 1 more
  for (std::uint32_t c = 0; c < candidates.size(); ++c) {
    std::vector<std::uint32_t>& of = index[candidates[c].module];
    if (of.empty()) of.resize(change.modules[candidates[c].module]->object_sections());
    of[candidates[c].section] = c + 1;
  }
  for (std::uint32_t c = 0; c < candidates.size(); ++c) {
    Candidate& candidate = candidates[c];
    const link::Module& module = *change.modules[candidate.module];
    for (const Relocation& r : module.relocations(candidate.section)) {
      const link::Target& target = module.targets[r.symbol];
      std::uint32_t m = candidate.module, section = module.symbols()[r.symbol].section;
      if (target.kind == link::TargetKind::module) {
        m = target.where;
        section = change.modules[m]->symbols()[target.address].section;
      } else if (target.kind != link::TargetKind::section) {
        continue;
      }
      if (section >= index[m].size() || index[m][section] == 0) continue;
      const std::uint32_t needed = index[m][section] - 1;
      if (needed == c)
        candidate.needs_itself = true;
      else if (candidate.needs.empty() || candidate.needs.back() != needed)
        candidate.needs.push_back(needed);
    }
  }
}

// Tarjan's strongly connected components, without recursion: each comes after those that it refers to.
class Circles {
public:
  explicit Circles(const std::vector<Candidate>& candidates)
      : candidates_(candidates), number_(candidates.size()), low_(candidates.size()), open_(candidates.size()) {
    for (std::uint32_t c = 0; c < candidates.size(); ++c)
      if (number_[c] == 0) walk(c);
  }
  std::vector<Circle> take() && { return std::move(circles_); }

private:
  struct Step {
    std::uint32_t candidate;
    std::size_t next = 0;
  };

  void enter(std::uint32_t c) {
    number_[c] = low_[c] = ++count_;
    open_[c] = 1;
    pending_.push_back(c);
    path_.push_back({c});
  }
  void walk(std::uint32_t first) {
    enter(first);
    while (!path_.empty()) {
      const std::uint32_t c = path_.back().candidate;
      if (path_.back().next < candidates_[c].needs.size()) {
        const std::uint32_t needed = candidates_[c].needs[path_.back().next++];
        if (number_[needed] == 0)
          enter(needed);
        else if (open_[needed] != 0)
          low_[c] = std::min(low_[c], number_[needed]);
        continue;
      }
      path_.pop_back();
      if (!path_.empty()) low_[path_.back().candidate] = std::min(low_[path_.back().candidate], low_[c]);
      if (low_[c] == number_[c]) close(c);
    }
  }
  void close(std::uint32_t c) {
    Circle& circle = circles_.emplace_back();
    std::uint32_t member;
    do {
      member = pending_.back();
      pending_.pop_back();
      open_[member] = 0;
      circle.members.push_back(member);
    } while (member != c);
  }

  const std::vector<Candidate>& candidates_;
  std::vector<std::uint32_t> number_, low_;
  std::vector<std::uint8_t> open_;
  std::vector<std::uint32_t> pending_;
  std::vector<Step> path_;
  std::vector<Circle> circles_;
  std::uint32_t count_ = 0;
};

// Whether the section, relocated for that place, is what lies there.
Result<bool> is_unchanged(ChangeState& change, const Candidate& candidate, std::uint64_t place,
                          std::vector<std::byte>& scratch) {
  link::Module& module = *change.modules[candidate.module];
  const Bytes content = module.sections()[candidate.section].content;
  scratch.assign(content.begin(), content.end());
  const link::Bound bound(module, change.engine->options.low_2gib);
  const link::SectionBytes bytes{candidate.section, place, scratch.data(), content, false, false};
  if (Result<void> fixed = link::arch::fix_section(module, bound, bytes); !fixed)
    return std::move(fixed).error().within(module.section_name(candidate.section));
  if (!module.callees.empty()) link::arch::bind_callees(module, bytes);
  // A module that has been removed meanwhile may have no memory any more.
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> unmoved = check_unmoved(change, change.drafts[candidate.module]); !unmoved)
    return std::move(unmoved).error();
  return std::memcmp(scratch.data(), Addr{place}.as<const void*>(), scratch.size()) == 0;
}

class Unifier {
public:
  Unifier(ChangeState& change, std::vector<Candidate>& candidates)
      : change_(change), candidates_(candidates), circle_of_(candidates.size()) {
    circles_ = Circles(candidates).take();
    for (std::uint32_t c = 0; c < circles_.size(); ++c)
      for (std::uint32_t member : circles_[c].members) circle_of_[member] = c;
    for (const std::unique_ptr<link::Module>& module : change.modules) unsettled_.push_back(module->targets);
    for (const Candidate& candidate : candidates) place(candidate, candidate.places[0]);
  }

  // Rounds: with all symbols where the tries of this round have them, every circle is looked at whose needs are decided and
  // have not moved since the round began.
  Result<void> decide() {
    do {
      settle();
      moved_ = false;
      settled_.assign(circles_.size(), 1);
      for (std::uint32_t c = 0; c < circles_.size(); ++c) {
        if (circles_[c].decided || !is_ready(c)) {
          settled_[c] &= std::uint8_t(circles_[c].decided);
          continue;
        }
        if (Result<void> tried = try_one(c); !tried) return tried;
      }
    } while (moved_);
    for (const Circle& circle : circles_)
      for (std::uint32_t member : circle.members)
        if (const Candidate& candidate = candidates_[member]; circle.same) {
          const link::SectionPlace& at = change_.modules[candidate.module]->places[candidate.section];
          carry(change_, candidate.module, candidate.section, at.address, at.size);
        }
    return {};
  }

private:
  void settle() {
    for (std::size_t m = 0; m < change_.modules.size(); ++m) change_.modules[m]->targets = unsettled_[m];
    settle_all(change_);
  }

  void place(const Candidate& candidate, std::uint64_t address) {
    change_.modules[candidate.module]->places.at(candidate.section).address = address;
  }

  bool is_ready(std::uint32_t c) const {
    return std::all_of(circles_[c].members.begin(), circles_[c].members.end(), [&](std::uint32_t member) {
      const std::vector<std::uint32_t>& needs = candidates_[member].needs;
      return std::all_of(needs.begin(), needs.end(), [&](std::uint32_t needed) {
        const std::uint32_t other = circle_of_[needed];
        return other == c || (circles_[other].decided && settled_[other] != 0);
      });
    });
  }

  void move(std::uint32_t c) {
    moved_ = true;
    settled_[c] = 0;
  }

  Result<void> try_one(std::uint32_t c) {
    Circle& circle = circles_[c];
    if (circle.members.size() == 1 && !candidates_[circle.members[0]].needs_itself) return try_all_places(c);
    bool same = true;
    for (std::uint32_t member : circle.members) {
      if (!same) break;
      Result<bool> unchanged =
          is_unchanged(change_, candidates_[member], candidates_[member].places[circle.place], scratch_);
      if (!unchanged) return std::move(unchanged).error();
      same = *unchanged;
    }
    if (same) {
      circle.decided = circle.same = true;
      return {};
    }
    ++circle.place;
    circle.decided = std::any_of(circle.members.begin(), circle.members.end(),
                                 [&](std::uint32_t member) { return circle.place >= candidates_[member].places.size(); });
    for (std::uint32_t member : circle.members)
      place(candidates_[member],
            circle.decided ? candidates_[member].new_address : candidates_[member].places[circle.place]);
    move(c);
    return {};
  }

  // What it refers to is the same, wherever it lies itself.
  Result<void> try_all_places(std::uint32_t c) {
    Circle& circle = circles_[c];
    const Candidate& candidate = candidates_[circle.members[0]];
    circle.decided = true;
    for (std::uint64_t at : candidate.places) {
      Result<bool> unchanged = is_unchanged(change_, candidate, at, scratch_);
      if (!unchanged) return std::move(unchanged).error();
      if (!*unchanged) continue;
      circle.same = true;
      place(candidate, at);
      if (at != candidate.places[0]) move(c);
      return {};
    }
    place(candidate, candidate.new_address);
    move(c);
    return {};
  }

  ChangeState& change_;
  std::vector<Candidate>& candidates_;
  std::vector<Circle> circles_;
  std::vector<std::uint32_t> circle_of_;
  std::vector<std::uint8_t> settled_; // by circle: symbols are settled for where it is
  std::vector<base::ScratchList<link::Target>> unsettled_;
  std::vector<std::byte> scratch_;
  bool moved_ = false; // since symbols were settled
};

} // namespace

Result<void> unify_constants(ChangeState& change) {
  std::vector<Candidate> candidates;
  if (std::any_of(change.drafts.begin(), change.drafts.end(), [](const ModuleDraft& d) { return d.replaces != nullptr; })) {
    std::lock_guard lock(change.engine->commit_mutex);
    for (std::uint32_t m = 0; m < change.modules.size(); ++m)
      if (change.drafts[m].replaces != nullptr) find_candidates(change, m, candidates);
  }
  if (candidates.empty()) {
    settle_definitions(change);
    return {};
  }
  describe_places(change); // those that turn out to be the same are listed, too
  find_needs(change, candidates);
  return Unifier(change, candidates).decide();
}

} // namespace tenon::engine

// Data lives on: what a new version of a module has in common with the one before keeps its storage.
//
// The unit is the section. If every variable of a section of the new object is one that the module has already, by name,
// size and alignment, and all lie as they lay before, the section is not placed: the old storage stands for it. With data
// sections a section holds one variable; without, one that gains or loses a variable can't be carried, and that is an error.
//
// Constants keep their addresses if they are the same to the last byte, relocated at the old address: heap objects hold
// pointers to virtual tables, and string literals may be held by anybody.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/hex.h"
#include "engine/matching.h"
#include "link/arch/arch.h"

#include <algorithm>
#include <cstring>
#include <mutex>

namespace tenon::engine {

namespace {

using link::SectionPlace;

// The named objects of each section, in the order of sections.
struct Member {
  std::uint32_t section = 0;
  std::uint32_t symbol = 0;
};

std::vector<Member> members(const link::Module& module, link::Run run) {
  std::vector<Member> all;
  const std::span<const Symbol> symbols = module.symbols();
  for (std::uint32_t i = 1; i < symbols.size(); ++i)
    if (symbols[i].type == SymbolType::object && symbols[i].section < module.object_sections() &&
        module.places[symbols[i].section].kept && module.places[symbols[i].section].run == run &&
        (run != link::Run::rodata || !is_nameless_constant(symbols[i])))
      all.push_back({symbols[i].section, i});
  std::sort(all.begin(), all.end(), [](const Member& a, const Member& b) {
    return std::pair(a.section, a.symbol) < std::pair(b.section, b.symbol);
  });
  return all;
}

Error differs(const Symbol& symbol, const Definition& before, std::string_view how) {
  return {ErrorCode::unsupported, "variable '" + std::string(symbol.name()) + "' can't keep its value: " + std::string(how) +
                                      " (" + std::to_string(before.size) + " bytes before, " + std::to_string(symbol.size) +
                                      " now); say in DataPolicy what is to become of such variables"};
}

// What is to be done with one section of writable data.
struct Verdict {
  bool carry = false;
  std::uint64_t address = 0;
  std::uint64_t size = 0; // of the storage
};

class DataSection {
public:
  DataSection(const ChangeState& change, std::uint32_t m, std::span<const Member> members)
      : change_(change), index_(m), module_(*change.modules[m]), draft_(change.drafts[m]), members_(members) {}

  Result<Verdict> judge() const {
    std::size_t known = 0;
    bool in_place = true, same = true;
    std::uint64_t base = 0;
    for (const Member& member : members_) {
      const Symbol& symbol = module_.symbols()[member.symbol];
      const Definition* variable = earlier(member);
      if (variable == nullptr) continue;
      const std::uint64_t there = variable->address - symbol.value;
      in_place = in_place && (known == 0 || there == base);
      same = same && symbol.size == variable->size;
      base = there;
      ++known;
    }
    if (known == 0) return Verdict{};
    if (!same || base % place().alignment != 0) return mismatch();
    if (known == members_.size() && in_place) return keep_at(base);
    return Error{ErrorCode::needs_flag, "section " + std::string(module_.section_name(members_[0].section)) +
                                            " holds several variables, and not the same ones in the same places as before: "
                                            "compile with -fdata-sections"};
  }

private:
  const SectionPlace& place() const { return module_.places[members_[0].section]; }
  const Definition* earlier(const Member& member) const {
    return earlier_variable(change_, index_, member.symbol, DefinitionKind::variable);
  }

  // What has no name counts, too: the section may hold it besides its variables.
  bool within_storage(std::uint64_t base) const {
    return std::all_of(members_.begin(), members_.end(), [&](const Member& member) {
      const Definition* variable = earlier(member);
      return variable->section_address == base && place().size <= variable->section_size;
    });
  }

  Result<Verdict> keep_at(std::uint64_t base) const {
    const Symbol& symbol = module_.symbols()[members_[0].symbol];
    const Definition* variable = earlier(members_[0]);
    if (within_storage(base)) return Verdict{true, base, variable->section_size};
    return Error{ErrorCode::needs_flag,
                 "variable '" + std::string(symbol.name()) + "' can't keep its value: its section " +
                     std::string(module_.section_name(members_[0].section)) + " holds data besides, " +
                     std::to_string(place().size) + " bytes in all, and does not fit the storage of " +
                     std::to_string(variable->section_size) + " bytes that it had: compile with -fdata-sections"};
  }

  Result<Verdict> mismatch() const {
    const Symbol& symbol = module_.symbols()[members_[0].symbol];
    const Definition* variable = earlier(members_[0]);
    if (members_.size() != 1 || variable == nullptr)
      return Error{ErrorCode::needs_flag, "section " + std::string(module_.section_name(members_[0].section)) +
                                              " holds several variables, some of which have changed: compile with "
                                              "-fdata-sections"};
    const std::uint64_t base = variable->address - symbol.value;
    const bool fits = within_storage(base) && base % place().alignment == 0;
    switch (draft_.policy.differing) {
    case DataPolicy::Differing::refuse: break;
    case DataPolicy::Differing::keep:
      if (fits) return Verdict{true, base, variable->section_size};
      return differs(symbol, *variable, "its storage is too small, or not aligned, for the new one");
    case DataPolicy::Differing::reinitialize:
    case DataPolicy::Differing::migrate: return Verdict{};
    }
    return differs(symbol, *variable, symbol.size != variable->size ? "its size differs" : "its alignment differs");
  }

  const ChangeState& change_;
  std::uint32_t index_;
  const link::Module& module_;
  const ModuleDraft& draft_;
  std::span<const Member> members_;
};

template <class Visit> Result<void> for_each_section(std::span<const Member> members, Visit&& visit) {
  for (std::size_t begin = 0, end = 0; begin < members.size(); begin = end) {
    while (end < members.size() && members[end].section == members[begin].section) ++end;
    if (Result<void> done = visit(members.subspan(begin, end - begin)); !done) return done;
  }
  return {};
}

void carry(ChangeState& change, std::uint32_t m, std::uint32_t section, std::uint64_t address, std::uint64_t size) {
  SectionPlace& place = change.modules[m]->places[section];
  place.address = address;
  place.kept = false;
  change.drafts[m].replacement.carried.push_back({section, address, size});
}

void drop_carried(link::Module& module) {
  std::erase_if(module.kept, [&](std::uint32_t section) { return !module.places[section].kept; });
}

// Writable data that nothing names can't be found in the version before: it would silently begin anew.
// Pointers that nothing but relocations has made, as compilers keep for their tables of exceptions: the new version's are as
// good as the old one's.
bool holds_addresses_only(const link::Module& module, std::uint32_t section) {
  const Bytes content = module.sections()[section].content;
  return module.relocations(section).size() * sizeof(std::uint64_t) == content.size() &&
         std::all_of(content.begin(), content.end(), [](std::byte b) { return b == std::byte{0}; });
}

Result<void> check_nameless(const link::Module& module, std::span<const Member> members) {
  std::vector<std::uint8_t> named(module.object_sections());
  for (const Member& member : members) named[member.section] = 1;
  for (std::uint32_t i : module.kept) {
    if (i >= named.size() || named[i] != 0) continue;
    const SectionPlace& place = module.places[i];
    if (!place.kept || place.run != link::Run::data || place.size == 0 || place.serves_all ||
        module.sections()[i].init_table != InitTable::none)
      continue;
    if (holds_addresses_only(module, i)) continue;
    return Error{ErrorCode::needs_flag, "section " + std::string(module.section_name(i)) +
                                            " holds data without names, whose value can't be kept; give it a name (a symbol "
                                            "of type object)"};
  }
  return {};
}

} // namespace

Result<void> begin_replacing(ModuleDraft& draft) {
  const ModuleState& module = *draft.replaces;
  if (!module.live.load(std::memory_order_acquire))
    return Error{ErrorCode::conflict, "module " + module.name + " has been removed already"};
  if (draft.partial && module.recalls != nullptr)
    return Error{ErrorCode::unsupported, "module " + module.name + " is unloaded: it is replaced as a whole"};
  if (draft.counted && draft.replacement.version != module.replaceable->version)
    return Error{ErrorCode::conflict, "module " + module.name + " was replaced meanwhile; draft the change again"};
  draft.replacement.version = module.replaceable->version;
  if (!draft.counted)
    module.replaceable->drafts.fetch_add(1, std::memory_order_relaxed); // under the lock that forgetting takes
  draft.counted = true;
  return {};
}

Result<void> carry_variables(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (draft.replaces == nullptr) return {};
  link::Module& module = *change.modules[m];
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> begun = begin_replacing(draft); !begun) return begun;
  for (const Symbol& symbol : module.symbols())
    if (symbol.section == section_common)
      return Error{ErrorCode::needs_flag, "'" + std::string(symbol.name()) +
                                              "' is a common symbol, which has no place that could be kept: compile "
                                              "with -fno-common"};
  if (Result<void> matched = match_variables(change, m); !matched) return matched;
  compare_signatures(change, m);
  const std::vector<Member> all = members(module, link::Run::data);
  if (Result<void> checked = check_nameless(module, all); !checked) return checked;
  Result<void> judged = for_each_section(all, [&](std::span<const Member> section) -> Result<void> {
    Result<Verdict> verdict = DataSection(change, m, section).judge();
    if (!verdict) return std::move(verdict).error();
    if (verdict->carry) carry(change, m, section[0].section, verdict->address, verdict->size);
    return {};
  });
  drop_carried(module);
  return judged;
}

namespace {

// A section of constants that may turn out to be the same as one of the version before.
struct Candidate {
  std::uint32_t module = 0, section = 0;
  std::uint64_t old_address = 0, new_address = 0;
  bool same = true;
};

bool begins_function(const link::Module& module, std::uint32_t section, std::uint64_t offset) {
  const std::pair key(section, offset);
  auto found =
      std::lower_bound(module.own_functions.begin(), module.own_functions.end(), key,
                       [](const link::OwnFunction& f, const auto& k) { return std::pair(f.section, f.offset) < k; });
  return found != module.own_functions.end() && std::pair(found->section, found->offset) == key;
}

// Jump tables and the like: they are their own version's, whatever their bytes are.
bool leads_into_code(const link::Module& module, std::uint32_t i) {
  const std::span<const Relocation> relocations = module.relocations(i);
  return std::any_of(relocations.begin(), relocations.end(), [&](const Relocation& r) {
    const std::uint32_t section = module.symbols()[r.symbol].section;
    const bool own = module.targets[r.symbol].kind == link::TargetKind::section && section < module.object_sections();
    if (!own || module.places[section].run != link::Run::code) return false;
    const bool function = !module.callee_of.empty() && module.callee_of[r.symbol] != 0;
    // Assemblers name a local function by its section.
    return !function && !(module.symbols()[r.symbol].type == SymbolType::section && r.addend >= 0 &&
                          begins_function(module, section, std::uint64_t(r.addend)));
  });
}

bool may_be_unified(const link::Module& module, std::uint32_t i) {
  const SectionPlace& place = module.places[i];
  if (leads_into_code(module, i)) return false;
  return place.run == link::Run::rodata && place.content_size != 0 && !place.serves_all && !place.leads && !place.follows &&
         module.section_kind(i) != SectionKind::init && !module.section_name(i).starts_with(".gcc_except_table");
}

// Where the section's named constants lay, if all of them were there and lay as they lie now, with the whole section in what
// was theirs; 0 otherwise.
std::uint64_t earlier_place(const ChangeState& change, std::uint32_t m, std::span<const Member> section) {
  const link::Module& module = *change.modules[m];
  std::uint64_t base = 0;
  for (const Member& member : section) {
    const Symbol& symbol = module.symbols()[member.symbol];
    const Definition* constant = earlier_variable(change, m, member.symbol, DefinitionKind::constant);
    if (constant == nullptr || constant->size != symbol.size) return 0;
    const std::uint64_t there = constant->address - symbol.value;
    if (base != 0 && there != base) return 0;
    base = there;
    const std::uint64_t size = module.places[member.section].size;
    if (base < constant->section_address || size > constant->section_size ||
        base - constant->section_address > constant->section_size - size)
      return 0;
  }
  return base % module.places[section[0].section].alignment == 0 ? base : 0;
}

// Where constants without names lie that may be the same as the section's: of several places one whose bytes are, if there
// is nothing to relocate.
std::uint64_t same_literals(const link::Module& module, std::uint32_t section, const ModuleState& before) {
  const link::SectionPlace& place = module.places[section];
  const Bytes content = module.sections()[section].content;
  const bool plain = module.relocations(section).empty() && content.size() == place.size;
  std::uint64_t found = 0;
  auto look = [&](const Anonymous& there) {
    if (found != 0 || there.size != place.size || there.address % place.alignment != 0 ||
        there.section != module.section_name(section))
      return;
    if (!plain || std::memcmp(content.data(), Addr{there.address}.as<const void*>(), content.size()) == 0)
      found = there.address;
  };
  for_each_holder(before,
                  [&](const ModuleState& holder) { std::for_each(holder.anonymous.begin(), holder.anonymous.end(), look); });
  std::for_each(before.replaceable->literals.begin(), before.replaceable->literals.end(), look);
  return found;
}

void find_candidates(ChangeState& change, std::uint32_t m, std::vector<Candidate>& candidates) {
  const ModuleDraft& draft = change.drafts[m];
  link::Module& module = *change.modules[m];
  std::vector<std::uint8_t> named(module.object_sections());
  const std::vector<Member> all = members(module, link::Run::rodata);
  (void)for_each_section(all, [&](std::span<const Member> section) -> Result<void> {
    const std::uint32_t i = section[0].section;
    named[i] = 1;
    if (std::uint64_t base = may_be_unified(module, i) ? earlier_place(change, m, section) : 0; base != 0)
      candidates.push_back({m, i, base, module.places[i].address});
    return {};
  });
  for (std::uint32_t i : module.kept) {
    if (named[i] != 0 || !may_be_unified(module, i)) continue;
    if (std::uint64_t base = same_literals(module, i, *draft.replaces); base != 0)
      candidates.push_back({m, i, base, module.places[i].address});
  }
}

// Whether the section, relocated for its old place, is what lies there.
Result<bool> is_unchanged(ChangeState& change, const Candidate& candidate) {
  link::Module& module = *change.modules[candidate.module];
  const Bytes content = module.sections()[candidate.section].content;
  std::vector<std::byte> scratch(content.begin(), content.end());
  const link::Bound bound(module, change.engine->options.low_2gib);
  const link::SectionBytes bytes{candidate.section, candidate.old_address, scratch.data(), content, false, false};
  if (Result<void> fixed = link::arch::fix_section(module, bound, bytes); !fixed)
    return std::move(fixed).error().within(module.section_name(candidate.section));
  if (!module.callees.empty()) link::arch::bind_callees(module, bytes);
  // A module that has been removed meanwhile may have no memory any more.
  std::lock_guard lock(change.engine->commit_mutex);
  if (Result<void> unmoved = check_unmoved(change, change.drafts[candidate.module]); !unmoved)
    return std::move(unmoved).error();
  return std::memcmp(scratch.data(), Addr{candidate.old_address}.as<const void*>(), scratch.size()) == 0;
}

void settle(ChangeState& change, const std::vector<std::vector<link::Target>>& unsettled) {
  for (std::size_t m = 0; m < change.modules.size(); ++m) change.modules[m]->targets = unsettled[m];
  settle_all(change);
}

} // namespace

Result<void> unify_constants(ChangeState& change) {
  std::vector<Candidate> candidates;
  if (std::any_of(change.drafts.begin(), change.drafts.end(), [](const ModuleDraft& d) { return d.replaces != nullptr; })) {
    std::lock_guard lock(change.engine->commit_mutex);
    for (std::uint32_t m = 0; m < change.modules.size(); ++m)
      if (change.drafts[m].replaces != nullptr) find_candidates(change, m, candidates);
  }
  if (candidates.empty()) {
    settle_all(change);
    return {};
  }
  std::vector<std::vector<link::Target>> unsettled;
  for (const std::unique_ptr<link::Module>& module : change.modules) unsettled.push_back(module->targets);
  // All are taken to be the same until one is found that is not: constants refer to each other.
  for (const Candidate& candidate : candidates)
    change.modules[candidate.module]->places[candidate.section].address = candidate.old_address;
  for (bool settled = false; !settled;) {
    settle(change, unsettled);
    settled = true;
    for (Candidate& candidate : candidates) {
      if (!candidate.same) continue;
      Result<bool> same = is_unchanged(change, candidate);
      if (!same) return std::move(same).error();
      if (*same) continue;
      candidate.same = settled = false;
      change.modules[candidate.module]->places[candidate.section].address = candidate.new_address;
    }
  }
  for (const Candidate& candidate : candidates)
    if (candidate.same)
      carry(change, candidate.module, candidate.section, candidate.old_address,
            change.modules[candidate.module]->places[candidate.section].size);
  for (const std::unique_ptr<link::Module>& module : change.modules) drop_carried(*module);
  return {};
}

} // namespace tenon::engine

// Data lives on: what a new version of a module has in common with the one before keeps its storage.
//
// The unit is the section. If every variable of a section of the new object is one that the module has already, by name,
// size and alignment, and all lie as they lay before, the section is not placed: the old storage stands for it. With data
// sections a section holds one variable; without, one that gains or loses a variable can't be carried, and that is an error.
//
// One that had vanished and comes back is the same variable: its storage has stayed, because pointers to it may be held and
// what it has registered runs at the module's end.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/carry.h"

#include "engine/matching.h"

#include <algorithm>
#include <mutex>

namespace tenon::engine {

using link::SectionPlace;

std::vector<Member> members_of(const link::Module& module, link::Run run) {
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

void carry(ChangeState& change, std::uint32_t m, std::uint32_t section, std::uint64_t address, std::uint64_t size) {
  SectionPlace& place = change.modules[m]->places.at(section);
  place.address = address;
  place.kept = false;
  change.drafts[m].replacement->carried.push_back({section, address, size});
}

bool LabelTables::is(std::uint32_t section) {
  const std::span<const Symbol> symbols = module_.symbols();
  return std::any_of(module_.relocations(section).begin(), module_.relocations(section).end(), [&](const Relocation& r) {
    const Symbol& symbol = symbols[r.symbol]; // assemblers name labels by their section
    return symbol.type == SymbolType::section && symbol.section < module_.object_sections() &&
           module_.places[symbol.section].run == link::Run::code &&
           !begins_function(symbol.section, std::uint64_t(r.addend));
  });
}

bool LabelTables::begins_function(std::uint32_t section, std::uint64_t offset) {
  if (functions_.empty()) {
    for (const Symbol& symbol : module_.symbols())
      if (symbol.type == SymbolType::function || symbol.type == SymbolType::ifunc)
        functions_.emplace_back(symbol.section, symbol.value);
    std::sort(functions_.begin(), functions_.end());
  }
  return std::binary_search(functions_.begin(), functions_.end(), std::pair(section, offset));
}

namespace {

// Where a definition lay: where it is, or was when it vanished, comes first.
template <class Visit> void for_each_storage(const Definition& definition, Visit&& visit) {
  if (!definition.vanished)
    visit(Storage{definition.address, definition.size, definition.section_address, definition.section_size});
  if (!definition.vanished && definition.kind == DefinitionKind::variable) return; // that is where its value is
  for (const Storage& former : definition.former)
    if (definition.vanished && former.address == definition.address) visit(former);
  for (const Storage& former : definition.former)
    if (former.address != definition.address) visit(former);
}

// Of storages that the definition had, the one that makes its section begin there.
bool had_storage_at(const Definition& definition, const Symbol& symbol, std::uint64_t base, std::uint64_t section_size) {
  bool found = false;
  for_each_storage(definition, [&](const Storage& s) {
    found =
        found || (s.address - symbol.value == base && s.size == symbol.size && s.section_address <= base &&
                  base - s.section_address <= s.section_size && section_size <= s.section_size - (base - s.section_address));
  });
  return found;
}

} // namespace

std::vector<Storage> earlier_storages(const ChangeState& change, std::uint32_t m, std::span<const Member> section,
                                      DefinitionKind kind) {
  const link::Module& module = *change.modules[m];
  const SectionPlace& place = module.places[section[0].section];
  std::vector<Storage> found;
  const Definition* first = earlier_variable(change, m, section[0].symbol, kind, true);
  if (first == nullptr) return found;
  const std::uint64_t offset = module.symbols()[section[0].symbol].value;
  for_each_storage(*first, [&](Storage s) {
    s.address -= offset;
    const bool fits =
        s.address % place.alignment() == 0 && std::all_of(section.begin(), section.end(), [&](const Member& member) {
          const Definition* definition = earlier_variable(change, m, member.symbol, kind, true);
          return definition != nullptr &&
                 had_storage_at(*definition, module.symbols()[member.symbol], s.address, place.size);
        });
    if (fits) found.push_back(s);
  });
  return found;
}

namespace {

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
  DataSection(const ChangeState& change, std::uint32_t m, std::span<const Member> members, LabelTables& labels)
      : change_(change), index_(m), module_(*change.modules[m]), draft_(change.drafts[m]), members_(members),
        labels_(labels) {}

  Result<Verdict> judge() const {
    if (labels_.is(members_[0].section)) return judge_labels();
    // Without those that have vanished, and those that differ, all is as if these had never been.
    if (std::any_of(members_.begin(), members_.end(), [&](const Member& member) { return has_vanished(member); }))
      if (const std::vector<Storage> there = earlier_storages(change_, index_, members_, DefinitionKind::variable);
          !there.empty() && there[0].address == there[0].section_address)
        return Verdict{true, there[0].address, there[0].section_size};
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
    if (!same || base % place().alignment() != 0) return mismatch();
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
  bool has_vanished(const Member& member) const {
    const Definition* variable = earlier_variable(change_, index_, member.symbol, DefinitionKind::variable, true);
    return variable != nullptr && variable->vanished;
  }

  Result<Verdict> judge_labels() const {
    const auto known =
        std::find_if(members_.begin(), members_.end(), [&](const Member& m) { return earlier(m) != nullptr; });
    if (members_.size() == 1 || known == members_.end()) return Verdict{};
    return Error{ErrorCode::needs_flag, "section " + std::string(module_.section_name(members_[0].section)) +
                                            " holds addresses of labels, which belong to their version, and variables "
                                            "besides: compile with -fdata-sections, or make the table of labels constant"};
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
    const bool fits = within_storage(base) && base % place().alignment() == 0;
    switch (draft_.replacement->how->policy.differing) {
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
  LabelTables& labels_;
};

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
  for (std::uint32_t i : module.kept()) {
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
  if (draft.partial && module.extra().recalls != nullptr)
    return Error{ErrorCode::unsupported, "module " + module.name + " is unloaded: it is replaced as a whole"};
  if (draft.replacement->counted && draft.replacement->version != module.replaceable->version)
    return Error{ErrorCode::conflict, "module " + module.name + " was replaced meanwhile; draft the change again"};
  draft.replacement->version = module.replaceable->version;
  if (!draft.replacement->counted)
    module.replaceable->drafts.fetch_add(1, std::memory_order_relaxed); // under the lock that forgetting takes
  draft.replacement->counted = true;
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
  compare_shared_closures(change, m);
  const std::vector<Member> all = members_of(module, link::Run::data);
  if (Result<void> checked = check_nameless(module, all); !checked) return checked;
  LabelTables labels(module);
  Result<void> judged = for_each_section(all, [&](std::span<const Member> section) -> Result<void> {
    Result<Verdict> verdict = DataSection(change, m, section, labels).judge();
    if (!verdict) return std::move(verdict).error();
    if (verdict->carry) carry(change, m, section[0].section, verdict->address, verdict->size);
    return {};
  });
  return judged;
}

} // namespace tenon::engine

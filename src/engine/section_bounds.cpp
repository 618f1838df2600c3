// __start_X and __stop_X, for names of sections that are C identifiers: the beginning and the end of all sections called X,
// as an ordinary linker has them, which puts the sections X of all objects together. Here a change's modules of one library
// are what it would link into one program. Their sections X lie next to each other in the memory of the first module that
// has one, so that these modules, and those that refer to the bounds, need each other: they can be removed only together.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/printable.h"
#include "engine/change_state.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <unordered_set>
#include <utility>

namespace tenon::engine {

namespace {

constexpr std::string_view start_prefix = "__start_", stop_prefix = "__stop_";

// The section that a name bounds; empty: none.
std::string_view bounded_section(std::string_view name) {
  if (name.starts_with(start_prefix)) return name.substr(start_prefix.size());
  return name.starts_with(stop_prefix) ? name.substr(stop_prefix.size()) : std::string_view();
}

bool is_open(const Name& name) {
  return name.module == link::none && name.kind == link::TargetKind::missing && name.mentioned;
}

// By library and name.
using Runs = std::map<std::pair<std::uint32_t, std::string_view>, std::vector<link::NamedRun::Part>>;

Runs wanted_runs(const ChangeState& change, std::vector<std::uint32_t>& names) {
  Runs runs;
  for (std::uint32_t i : change.pending) { // among them are those that no source had
    const Name& name = (*change.names)[i];
    if (std::string_view section = bounded_section(name.view()); !section.empty() && is_open(name)) {
      runs[{name.library, section}];
      names.push_back(i);
    }
  }
  return runs;
}

void list_sections(const ChangeState& change, Runs& runs) {
  std::unordered_set<std::string_view> wanted; // nearly no section is: one look tells
  for (const auto& [key, parts] : runs) wanted.insert(key.second);
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    for (std::uint32_t i : module.kept()) {
      if (!wanted.contains(module.sections()[i].name)) continue;
      auto run = runs.find({change.drafts[m].library, module.sections()[i].name});
      const link::SectionPlace& place = module.places[i];
      if (run != runs.end()) run->second.push_back({m, i, place.size, 0, place.alignment()});
    }
  }
}

// What lies in different memory can't lie next to each other.
Result<void> check_kinds(const ChangeState& change, std::string_view name, std::span<const link::NamedRun::Part> parts) {
  const link::NamedRun::Part& first = parts.front();
  for (const link::NamedRun::Part& part : parts) {
    const link::Module& module = *change.modules[part.module];
    SectionKind kind = module.sections()[part.section].kind;
    bool tls = kind == SectionKind::tls_data || kind == SectionKind::tls_zero;
    if (tls || module.places[part.section].run != change.modules[first.module]->places[first.section].run)
      return Error{ErrorCode::unsupported,
                   "sections [" + std::to_string(first.section) + "] of " + module_context(change, first.module) + " and [" +
                       std::to_string(part.section) + "] of " + module_context(change, part.module) + ", " +
                       base::printable(name) + ", which __start_ and __stop_ symbols bound, are not of one kind of memory"};
  }
  return {};
}

} // namespace

Result<void> gather_named_sections(ChangeState& change) {
  std::vector<std::uint32_t> names;
  Runs runs = wanted_runs(change, names);
  if (runs.empty()) return {};
  list_sections(change, runs);
  std::vector<Runs::value_type*> found;
  for (Runs::value_type& run : runs)
    if (!run.second.empty()) found.push_back(&run);
  std::sort(found.begin(), found.end(), [](const Runs::value_type* a, const Runs::value_type* b) {
    return std::pair(a->second[0].module, a->second[0].section) < std::pair(b->second[0].module, b->second[0].section);
  });
  std::map<std::pair<std::uint32_t, std::string_view>, link::SectionBound> bounds;
  for (Runs::value_type* run : found) {
    auto& [key, parts] = *run;
    if (Result<void> together = check_kinds(change, key.second, parts); !together) return together;
    for (const link::NamedRun::Part& part : parts) change.modules[part.module]->places.at(part.section).follows = true;
    link::Module& host = *change.modules[parts.front().module];
    link::SectionPlace& first = host.places.at(parts.front().section);
    first.follows = false;
    first.leads = true;
    bounds[key] = {parts.front().module, std::uint32_t(host.named_runs.size()), false};
    host.named_runs.push_back({std::move(parts)});
  }
  for (std::uint32_t id : names) {
    const Name& name = (*change.names)[id];
    auto bound = bounds.find({name.library, bounded_section(name.view())});
    if (bound == bounds.end()) continue;
    link::SectionBound edge = bound->second;
    edge.stop = name.view().starts_with(stop_prefix);
    change.section_bounds.emplace_back(id, edge); // in the order of names
  }
  return {};
}

namespace {

// Lists each pair of modules once.
class Ties {
public:
  explicit Ties(ChangeState& change) : change_(change) {}

  void add(std::uint32_t from, std::uint32_t to, std::string_view section) {
    if (from == to || !tied_.emplace(from, to).second) return;
    ModuleState& user = *change_.drafts[from].state;
    std::size_t size = start_prefix.size() + section.size();
    auto text = std::make_unique<char[]>(size + 1);
    std::memcpy(text.get(), start_prefix.data(), start_prefix.size());
    std::memcpy(text.get() + start_prefix.size(), section.data(), section.size());
    const char* symbol = user.make_extra().texts.emplace_back(std::move(text)).get();
    user.dependencies.push_back({change_.drafts[to].identity().get(), nullptr, symbol});
  }

private:
  ChangeState& change_;
  std::set<std::pair<std::uint32_t, std::uint32_t>> tied_;
};

} // namespace

void tie_named_sections(ChangeState& change) {
  if (change.section_bounds.empty()) return;
  Ties ties(change);
  for (std::uint32_t host = 0; host < change.modules.size(); ++host)
    for (const link::NamedRun& run : change.modules[host]->named_runs) {
      std::string_view name = change.modules[host]->sections()[run.parts.front().section].name;
      for (const link::NamedRun::Part& part : run.parts) {
        ties.add(host, part.module, name);
        ties.add(part.module, host, name);
      }
    }
  for (std::uint32_t m = 0; m < change.modules.size(); ++m)
    for (const link::SectionBound& bound : change.modules[m]->bounds) {
      const link::Module& host = *change.modules[bound.module];
      ties.add(m, bound.module, host.sections()[host.named_runs[bound.run].parts.front().section].name);
    }
}

} // namespace tenon::engine

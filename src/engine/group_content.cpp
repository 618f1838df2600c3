// COMDAT groups of which a new version has another body than the module that provides them.
//
// One module provides a group, everybody else's copy is dropped. So a module that is replaced with another body of an inline
// function goes on calling the provider's, until that is replaced, too. Its client should know. Compilers make different
// code of one source in different files, so that a copy which differs from the provider's says nothing; one that has changed
// since the module's last version does, unless the provider's has changed, too.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/group_content.h"

#include "engine/change_state.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>

namespace tenon::engine {

namespace {

class Content {
public:
  Content(const link::Module& module, const Group& group) : module_(module), group_(group) {}

  std::uint64_t hash() {
    for (std::uint32_t i : group_.sections) {
      const Section& section = module_.sections()[i];
      if (!section.allocated) continue;
      add(section.size);
      add(std::string_view(reinterpret_cast<const char*>(section.content.data()), section.content.size()));
      for (const Relocation& r : module_.relocations(i)) add(r, section.kind == SectionKind::code);
    }
    return hash_ != 0 ? hash_ : 1;
  }

private:
  void add(std::uint64_t number) { hash_ = (hash_ ^ number) * 0x9E37'79B9'7F4A'7C15 + (hash_ >> 29); }
  void add(std::string_view text) { add(hash_name(text)); }

  void add(const Relocation& r, bool code) {
    const Symbol& symbol = module_.symbols()[r.symbol];
    add(r.offset);
    add(r.type);
    if (symbol.type != SymbolType::section && !is_nameless_constant(symbol)) {
      add(symbol.name());
      return add(std::uint64_t(r.addend));
    }
    // Literals have no names, and lie elsewhere in each version.
    if (symbol.section >= module_.object_sections()) return;
    const Section& section = module_.sections()[symbol.section];
    const bool own = std::find(group_.sections.begin(), group_.sections.end(), symbol.section) != group_.sections.end();
    if (own) return add(symbol.value + std::uint64_t(r.addend));
    const std::uint64_t at = symbol.value + std::uint64_t(r.addend) + (code ? 4 : 0); // of a displacement
    if (!section.strings || at >= section.content.size()) return add(std::uint64_t(section.kind));
    const auto* text = reinterpret_cast<const char*>(section.content.data()) + at;
    add(std::string_view(text, std::size_t(std::find(text, text + section.content.size() - at, '\0') - text)));
  }

  const link::Module& module_;
  const Group& group_;
  std::uint64_t hash_ = 0x2545'F491'4F6C'DD1D;
};

} // namespace

std::uint64_t content_of_group(const link::Module& module, const Group& group) { return Content(module, group).hash(); }

void compare_groups(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  SharedBodies& bodies = draft.replacement->shared_bodies;
  bodies.clear();
  if (draft.shared_groups.empty() || draft.partial || !is_replaceable(change, draft)) return;
  const std::string& name = change.modules[m]->name;
  auto shared = draft.shared_groups.begin(); // in the order of groups
  for (const Group& group : change.modules[m]->object.groups())
    if (shared != draft.shared_groups.end() && group.comdat && group.signature == shared->first) {
      bodies.emplace(group.signature, SharedBody{content_of_group(*change.modules[m], group), 0});
      ++shared;
    }
  std::lock_guard lock(change.engine->commit_mutex);
  std::shared_lock tables(change.engine->tables);
  const SharedBodies* known = draft.replaces != nullptr ? &draft.replaces->replaceable->shared_bodies : nullptr;
  for (const auto& [signature, record] : draft.shared_groups) {
    SharedBody& now = bodies[std::string(signature)];
    now.provided = record->address();
    const auto before = known != nullptr ? known->find(std::string(signature)) : SharedBodies::const_iterator();
    if (known == nullptr || before == known->end() || now.own == now.provided || record->module() == nullptr) continue;
    const bool changed = now.own != before->second.own;
    if (changed == (now.provided != before->second.provided)) continue;
    // They go on differing until both have changed, or are the same.
    now = before->second;
    const std::string text(signature), &provider = record->module()->name;
    change.warnings.push_back({name, text,
                               "'" + text + "' of module " + name + (changed ? " has changed" : " is as it was") +
                                   ", but that of module " + provider + ", which all use, " +
                                   (changed ? "is as it was" : "has changed") + ": replace " + (changed ? provider : name) +
                                   ", too, from the same source; until then calls reach that of " + provider});
  }
}

void note_shared_bodies(ChangeState& change) {
  std::vector<std::unordered_map<std::string_view, const Group*>> groups(change.modules.size());
  auto find = [&](std::uint32_t m, std::string_view signature) {
    if (groups[m].empty())
      for (const Group& group : change.modules[m]->object.groups())
        if (group.comdat) groups[m].emplace(group.signature, &group);
    auto found = groups[m].find(signature);
    return found != groups[m].end() ? content_of_group(*change.modules[m], *found->second) : 0;
  };
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    ModuleDraft& draft = change.drafts[m];
    if (!is_replaceable(change, draft) || draft.partial) continue;
    for (std::uint32_t id : draft.groups) {
      if (id == link::none) continue;
      const Name& name = (*change.names)[id];
      if (name.group != link::none && name.group != m)
        draft.replacement->shared_bodies.emplace(name.view(),
                                                 SharedBody{find(m, name.view()), find(name.group, name.view())});
    }
  }
}

} // namespace tenon::engine

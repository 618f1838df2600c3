// Everything that a commit will publish is made here, before any lock is taken: records of symbols, dependencies, and, once
// its bytes are written, what is kept of a module's tables. What can fail for want of memory fails here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/check.h"
#include "base/stable_sort.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <mutex>
#include <shared_mutex>
#include <utility>

namespace tenon::engine {

namespace {

namespace flag = link::target_flag;

bool fills_forward(const Name& name) { return name.forward_record; }

std::uint16_t record_flags(const Name& name, const link::Target& target) {
  std::uint16_t flags = name.hidden ? symbol_flag::hidden : 0;
  if (name.strength != Strength::strong) flags |= symbol_flag::weak;
  if ((target.flags & flag::data) != 0) flags |= symbol_flag::data;
  if ((target.flags & flag::tls) != 0) flags |= symbol_flag::tls;
  return flags;
}

// Calls visit(name id, symbol index) for each symbol that the module publishes, and group(name id, index) for each COMDAT
// group that it provides, with its index.
template <class Visit, class VisitGroup>
void for_each_published(const ChangeState& change, std::uint32_t m, Visit&& visit, VisitGroup&& group) {
  const link::Module& module = *change.modules[m];
  const ModuleDraft& draft = change.drafts[m];
  for (std::uint32_t g = 0; g < draft.groups.size(); ++g)
    if (std::uint32_t id = draft.groups[g]; id != link::none && (*change.names)[id].group == m) group(id, g);
  const std::uint32_t first = module.object.file().first_global, count = std::uint32_t(draft.names.size());
  const NameTable& names = *change.names;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t id = draft.names[i];
    // Names are many and far away: what the symbol is bound to says mostly whether it is the definition.
    if (id == link::none || module.targets[first + i].kind == link::TargetKind::module) continue;
    if (const Name& name = names[id]; name.module == m && name.symbol == first + i && !fills_forward(name))
      visit(id, first + i);
  }
}

// Names that a new version of a module has in common with the one before keep their records, which others point to.
class Records {
public:
  Records(ChangeState& change, std::uint32_t m)
      : change_(change), draft_(change.drafts[m]),
        usual_(has_narrow_records(change, draft_) ? SymbolRecord::Form::narrow : SymbolRecord::Form::wide) {}

  void count(std::uint32_t id, bool group) {
    ++count_;
    if (earlier(id, group) == nullptr) add_bytes(SymbolRecord::bytes_for((*change_.names)[id].size, usual_));
  }
  void add_bytes(std::size_t bytes) noexcept { bytes_ += bytes; }
  void share_name(std::uint32_t id) noexcept {
    bytes_ -= SymbolRecord::bytes((*change_.names)[id].size, usual_) - SymbolRecord::bytes_sharing();
  }
  void allocate() {
    if (bytes_ > SymbolRecord::longest_chunk - SymbolRecord::chunk_head) throw std::bad_alloc();
    // end() cuts off what no record has been made in.
    draft_.state->records.resize_for_overwrite(SymbolRecord::chunk_head + bytes_);
    at_ = SymbolRecord::begin_chunk(draft_.state->records.data(), draft_.identity().get());
    if (draft_.replaces != nullptr) draft_.replacement->updates.reserve(count_);
  }
  // No more are made.
  void end() noexcept {
    const auto used = std::size_t(at_ - draft_.state->records.data());
    TENON_CHECK(used <= SymbolRecord::chunk_head + bytes_, "more records of symbols than were counted");
    if (used == SymbolRecord::chunk_head)
      draft_.state->records = {}; // all names have theirs: a chunk for each version would be one more to go over
    else
      draft_.state->records.resize(used);
  }
  // What others refer to. One that is there already will say so from the commit on. `share`: a group of that name.
  SymbolRecord* make(std::uint32_t id, const RecordContent& content, SymbolRecord::Form form,
                     SymbolRecord* share = nullptr) {
    const Name& name = (*change_.names)[id];
    const bool group = (content.flags & symbol_flag::group) != 0;
    if (SymbolRecord* record = earlier(id, group)) {
      draft_.replacement->updates.push_back({record, content});
      return record;
    }
    const std::byte* const chunk = draft_.state->records.data();
    SymbolRecord* record = share != nullptr ? SymbolRecord::make_sharing(at_, *share, chunk)
                                            : SymbolRecord::make(at_, name.view(), name.hash, form, chunk, group);
    at_ += record->bytes();
    Additions& added = change_.added(draft_.library);
    ++(group ? added.groups : added.symbols);
    record->set(content);
    if (draft_.replaces != nullptr && !draft_.partial) record->flags |= symbol_flag::current;
    return record;
  }
  SymbolRecord::Form usual_form() const noexcept { return usual_; }
  bool empty() const noexcept { return count_ == 0 && bytes_ == 0; }

private:
  SymbolRecord* earlier(std::uint32_t id, bool group) const {
    return draft_.replaces != nullptr ? find_earlier(id, group) : nullptr;
  }
  __attribute__((noinline)) SymbolRecord* find_earlier(std::uint32_t id, bool group) const {
    const Name& name = (*change_.names)[id];
    const LibraryState& library = *change_.libraries[draft_.library];
    SymbolRecord* record = group ? library.find_group(name.view(), name.hash) : library.find_symbol(name.view(), name.hash);
    return record != nullptr && record->module() == draft_.replaces.get() ? record : nullptr;
  }

  ChangeState& change_;
  ModuleDraft& draft_;
  SymbolRecord::Form usual_; // of all but absolute symbols
  std::size_t count_ = 0, bytes_ = 0;
  std::byte* at_ = nullptr;
};

// The COMDAT group that a definition of this change lies in, by its name; none if in no group.
std::uint32_t group_of_definition(const ChangeState& change, const Name& name) {
  const link::Module& owner = *change.modules[name.module];
  const Symbol& symbol = owner.symbols()[name.symbol];
  if (symbol.section >= owner.object_sections()) return link::none;
  std::int32_t group = owner.sections()[symbol.section].group;
  return group < 0 ? link::none : change.drafts[name.module].groups[std::size_t(group)];
}

// Whether the symbol that a group is named for can have its name from the group's record: it lies in the group, and neither
// will ever be another's.
bool shares_name(const ChangeState& change, std::uint32_t m, std::uint32_t group) {
  const ModuleDraft& draft = change.drafts[m];
  const Name& name = (*change.names)[draft.groups[group]];
  if (!has_narrow_records(change, draft) || name.module != m || fills_forward(name)) return false;
  const link::Target& target = definition_of(change, m, name.symbol);
  const link::Module& module = *change.modules[m];
  constexpr auto narrow = SymbolRecord::Form::narrow;
  if (record_form(narrow, name, module.symbols()[name.symbol]) != narrow) return false;
  return target.kind == link::TargetKind::section && target.where < module.object_sections() &&
         module.sections()[target.where].group == std::int32_t(group);
}

// The COMDAT group records of a module are made before its symbols' records, which point to them.
void make_records(ChangeState& change, std::uint32_t m) {
  link::Module& module = *change.modules[m];
  const ModuleDraft& draft = change.drafts[m];
  ModuleState& state = *draft.state;
  // What is an earlier name while names are counted is one when they are made.
  std::shared_lock tables(change.engine->tables, std::defer_lock);
  if (draft.replaces != nullptr) tables.lock();
  Records records(change, m);
  if (draft.replaces != nullptr) {
    for_each_published(
        change, m, [&](std::uint32_t id, std::uint32_t) { records.count(id, false); },
        [&](std::uint32_t id, std::uint32_t) { records.count(id, true); });
  } else {
    records.add_bytes(draft.records_bytes);
    if (records.usual_form() != SymbolRecord::Form::narrow) // which was not known when bytes were counted
      records.add_bytes(draft.names.size() * SymbolRecord::wide_bytes);
    for (std::uint32_t g = 0; g < draft.groups.size(); ++g)
      if (std::uint32_t id = draft.groups[g]; id != link::none && (*change.names)[id].group == m) {
        records.count(id, true);
        if (shares_name(change, m, g)) records.share_name(id);
      }
  }
  if (records.empty()) return;
  records.allocate();
  if (std::size_t groups = draft.groups.size() + draft.shared_groups.size(); groups != 0) state.groups.reserve(groups);
  const std::uint16_t collected = state.collectable != nullptr ? symbol_flag::collected : std::uint16_t(0);
  struct Group {
    SymbolRecord* record = nullptr;
    std::uint32_t name = link::none;
    bool shares_name = false;
  };
  base::Vector<Group> group_of_section;
  for_each_published(
      change, m,
      [&](std::uint32_t id, std::uint32_t symbol) {
        const Name& name = (*change.names)[id];
        const link::Target& target = definition_of(change, m, symbol);
        const bool grouped = target.kind == link::TargetKind::section && target.where < group_of_section.size();
        const Group group = grouped ? group_of_section[target.where] : Group();
        RecordContent content;
        content.address = target.address;
        content.size =
            name.strength == Strength::common ? change.extras[name.extra].common_size : module.symbols()[symbol].size;
        content.group = group.record;
        if (draft.replacement != nullptr) content.definition = provided_by(draft, symbol);
        content.flags = std::uint16_t(record_flags(name, target) | collected);
        SymbolRecord* const share = group.name == id && group.shares_name ? group.record : nullptr;
        const SymbolRecord::Form form = record_form(records.usual_form(), name, module.symbols()[symbol]);
        change.records[id].symbol = records.make(id, content, form, share);
        if (grouped) change.records[id].within = group.name;
      },
      [&](std::uint32_t id, std::uint32_t g) {
        RecordContent content;
        content.flags = symbol_flag::group | collected;
        if (is_replaceable(change, draft)) content.address = content_of_group(module, module.object.groups()[g]);
        SymbolRecord* const record = records.make(id, content, records.usual_form());
        change.records[id].group = record;
        group_of_section.resize(module.object_sections());
        const bool shared = shares_name(change, m, g);
        for (std::uint32_t section : module.object.groups()[g].sections) group_of_section[section] = {record, id, shared};
        state.groups.push_back(record);
      });
  records.end();
}

// Groups that the module has a copy of but does not provide.
void share_groups(ChangeState& change, std::uint32_t m) {
  ModuleDraft& draft = change.drafts[m];
  if (draft.groups.empty()) return;
  for (std::uint32_t id : draft.groups) {
    if (id == link::none) continue;
    const Name& name = (*change.names)[id];
    if (name.group != link::none && name.group != m) draft.state->groups.push_back(change.records[id].group);
  }
  for (const auto& [signature, record] : draft.shared_groups) draft.state->groups.push_back(record);
  std::sort(draft.state->groups.begin(), draft.state->groups.end());
  draft.state->groups.erase(std::unique(draft.state->groups.begin(), draft.state->groups.end()), draft.state->groups.end());
}

// What a module has been found to depend on already is marked, so that each is listed once without sorting. True the first
// time that module `from` asks.
bool mark(std::uint32_t& marked, std::uint32_t from) { return std::exchange(marked, from + 1) != from + 1; }

// Whom a module refers to, each once; `all` and `published` are scratch. Sharing a group counts as referring to it.
void find_dependencies(ChangeState& change, std::uint32_t m, base::Vector<Dependency>& all,
                       base::Vector<Dependency>& published) {
  ModuleDraft& draft = change.drafts[m];
  all.clear();
  published.clear();
  for (std::uint32_t id : draft.groups)
    if (id != link::none) mark(change.records[id].mark, m);
  const link::Module::List<link::Target>& targets = change.modules[m]->targets;
  std::uint32_t symbol = change.modules[m]->object.file().first_global;
  for (std::uint32_t id : draft.names) {
    ++symbol;
    // Most are the module's own, as what they are bound to says: their names need not be looked at.
    if (id == link::none || targets[symbol - 1].kind == link::TargetKind::section) continue;
    const Name& name = (*change.names)[id];
    // Fragments of one module refer to each other without needing anybody.
    const bool own = name.module != link::none && change.drafts[name.module].identity() == draft.identity();
    if (name.module != link::none && name.module != m && !own) {
      const NameRecords& made = change.records[id];
      const std::uint32_t group = made.symbol != nullptr ? made.within : group_of_definition(change, name);
      if (!mark(group != link::none ? change.records[group].mark : change.drafts[name.module].mark, m)) continue;
      // The object's own text goes with the object: the record's stays. What fills a forward reference has the library's
      // record.
      const SymbolRecord* record = made.symbol != nullptr ? made.symbol : name.record;
      all.push_back({change.drafts[name.module].identity().get(),
                     group != link::none ? change.records[group].group : nullptr, record->name().data()});
    } else if (name.module == link::none && name.record != nullptr && !name.forward_record &&
               name.record->module() != nullptr && name.record->module() != draft.replaces.get()) {
      if (published.capacity() == 0) published.reserve(8); // as one piece, not one after another
      SymbolRecord* const group = name.record->group();
      if (group == nullptr || !std::binary_search(draft.state->groups.begin(), draft.state->groups.end(), group))
        published.push_back({name.record->module(), group, name.record->name().data()});
    }
  }
  if (draft.replacement != nullptr) {
    const std::vector<Dependency>& kept = draft.replacement->kept_dependencies;
    published.insert(published.end(), kept.begin(), kept.end());
  }
  if (published.size() > 1) {
    auto key = [](const Dependency& d) { return std::pair(d.module, d.group); };
    std::sort(published.begin(), published.end(), [&](const Dependency& a, const Dependency& b) { return key(a) < key(b); });
    published.erase(std::unique(published.begin(), published.end(),
                                [&](const Dependency& a, const Dependency& b) { return key(a) == key(b); }),
                    published.end());
  }
  if (all.empty()) return draft.state->dependencies.assign(published.begin(), published.end());
  all.insert(all.end(), published.begin(), published.end());
  draft.state->dependencies.assign(all.begin(), all.end());
}

std::vector<std::uint64_t> read_table(const link::SectionPlace& place) {
  std::vector<std::uint64_t> functions(place.content_size() / 8);
  if (!functions.empty()) std::memcpy(functions.data(), place.local, functions.size() * 8);
  // 0 and -1 are what GNU toolchains put at the ends of such tables.
  std::erase_if(functions, [](std::uint64_t f) { return f == 0 || f == ~std::uint64_t(0); });
  return functions;
}

// gABI, "Initialization and Termination Functions": .init_array runs forwards, .fini_array backwards; .ctors and .dtors,
// their predecessors, the other way round. Tables with a priority come before those without, low numbers first.
void read_init_tables(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  ModuleState& state = *change.drafts[m].state;
  base::List<InitCall> finalizers;
  std::span<const Section> sections = module.sections();
  for (std::uint32_t i : module.kept()) {
    if (module.places[i].kind != SectionKind::init) continue; // looked at first: sections are far between
    std::vector<std::uint64_t> functions = read_table(module.places[i]);
    if (sections[i].init_table == InitTable::ctors || sections[i].init_table == InitTable::fini)
      std::reverse(functions.begin(), functions.end());
    bool initializes = sections[i].init_table != InitTable::fini && sections[i].init_table != InitTable::dtors;
    std::uint32_t priority = sections[i].init_table == InitTable::preinit ? 0 : 1U + sections[i].init_priority;
    if (functions.empty()) continue;
    VersionExtra& extra = state.make_extra();
    for (std::uint64_t function : functions) (initializes ? extra.initializers : finalizers).push_back({function, priority});
  }
  if (!state.has_extra()) return; // there were none
  base::stable_sort_by(state.extra().initializers, [](const InitCall& call) { return call.priority; });
  base::stable_sort_by(finalizers, [](const InitCall& call) { return -std::int64_t(call.priority); });
  state.extra().finalizers = std::move(finalizers);
}

void account(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  ModuleState& state = *change.drafts[m].state;
  const std::uint32_t sections = module.object_sections();
  Usage usage;
  bool has_tables = false;
  module.for_each_kept([&](std::uint32_t i) {
    const link::SectionPlace& place = module.places[i];
    bool synthetic = i >= sections;
    auto which = link::Synthetic(i - sections);
    const SectionKind kind = place.kind;
    has_tables |= kind == SectionKind::init;
    if (kind == SectionKind::tls_zero) return; // every thread's own
    if (kind == SectionKind::tls_data)
      usage.tls += place.size;
    else if (kind == SectionKind::unwind)
      usage.unwind += place.size;
    else if (synthetic && which == link::Synthetic::stubs)
      usage.stubs += place.size;
    else if (synthetic && which == link::Synthetic::got)
      usage.got += place.size;
    else if (synthetic && which == link::Synthetic::slots)
      usage.slots += place.size;
    else if (place.run == link::Run::code)
      usage.code += place.size;
    else if (place.run == link::Run::rodata)
      usage.rodata += place.size;
    else
      usage.data += place.size;
  });
  state.set_usage(usage);
  if (has_tables) read_init_tables(change, m);
}

std::size_t count_bookkeeping(const ModuleState& state) noexcept {
  return sizeof(ModuleState) + state.name.capacity() + state.records.bytes() + state.linking.bytes() +
         state.dependencies.bytes() + state.groups.bytes() +
         (state.has_extra() ? sizeof(VersionExtra) + state.extra().initializers.bytes() + state.extra().finalizers.bytes()
                            : 0) +
         (state.has_rare() ? sizeof(ModuleRare) : 0);
}

} // namespace

void keep_linked(ChangeState& change, std::uint32_t m) {
  const link::Module& module = *change.modules[m];
  ModuleState& state = *change.drafts[m].state;
  state.linking = KeptLinking::of(module);
  if (module.wants_dso_handle) state.make_rare().dso_handle = module.place(link::Synthetic::dso_handle).address;
  account(change, m);
}

Result<void> prepare_states(ChangeState& change) {
  change.records.assign(change.names->size(), {});
  change.added_first = {};
  if (change.libraries.size() > 1) change.added_more.assign(change.libraries.size() - 1, {});
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) make_records(change, m);
  base::Vector<Dependency> all, published; // scratch
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    ModuleDraft& draft = change.drafts[m];
    if (draft.replaces == nullptr) ++change.added(draft.library).modules;
    share_groups(change, m);
    {
      // Records of modules that are replaced just now may change.
      std::shared_lock tables(change.engine->tables, std::defer_lock);
      if (change.has_identities) tables.lock();
      find_dependencies(change, m, all, published);
      make_uses(change, m);
    }
    draft.state->set_bookkeeping(count_bookkeeping(*draft.state));
  }
  if (change.has_identities) note_shared_bodies(change);
  tie_named_sections(change);
  return {};
}

} // namespace tenon::engine

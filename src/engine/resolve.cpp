// Names are resolved: in the change itself, in the library, then in the library's sources in order, in rounds, because
// archive members bring names of their own. Each source is asked for everything that is still open at once, with no lock
// held.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"
#include "engine/host.h"

#include <dlfcn.h>
#include <glob.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <system_error>

namespace tenon::engine {

namespace {

using link::TargetKind;
namespace flag = link::target_flag;

void resolve_to_host(ChangeState& change, Name& name, const HostSymbol& host) {
  name.kind = host.thunk != 0 ? TargetKind::thunk : TargetKind::fixed;
  name.thunk = host.thunk;
  name.address = host.address;
  name.flags = std::uint8_t((name.flags & ~flag::tls) | flag::host); // what it is, not what the reference took it for
  // Code that is not PIC names functions of the host by stubs, which must not stand for data. Finding out is slow.
  if (change.engine->options.low_2gib && host.thunk == 0 && !host.tls && is_host_data(host.address))
    name.flags |= flag::data;
  if (!host.tls) return;
  name.flags |= flag::tls | (host.tls_static ? flag::static_tls : 0);
  name.extra = std::uint32_t(change.extras.size());
  NameExtra& extra = change.extras.emplace_back();
  extra.tls_key = host.tls_module;
  extra.tls_static_offset = host.tls_static_offset;
  extra.tls_owner = "the host";
}

// Under EngineState::tables.
void resolve_to_record(ChangeState& change, Name& name, SymbolRecord* record) {
  name.record = record;
  const std::uint32_t id = change.names->index_of(name);
  change.found_begin = change.found_end == 0 ? id : std::min(change.found_begin, id);
  change.found_end = std::max(change.found_end, id + 1);
  change.has_slots |= record->slot() != 0;
  change.has_identities |= record->definition() != nullptr;
  name.forward_record = (record->flags & symbol_flag::forward) != 0;
  change.has_forwards |= name.forward_record;
  name.address = record->address();
  name.kind = TargetKind::fixed;
  name.flags =
      std::uint8_t((name.flags & ~(flag::host | flag::tls)) | ((record->flags & symbol_flag::data) != 0 ? flag::data : 0));
  if (record->slot() != 0 && ((record->flags & (symbol_flag::rebindable | symbol_flag::forward)) != 0)) {
    name.kind = TargetKind::slot;
    name.address = record->slot();
  } else if (record->module() == nullptr) {
    name.flags |= flag::host;
  }
  if (record->module() == nullptr) return;
  if ((record->flags & symbol_flag::tls) != 0) {
    name.flags |= flag::tls;
    name.extra = std::uint32_t(change.extras.size());
    NameExtra& extra = change.extras.emplace_back();
    extra.tls_key = record->module()->tls_key();
    extra.tls_owner = record->module()->name; // pinned below
  }
  if (change.pins.empty() || change.pins.back().get() != record->module())
    change.pins.push_back(record->module()->shared_from_this());
}

bool open(const Name& name) { return name.module == link::none && name.kind == TargetKind::missing && name.mentioned; }

// Looks new names up in their libraries; those that are still open are queued for the sources.
void look_in_libraries(ChangeState& change, std::uint32_t from) {
  NameTable& names = *change.names;
  std::shared_lock lock(change.engine->tables);
  change.look();
  const bool empty = are_empty(change);
  const bool all_stay = change.removals.empty() && !change.has_identities; // nobody leaves, nor is replaced
  for (std::uint32_t i = from, count = names.size(); i < count; ++i) {
    Name& name = names[i];
    SymbolRecord* record = empty ? nullptr : change.libraries[name.library]->find_symbol(name.view(), name.hash);
    if (record != nullptr && (all_stay || (!leaves(change, *record) && !takes_over(change, name.module, *record)))) {
      resolve_to_record(change, name, record);
      change.has_clashes |= name.module != link::none;
    }
    if (open(name)) change.pending.push_back(i);
  }
}

// Of those that are queued, and of all others: what was only a group's name may have been mentioned since.
void collect_pending_again(ChangeState& change) {
  NameTable& names = *change.names;
  change.pending.clear();
  for (std::uint32_t i = 0; i < names.size(); ++i)
    if (open(names[i])) change.pending.push_back(i);
}

bool is_own_symbol(std::string_view name) {
  return name == "__dso_handle" || name == "_GLOBAL_OFFSET_TABLE_" || name == "_TLS_MODULE_BASE_" ||
         name.starts_with("__start_") || name.starts_with("__stop_");
}

Result<bool> add_member(ChangeState& change, const Archive& archive, std::size_t member, std::uint32_t library) {
  Result<Object> object = archive.member(member);
  if (!object) return std::move(object).error();
  change.modules.push_back(std::make_unique<link::Module>(std::move(*object)));
  change.modules.back()->name = change.modules.back()->object.name();
  begin_draft(change, library, nullptr);
  std::uint32_t index = std::uint32_t(change.modules.size() - 1);
  if (Result<void> introduced = introduce_module(change, index); !introduced)
    return std::move(introduced).error().within(module_context(change, index));
  return true;
}

// Each member once: what it defines is in the change from then on.
Result<bool> ask_archive(ChangeState& change, const Archive& archive, std::span<const std::uint32_t> wanted,
                         std::uint32_t library) {
  bool grown = false;
  for (std::uint32_t id : wanted) {
    const Name& name = (*change.names)[id];
    if (!open(name) || !name.needed) continue;
    Result<std::optional<std::size_t>> found = archive.find(name.view());
    if (!found) return std::move(found).error();
    if (!*found) continue;
    std::size_t member = **found;
    // An archive's index may name members that do not define what it says: each is taken once.
    if (!change.members.emplace(&archive.name(), member, library).second) continue;
    std::uint32_t names_before = change.names->size();
    if (Result<bool> added = add_member(change, archive, member, library); !added) return added;
    look_in_libraries(change, names_before);
    grown = true;
  }
  return grown;
}

using SupportArchive = std::optional<Archive>; // nothing: there is none

// Never destroyed, and without a lock beside it: changes may go on while the process ends, and threads may fork at any time.
constinit std::atomic<const SupportArchive*> known_support{nullptr};

const Archive* archive_in(const SupportArchive& support) { return support ? &*support : nullptr; }

// The compiler's support library, from wherever a GCC keeps it; null if there is none. It is read once, or by several
// changes at once, one of which prevails; if that fails for want of memory or of descriptors, the next change tries again.
Result<const Archive*> support_archive() {
  const SupportArchive* known = known_support.load(std::memory_order_acquire);
  if (known != nullptr) return archive_in(*known);
  struct Found : glob_t {
    Found() : glob_t{} {}
    ~Found() { globfree(this); }
  } found;
  auto made = std::make_unique<SupportArchive>();
  int status = glob("/usr/lib/gcc/x86_64-linux-gnu/*/libgcc.a", 0, nullptr, &found);
  if (status == GLOB_NOSPACE) throw std::bad_alloc();
  if (status == 0 && found.gl_pathc != 0) {
    Result<Archive> read = Archive::read_file(newest_version({found.gl_pathv, found.gl_pathc}));
    if (!read) return std::move(read).error().within("the compiler's support library");
    *made = std::move(*read);
  }
  if (known_support.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) known = made.release();
  return archive_in(*known);
}

// What changes of this engine have found in the process before.
class KnownHost {
public:
  explicit KnownHost(ChangeState& change) : change_(change), generation_(HostGeneration::now()) {}

  void resolve(std::span<const std::uint32_t> wanted) {
    const HostCache& cache = change_.engine->host_cache;
    std::vector<std::pair<std::uint32_t, std::uint64_t>> known;
    {
      std::shared_lock lock(change_.engine->tables);
      if (cache.generation() != generation_) return;
      for (std::uint32_t id : wanted) {
        const Name& name = (*change_.names)[id];
        if (!open(name) || (name.flags & flag::tls) != 0) continue;
        if (std::uint64_t address = cache.find(name.view(), name.hash); address != 0) known.emplace_back(id, address);
      }
    }
    // Without the lock: the dynamic linker may be asked what is there, and its lock is outside of ours.
    for (const auto& [id, address] : known) resolve_to_host(change_, (*change_.names)[id], HostSymbol{address});
  }

  void note(const Name& name, const HostSymbol& host) {
    if (!host.tls) found_.push_back({name.view(), name.hash, host.address});
  }

  // If nothing was loaded or unloaded while dlsym was asked.
  void keep() {
    if (found_.empty() || HostGeneration::now() != generation_) return;
    std::unique_lock lock(change_.engine->tables);
    change_.engine->host_cache.add(generation_, found_);
  }

private:
  ChangeState& change_;
  HostGeneration generation_;
  std::vector<HostCache::Entry> found_;
};

Result<bool> ask_process(ChangeState& change, void* handle, std::span<const std::uint32_t> wanted, std::uint32_t library) {
  std::vector<std::uint32_t> left;
  std::optional<KnownHost> known;
  if (handle == RTLD_DEFAULT) known.emplace(change).resolve(wanted);
  for (std::uint32_t id : wanted) {
    Name& name = (*change.names)[id];
    if (!open(name)) continue;
    std::optional<HostSymbol> host;
    if (handle == RTLD_DEFAULT) host = special_symbol(name.view());
    if (!host) {
      std::string text(name.view()); // an edit's or object's text ends in a NUL only by the object's table
      host = host_symbol(handle, text.c_str(), (name.flags & flag::tls) != 0);
      if (host && known) known->note(name, *host);
    }
    if (!host && handle == RTLD_DEFAULT) host = compiler_helper(name.view());
    if (host && host->failure != 0)
      return Error{ErrorCode::system, "looking at the thread-local symbol '" + std::string(name.view()) +
                                          "' from a second thread: " + std::generic_category().message(host->failure)};
    if (host)
      resolve_to_host(change, name, *host);
    else if (handle == RTLD_DEFAULT && name.needed && name.view().starts_with("__") && !is_own_symbol(name.view()))
      left.push_back(id);
  }
  if (known) known->keep();
  if (left.empty()) return false;
  Result<const Archive*> support = support_archive();
  if (!support) return std::move(support).error();
  return *support != nullptr ? ask_archive(change, **support, left, library) : false;
}

Result<bool> ask_resolver(ChangeState& change, Resolver& resolver, std::span<const std::uint32_t> wanted) {
  std::vector<Needed> needed;
  std::vector<std::uint32_t> ids;
  for (std::uint32_t id : wanted) {
    const Name& name = (*change.names)[id];
    if (!open(name) || name.view() == "__dso_handle" || name.view() == "_GLOBAL_OFFSET_TABLE_" ||
        name.view() == "_TLS_MODULE_BASE_")
      continue;
    needed.push_back({name.view(), !name.needed, name.called});
    ids.push_back(id);
  }
  if (needed.empty()) return false;
  std::vector<Answer> answers(needed.size());
  if (Result<void> resolved = resolver.resolve(needed, answers); !resolved) {
    Error error = std::move(resolved).error();
    error.code = ErrorCode::resolver;
    return std::move(error).within("the client's resolver");
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Name& name = (*change.names)[ids[i]];
    if (answers[i].kind == Answer::Kind::absent) continue;
    if (answers[i].kind == Answer::Kind::weak_null) {
      name.kind = TargetKind::null;
      continue;
    }
    name.kind = TargetKind::fixed;
    name.address = answers[i].address.value;
    name.flags |= flag::host;
    if ((name.flags & flag::tls) != 0)
      return Error{ErrorCode::resolver, "the client's resolver gave an address for the thread-local symbol '" +
                                            std::string(name.view()) + "': that of one thread means nothing to the others"};
  }
  return false;
}

Result<bool> ask_library(ChangeState& change, LibraryState& library, std::span<const std::uint32_t> wanted) {
  std::shared_lock lock(change.engine->tables);
  for (std::uint32_t id : wanted) {
    Name& name = (*change.names)[id];
    if (!open(name)) continue;
    SymbolRecord* record = library.find_symbol(name.view(), name.hash);
    if (record != nullptr && (record->flags & (symbol_flag::hidden | symbol_flag::forward)) == 0)
      resolve_to_record(change, name, record);
  }
  return false;
}

Result<bool> ask(ChangeState& change, const Source::State& source, std::span<const std::uint32_t> wanted,
                 std::uint32_t library) {
  switch (source.kind) {
  case Source::State::Kind::process: return ask_process(change, RTLD_DEFAULT, wanted, library);
  case Source::State::Kind::shared: return ask_process(change, source.handle, wanted, library);
  case Source::State::Kind::library: return ask_library(change, *source.library, wanted);
  case Source::State::Kind::archive: return ask_archive(change, *source.archive, wanted, library);
  case Source::State::Kind::resolver: return ask_resolver(change, *source.resolver, wanted);
  }
  return false;
}

// One round over all sources of one library. True if modules were added, so that there may be more to ask.
Result<bool> ask_sources(ChangeState& change, std::uint32_t library) {
  std::shared_ptr<const std::vector<Source>> sources;
  change.looks += 2;
  {
    std::shared_lock lock(change.engine->tables);
    sources = change.libraries[library]->sources;
  }
  std::vector<std::uint32_t> wanted;
  for (std::uint32_t id : change.pending)
    if ((*change.names)[id].library == library) wanted.push_back(id);
  bool grown = false;
  for (const Source& source : *sources) {
    if (wanted.empty()) break;
    Result<bool> asked = ask(change, source.state(), wanted, library);
    if (!asked) return asked;
    grown |= *asked;
  }
  return grown;
}

bool searches_process(ChangeState& change, std::uint32_t library) {
  std::shared_lock lock(change.engine->tables);
  const std::vector<Source>& sources = *change.libraries[library]->sources;
  return std::any_of(sources.begin(), sources.end(),
                     [](const Source& source) { return source.state().kind == Source::State::Kind::process; });
}

// A definition of this change meets one that is there already: a published one stays, the host's prevails over GNU_UNIQUE
// ones.
Result<void> settle_names(ChangeState& change) {
  if (!change.has_clashes && !change.has_unique) return {};
  NameTable& names = *change.names;
  for (std::uint32_t i = 0; i < names.size(); ++i) {
    Name& name = names[i];
    if (name.module == link::none) continue;
    if (name.record != nullptr && !name.forward_record) {
      if (name.strength == Strength::strong)
        return Error{ErrorCode::duplicate,
                     "'" + std::string(name.view()) + "' of " + change.modules[name.module]->name + " is defined already" +
                         (name.record->module() != nullptr ? ", by " + name.record->module()->name : std::string())};
      name.module = link::none; // weak, common, unique: what is published stays
    } else if (name.strength == Strength::unique && searches_process(change, name.library)) {
      if (std::optional<HostSymbol> host = host_symbol(RTLD_DEFAULT, std::string(name.view()).c_str(), false)) {
        name.module = link::none;
        resolve_to_host(change, name, *host);
      }
    }
  }
  return {};
}

} // namespace

Result<void> resolve_names(ChangeState& change) {
  change.pending.clear();
  look_in_libraries(change, 0);
  for (bool more = true; more;) {
    more = false;
    for (std::uint32_t library = 0; library < change.libraries.size() && !change.pending.empty(); ++library) {
      Result<bool> grown = ask_sources(change, library);
      if (!grown) return std::move(grown).error();
      more |= *grown;
    }
    if (more) collect_pending_again(change);
  }
  return settle_names(change);
}

bool are_empty(const ChangeState& change) noexcept {
  return std::all_of(change.libraries.begin(), change.libraries.end(), [](const std::shared_ptr<LibraryState>& library) {
    return library->symbols.size() == 0 && library->groups.size() == 0;
  });
}

} // namespace tenon::engine

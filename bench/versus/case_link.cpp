// The cases link/*: whole archives linked into the process, each participant in its turn.
//
// The first round of each is not timed: there the warm parts are made, and the outcome is checked by calling what was
// linked, by looking for its frames, and by seeing that the set's definitions won over the host's. A participant that fails
// is out of the table and in the faults. After that a turn is two links, the second of which is timed: the first brings the
// input and the participant's own code and tables back into the caches, which the participant before has filled with its
// own, so that a figure does not depend on whose turn it was before.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "inputs.h"
#include "participant.h"

#include <sqlite3.h>
#include <zstd.h>

#include <dlfcn.h>

#include <cstdio>

// The unwinder's own question (libgcc, unwind-dw2-fde.h): which frame description covers this code?
struct dwarf_eh_bases {
  void* tbase;
  void* dbase;
  void* func;
};
extern "C" const void* _Unwind_Find_FDE(void* pc, dwarf_eh_bases* bases);

namespace versus {
namespace {

// The wanted names' addresses, in order, come in; what is wrong goes out, or nothing.
using Check = std::function<std::string(const std::vector<std::uint64_t>&)>;

struct Spec {
  const char* name;
  const char* about;
  std::vector<std::string> system_archives;
  std::vector<std::string> llvm_archives;
  std::vector<std::string> wanted;
  Check check;
  std::size_t rounds;
};

template <class Function> Function* as_function(std::uint64_t address) {
  return reinterpret_cast<Function*>(static_cast<std::uintptr_t>(address));
}

std::string expect(const char* what, long long got, long long wanted) {
  if (got == wanted) return {};
  return std::string(what) + " gave " + std::to_string(got) + " instead of " + std::to_string(wanted);
}

std::string check_sqlite(const std::vector<std::uint64_t>& found) {
  return expect("sqlite3_libversion_number()", as_function<int()>(found[0])(), SQLITE_VERSION_NUMBER);
}

std::string check_zstd(const std::vector<std::uint64_t>& found) {
  if (auto wrong = expect("ZSTD_versionNumber()", as_function<unsigned()>(found[0])(), ZSTD_VERSION_NUMBER); !wrong.empty())
    return wrong;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += std::to_string(i * i);
  std::vector<char> packed(text.size() + 1024), back(text.size());
  auto* compress = as_function<std::size_t(void*, std::size_t, const void*, std::size_t, int)>(found[1]);
  auto* decompress = as_function<std::size_t(void*, std::size_t, const void*, std::size_t)>(found[2]);
  std::size_t size = compress(packed.data(), packed.size(), text.data(), text.size(), 3);
  if (size >= text.size()) return "ZSTD_compress() did not compress";
  std::size_t restored = decompress(back.data(), back.size(), packed.data(), size);
  if (restored != text.size() || std::string(back.data(), back.size()) != text) return "ZSTD_decompress() lost data";
  return {};
}

std::string check_lua(const std::vector<std::uint64_t>& found) {
  void* state = as_function<void*()>(found[0])();
  if (state == nullptr) return "luaL_newstate() gave null";
  std::string wrong = expect("luaL_loadstring()", as_function<int(void*, const char*)>(found[1])(state, "return 6*7"), 0);
  if (wrong.empty())
    wrong =
        expect("lua_pcallk()", as_function<int(void*, int, int, int, long, void*)>(found[2])(state, 0, 1, 0, 0, nullptr), 0);
  if (wrong.empty())
    wrong = expect("6*7 in Lua", as_function<long long(void*, int, int*)>(found[3])(state, -1, nullptr), 42);
  as_function<void(void*)>(found[4])(state);
  return wrong;
}

std::string check_llvm(const std::vector<std::uint64_t>& found) {
  unsigned major = 0, minor = 0, patch = 0;
  as_function<void(unsigned*, unsigned*, unsigned*)>(found[0])(&major, &minor, &patch);
  return expect("LLVMGetVersion()", major, 22);
}

const std::vector<Spec>& specs() {
  static const std::vector<Spec> all = {
      {"lua",
       "liblua5.4.a",
       {"liblua5.4.a"},
       {},
       {"luaL_newstate", "luaL_loadstring", "lua_pcallk", "lua_tointegerx", "lua_close"},
       check_lua,
       51},
      {"sqlite", "libsqlite3.a", {"libsqlite3.a"}, {}, {"sqlite3_libversion_number"}, check_sqlite, 31},
      {"zstd", "libzstd.a", {"libzstd.a"}, {}, {"ZSTD_versionNumber", "ZSTD_compress", "ZSTD_decompress"}, check_zstd, 51},
      {"llvm",
       "the members of libLLVMCore.a, libLLVMSupport.a, libLLVMAnalysis.a without thread-local data",
       {},
       {"libLLVMCore.a", "libLLVMSupport.a", "libLLVMAnalysis.a"},
       {"LLVMGetVersion"},
       check_llvm,
       9},
  };
  return all;
}

// What is wrong with a finished link, or nothing.
std::string examine(const Spec& spec, const InputSet& set, const std::vector<std::uint64_t>& found) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == 0) return set.names[i] + " was not found";
    void* host = dlsym(RTLD_DEFAULT, set.names[i].c_str());
    if (host != nullptr && reinterpret_cast<std::uintptr_t>(host) == found[i])
      return set.names[i] + " is the host's, not the linked one";
  }
  dwarf_eh_bases bases{};
  auto inside = static_cast<std::uintptr_t>(found[0]) + 1;
  if (_Unwind_Find_FDE(reinterpret_cast<void*>(inside), &bases) == nullptr)
    return "the frame of " + set.names[0] + " is not registered";
  return spec.check(found);
}

struct Entry {
  std::unique_ptr<Participant> participant;
  Figure figure;
  std::string fault;
};

enum class Pass { examined, warm_up, timed };

void run_once(const Spec& spec, const InputSet& set, Entry& entry, Pass pass) {
  if (!entry.fault.empty()) return;
  std::vector<std::uint64_t> found(set.names.size());
  double begin = now_ms();
  Result<void> linked = entry.participant->link(set, found);
  double linked_at = now_ms();
  if (!linked)
    entry.fault = linked.error().message;
  else if (pass == Pass::examined && entry.participant->links())
    entry.fault = examine(spec, set, found);
  double remove_begin = now_ms();
  Result<void> removed = entry.participant->remove();
  double removed_at = now_ms();
  if (!removed && entry.fault.empty()) entry.fault = "removing: " + removed.error().message;
  if (pass != Pass::timed || !entry.fault.empty()) return;
  entry.figure.samples.add(linked_at - begin);
  if (entry.participant->links()) entry.figure.removal.add(removed_at - remove_begin);
}

double megabytes(std::size_t bytes) { return static_cast<double>(bytes) / 1e6; }

std::string describe(const Counts& counts) {
  char text[512];
  std::snprintf(text, sizeof text,
                "%zu objects, %.2f MB of content, %.2f MB zero, %zu sections, %zu relocations (with the COMDAT copies that "
                "lose: %.2f MB, %zu, %zu); %zu members with thread-local data left out; %zu INTERNAL made HIDDEN; %zu "
                "symbols from the host",
                counts.objects, megabytes(counts.content), megabytes(counts.zero), counts.sections, counts.relocations,
                megabytes(counts.content + counts.lost_content), counts.sections + counts.lost_sections,
                counts.relocations + counts.lost_relocations, counts.left_out, counts.hidden, counts.from_host);
  return text;
}

Row run_link(const Spec& spec, const Settings& settings) {
  Row row{std::string("link/") + spec.name, "ms", {}, {}, {}};
  settings.progress(row.case_name + ": reading");
  std::vector<std::string> paths;
  for (const std::string& file : spec.system_archives) paths.push_back(settings.system_libraries + "/" + file);
  for (const std::string& file : spec.llvm_archives) paths.push_back(settings.llvm_libraries + "/" + file);
  auto set = load_set(spec.name, paths, spec.wanted);
  if (!set) {
    row.faults.push_back(set.error().message);
    return row;
  }
  row.note = describe(set->counts) + ", " + std::to_string(set->absolutes.size()) + " from nobody; " +
             std::to_string(set->names.size()) + " names looked up";
  std::vector<Entry> entries;
  for (auto make : {make_tenon, make_floor, make_floor_warm, make_jitlink, make_orc, make_rtdyld, make_orc_rtdyld}) {
    auto participant = make();
    std::string name = participant->name();
    entries.push_back({std::move(participant), {std::move(name), {}, {}}, {}});
  }
  settings.progress(row.case_name + ": first round");
  for (Entry& entry : entries) run_once(spec, *set, entry, Pass::examined);
  std::size_t rounds = settings.repeat != 0 ? settings.repeat : spec.rounds;
  std::size_t done = 0;
  in_turns(entries.size(), rounds, [&](std::size_t index) {
    if (done % entries.size() == 0)
      settings.progress(row.case_name + ": round " + std::to_string(done / entries.size() + 1) + " of " +
                        std::to_string(rounds));
    ++done;
    run_once(spec, *set, entries[index], Pass::warm_up);
    run_once(spec, *set, entries[index], Pass::timed);
  });
  for (Entry& entry : entries) {
    if (entry.fault.empty())
      row.figures.push_back(std::move(entry.figure));
    else
      row.faults.push_back(entry.figure.name + ": " + entry.fault);
  }
  return row;
}

} // namespace

std::vector<Case> link_cases() {
  std::vector<Case> cases;
  for (const Spec& spec : specs())
    cases.push_back({std::string("link/") + spec.name, std::string("link ") + spec.about + ", warm",
                     [&spec](const Settings& settings) { return run_link(spec, settings); }});
  return cases;
}

} // namespace versus

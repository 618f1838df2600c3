// The case memory/llvm: what a linker keeps on the heap for the set of link/llvm, by byte of what it has linked.
//
// Each participant is fresh and links the set once, nothing is timed. `tenon` and the peers' figures are what malloc has
// handed out after the link beyond what it had before the participant was made, so that nothing escapes that a linker does
// not count itself; code, constants and data are not malloc's, with any of them. `tenon_usage` is what the engine says of
// itself (EngineUsage::bookkeeping), `tenon_replaceable` is malloc's figure in a library whose modules can be replaced. With
// Tenon what its own pool of pieces has handed out counts as malloc's. A Tenon engine keeps the relocations, from which it
// can link again, in either library; the peers keep none.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "live.h"
#include "participant.h"
#include "process.h"

#include <cstdio>

namespace versus {
namespace {

struct Bytes {
  double heap = 0, usage = 0;
};

class Given final : public tenon::Resolver {
public:
  explicit Given(const InputSet& set) : set_(set) {}
  Result<void> resolve(std::span<const tenon::Needed> needed, std::span<tenon::Answer> answers) noexcept override {
    for (std::size_t i = 0; i < needed.size(); ++i)
      for (const Absolute& absolute : set_.absolutes)
        if (absolute.name == needed[i].name) answers[i] = tenon::Answer::at(tenon::Addr{absolute.address});
    return {};
  }

private:
  const InputSet& set_;
};

// Everything that is not needed after the commit is gone when the heap is read, but the library.
Result<void> link_all(tenon::Engine& engine, const tenon::Library& library, const InputSet& set) {
  tenon::Change change = engine.change();
  for (const InputObject& input : set.objects) {
    auto object = tenon::Object::borrow(input.bytes, nullptr, input.name);
    if (!object) return std::move(object).error();
    tenon::ModuleOptions options;
    options.initialize = false;
    change.add(library, std::move(*object), std::move(options));
  }
  if (auto committed = commit_all(std::move(change)); !committed) return std::move(committed).error();
  return {};
}

Result<Bytes> tenon_bytes(const InputSet& set, bool replaceable) {
  const std::int64_t before = heap_bytes();
  auto engine = tenon::Engine::create();
  if (!engine) return std::move(engine).error();
  auto library = engine->library("set", {.replaceable = replaceable});
  if (!library) return std::move(library).error();
  if (auto searched = library->search({tenon::Source::process(), tenon::Source::resolver(std::make_shared<Given>(set))});
      !searched)
    return std::move(searched).error();
  if (auto linked = link_all(*engine, *library, set); !linked) return std::move(linked).error();
  return Bytes{static_cast<double>(heap_bytes() - before), static_cast<double>(engine->usage().bookkeeping)};
}

Result<double> peer_bytes(const InputSet& set, std::unique_ptr<Participant> (*make)()) {
  std::vector<std::uint64_t> found(set.names.size());
  const std::int64_t before = heap_bytes();
  auto participant = make();
  auto linked = participant->link(set, found);
  const auto more = static_cast<double>(heap_bytes() - before);
  if (auto removed = participant->remove(); !removed && linked) return std::move(removed).error();
  if (!linked) return std::move(linked).error();
  return more;
}

Row run_memory(const Settings& settings) {
  Row row{"memory/llvm", "B/B", {}, {}, {}};
  settings.progress(row.case_name + ": reading");
  std::vector<std::string> paths;
  for (const char* file : {"libLLVMCore.a", "libLLVMSupport.a", "libLLVMAnalysis.a"})
    paths.push_back(settings.llvm_libraries + "/" + file);
  auto set = load_set("llvm", paths, {"LLVMGetVersion"});
  if (!set) return row.faults.push_back(set.error().message), row;
  const auto content = static_cast<double>(set->counts.content);
  auto add = [&](const char* name, double bytes) {
    row.figures.push_back({name, {}, {}});
    row.figures.back().samples.add(bytes / content);
  };
  auto plain = tenon_bytes(*set, false), replaceable = tenon_bytes(*set, true);
  if (plain) {
    add("tenon", plain->heap);
    add("tenon_usage", plain->usage);
  } else {
    row.faults.push_back("tenon: " + plain.error().message);
  }
  if (replaceable)
    add("tenon_replaceable", replaceable->heap);
  else
    row.faults.push_back("tenon_replaceable: " + replaceable.error().message);
  for (auto [name, make] : {std::pair("orc", &make_orc), {"jitlink", &make_jitlink}, {"rtdyld", &make_rtdyld}}) {
    auto bytes = peer_bytes(*set, make);
    if (bytes)
      add(name, *bytes);
    else
      row.faults.push_back(std::string(name) + ": " + bytes.error().message);
  }
  char text[120];
  std::snprintf(text, sizeof text, "%zu objects, %.2f MB of content, %zu relocations; bytes on the heap by byte of content",
                set->counts.objects, content / 1e6, set->counts.relocations);
  row.note = text;
  return row;
}

} // namespace

std::vector<Case> memory_cases() {
  return {{"memory/llvm", "bytes on the heap for the set of link/llvm, by byte of content", run_memory}};
}

} // namespace versus

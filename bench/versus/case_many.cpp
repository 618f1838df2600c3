// The cases many/*: tiny modules with .eh_frame, one after the other, each calling its predecessor, each usable at once.
//
// Timed for each module: parsing its object, resolving, placing, relocating, registering its frames, publishing, and looking
// its function up. Not timed: making the object (in batches, between the timed parts), the instance and its first module.
// The figure is the whole time by the number of modules, growing tables included. Beside it stand, of the same rounds, the
// last tenth of the modules against the first, the mappings that the process has more than before, and the memory that it
// has more than before, the modules' content taken off, by the number of modules. Each round has a fresh instance. The peers
// die of the kernel's limit of mappings at some 20,000 to 32,000 modules, so they take part up to 10,000.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "process.h"
#include "tiny_linkers.h"

#include <algorithm>

namespace versus {
namespace {

struct Size {
  const char* name;
  std::size_t count;
  std::size_t rounds;
  bool peers;
  bool on_request;
};

constexpr Size sizes[] = {{"1k", 1'000, 21, true, false},
                          {"10k", 10'000, 5, true, false},
                          {"100k", 100'000, 3, false, true},
                          {"1m", 1'000'000, 1, false, true}};

// A tenth of the smallest size, so that tenths are whole batches.
constexpr std::size_t batch_size = 100;

struct Entry {
  std::unique_ptr<TinyLinker> linker;
  Figure each, growth, mappings, bytes;
  std::string fault;
};

Entry entry_of(std::unique_ptr<TinyLinker> linker) {
  const std::string name = linker->name();
  return {std::move(linker),
          {name, {}, {}},
          {name + "_last_by_first", {}, {}, "ratio"},
          {name + "_mappings", {}, {}, "more"},
          {name + "_bytes", {}, {}, "B a module"},
          {}};
}

// The times of the tenths, in us a module.
Result<std::array<double, 10>> add_all(TinyLinker& linker, TinyBatch& batch, std::size_t count) {
  std::array<double, 10> tenths{};
  for (std::size_t done = 0; done < count; done += batch_size) {
    batch.fill(done + 1, batch_size, [](std::size_t module) { return module - 1; });
    std::uint64_t address = 0;
    const double begin = now_ms();
    for (std::size_t i = 0; i < batch_size; ++i) {
      auto added = linker.add(batch.object(i), batch.name(i));
      if (!added) return std::move(added).error();
      address = *added;
    }
    tenths[done * 10 / count] += (now_ms() - begin) * 1e3;
    if (std::string wrong = check_tiny(address, done + batch_size); !wrong.empty())
      return Error{ErrorCode::unsupported, std::move(wrong)};
  }
  for (double& tenth : tenths) tenth /= static_cast<double>(count) / 10;
  return tenths;
}

void run_round(Entry& entry, const TinyObjects& objects, TinyBatch& batch, std::size_t count) {
  if (!entry.fault.empty()) return;
  give_back_free_memory();
  const std::int64_t memory = resident_bytes();
  const std::size_t mappings = mapping_count();
  if (auto started = entry.linker->start(0); !started) return void(entry.fault = started.error().message);
  if (auto first = entry.linker->add(objects.first(), TinyObjects::name(0).data()); !first)
    return void(entry.fault = first.error().message);
  auto tenths = add_all(*entry.linker, batch, count);
  if (tenths) {
    double sum = 0;
    for (double tenth : *tenths) sum += tenth;
    entry.each.samples.add(sum / 10);
    entry.growth.samples.add(tenths->back() / tenths->front());
    entry.mappings.samples.add(static_cast<double>(mapping_count()) - static_cast<double>(mappings));
    entry.bytes.samples.add(static_cast<double>(resident_bytes() - memory) / static_cast<double>(count) -
                            static_cast<double>(objects.content()));
  } else {
    entry.fault = tenths.error().message;
  }
  entry.linker->stop();
}

Row run_many(const Size& size, const Settings& settings) {
  Row row{std::string("many/") + size.name, "us", {}, {}, {}};
  auto objects = TinyObjects::create();
  if (!objects) return row.faults.push_back(objects.error().message), row;
  TinyBatch batch(*objects, batch_size);
  std::vector<Entry> entries;
  entries.push_back(entry_of(make_tiny_tenon()));
  if (size.peers)
    for (auto make : {make_tiny_orc, make_tiny_jitlink, make_tiny_rtdyld}) entries.push_back(entry_of(make()));
  const std::size_t rounds = settings.repeat != 0 ? settings.repeat : size.rounds;
  in_turns(entries.size(), rounds, [&](std::size_t index) {
    settings.progress(row.case_name + ": " + entries[index].each.name);
    run_round(entries[index], *objects, batch, size.count);
  });
  for (Entry& entry : entries) {
    if (!entry.fault.empty()) row.faults.push_back(entry.each.name + ": " + entry.fault);
    if (entry.fault.empty()) row.figures.push_back(std::move(entry.each));
  }
  for (Entry& entry : entries)
    if (entry.fault.empty())
      for (Figure* figure : {&entry.growth, &entry.mappings, &entry.bytes}) row.figures.push_back(std::move(*figure));
  row.note = std::to_string(size.count) + " modules of " + std::to_string(objects->content()) +
             " bytes of content, objects of " + std::to_string(objects->bytes()) +
             " bytes; us a module, from its bytes to its function's address";
  return row;
}

} // namespace

std::vector<Case> many_cases() {
  std::vector<Case> cases;
  for (const Size& size : sizes)
    cases.push_back({std::string("many/") + size.name,
                     std::to_string(size.count) + " tiny modules one after the other, each calling its predecessor",
                     [&size](const Settings& settings) { return run_many(size, settings); }, size.on_request});
  return cases;
}

} // namespace versus

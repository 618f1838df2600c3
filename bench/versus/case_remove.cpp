// The cases remove/*: 100,000 tiny modules with .eh_frame removed one by one, in the order in which they came, in the
// opposite one, and in random order. And the case teardown: an engine with 32,000 of them is destroyed.
//
// Each module calls the first one, which stays, so that each has a reference to take back and any can go. A removal is a
// change of its own. `tenon` says that no thread is inside (Quiet::caller_guarantees), which the peers take for granted, and
// the memory is free when the change is over. `tenon_prove` leaves that to the engine; then the time until all memory is
// free counts, too. The peers remove 10,000, as many as they survive. Beside the times stands how much more memory the
// process has after all that than before, nothing trimmed by hand: as a part of what it had (its shared objects' pages left
// out), and in MB; `*_trimmed` is what it is once malloc has been told to give its free memory back.
//
// teardown times the end of the last handles on the engine. ORC's is with 10,000 modules, and so is `tenon_10k`.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "process.h"
#include "tiny_linkers.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace versus {
namespace {

constexpr std::size_t own_count = 100'000, peer_count = 10'000, teardown_count = 32'000;
constexpr std::size_t batch_size = 1000;
constexpr std::size_t usual_rounds = 3;

enum class Order : unsigned char { fifo, lifo, random };

std::vector<std::uint32_t> order_of(Order order, std::size_t count) {
  std::vector<std::uint32_t> made(count);
  std::iota(made.begin(), made.end(), 1U); // number 0 is the one that the others call
  if (order == Order::lifo) std::reverse(made.begin(), made.end());
  if (order == Order::random) std::shuffle(made.begin(), made.end(), std::mt19937(1));
  return made;
}

// `kept` handles: all but for a teardown.
Result<void> start_with(TinyLinker& linker, const TinyObjects& objects, std::size_t kept) {
  if (auto started = linker.start(kept); !started) return started;
  if (auto first = linker.add(objects.first(), TinyObjects::name(0).data()); !first) return std::move(first).error();
  return {};
}

Result<void> add_all(TinyLinker& linker, TinyBatch& batch, std::size_t count) {
  for (std::size_t done = 0; done < count; done += batch_size) {
    batch.fill(done + 1, batch_size, [](std::size_t) { return std::size_t(0); });
    for (std::size_t i = 0; i < batch_size; ++i)
      if (auto added = linker.add(batch.object(i), batch.name(i)); !added) return std::move(added).error();
  }
  return {};
}

struct Entry {
  std::unique_ptr<TinyLinker> linker;
  std::size_t count;
  Figure each, part, more, trimmed;
  std::string fault;
};

Entry entry_of(std::unique_ptr<TinyLinker> linker, std::size_t count) {
  const std::string name = linker->name();
  return {std::move(linker),
          count,
          {name, {}, {}},
          {name + "_memory", {}, {}, "%"},
          {name + "_more", {}, {}, "MB"},
          {name + "_trimmed", {}, {}, "MB"},
          {}};
}

Result<void> remove_all(Entry& entry, const TinyObjects& objects, TinyBatch& batch,
                        const std::vector<std::uint32_t>& order) {
  give_back_free_memory();
  if (auto started = start_with(*entry.linker, objects, entry.count + 1); !started) return started;
  const std::int64_t before = resident_bytes();
  if (auto added = add_all(*entry.linker, batch, entry.count); !added) return added;
  const double begin = now_ms();
  for (std::uint32_t index : order)
    if (auto removed = entry.linker->remove(index); !removed) return removed;
  if (auto settled = entry.linker->settle(); !settled) return settled;
  entry.each.samples.add((now_ms() - begin) * 1e3 / static_cast<double>(entry.count));
  const std::int64_t after = resident_bytes();
  entry.part.samples.add((static_cast<double>(after) / static_cast<double>(before) - 1) * 100);
  entry.more.samples.add(static_cast<double>(after - before) / 1e6);
  give_back_free_memory();
  entry.trimmed.samples.add(static_cast<double>(resident_bytes() - before) / 1e6);
  return {};
}

Row run_remove(const char* name, Order order, const Settings& settings) {
  Row row{std::string("remove/") + name, "us", {}, {}, {}};
  auto objects = TinyObjects::create();
  if (!objects) return row.faults.push_back(objects.error().message), row;
  TinyBatch batch(*objects, batch_size);
  std::vector<Entry> entries;
  entries.push_back(entry_of(make_tiny_tenon(), own_count));
  entries.push_back(entry_of(make_tiny_tenon(Leaving::prove), own_count));
  entries.push_back(entry_of(make_tiny_orc(), peer_count));
  entries.push_back(entry_of(make_tiny_jitlink(), peer_count));
  in_turns(entries.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    Entry& entry = entries[index];
    if (!entry.fault.empty()) return;
    settings.progress(row.case_name + ": " + entry.each.name);
    if (auto done = remove_all(entry, *objects, batch, order_of(order, entry.count)); !done)
      entry.fault = done.error().message;
    entry.linker->stop();
  });
  for (Entry& entry : entries) {
    if (!entry.fault.empty()) {
      row.faults.push_back(entry.each.name + ": " + entry.fault);
      continue;
    }
    for (Figure* figure : {&entry.each, &entry.part, &entry.more, &entry.trimmed}) row.figures.push_back(std::move(*figure));
  }
  row.note = std::to_string(own_count) + " modules (the peers: " + std::to_string(peer_count) +
             ") removed singly; us a module; memory of the process afterwards, against before";
  return row;
}

struct Ended {
  const char* name;
  std::size_t count;
  std::unique_ptr<TinyLinker> linker;
};

Row run_teardown(const Settings& settings) {
  Row row{"teardown", "ms", {}, {}, {}};
  auto objects = TinyObjects::create();
  if (!objects) return row.faults.push_back(objects.error().message), row;
  TinyBatch batch(*objects, batch_size);
  std::vector<Ended> ended;
  ended.push_back({"tenon", teardown_count, make_tiny_tenon()});
  ended.push_back({"tenon_10k", peer_count, make_tiny_tenon()});
  ended.push_back({"orc", peer_count, make_tiny_orc()});
  ended.push_back({"jitlink", peer_count, make_tiny_jitlink()});
  ended.push_back({"rtdyld", peer_count, make_tiny_rtdyld()});
  std::vector<Figure> figures;
  for (const Ended& one : ended) figures.push_back({one.name, {}, {}});
  in_turns(ended.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    if (!row.faults.empty()) return;
    settings.progress(row.case_name + ": " + ended[index].name);
    TinyLinker& linker = *ended[index].linker;
    auto started = start_with(linker, *objects, 0);
    if (started) started = add_all(linker, batch, ended[index].count);
    if (!started) return row.faults.push_back(figures[index].name + ": " + started.error().message);
    const double begin = now_ms();
    linker.stop();
    figures[index].samples.add(now_ms() - begin);
  });
  row.figures = std::move(figures);
  row.note = std::to_string(teardown_count) + " modules; the peers and tenon_10k: " + std::to_string(peer_count);
  return row;
}

} // namespace

std::vector<Case> remove_cases() {
  std::vector<Case> cases;
  for (auto [name, order] : {std::pair("fifo", Order::fifo), {"lifo", Order::lifo}, {"random", Order::random}})
    cases.push_back({std::string("remove/") + name, "100,000 tiny modules removed one by one",
                     [name, order](const Settings& settings) { return run_remove(name, order, settings); }});
  cases.push_back({"teardown", "an engine with 32,000 tiny modules is destroyed", run_teardown});
  return cases;
}

} // namespace versus

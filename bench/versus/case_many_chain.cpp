// The case many/chain: 100,000 tiny modules, each calling the next one's function, added in one change; the head is looked
// up and called through to the end.
//
// Timed: parsing the objects, all stages of the change, the look-up. Not timed: making the objects, the engine, the call.
// The peers are not here: JITLink's stack overflows at 3,000.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "tiny.h"

#include <array>

namespace versus {
namespace {

constexpr std::size_t count = 100'000;
constexpr std::size_t usual_rounds = 3;
constexpr std::array<const char*, 5> stages = {"parse", "draft", "place", "link", "commit"};

struct Times {
  double all = 0;
  std::array<double, stages.size()> stage{};
};

Result<Times> link_chain(tenon::Engine& engine, const TinyObjects& objects, const TinyBatch& chain) {
  auto library = engine.library();
  if (!library) return std::move(library).error();
  const ObjectBytes last = objects.first();
  std::array<double, stages.size() + 1> at{now_ms()};
  tenon::Change change = engine.change();
  for (std::size_t i = chain.size(); i-- > 0;) {
    auto object = tenon::Object::borrow(chain.object(i), nullptr, "tiny");
    if (!object) return std::move(object).error();
    change.add(*library, std::move(*object));
  }
  auto object = tenon::Object::borrow(last, nullptr, "tiny");
  if (!object) return std::move(object).error();
  change.add(*library, std::move(*object));
  at[1] = now_ms();
  auto draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  at[2] = now_ms();
  auto placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  at[3] = now_ms();
  auto linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  at[4] = now_ms();
  auto committed = std::move(*linked).commit();
  if (!committed) return std::move(committed).error();
  auto address = library->find(chain.name(count - 1));
  at[5] = now_ms();
  if (!address) return Error{ErrorCode::undefined, "the head was not found"};
  const int end = address->as<int (*)(int)>()(static_cast<int>(count));
  if (end != 0) return Error{ErrorCode::unsupported, "the chain ends in " + std::to_string(end)};
  Times times;
  times.all = (at[5] - at[0]) * 1e3 / count;
  for (std::size_t i = 0; i < stages.size(); ++i) times.stage[i] = (at[i + 1] - at[i]) * 1e3 / count;
  if (auto closed = library->close(tenon::Quiet::caller_guarantees); !closed) return std::move(closed).error();
  return times;
}

Row run_chain(const Settings& settings) {
  Row row{"many/chain", "us", {}, {}, {}};
  auto objects = TinyObjects::create();
  if (!objects) return row.faults.push_back(objects.error().message), row;
  TinyBatch chain(*objects, count);
  chain.fill(1, count, [](std::size_t module) { return module - 1; });
  Figure whole{"tenon", {}, {}};
  std::array<Figure, stages.size()> parts;
  for (std::size_t i = 0; i < stages.size(); ++i) parts[i] = {std::string("tenon_") + stages[i], {}, {}, "us"};
  for (std::size_t round = 0; round < (settings.repeat != 0 ? settings.repeat : usual_rounds); ++round) {
    settings.progress(row.case_name);
    auto engine = tenon::Engine::create();
    if (!engine) return row.faults.push_back(engine.error().message), row;
    auto times = link_chain(*engine, *objects, chain);
    if (!times) return row.faults.push_back(times.error().message), row;
    whole.samples.add(times->all);
    for (std::size_t i = 0; i < stages.size(); ++i) parts[i].samples.add(times->stage[i]);
  }
  row.figures.push_back(std::move(whole));
  for (Figure& part : parts) row.figures.push_back(std::move(part));
  row.note = std::to_string(count) + " modules, each calling the next, in one change; us a module, and its stages";
  return row;
}

} // namespace

std::vector<Case> many_chain_cases() {
  return {{"many/chain", "100,000 modules, each needing the next, in one change", run_chain}};
}

} // namespace versus

// The case abort: a change with libsqlite3's objects is dropped at Linked, when all its bytes are final.
//
// `linked` is the way there, from the objects' bytes; `drop` the end of the Linked; `tenon` both, and `tenon_by_linked`
// their ratio. After all rounds the engine must have what it had after the first: no live byte, no symbol, no
// bookkeeping. `tenon_frames` is by how many entries its table of frames is longer than then.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "inputs.h"
#include "live.h"
#include "process.h"

#include <cstdio>
#include <optional>

namespace versus {
namespace {

constexpr std::size_t usual_rounds = 31;

class AnyName final : public tenon::Resolver {
public:
  explicit AnyName(std::uint64_t address) : address_(address) {}
  Result<void> resolve(std::span<const tenon::Needed>, std::span<tenon::Answer> answers) noexcept override {
    for (tenon::Answer& answer : answers) answer = tenon::Answer::at(tenon::Addr{address_});
    return {};
  }

private:
  std::uint64_t address_;
};

Result<tenon::Linked> get_to_linked(tenon::Engine& engine, const tenon::Library& library, const InputSet& set) {
  tenon::Change change = engine.change();
  for (const InputObject& input : set.objects) {
    auto object = tenon::Object::borrow(input.bytes, nullptr, input.name);
    if (!object) return std::move(object).error();
    change.add(library, std::move(*object));
  }
  auto draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  auto placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  return std::move(*placed).link();
}

// What is left, or nothing.
std::string compare(const tenon::EngineUsage& before, const tenon::EngineUsage& after) {
  std::string left;
  auto look = [&](const char* what, std::uint64_t was, std::uint64_t is) {
    if (was != is) left += std::string(" ") + what + " " + std::to_string(was) + " -> " + std::to_string(is) + ";";
  };
  look("live", before.live, after.live);
  look("bookkeeping", before.bookkeeping, after.bookkeeping);
  look("modules", before.modules, after.modules);
  look("symbols", before.symbols, after.symbols);
  return left;
}

Row run_abort(const Settings& settings) {
  Row row{"abort", "ms", {}, {}, {}};
  settings.progress(row.case_name + ": reading");
  auto set = load_set("sqlite", {settings.system_libraries + "/libsqlite3.a"}, {});
  if (!set) return row.faults.push_back(set.error().message), row;
  auto engine = tenon::Engine::create();
  if (!engine) return row.faults.push_back(engine.error().message), row;
  auto library = engine->library("aborted");
  if (!library) return row.faults.push_back(library.error().message), row;
  auto anything = std::make_shared<AnyName>(dso_handle_address());
  if (auto searched = library->search({tenon::Source::process(), tenon::Source::resolver(anything)}); !searched)
    return row.faults.push_back(searched.error().message), row;
  Figure both{"tenon", {}, {}}, linked{"linked", {}, {}}, drop{"drop", {}, {}}, ratio{"tenon_by_linked", {}, {}, "x"};
  std::optional<tenon::EngineUsage> before;
  std::int64_t heap = 0;
  const std::size_t rounds = settings.repeat != 0 ? settings.repeat : usual_rounds;
  for (std::size_t round = 0; round <= rounds; ++round) { // the first warms up
    const double begin = now_ms();
    auto made = get_to_linked(*engine, *library, *set);
    if (!made) return row.faults.push_back(made.error().message), row;
    std::optional<tenon::Linked> there(std::move(*made));
    const double there_at = now_ms();
    there.reset();
    const double end = now_ms();
    if (library->find("sqlite3_open")) row.faults.push_back("a symbol of a dropped change is found");
    if (round == 0) {
      before = engine->usage();
      heap = heap_bytes();
      continue;
    }
    both.samples.add(end - begin);
    linked.samples.add(there_at - begin);
    drop.samples.add(end - there_at);
    ratio.samples.add((end - begin) / (there_at - begin));
  }
  const std::int64_t heap_after = heap_bytes();
  const tenon::EngineUsage after = engine->usage();
  if (std::string left = compare(*before, after); !left.empty()) row.faults.push_back("left:" + left);
  if (after.live != 0 || after.modules != 0) row.faults.push_back("dropped changes have left something");
  Figure frames{"tenon_frames", {}, {}, "more"};
  frames.samples.add(static_cast<double>(after.frames) - static_cast<double>(before->frames));
  char text[200];
  std::snprintf(text, sizeof text,
                "libsqlite3.a, %zu objects; after %zu drops: live bytes %llu, symbols %llu, frames %llu, heap %+lld bytes",
                set->objects.size(), rounds, static_cast<unsigned long long>(after.live),
                static_cast<unsigned long long>(after.symbols), static_cast<unsigned long long>(after.frames),
                static_cast<long long>(heap_after - heap));
  row.note = text;
  for (Figure* figure : {&both, &linked, &drop, &ratio, &frames}) row.figures.push_back(std::move(*figure));
  return row;
}

} // namespace

std::vector<Case> abort_cases() { return {{"abort", "a change dropped at Linked, against getting there", run_abort}}; }

} // namespace versus

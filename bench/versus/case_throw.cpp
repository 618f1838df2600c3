// The case throw: an exception passes five linked frames, each in a module of its own, with 50,000 modules loaded.
//
// The frames are the same instructions and the same call frame information, from one text: assembled into this program
// (`static`), and at run time into modules that come at equal distances between the others (`tenon`, and `orc` with 10,000
// modules). All call the same function of the host, which throws; the caller catches. The first throw that passes the linked
// frames is `*_first`; one through the static frames has gone before it. The others are medians of batches.
//
// `tenon_add_500` and `tenon_add_50k` are what it costs to add a module with frames to that many and to remove it again:
// registration and deregistration, and all else that goes with them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "tiny_linkers.h"

#include <array>
#include <optional>

namespace {

struct Thrown {
  int value;
};

} // namespace

extern "C" [[gnu::noinline, gnu::used]] int versus_throw(int value) { throw Thrown{value}; }

// A function `name` that calls `callee` and gives what that gives plus one.
#define VERSUS_FRAME(line, name, callee)                                                                                    \
  line(".pushsection .text") line(".p2align 4") line(".globl " name) line(".type " name ",@function") line(name ":")        \
      line(".cfi_startproc") line("pushq %rbx") line(".cfi_def_cfa_offset 16") line(".cfi_offset %rbx, -16")                \
          line("call " callee "@PLT") line("incl %eax") line("popq %rbx") line(".cfi_def_cfa_offset 8") line("ret")         \
              line(".cfi_endproc") line(".size " name ",.-" name) line(".popsection")
#define VERSUS_ASSEMBLED(text) text "\n"
#define VERSUS_IN_IR(text) "module asm \"" text "\"\n"

asm(VERSUS_FRAME(VERSUS_ASSEMBLED, "versus_static_1", "versus_throw")
        VERSUS_FRAME(VERSUS_ASSEMBLED, "versus_static_2", "versus_static_1")
            VERSUS_FRAME(VERSUS_ASSEMBLED, "versus_static_3", "versus_static_2")
                VERSUS_FRAME(VERSUS_ASSEMBLED, "versus_static_4", "versus_static_3")
                    VERSUS_FRAME(VERSUS_ASSEMBLED, "versus_static_5", "versus_static_4"));
extern "C" int versus_static_5(int);

namespace versus {
namespace {

constexpr std::size_t own_modules = 50'000, peer_modules = 10'000, few_modules = 500;
constexpr std::size_t batch_size = 100;
constexpr std::size_t usual_rounds = 3;
constexpr std::size_t throw_batches = 100, throws_per_batch = 20, additions = 2000;

constexpr std::array<const char*, 5> frame_names = {"versus_frame_1", "versus_frame_2", "versus_frame_3", "versus_frame_4",
                                                    "versus_frame_5"};
constexpr std::array<const char*, 5> frame_texts = {VERSUS_FRAME(VERSUS_IN_IR, "versus_frame_1", "versus_throw"),
                                                    VERSUS_FRAME(VERSUS_IN_IR, "versus_frame_2", "versus_frame_1"),
                                                    VERSUS_FRAME(VERSUS_IN_IR, "versus_frame_3", "versus_frame_2"),
                                                    VERSUS_FRAME(VERSUS_IN_IR, "versus_frame_4", "versus_frame_3"),
                                                    VERSUS_FRAME(VERSUS_IN_IR, "versus_frame_5", "versus_frame_4")};

using Thrower = int (*)(int);

// False if it has not come through.
bool catch_one(Thrower thrower, int value) {
  try {
    (void)thrower(value);
  } catch (const Thrown& thrown) {
    return thrown.value == value;
  }
  return false;
}

// us a throw; zero: one was lost.
double catch_some(Thrower thrower, std::size_t count) {
  bool all = true;
  const double begin = now_ms();
  for (std::size_t i = 0; i < count; ++i) all = catch_one(thrower, static_cast<int>(i)) && all;
  return all ? (now_ms() - begin) * 1e3 / static_cast<double>(count) : 0;
}

struct Inputs {
  std::optional<TinyObjects> tiny;
  std::vector<ObjectBytes> frames;

  Result<void> make() {
    auto made = TinyObjects::create();
    if (!made) return std::move(made).error();
    tiny.emplace(std::move(*made));
    for (std::size_t i = 0; i < frame_names.size(); ++i) {
      auto bytes = compile_text(frame_texts[i], frame_names[i], false);
      if (!bytes) return std::move(bytes).error();
      frames.push_back(std::move(*bytes));
    }
    return {};
  }
};

// Adds `count` tiny modules, and the frames between them; the address of the last frame.
Result<Thrower> load(TinyLinker& linker, const Inputs& inputs, std::size_t count) {
  if (auto first = linker.add(inputs.tiny->first(), TinyObjects::name(0).data()); !first) return std::move(first).error();
  TinyBatch batch(*inputs.tiny, batch_size);
  std::uint64_t address = 0;
  std::size_t frames = 0;
  for (std::size_t done = 0; done < count; done += batch_size) {
    batch.fill(done + 1, batch_size, [](std::size_t module) { return module - 1; });
    for (std::size_t i = 0; i < batch_size; ++i)
      if (auto added = linker.add(batch.object(i), batch.name(i)); !added) return std::move(added).error();
    if (done * frame_names.size() < count * frames) continue;
    auto added = linker.add(inputs.frames[frames], frame_names[frames]);
    if (!added) return std::move(added).error();
    address = *added;
    ++frames;
  }
  if (frames != frame_names.size()) return Error{ErrorCode::unsupported, "frames are missing"};
  return reinterpret_cast<Thrower>(static_cast<std::uintptr_t>(address));
}

// us for adding a module to so many, and for removing it again.
Result<double> add_and_remove(const Inputs& inputs, std::size_t count) {
  auto engine = tenon::Engine::create();
  if (!engine) return std::move(engine).error();
  auto library = engine->library("many");
  if (!library) return std::move(library).error();
  TinyBatch batch(*inputs.tiny, 1);
  auto add = [&](std::span<const std::byte> bytes) -> Result<tenon::Module> {
    auto object = tenon::Object::borrow(bytes, nullptr, "tiny");
    if (!object) return std::move(object).error();
    tenon::Change change = engine->change();
    change.add(*library, std::move(*object));
    auto committed = commit_all(std::move(change));
    if (!committed) return std::move(committed).error();
    return committed->modules()[0];
  };
  if (auto first = add(inputs.tiny->first()); !first) return std::move(first).error();
  for (std::size_t i = 1; i <= count; ++i) {
    batch.fill(i, 1, [](std::size_t module) { return module - 1; });
    if (auto added = add(batch.object(0)); !added) return std::move(added).error();
  }
  batch.fill(count + 1, 1, [](std::size_t module) { return module - 1; });
  Samples each;
  for (std::size_t i = 0; i < additions; ++i) {
    const double begin = now_ms();
    auto added = add(batch.object(0));
    if (!added) return std::move(added).error();
    tenon::Change change = engine->change();
    change.remove(std::move(*added), tenon::Quiet::caller_guarantees);
    if (auto committed = commit_all(std::move(change)); !committed) return std::move(committed).error();
    each.add((now_ms() - begin) * 1e3);
  }
  return each.median();
}

struct Entry {
  std::unique_ptr<TinyLinker> linker; // null: the static frames
  std::size_t count;
  Figure later, first;
};

Result<void> run_round(Entry& entry, const Inputs& inputs) {
  Thrower thrower = versus_static_5;
  if (entry.linker) {
    if (auto started = entry.linker->start(0); !started) return started;
    auto loaded = load(*entry.linker, inputs, entry.count);
    if (!loaded) return std::move(loaded).error();
    thrower = *loaded;
  }
  (void)catch_one(versus_static_5, 1);
  const double first = catch_some(thrower, 1);
  Samples batches;
  for (std::size_t i = 0; i < throw_batches; ++i) batches.add(catch_some(thrower, throws_per_batch));
  if (entry.linker) entry.linker->stop();
  if (first == 0 || batches.quantile(0) == 0) return Error{ErrorCode::unsupported, "an exception was lost"};
  entry.first.samples.add(first);
  entry.later.samples.add(batches.median());
  return {};
}

Row run_throw(const Settings& settings) {
  Row row{"throw", "us", {}, {}, {}};
  Inputs inputs;
  if (auto made = inputs.make(); !made) return row.faults.push_back(made.error().message), row;
  std::vector<Entry> entries;
  entries.push_back({make_tiny_tenon(), own_modules, {"tenon", {}, {}}, {"tenon_first", {}, {}}});
  entries.push_back({nullptr, 0, {"static", {}, {}}, {"static_first", {}, {}}});
  entries.push_back({make_tiny_orc(), peer_modules, {"orc", {}, {}}, {"orc_first", {}, {}}});
  Figure few{"tenon_add_500", {}, {}}, many{"tenon_add_50k", {}, {}};
  in_turns(entries.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    settings.progress(row.case_name + ": " + entries[index].later.name);
    if (auto done = run_round(entries[index], inputs); !done)
      row.faults.push_back(entries[index].later.name + ": " + done.error().message);
    if (index != 0) return;
    auto some = add_and_remove(inputs, few_modules), all = add_and_remove(inputs, own_modules);
    if (some) few.samples.add(*some);
    if (all) many.samples.add(*all);
  });
  for (Entry& entry : entries) row.figures.push_back(std::move(entry.later));
  for (Entry& entry : entries)
    if (entry.linker) row.figures.push_back(std::move(entry.first));
  row.figures.push_back(std::move(few));
  row.figures.push_back(std::move(many));
  row.note = std::to_string(own_modules) + " modules loaded (orc: " + std::to_string(peer_modules) +
             "), five frames among them; tenon_add_*: adding a module to that many and removing it";
  return row;
}

} // namespace

std::vector<Case> throw_cases() { return {{"throw", "an exception through five linked frames", run_throw}}; }

} // namespace versus

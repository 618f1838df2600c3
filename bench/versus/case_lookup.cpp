// The cases lookup/1t and lookup/2t: finding a symbol by its name, in random order, one call a name or one for all.
//
// 10,000 functions in one module (`tenon`), and a million in a hundred (`tenon_1m`), each of a name of 20 characters. The
// names lie in memory in the order in which they are asked for, as text that the engine has not seen before. The first pass
// over all names is not timed.
//
// `floor_1m` is what the million costs at least: two cache misses, the second of which depends on the first. A table of 8
// bytes for each symbol, at a random place, leads to a record of 64 bytes, at another; which place is next depends on what
// the record holds, so that one look-up does not hide another.
//
// lookup/2t: two threads at once, each over all names in its own order; ns a look-up of each thread. `*_ratio` is their
// throughput together against that of one thread in the same round. `machine` is the same for a loop of arithmetic that
// shares nothing, so its ratio is what the machine gives at the time: without two free cores none can be 2.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "live.h"
#include "llvm_fault.h"

#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

namespace versus {
namespace {

namespace orc = llvm::orc;

constexpr std::size_t per_module = 10'000, modules = 100;
constexpr std::size_t usual_rounds = 11;
constexpr double missing = std::numeric_limits<double>::infinity(); // a name was not found: nobody takes it for a figure
constexpr const char* placeholder = "namespace_99_";

std::string digits(std::size_t number, std::size_t width) {
  std::string text = std::to_string(number);
  return std::string(width - text.size(), '0') + text;
}

std::string name_of(std::size_t module, std::size_t function) {
  return "namespace_" + digits(module, 2) + "_" + digits(function, 7);
}

// Returns at once, each in 16 bytes of code: the assembler makes 10,000 of them faster than the compiler.
Result<ObjectBytes> make_object() {
  std::string text;
  for (std::size_t i = 0; i < per_module; ++i) {
    const std::string name = placeholder + digits(i, 7);
    text += "module asm \".globl " + name + "\"\nmodule asm \".type " + name + ",@function\"\nmodule asm \".p2align 4\"\n" +
            "module asm \"" + name + ": ret\"\nmodule asm \".size " + name + ",.-" + name + "\"\n";
  }
  return compile_text(text, "names", false);
}

ObjectBytes numbered_object(const ObjectBytes& original, std::size_t module) {
  ObjectBytes made = original;
  const std::string wanted = placeholder, number = digits(module, 2);
  const auto* begin = reinterpret_cast<const std::byte*>(wanted.data());
  for (auto at = made.begin();; at += static_cast<std::ptrdiff_t>(wanted.size())) {
    at = std::search(at, made.end(), begin, begin + wanted.size());
    if (at == made.end()) return made;
    std::memcpy(&*at + wanted.size() - 3, number.data(), number.size());
  }
}

// Names in the order in which they are asked for, in one piece of memory.
struct Names {
  std::string text;
  std::vector<std::string_view> each;
  std::vector<tenon::Addr> found;

  Names(std::size_t module_count, unsigned seed) {
    std::vector<std::uint32_t> order(module_count * per_module);
    std::iota(order.begin(), order.end(), 0U);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    const std::size_t width = name_of(0, 0).size() + 1; // LLVM wants them terminated
    text.reserve(order.size() * width);
    for (std::uint32_t i : order) text += name_of(i / per_module, i % per_module) + '\0';
    for (std::size_t i = 0; i < order.size(); ++i) each.emplace_back(text.data() + i * width, width - 1);
    found.resize(each.size());
  }
};

struct Library {
  std::optional<tenon::Engine> engine;
  std::optional<tenon::Library> library;

  Result<void> make(const ObjectBytes& original, std::size_t count) {
    auto made = tenon::Engine::create();
    if (!made) return std::move(made).error();
    engine.emplace(std::move(*made));
    auto named = engine->library("names");
    if (!named) return std::move(named).error();
    library.emplace(std::move(*named));
    for (std::size_t i = 0; i < count; ++i) {
      auto object = tenon::Object::copy(numbered_object(original, i), "names");
      if (!object) return std::move(object).error();
      tenon::Change change = engine->change();
      change.add(*library, std::move(*object));
      if (auto committed = commit_all(std::move(change)); !committed) return std::move(committed).error();
    }
    return {};
  }
};

// ns a name.
double each_name(const tenon::Library& library, Names& names) {
  const double begin = now_ms();
  bool all = true;
  for (std::size_t i = 0; i < names.each.size(); ++i) {
    auto address = library.find(names.each[i]);
    all = all && address.has_value();
  }
  const double ns = (now_ms() - begin) * 1e6 / static_cast<double>(names.each.size());
  return all ? ns : missing;
}

double batch(const tenon::Library& library, Names& names) {
  const double begin = now_ms();
  const std::size_t count = library.find(names.each, names.found);
  const double ns = (now_ms() - begin) * 1e6 / static_cast<double>(names.each.size());
  return count == names.each.size() ? ns : missing;
}

class Floor {
public:
  explicit Floor(std::size_t count) : records_(count), table_(count) {
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    std::mt19937 random(3);
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i = 0; i < count; ++i) {
      table_[i] = &records_[order[i]];
      records_[order[i]].next = static_cast<std::uint32_t>(random() % count);
    }
  }

  double run() {
    std::uint64_t place = last_;
    const double begin = now_ms();
    for (std::size_t i = 0; i < table_.size(); ++i) place = (i * 0x9E37'79B9 + table_[place]->next) % table_.size();
    const double ns = (now_ms() - begin) * 1e6 / static_cast<double>(table_.size());
    last_ = place;
    return ns;
  }

private:
  struct alignas(64) Record {
    std::uint64_t next = 0;
  };
  std::vector<Record> records_;
  std::vector<const Record*> table_;
  std::uint64_t last_ = 0;
};

class OrcNames {
public:
  llvm::Error make(const ObjectBytes& bytes, const Names& names) {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    auto jit = orc::LLJITBuilder().create();
    if (!jit) return jit.takeError();
    jit_ = std::move(*jit);
    llvm::StringRef content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (llvm::Error error = jit_->addObjectFile(llvm::MemoryBuffer::getMemBuffer({content, "names"}, false))) return error;
    for (std::string_view name : names.each) interned_.push_back(jit_->mangleAndIntern(name));
    return batch() == missing ? llvm::createStringError("a name was not found") : llvm::Error::success();
  }

  // By string; ns a name.
  double each(const Names& names) {
    const double begin = now_ms();
    for (std::string_view name : names.each) {
      auto address = jit_->lookup(name);
      if (!address) return llvm::consumeError(address.takeError()), missing;
    }
    return (now_ms() - begin) * 1e6 / static_cast<double>(names.each.size());
  }

  double batch() {
    const double begin = now_ms();
    orc::SymbolLookupSet wanted(llvm::ArrayRef<orc::SymbolStringPtr>{interned_});
    auto found = jit_->getExecutionSession().lookup({{&jit_->getMainJITDylib(), orc::JITDylibLookupFlags::MatchAllSymbols}},
                                                    std::move(wanted));
    if (!found) return llvm::consumeError(found.takeError()), missing;
    return (now_ms() - begin) * 1e6 / static_cast<double>(interned_.size());
  }

private:
  std::unique_ptr<orc::LLJIT> jit_;
  std::vector<orc::SymbolStringPtr> interned_;
};

// What both cases have: the small library, the large one, ORC's.
struct Scene {
  Library small, large;
  OrcNames peer;
  std::optional<Names> small_names, large_names;

  Result<void> make(const Settings& settings) {
    settings.progress("lookup: making a million symbols");
    auto object = make_object();
    if (!object) return std::move(object).error();
    small_names.emplace(1, 1);
    large_names.emplace(modules, 1);
    if (auto made = small.make(numbered_object(*object, 0), 1); !made) return made;
    if (auto made = large.make(*object, modules); !made) return made;
    if (llvm::Error error = peer.make(numbered_object(*object, 0), *small_names)) return llvm_fault(std::move(error));
    return {};
  }
};

struct Measured {
  Figure figure;
  std::function<double()> run;
};

void measure(std::vector<Measured>& all, const Settings& settings, Row& row) {
  for (Measured& one : all) (void)one.run();
  std::size_t done = 0;
  in_turns(all.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    settings.progress(row.case_name + ": " + std::to_string(++done));
    all[index].figure.samples.add(all[index].run());
  });
  for (Measured& one : all) row.figures.push_back(std::move(one.figure));
}

Row run_one(const Settings& settings) {
  Row row{"lookup/1t", "ns", {}, {}, {}};
  Scene scene;
  if (auto made = scene.make(settings); !made) return row.faults.push_back(made.error().message), row;
  Floor floor(modules * per_module);
  Names &few = *scene.small_names, &many = *scene.large_names;
  const tenon::Library &small = *scene.small.library, &large = *scene.large.library;
  // Small ones several times: a pass over 10,000 names takes less than a millisecond.
  auto repeated = [](auto run) {
    return [run] {
      Samples passes;
      for (int i = 0; i < 20; ++i) passes.add(run());
      return passes.median();
    };
  };
  std::vector<Measured> all;
  all.push_back({{"tenon", {}, {}}, repeated([&] { return each_name(small, few); })});
  all.push_back({{"tenon_batch", {}, {}}, repeated([&] { return batch(small, few); })});
  all.push_back({{"tenon_1m", {}, {}}, [&] { return each_name(large, many); }});
  all.push_back({{"tenon_1m_batch", {}, {}}, [&] { return batch(large, many); }});
  all.push_back({{"floor_1m", {}, {}}, [&] { return floor.run(); }});
  all.push_back({{"orc", {}, {}}, [&] { return scene.peer.each(few); }});
  all.push_back({{"orc_batch", {}, {}}, [&] { return scene.peer.batch(); }});
  measure(all, settings, row);
  row.note = "10,000 functions in one module, *_1m: a million in a hundred; ns a name; *_batch: one call for all";
  return row;
}

// Two threads that begin together; ns a look-up of each, the mean of both.
template <class Run> double two_at_once(Run&& run) {
  std::atomic<int> ready{0};
  double ns[2] = {0, 0};
  auto body = [&](std::size_t index) {
    ++ready;
    while (ready < 2) __builtin_ia32_pause();
    ns[index] = run(index);
  };
  std::thread other(body, std::size_t(1));
  body(0);
  other.join();
  return (ns[0] + ns[1]) / 2;
}

// Multiplications, each waiting for the one before; about as long as a pass over the small names.
double arithmetic(std::size_t thread) {
  constexpr std::size_t count = 100'000;
  std::uint64_t value = thread + 1;
  const double begin = now_ms();
  for (std::size_t i = 0; i < count; ++i) {
    value = value * 0x5851'F42D'4C95'7F2D + 1;
    asm volatile("" : "+r"(value));
  }
  return (now_ms() - begin) * 1e6 / count;
}

struct Pair {
  std::string name;
  std::function<double(std::size_t)> run; // by thread
};

Row run_two(const Settings& settings) {
  Row row{"lookup/2t", "ns", {}, {}, {}};
  Scene scene;
  if (auto made = scene.make(settings); !made) return row.faults.push_back(made.error().message), row;
  Names few[] = {Names(1, 1), Names(1, 2)}, many[] = {Names(modules, 1), Names(modules, 2)};
  const tenon::Library &small = *scene.small.library, &large = *scene.large.library;
  // Long enough for the threads' beginning and end not to count.
  auto passes = [](std::size_t count, auto run) {
    return [count, run](std::size_t thread) {
      double sum = 0;
      for (std::size_t i = 0; i < count; ++i) sum += run(thread);
      return sum / static_cast<double>(count);
    };
  };
  const Pair pairs[] = {{"tenon", passes(100, [&](std::size_t thread) { return each_name(small, few[thread]); })},
                        {"tenon_1m", passes(1, [&](std::size_t thread) { return each_name(large, many[thread]); })},
                        {"orc", passes(5, [&](std::size_t thread) { return scene.peer.each(few[thread]); })},
                        {"machine", passes(100, arithmetic)}};
  std::vector<Figure> ratios;
  for (const Pair& pair : pairs) {
    Figure each{pair.name, {}, {}}, ratio{pair.name + "_ratio", {}, {}, "x"};
    (void)pair.run(0);
    (void)pair.run(1);
    for (std::size_t i = 0; i < (settings.repeat != 0 ? settings.repeat : usual_rounds); ++i) {
      settings.progress(row.case_name + ": " + pair.name);
      const double alone = pair.run(0), together = two_at_once(pair.run);
      each.samples.add(together);
      ratio.samples.add(2 * alone / together);
    }
    row.figures.push_back(std::move(each));
    ratios.push_back(std::move(ratio));
  }
  for (Figure& ratio : ratios) row.figures.push_back(std::move(ratio));
  row.note = "two threads, ns a look-up of each; *_ratio: their throughput against one thread's";
  return row;
}

} // namespace

std::vector<Case> lookup_cases() {
  return {{"lookup/1t", "a symbol by its name, in random order", run_one},
          {"lookup/2t", "the same in two threads at once", run_two}};
}

} // namespace versus

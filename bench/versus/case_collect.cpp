// The case collect/step: a dead cycle of 100,000 functions and variables; the longest time for which collecting it keeps
// anybody waiting.
//
// The cycle is made twice: of 50,000 modules with a function and a variable each, and of 100 modules with 500 of each. The
// handle that keeps it is dropped, and the engine collects. The step is measured from outside: a thread asks for a name and
// defines one, again and again, and notes the longest of these calls: the first needs the engine's tables, the second its
// lock for commits and the tables for itself. `idle` is the same with nothing to collect: what the scheduler does to it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "live.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

namespace versus {
namespace {

constexpr std::size_t small_modules = 50'000;
constexpr std::size_t module_count = 100, functions_per_module = 500; // and as many variables
constexpr std::size_t usual_rounds = 5;
constexpr double patience_ms = 30'000;

// function_i of a module calls that of the next one, whose pointer is in variable_i.
std::string module_text(std::size_t module) {
  const std::string own = std::to_string(module) + "_", next = std::to_string((module + 1) % module_count) + "_";
  std::string text;
  for (std::size_t i = 0; i < functions_per_module; ++i) {
    const std::string number = std::to_string(i);
    text += "declare i32 @function_" + next + number + "(i32)\n@variable_" + own + number + " = global ptr @function_" +
            next + number + "\ndefine i32 @function_" + own + number + "(i32 %x) {\n  %y = call i32 @function_" + next +
            number + "(i32 %x)\n  ret i32 %y\n}\n";
  }
  return text;
}

Result<std::vector<ObjectBytes>> compile_cycle(const Settings& settings) {
  std::vector<ObjectBytes> objects;
  for (std::size_t module = 0; module < module_count; ++module) {
    settings.progress("collect/step: compiling " + std::to_string(module));
    auto bytes = compile_text(module_text(module), "cycle");
    if (!bytes) return std::move(bytes).error();
    objects.push_back(std::move(*bytes));
  }
  return objects;
}

// One object is compiled, then the numbers in its names are exchanged.
Result<std::vector<ObjectBytes>> number_cycle() {
  auto bytes =
      compile_text("declare i32 @function_999999(i32)\n@variable_000000 = global ptr @function_999999\n"
                   "define i32 @function_000000(i32 %x) {\n  %y = call i32 @function_999999(i32 %x)\n  ret i32 %y\n}\n",
                   "cycle");
  if (!bytes) return std::move(bytes).error();
  const std::string original(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  std::vector<ObjectBytes> objects;
  for (std::size_t module = 0; module < small_modules; ++module) {
    ObjectBytes made = *bytes;
    auto put = [&](const std::string& placeholder, std::size_t number) {
      const std::string digits = std::to_string(1'000'000 + number).substr(1);
      for (std::size_t at = 0; (at = original.find(placeholder, at)) != std::string::npos; at += placeholder.size())
        std::memcpy(made.data() + at + 1, digits.data(), digits.size());
    };
    put("_000000", module);
    put("_999999", (module + 1) % small_modules);
    objects.push_back(std::move(made));
  }
  return objects;
}

const tenon::Absolute symbol{"defined", tenon::Addr{4096}, true};

// Looks a name up and defines one until it is stopped. It pauses, so that its time is up when it waits for a processor
// rather than in the middle of a call.
class Bystander {
public:
  Bystander(tenon::Engine& engine, const tenon::Library& library, tenon::Library& other)
      : thread_([this, &engine, &library, &other] { look(engine, library, other); }) {
    while (!started_) std::this_thread::yield();
  }
  ~Bystander() { (void)stop(); }
  double stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
    return longest_ms_;
  }

private:
  void look(tenon::Engine& engine, const tenon::Library& library, tenon::Library& other) {
    auto border = engine.border("bystander");
    while (!stopping_) {
      const double begin = now_ms();
      (void)library.find("absent");
      const double found = now_ms();
      (void)other.define({&symbol, 1});
      longest_ms_ = std::max({longest_ms_, found - begin, now_ms() - found});
      started_ = true;
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
  }

  std::atomic<bool> stopping_{false}, started_{false};
  double longest_ms_ = 0;
  std::thread thread_;
};

struct Step {
  double longest_ms = 0, whole_ms = 0, idle_ms = 0;
};

Result<Step> collect_once(tenon::Engine& engine, const tenon::Library& library, tenon::Library& other,
                          const std::vector<ObjectBytes>& objects) {
  const std::uint64_t before = engine.usage().live;
  tenon::Change change = engine.change();
  for (const ObjectBytes& bytes : objects) {
    auto object = tenon::Object::borrow(bytes, nullptr, "cycle");
    if (!object) return std::move(object).error();
    change.add(library, std::move(*object));
  }
  auto committed = commit_all(std::move(change));
  if (!committed) return std::move(committed).error();
  std::optional<tenon::Committed> cycle(std::move(*committed));
  std::optional<tenon::Kept> handle;
  if (auto kept = library.keep(cycle->modules()[0])) handle.emplace(std::move(*kept));
  cycle.reset();
  if (auto collected = engine.collect(); !collected) return std::move(collected).error();
  if (!handle || engine.usage().live == before) return Error{ErrorCode::unsupported, "a handle does not keep the cycle"};

  Step step;
  {
    Bystander bystander(engine, library, other);
    const double begin = now_ms();
    handle.reset();
    for (;;) {
      auto collected = engine.collect();
      if (!collected) return std::move(collected).error();
      if (collected->empty()) break;
      if (now_ms() - begin > patience_ms) return Error{ErrorCode::unsupported, "the cycle is not freed"};
    }
    step.whole_ms = now_ms() - begin;
    step.longest_ms = bystander.stop();
  }
  while (engine.usage().live > before) // the engine's own thread may have the last of it
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  Bystander bystander(engine, library, other);
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(step.whole_ms));
  step.idle_ms = bystander.stop();
  return step;
}

Result<void> measure(const Settings& settings, const std::vector<ObjectBytes>& objects, const std::string& suffix,
                     Row& row) {
  auto engine = tenon::Engine::create(live_options());
  if (!engine) return std::move(engine).error();
  auto library = engine->library("cycle", {.replaceable = true, .collected = true});
  if (!library) return std::move(library).error();
  auto other = engine->library("other");
  if (!other) return std::move(other).error();
  if (auto defined = other->define({&symbol, 1}); !defined) return std::move(defined).error();
  Figure longest{"longest" + suffix, {}, {}}, idle{"idle" + suffix, {}, {}}, whole{"whole" + suffix, {}, {}};
  for (std::size_t i = 0; i < (settings.repeat != 0 ? settings.repeat : usual_rounds); ++i) {
    settings.progress("collect/step: collecting " + std::to_string(objects.size()) + " modules");
    auto step = collect_once(*engine, *library, *other, objects);
    if (!step) return std::move(step).error();
    longest.samples.add(step->longest_ms);
    idle.samples.add(step->idle_ms);
    whole.samples.add(step->whole_ms);
  }
  for (Figure* figure : {&longest, &idle, &whole}) row.figures.push_back(std::move(*figure));
  return {};
}

Row run_collect(const Settings& settings) {
  Row row{"collect/step", "ms", {}, {}, {}};
  auto small = number_cycle();
  if (!small) return row.faults.push_back(small.error().message), row;
  if (auto done = measure(settings, *small, "", row); !done) row.faults.push_back(done.error().message);
  small->clear();
  auto large = compile_cycle(settings);
  if (!large) return row.faults.push_back(large.error().message), row;
  if (auto done = measure(settings, *large, "/100", row); !done) row.faults.push_back(done.error().message);
  row.note = "a ring of " + std::to_string(small_modules) + " modules with a function and a variable each; /100: of " +
             std::to_string(module_count) + " modules with " + std::to_string(functions_per_module) + " of each";
  return row;
}

} // namespace

std::vector<Case> collect_cases() {
  return {{"collect/step", "the longest step of collecting a dead cycle of 100,000 functions and variables", run_collect}};
}

} // namespace versus

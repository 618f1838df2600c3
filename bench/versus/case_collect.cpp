// The case collect/step: a dead cycle of 100,000 functions and variables over 100 modules, each of which refers to the next
// one; the longest time for which collecting it keeps anybody waiting.
//
// The cycle is removed by one change; the step is measured from outside, by a thread that asks the engine for a name without
// pause and notes its longest wait, beside what the removal and the collection take as a whole.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "live.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace versus {
namespace {

constexpr std::size_t module_count = 100, functions_per_module = 500; // and as many variables
constexpr std::size_t usual_rounds = 3;
constexpr double patience_ms = 10'000;

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

// Looks a name up until it is stopped. Registered, as it never blocks: the engine waits for those that it can't look at.
class Bystander {
public:
  Bystander(tenon::Engine& engine, const tenon::Library& library)
      : thread_([this, &engine, &library] { look(engine, library); }) {
    while (!started_) std::this_thread::yield();
  }
  ~Bystander() { (void)stop(); }
  double stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
    return longest_ms_;
  }

private:
  void look(tenon::Engine& engine, const tenon::Library& library) {
    auto border = engine.border("bystander");
    for (double last = now_ms(); !stopping_;) {
      (void)library.find("absent");
      const double now = now_ms();
      longest_ms_ = std::max(longest_ms_, now - last);
      last = now;
      started_ = true;
    }
  }

  std::atomic<bool> stopping_{false}, started_{false};
  double longest_ms_ = 0;
  std::thread thread_;
};

struct Step {
  double longest_ms = 0, whole_ms = 0;
};

Result<Step> collect_once(tenon::Engine& engine, const tenon::Library& library, const std::vector<ObjectBytes>& objects) {
  const std::uint64_t before = engine.usage().live;
  tenon::Change change = engine.change();
  for (const ObjectBytes& bytes : objects) {
    auto object = tenon::Object::borrow(bytes, nullptr, "cycle");
    if (!object) return std::move(object).error();
    change.add(library, std::move(*object));
  }
  auto committed = commit_all(std::move(change));
  if (!committed) return std::move(committed).error();
  tenon::Change removal = engine.change();
  for (const tenon::Module& module : committed->modules()) removal.remove(module);
  Bystander bystander(engine, library);
  const double begin = now_ms();
  if (auto removed = commit_all(std::move(removal)); !removed) return std::move(removed).error();
  while (engine.usage().live > before) {
    if (now_ms() - begin > patience_ms) return Error{ErrorCode::unsupported, "the cycle is not freed"};
    if (auto collected = engine.collect(); !collected) return std::move(collected).error();
  }
  const double whole = now_ms() - begin;
  return Step{bystander.stop(), whole};
}

Row run_collect(const Settings& settings) {
  Row row{"collect/step", "ms", {}, {}, {}};
  auto objects = compile_cycle(settings);
  if (!objects) return row.faults.push_back(objects.error().message), row;
  auto engine = tenon::Engine::create(live_options());
  if (!engine) return row.faults.push_back(engine.error().message), row;
  auto library = engine->library("cycle", {.replaceable = true});
  if (!library) return row.faults.push_back(library.error().message), row;
  Figure longest{"longest", {}, {}}, whole{"whole", {}, {}};
  settings.progress("collect/step: collecting");
  for (std::size_t i = 0; i < (settings.repeat != 0 ? settings.repeat : usual_rounds); ++i) {
    auto step = collect_once(*engine, *library, *objects);
    if (!step) return row.faults.push_back(step.error().message), row;
    longest.samples.add(step->longest_ms);
    whole.samples.add(step->whole_ms);
  }
  row.figures = {std::move(longest), std::move(whole)};
  row.note = std::to_string(module_count) + " modules in a ring, " +
             std::to_string(2 * module_count * functions_per_module) + " functions and variables";
  return row;
}

} // namespace

std::vector<Case> collect_cases() {
  return {{"collect/step", "the longest step of collecting a dead cycle of 100,000 functions and variables", run_collect}};
}

} // namespace versus

// The cases link/llvm-cold and link/llvm-2t: the set of link/llvm where nothing is warm, and from two threads at once.
//
// Cold: each link happens in a process of its own which has done nothing before but read the set. Timed are the making of
// the engine (session, ...), the link, and the look-up; code, tables and heap of the linkers are as the system gives them.
//
// Two threads: an engine, and for each thread a copy of all objects and a library of its own. A round is one thread linking
// its copy some times over, and then two doing so at once; the two take turns, and what is shown is milliseconds for one
// copy.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "child.h"
#include "participant.h"

#include <tenon/engine.h>

#include <time.h>

#include <barrier>
#include <thread>

namespace versus {
namespace {

Result<InputSet> load_llvm(const Settings& settings) {
  std::vector<std::string> paths;
  for (const char* file : {"libLLVMCore.a", "libLLVMSupport.a", "libLLVMAnalysis.a"})
    paths.push_back(settings.llvm_libraries + "/" + file);
  return load_set("llvm", paths, {"LLVMGetVersion"});
}

Row run_cold(const Settings& settings) {
  Row row{"link/llvm-cold", "ms", {}, {}, {}};
  auto set = load_llvm(settings);
  if (!set) return row.faults.push_back(set.error().message), row;
  auto shared = SharedSet::create(*set);
  if (!shared) return row.faults.push_back(shared.error().message), row;
  for (const char* name : {"tenon", "jitlink", "orc"}) row.figures.push_back({name, {}, {}});
  std::vector<Samples> left(row.figures.size());
  std::size_t rounds = settings.repeat != 0 ? settings.repeat : 9;
  in_turns(row.figures.size(), rounds, [&](std::size_t index) {
    Figure& figure = row.figures[index];
    settings.progress(row.case_name + ": " + figure.name);
    auto link = first_link(*shared, figure.name);
    if (!link) return row.faults.push_back(figure.name + ": " + link.error().message);
    figure.samples.add(link->ms);
    left[index].add(link->left_mb);
  });
  row.note = "memory in MB afterwards beyond that of before:";
  for (std::size_t i = 0; i < left.size(); ++i) {
    char text[64];
    std::snprintf(text, sizeof text, " %s %.1f", row.figures[i].name.c_str(), left[i].median());
    row.note += text;
  }
  std::erase_if(row.figures, [](const Figure& figure) { return figure.samples.empty(); });
  return row;
}

constexpr std::size_t links_in_turn = 4;

// One thread's share: linked `links_in_turn` times, then taken out, which is not timed.
class Lane {
public:
  Lane(const tenon::Engine& engine, InputSet set) : set_(std::move(set)), found_(set_.names.size()) {
    for (std::size_t i = 0; i < links_in_turn; ++i) participants_.push_back(make_tenon_in(engine));
  }
  void link() {
    for (auto& one : participants_) note(one->link(set_, found_));
  }
  void remove() {
    for (auto& one : participants_) note(one->remove());
  }
  const std::string& fault() const { return fault_; }

private:
  void note(Result<void> done) {
    if (!done && fault_.empty()) fault_ = done.error().message;
  }
  InputSet set_;
  std::vector<std::uint64_t> found_;
  std::vector<std::unique_ptr<Participant>> participants_;
  std::string fault_;
};

double process_cpu_ms() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

// Milliseconds from the moment that all threads are there to the moment that the last is done.
template <class Work> double run_together(std::size_t count, Work&& work) {
  double begin = 0;
  std::barrier ready(static_cast<std::ptrdiff_t>(count), [&]() noexcept { begin = now_ms(); });
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < count; ++i)
    threads.emplace_back([&, i] {
      ready.arrive_and_wait();
      work(i);
    });
  ready.arrive_and_wait();
  work(std::size_t(0));
  for (std::jthread& thread : threads) thread.join();
  return now_ms() - begin;
}

struct Took {
  double wall = 0, cpu = 0; // ms for one copy
};

Took link_lanes(std::vector<Lane>& lanes, std::size_t count) {
  double begin = process_cpu_ms();
  double wall = run_together(count, [&](std::size_t i) { lanes[i].link(); });
  double cpu = process_cpu_ms() - begin;
  for (std::size_t i = 0; i < count; ++i) lanes[i].remove();
  auto copies = static_cast<double>(count * links_in_turn);
  return {wall / copies, cpu / copies};
}

// What two threads gain over one here and now if they share nothing: on a machine that does other things too, less than 2.
double gain_of_machine() {
  auto compute = [](std::size_t) {
    std::uint64_t value = 1;
    for (int i = 0; i < 20'000'000; ++i) {
      value *= 6364136223846793005U; // each waits for the one before: sharing a core costs nothing but the turn
      asm volatile("" : "+r"(value));
    }
  };
  double one = run_together(1, compute);
  return 2 * one / run_together(2, compute);
}

Row run_two_threads(const Settings& settings) {
  Row row{"link/llvm-2t", "ms", {}, {}, {}};
  for (const char* name : {"one_thread", "two_threads", "one_cpu", "two_cpu"}) row.figures.push_back({name, {}, {}});
  auto set = load_llvm(settings);
  if (!set) return row.faults.push_back(set.error().message), row;
  auto engine = tenon::Engine::create();
  if (!engine) return row.faults.push_back(engine.error().message), row;
  std::vector<Lane> lanes;
  lanes.emplace_back(*engine, *set);
  lanes.emplace_back(*engine, std::move(*set));
  link_lanes(lanes, 2);
  std::size_t rounds = settings.repeat != 0 ? settings.repeat : 15;
  Samples gains, possible;
  for (std::size_t round = 0; round < rounds; ++round) {
    settings.progress(row.case_name + ": round " + std::to_string(round + 1) + " of " + std::to_string(rounds));
    Took took[2];
    for (std::size_t i = 0; i < 2; ++i) {
      took[i] = link_lanes(lanes, i + 1);
      row.figures[i].samples.add(took[i].wall);
      row.figures[2 + i].samples.add(took[i].cpu);
    }
    gains.add(took[0].wall / took[1].wall);
    possible.add(gain_of_machine());
  }
  for (const Lane& lane : lanes)
    if (!lane.fault().empty()) row.faults.push_back(lane.fault());
  char text[200];
  std::snprintf(
      text, sizeof text,
      "two threads link %.2f times as much as one (median; best %.2f); two that only compute gain %.2f (best %.2f)",
      gains.median(), gains.quantile(1), possible.median(), possible.quantile(1));
  row.note = text;
  return row;
}

} // namespace

std::vector<Case> link_first_cases() {
  return {{"link/llvm-cold", "link/llvm's set as the first link of a process, made anew for each", run_cold},
          {"link/llvm-2t", "two threads linking copies of link/llvm's set into one engine, ms for a copy", run_two_threads}};
}

} // namespace versus

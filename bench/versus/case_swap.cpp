// The cases swap/p50 and swap/p99: a whole swap of one function, object bytes in, all new calls land, while 8 threads call
// it.
//
// A sample is that quantile of one round. After each swap the function is called in the thread that swapped, and must be the
// new one. Beside it the same with nobody calling, the processor time of the swapping thread alone (8 callers and it share
// the cores, so the scheduler's slices are in what the clock says), and ORC: link the new body, look it up, redirect the
// stub; it frees nothing.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "callers.h"
#include "cases.h"
#include "peer_stubs.h"

#include <ctime>

namespace versus {
namespace {

constexpr unsigned caller_count = 8;
constexpr std::size_t usual_rounds = 5;
constexpr std::size_t swaps_per_round = 3000;
constexpr std::size_t orc_swaps_per_round = 500; // a mapping or two for each, for good

double thread_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

struct Round {
  Samples us, processor_us;
};

// swap() must make `caller` call what gives `version()` for 0.
template <class Swap, class Version>
Result<Round> time_swaps(std::size_t count, int (*caller)(int), Swap&& swap, Version&& version) {
  Round round;
  for (std::size_t i = 0; i < count; ++i) {
    const double processor_begin = thread_us();
    const double begin = now_ms();
    Result<void> swapped = swap();
    const double end = now_ms();
    round.processor_us.add(thread_us() - processor_begin);
    round.us.add((end - begin) * 1e3);
    if (!swapped) return std::move(swapped).error();
    if (caller(0) != version()) return Error{ErrorCode::unsupported, "a call after a swap reached the old function"};
  }
  return round;
}

Result<Round> tenon_round(LiveFunction& live, unsigned callers) {
  Callers calling(live.caller(), callers, &live.engine());
  // The caller after each swap runs linked code, too, for nanoseconds: it is registered and outside while it swaps.
  auto border = live.engine().border("swapper");
  if (!border) return std::move(border).error();
  auto caller = live.caller();
  Result<Round> round = time_swaps(swaps_per_round, caller, [&] { return live.swap(); }, [&] { return live.version(); });
  if (std::string wrong = calling.stop(); !wrong.empty()) return Error{ErrorCode::unsupported, wrong};
  return round;
}

class OrcFunction {
public:
  static Result<std::unique_ptr<OrcFunction>> create(const LiveFunction& live) {
    auto stubs = OrcStubs::create(OrcStubs::Kind::redirectable);
    if (!stubs) return std::move(stubs).error();
    auto made = std::make_unique<OrcFunction>(live, std::move(*stubs));
    auto body = made->stubs_->link_body(live.object(0), {"target"});
    if (!body) return std::move(body).error();
    if (auto stub = made->stubs_->make_stubs({"target"}, *body); !stub) return std::move(stub).error();
    auto caller = made->stubs_->link_caller(live.caller_object(), "call_target");
    if (!caller) return std::move(caller).error();
    made->caller_ = reinterpret_cast<int (*)(int)>(static_cast<std::uintptr_t>(*caller));
    return made;
  }
  OrcFunction(const LiveFunction& live, std::unique_ptr<OrcStubs> stubs) : live_(live), stubs_(std::move(stubs)) {}

  Result<void> swap() {
    version_ = (version_ + 1) % LiveFunction::versions;
    auto body = stubs_->link_body(live_.object(version_), {"target"});
    if (!body) return std::move(body).error();
    return stubs_->redirect(0, body->front());
  }
  Result<Round> round() {
    Callers calling(caller_, caller_count, nullptr);
    auto round =
        time_swaps(orc_swaps_per_round, caller_, [&] { return swap(); }, [&] { return static_cast<int>(version_); });
    if (std::string wrong = calling.stop(); !wrong.empty()) return Error{ErrorCode::unsupported, wrong};
    return round;
  }

private:
  const LiveFunction& live_;
  std::unique_ptr<OrcStubs> stubs_;
  std::size_t version_ = 0;
  int (*caller_)(int) = nullptr;
};

Row run_swap(const char* name, double q, const Settings& settings) {
  Row row{name, "us", {}, {}, {}};
  auto live = LiveFunction::create();
  if (!live) return row.faults.push_back("tenon: " + live.error().message), row;
  auto orc = OrcFunction::create(**live);
  if (!orc) row.faults.push_back("orc: " + orc.error().message);
  Figure tenon{"tenon", {}, {}}, processor{"tenon_processor", {}, {}}, alone{"alone", {}, {}}, peer{"orc", {}, {}};
  const std::size_t rounds = settings.repeat != 0 ? settings.repeat : usual_rounds;
  for (std::size_t i = 0; i < rounds && row.faults.empty(); ++i) {
    settings.progress(row.case_name + ": round " + std::to_string(i + 1) + " of " + std::to_string(rounds));
    Result<Round> with = tenon_round(**live, caller_count);
    Result<Round> without = tenon_round(**live, 0);
    Result<Round> orcs = (*orc)->round();
    for (const Result<Round>* one : {&with, &without, &orcs})
      if (!*one) row.faults.push_back((one == &orcs ? "orc: " : "tenon: ") + one->error().message);
    if (!row.faults.empty()) return row;
    tenon.samples.add(with->us.quantile(q));
    processor.samples.add(with->processor_us.quantile(q));
    alone.samples.add(without->us.quantile(q));
    peer.samples.add(orcs->us.quantile(q));
  }
  row.figures = {std::move(tenon), std::move(processor), std::move(alone), std::move(peer)};
  row.note = std::to_string(rounds) + " rounds of " + std::to_string(swaps_per_round) +
             " swaps (orc: " + std::to_string(orc_swaps_per_round) + ") of an object of " +
             std::to_string((*live)->object_bytes()) + " bytes";
  return row;
}

} // namespace

std::vector<Case> swap_cases() {
  return {{"swap/p50", "a whole swap of a function that 8 threads call, the median",
           [](const Settings& settings) { return run_swap("swap/p50", 0.5, settings); }},
          {"swap/p99", "a whole swap of a function that 8 threads call, the slowest in a hundred",
           [](const Settings& settings) { return run_swap("swap/p99", 0.99, settings); }}};
}

} // namespace versus

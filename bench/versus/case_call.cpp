// The cases call/*: what a call of a replaceable function costs the caller.
//
// The same loop over the same functions is linked by Tenon (replaceable), by the static linker as a shared object with calls
// bound inside of it, compiled as anybody compiles it (`direct`) or as a replaceable library needs it, with aligned calls
// (`direct_aligned`: what the alignment costs), and by ORC with a stub between. A case fails if a call of Tenon's is
// anything but a `call rel32` to the function itself.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "chain.h"
#include "peer_stubs.h"

namespace versus {
namespace {

constexpr std::size_t calls_per_turn = 4'000'000;
constexpr std::size_t usual_rounds = 31;

struct Contender {
  const char* name;
  Round round = nullptr;
  Samples samples = {};
};

Result<Round> link_orc(const ChainObjects& objects, std::size_t count, OrcStubs& orc) {
  const std::vector<std::string> names = numbered("target", count);
  auto bodies = orc.link_body(objects.targets, names);
  if (!bodies) return std::move(bodies).error();
  if (auto made = orc.make_stubs(names, *bodies); !made) return std::move(made).error();
  auto address = orc.link_caller(objects.caller, "round");
  if (!address) return std::move(address).error();
  return reinterpret_cast<Round>(static_cast<std::uintptr_t>(*address));
}

struct Chains {
  std::unique_ptr<LiveChain> live;
  std::unique_ptr<StaticChain> direct, direct_aligned;
  std::unique_ptr<OrcStubs> orc;
};

Result<std::vector<Contender>> set_up(std::size_t count, Chains& chains) {
  auto live_objects = compile_chain(count, true);
  if (!live_objects) return std::move(live_objects).error();
  auto plain_objects = compile_chain(count, false);
  if (!plain_objects) return std::move(plain_objects).error();
  auto live = LiveChain::create(*live_objects, count);
  if (!live) return std::move(live).error();
  auto direct = StaticChain::create(*plain_objects, (*live)->code_begin());
  if (!direct) return std::move(direct).error();
  auto direct_aligned = StaticChain::create(*live_objects, (*live)->code_begin());
  if (!direct_aligned) return std::move(direct_aligned).error();
  auto orc = OrcStubs::create(OrcStubs::Kind::indirect);
  if (!orc) return std::move(orc).error();
  auto orc_round = link_orc(*plain_objects, count, **orc);
  if (!orc_round) return std::move(orc_round).error();
  chains = {std::move(*live), std::move(*direct), std::move(*direct_aligned), std::move(*orc)};
  if (std::string wrong = chains.live->examine(); !wrong.empty()) return Error{ErrorCode::unsupported, "tenon: " + wrong};
  return std::vector<Contender>{{"tenon", chains.live->round()},
                                {"direct", chains.direct->round()},
                                {"direct_aligned", chains.direct_aligned->round()},
                                {"orc_stub", *orc_round}};
}

Row run_call(const char* name, std::size_t count, const Settings& settings) {
  Row row{name, "ns", {}, {}, {}};
  settings.progress(row.case_name + ": compiling");
  Chains chains;
  auto contenders = set_up(count, chains);
  if (!contenders) {
    row.faults.push_back(contenders.error().message);
    return row;
  }
  for (const Contender& one : *contenders)
    if (std::string wrong = check_round(one.round, count, 1); !wrong.empty())
      row.faults.push_back(std::string(one.name) + ": " + wrong);
  if (!row.faults.empty()) return row;
  const auto times = static_cast<unsigned>(calls_per_turn / count);
  settings.progress(row.case_name + ": calling");
  in_turns(contenders->size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    Contender& one = (*contenders)[index];
    one.round(0, times / 8 + 1);
    const double begin = now_ms();
    one.round(0, times);
    one.samples.add((now_ms() - begin) * 1e6 / (static_cast<double>(times) * static_cast<double>(count)));
  });
  for (Contender& one : *contenders) row.figures.push_back({one.name, std::move(one.samples), {}});
  row.note =
      "each of the " + std::to_string(count) + " calls that Tenon linked was decoded: a call rel32 to the function itself";
  return row;
}

} // namespace

std::vector<Case> call_cases() {
  struct Spec {
    const char* name;
    std::size_t count;
  };
  std::vector<Case> cases;
  for (Spec spec : {Spec{"call/1", 1}, Spec{"call/1k", 1000}, Spec{"call/10k", 10000}})
    cases.push_back({spec.name, "a call of one of " + std::to_string(spec.count) + " replaceable functions",
                     [spec](const Settings& settings) { return run_call(spec.name, spec.count, settings); }});
  return cases;
}

} // namespace versus

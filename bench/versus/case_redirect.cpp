// The cases redirect/*: leading a function with one call site to another body that is linked already; one, and 10,000 as a
// set. After each turn the loop over all of them is called and its result compared.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "chain.h"
#include "peer_stubs.h"
#include "tenon_redirect.h"

#include <functional>

namespace versus {
namespace {

constexpr std::size_t usual_rounds = 15;
constexpr std::size_t redirects_of_one = 100'000;

// One that can lead `count` functions to either of two bodies.
struct Contender {
  const char* name;
  std::function<Result<void>(bool to_other, std::size_t times)> redirect; // how often, in turns, the last to `to_other`
  Round round = nullptr;
  Samples samples = {};
  std::string fault = {};
};

struct Peer {
  std::unique_ptr<OrcStubs> stubs;
  std::vector<std::uint64_t> bodies[2];
  Round round = nullptr;
};

Result<Peer> set_up_peer(OrcStubs::Kind kind, const ChainObjects& objects, std::size_t count) {
  auto stubs = OrcStubs::create(kind);
  if (!stubs) return std::move(stubs).error();
  Peer peer{std::move(*stubs), {}, nullptr};
  auto own = peer.stubs->link_body(objects.targets, numbered("target", count));
  if (!own) return std::move(own).error();
  auto other = peer.stubs->link_body(objects.others, numbered("other", count));
  if (!other) return std::move(other).error();
  peer.bodies[0] = std::move(*own);
  peer.bodies[1] = std::move(*other);
  if (auto made = peer.stubs->make_stubs(numbered("target", count), peer.bodies[0]); !made) return std::move(made).error();
  auto round = peer.stubs->link_caller(objects.caller, "round");
  if (!round) return std::move(round).error();
  peer.round = reinterpret_cast<Round>(static_cast<std::uintptr_t>(*round));
  return peer;
}

Contender contender(const char* name, Peer& peer, bool batch) {
  return {name,
          [&peer, batch](bool to_other, std::size_t times) -> Result<void> {
            for (std::size_t i = times; i-- > 0;) {
              const auto& bodies = peer.bodies[to_other == (i % 2 == 0) ? 1 : 0];
              auto redirected = batch ? peer.stubs->redirect_all(bodies) : peer.stubs->redirect(0, bodies[0]);
              if (!redirected) return redirected;
            }
            return {};
          },
          peer.round};
}

Contender contender(Redirector& redirector, Round round, bool batch) {
  return {"tenon",
          [&redirector, batch](bool to_other, std::size_t times) -> Result<void> {
            for (std::size_t i = times; i-- > 0;) {
              const bool other = to_other == (i % 2 == 0);
              Result<void> redirected = batch ? redirector.redirect_all(other) : redirector.redirect(0, other);
              if (!redirected) return redirected;
            }
            return {};
          },
          round};
}

void take_turn(Contender& one, std::size_t count, std::size_t times) {
  if (!one.fault.empty()) return;
  for (bool to_other : {true, false}) {
    const double begin = now_ms();
    Result<void> redirected = one.redirect(to_other, times);
    one.samples.add((now_ms() - begin) * 1e6 / (static_cast<double>(times) * static_cast<double>(count)));
    one.fault = redirected ? check_round(one.round, count, to_other ? 2 : 1) : redirected.error().message;
    if (!one.fault.empty()) return;
  }
}

Row run_redirect(const char* name, std::size_t count, const Settings& settings) {
  Row row{name, "ns", {}, {}, {}};
  const bool batch = count > 1;
  settings.progress(row.case_name + ": compiling");
  auto objects = compile_chain(count, true);
  if (!objects) return row.faults.push_back(objects.error().message), row;
  auto chain = LiveChain::create(*objects, count);
  if (!chain) return row.faults.push_back("tenon: " + chain.error().message), row;
  auto redirector = Redirector::create(**chain, count);
  if (!redirector) return row.faults.push_back("tenon: " + redirector.error().message), row;
  auto indirect = set_up_peer(OrcStubs::Kind::indirect, *objects, count);
  auto redirectable = set_up_peer(OrcStubs::Kind::redirectable, *objects, count);
  std::vector<Contender> contenders;
  contenders.push_back(contender(**redirector, (*chain)->round(), batch));
  if (indirect)
    contenders.push_back(contender("orc_stub", *indirect, batch));
  else
    row.faults.push_back("orc_stub: " + indirect.error().message);
  if (redirectable)
    contenders.push_back(contender("orc_redirectable", *redirectable, batch));
  else
    row.faults.push_back("orc_redirectable: " + redirectable.error().message);
  settings.progress(row.case_name + ": redirecting");
  in_turns(contenders.size(), settings.repeat != 0 ? settings.repeat : usual_rounds,
           [&](std::size_t index) { take_turn(contenders[index], count, batch ? 1 : redirects_of_one); });
  for (Contender& one : contenders) {
    if (one.fault.empty())
      row.figures.push_back({one.name, std::move(one.samples), {}});
    else
      row.faults.push_back(std::string(one.name) + ": " + one.fault);
  }
  row.note = "tenon: Redirect::to and back in turns: the slot and the call site of each, under the engine's lock, which a "
             "batch takes once";
  return row;
}

} // namespace

std::vector<Case> redirect_cases() {
  return {{"redirect/one", "lead one function to another body that is linked",
           [](const Settings& settings) { return run_redirect("redirect/one", 1, settings); }},
          {"redirect/batch", "each of 10,000 functions led to other bodies at once",
           [](const Settings& settings) { return run_redirect("redirect/batch", 10000, settings); }}};
}

} // namespace versus

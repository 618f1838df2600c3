// The verdicts.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/grace.h"

#include <algorithm>
#include <cstdio>

#include <unistd.h>

namespace tenon::reclaim {
namespace {

// One check: the versions, their ranges in one set, and what came out so far.
class Check {
public:
  Check(std::span<const Retired> versions, Borders& borders, const GraceOptions& options)
      : versions_(versions), borders_(borders), options_(options), verdicts_(versions.size()) {
    std::vector<Range> all;
    for (std::size_t v = 0; v < versions.size(); ++v) {
      all.insert(all.end(), versions[v].ranges.begin(), versions[v].ranges.end());
      version_of_.resize(all.size(), v);
    }
    ranges_ = RangeSet(all);
  }

  Result<std::vector<Verdict>> run(Stacks& stacks);

private:
  // A thread for which at least one version still asks.
  struct Asked {
    TaskFolder::Description thread;
    std::vector<std::size_t> versions;
  };

  std::optional<Asked> who_asks_for(Round& round, pid_t tid) const;
  void judge(const Asked& asked, const Look& look);
  void judge_declared(const Look& look);
  const std::vector<std::uint8_t>& led_to(std::size_t version);
  void delay(std::size_t version, const TaskFolder::Description& thread, const Look& look, const Hit* hit);
  void ask_running(Round& round, std::vector<std::pair<Asked, Look>>& running);
  void forget_ended(std::span<const pid_t> threads);
  const Borders::Standing* registered(pid_t tid) const;

  std::span<const Retired> versions_;
  Borders& borders_;
  const GraceOptions& options_;
  RangeSet ranges_;
  std::vector<std::size_t> version_of_; // by range
  std::vector<Borders::Standing> registered_;
  std::vector<Verdict> verdicts_;
  std::vector<std::vector<std::uint8_t>> led_to_; // by version, once asked for
};

const Borders::Standing* Check::registered(pid_t tid) const {
  const auto at = std::lower_bound(registered_.begin(), registered_.end(), tid,
                                   [](const Borders::Standing& standing, pid_t wanted) { return standing.tid < wanted; });
  return at != registered_.end() && at->tid == tid ? &*at : nullptr;
}

bool seen(const Retired& version, pid_t tid) {
  const auto at = std::lower_bound(version.clear->begin(), version.clear->end(), ThreadId{tid, 0});
  return at != version.clear->end() && at->tid == tid;
}

std::optional<Check::Asked> Check::who_asks_for(Round& round, pid_t tid) const {
  const Borders::Standing* const standing = registered(tid);
  std::vector<std::size_t> asking;
  bool by_number = false; // a version leaves it out because of its number: make sure that it is the same thread
  for (std::size_t v = 0; v < versions_.size(); ++v) {
    if (versions_[v].clear == nullptr) continue;
    if (standing != nullptr && standing->has_left(versions_[v].epoch)) continue;
    asking.push_back(v);
    by_number = by_number || seen(versions_[v], tid);
  }
  if (asking.empty()) return std::nullopt;
  std::optional<TaskFolder::Description> thread = round.tasks().describe(tid);
  if (!thread) return std::nullopt; // it has ended
  if (by_number) {
    std::erase_if(asking, [&](std::size_t v) {
      return std::binary_search(versions_[v].clear->begin(), versions_[v].clear->end(), thread->id);
    });
    if (asking.empty()) return std::nullopt;
  }
  if (standing != nullptr) thread->name = standing->name;
  return Asked{std::move(*thread), std::move(asking)};
}

void Check::delay(std::size_t version, const TaskFolder::Description& thread, const Look& look, const Hit* hit) {
  Delay delay;
  delay.tid = thread.id.tid;
  delay.name = thread.name;
  delay.inside = hit != nullptr;
  delay.address = hit != nullptr ? hit->address : Addr{};
  delay.why = look.why;
  verdicts_[version].delays.push_back(std::move(delay));
}

const std::vector<std::uint8_t>& Check::led_to(std::size_t version) {
  led_to_.resize(versions_.size());
  std::vector<std::uint8_t>& reached = led_to_[version];
  if (reached.empty()) {
    reached.resize(versions_.size());
    if (options_.leads_to) options_.leads_to(version, reached);
  }
  return reached;
}

void Check::judge(const Asked& asked, const Look& look) {
  // Words that point into a version that the thread was seen clear of are left over.
  auto is_meant = [&](const Hit& hit) {
    const std::size_t v = version_of_[hit.range];
    return versions_[v].clear == nullptr || std::binary_search(asked.versions.begin(), asked.versions.end(), v);
  };
  auto leads = [&](const Hit& hit, std::size_t v) { return is_meant(hit) && led_to(version_of_[hit.range])[v] != 0; };
  for (const std::size_t v : asked.versions) {
    if (look.state == State::unknown) {
      delay(v, asked.thread, look, nullptr);
      continue;
    }
    auto hit = std::find_if(look.hits.begin(), look.hits.end(), [&](const Hit& h) { return version_of_[h.range] == v; });
    if (hit == look.hits.end())
      hit = std::find_if(look.hits.begin(), look.hits.end(), [&](const Hit& h) { return leads(h, v); });
    if (hit != look.hits.end()) {
      delay(v, asked.thread, look, &*hit);
    } else {
      std::vector<ThreadId>& clear = *versions_[v].clear;
      clear.insert(std::lower_bound(clear.begin(), clear.end(), asked.thread.id), asked.thread.id);
    }
  }
}

void Check::judge_declared(const Look& look) {
  const TaskFolder::Description nobody{{}, "a declared stack"};
  for (const Hit& hit : look.hits) {
    const std::vector<std::uint8_t>& onward = led_to(version_of_[hit.range]);
    for (std::size_t v = 0; v < versions_.size(); ++v) {
      if (v != version_of_[hit.range] && onward[v] == 0) continue;
      const std::vector<Delay>& delays = verdicts_[v].delays;
      if (std::none_of(delays.begin(), delays.end(), [](const Delay& d) { return d.tid == 0; }))
        delay(v, nobody, look, &hit);
    }
  }
}

void Check::ask_running(Round& round, std::vector<std::pair<Asked, Look>>& running) {
  std::vector<pid_t> threads;
  std::vector<std::size_t> index;
  for (std::size_t i = 0; i < running.size(); ++i) {
    const Borders::Standing* const standing = registered(running[i].first.thread.id.tid);
    if (standing != nullptr && standing->real_time) continue;
    threads.push_back(running[i].first.thread.id.tid);
    index.push_back(i);
  }
  if (threads.empty()) return;
  const auto send = [this](pid_t tid, const std::function<void()>& signal) { borders_.unless_real_time(tid, signal); };
  Result<std::vector<Look>> looks = options_.signals->ask(round, threads, options_.patience, send);
  if (!looks.ok()) return; // they stay unknown, as without signals
  for (std::size_t i = 0; i < index.size(); ++i) running[index[i]].second = std::move((*looks)[i]);
}

// So that what the caller keeps does not grow with each thread that ever was.
void Check::forget_ended(std::span<const pid_t> threads) {
  for (const Retired& version : versions_)
    if (version.clear != nullptr)
      std::erase_if(*version.clear,
                    [&](const ThreadId& id) { return !std::binary_search(threads.begin(), threads.end(), id.tid); });
}

Result<std::vector<Verdict>> Check::run(Stacks& stacks) {
  Result<Round> round = Round::begin(stacks, ranges_);
  if (!round.ok()) return std::move(round).error();
  judge_declared(round->look_at_declared());

  Result<std::vector<pid_t>> threads = round->threads();
  if (!threads.ok()) return std::move(threads).error();
  std::sort(threads->begin(), threads->end());
  forget_ended(*threads);
  registered_ = borders_.threads();

  const pid_t own = own_tid();
  std::vector<std::pair<Asked, Look>> running;
  for (const pid_t tid : *threads) {
    std::optional<Asked> asked = who_asks_for(*round, tid);
    if (!asked) continue;
    Look look = tid == own ? round->look_at_own(options_.own_frames) : round->look_at(tid);
    // One that moved was blocked a moment ago: more likely than not it is again.
    if (look.why == Why::moved) look = round->look_at(tid);
    const bool ask = look.why == Why::running || look.why == Why::moved;
    if (ask && options_.signals != nullptr) {
      running.emplace_back(std::move(*asked), std::move(look));
    } else {
      judge(*asked, look);
    }
  }
  if (!running.empty()) ask_running(*round, running);
  for (const auto& [asked, look] : running) judge(asked, look);

  judge_declared(round->look_at_declared());
  for (Verdict& verdict : verdicts_) verdict.is_free = verdict.delays.empty();
  return std::move(verdicts_);
}

} // namespace

std::string to_string(const Delay& delay) {
  std::string text = delay.tid == 0 ? delay.name : "thread " + delay.name + " (" + std::to_string(delay.tid) + ")";
  if (!delay.inside) return text + ": " + to_string(delay.why);
  char address[32];
  std::snprintf(address, sizeof address, "0x%llx", static_cast<unsigned long long>(delay.address.value));
  return text + " is inside, at " + address;
}

Result<std::vector<Verdict>> Grace::check(std::span<const Retired> versions) {
  return Check(versions, borders_, options_).run(stacks_);
}

} // namespace tenon::reclaim

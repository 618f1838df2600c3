// Looking after code that waits until no thread can be inside.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/reclaimer.h"

#include "engine/engine_state.h"
#include "engine/onward.h"
#include "engine/transition.h"
#include "engine/walk.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <optional>

namespace tenon::engine {

namespace {

// Takes [begin, end) out of the ranges.
void exclude(std::vector<reclaim::Range>& ranges, Addr begin, Addr end) {
  for (std::size_t i = 0, count = ranges.size(); i < count; ++i) {
    const reclaim::Range whole = ranges[i];
    if (end <= whole.begin || whole.end <= begin) continue;
    ranges[i].end = std::max(whole.begin, begin);
    if (end < whole.end) ranges.push_back({end, whole.end});
  }
  std::erase_if(ranges, [](const reclaim::Range& range) { return range.begin >= range.end; });
}

// Where its code lies, less what waits by itself (ModuleRare::stale). The caller holds commit_mutex.
void add_code_of(const EngineState& engine, const ModuleState& module, std::vector<reclaim::Range>& all) {
  std::vector<reclaim::Range> ranges;
  auto add = [&](const auto& block) {
    if (block && block->area == memory::AreaKind::code) ranges.push_back({block->begin, block->end()});
  };
  for_each_holder(module, [&](const ModuleState& holder) {
    for (const RunBlocks::View& block : holder.blocks.all()) add(block);
    for (const OwnedBlock& part : holder.extra().parts) add(part);
  });
  for (const Stretch& stale : module.rare().stale) ranges.push_back({stale.begin, stale.end});
  for_each_holder(module, [&](const ModuleState& holder) {
    if (engine.stale_parts == 0) return;
    for (const std::shared_ptr<ModuleState>& other : engine.removed)
      if (other->rare().stale_of == holder.extra().serial && holder.extra().serial != 0)
        for (const Stretch& stale : other->rare().stale) exclude(ranges, stale.begin, stale.end);
  });
  all.insert(all.end(), ranges.begin(), ranges.end());
  if (module.extra().client.memory == nullptr) return;
  for (const link::SectionPlace& place : module.places())
    if (place.kept && place.run == link::Run::code && place.size != 0)
      all.push_back({{place.address}, {place.address + place.size}});
}

// False: the commit that brought it is about to run its initializers, or does.
bool is_initialized(const Version& version) noexcept {
  if (!version.extra().initializing.expired()) return false;
  std::atomic_thread_fence(std::memory_order_acquire); // what the initializers did comes before its end
  return true;
}

struct Look {
  std::uint64_t number = 0;       // of the check
  bool later = false;             // something waits that can't be looked at yet
  bool sweep_again = false;       // a sweep was left to the caller
  std::vector<ModuleState*> held; // versions that can be entered at any time: that stay, or members of a set
};

// Code of the version that was replaced singly may go on into the rest of it: that waits for it.
bool has_stale_parts(const EngineState& engine, const ModuleState& module) {
  if (engine.stale_parts == 0) return false;
  bool has = false;
  for_each_holder(module, [&](const ModuleState& holder) {
    has = has || std::any_of(engine.removed.begin(), engine.removed.end(), [&](const auto& other) {
            return other->waiting && other->rare().stale_of != 0 && other->rare().stale_of == holder.extra().serial;
          });
  });
  return has;
}

// The caller has made room. False: it is not ready to be looked at.
bool is_ready(const EngineState& engine, const ModuleState& module, Look& look) {
  if (module.finalizing || module.in_transition) return false;
  if (is_initialized(module) && !has_stale_parts(engine, module)) return true;
  look.later = true;
  return false;
}

void add(const EngineState& engine, std::vector<Waiting>& waiting, const std::shared_ptr<ModuleState>& module, Look& look) {
  const bool stays = module->held && module->rare().current->live.load(std::memory_order_relaxed);
  if (stays || module->in_transition) look.held.push_back(module.get());
  if (!module->waiting) return;
  if (module->make_rare().retirement == nullptr) join(*module, std::make_shared<Retirement>());
  Retirement& retirement = *module->rare().retirement;
  retirement.verdict = Retirement::none;
  if (std::exchange(retirement.ready_in, look.number) != look.number) retirement.ready = 0;
  waiting.push_back({module, nullptr, {}});
  if (!is_ready(engine, *module, look)) return;
  waiting.back().retirement = module->rare().retirement;
  ++retirement.ready;
}

void find_code(const EngineState& engine, Waiting& entry) {
  if (entry.retirement != nullptr && entry.retirement->epoch != 0) return;
  entry.ranges.clear();
  add_code_of(engine, *entry.module, entry.ranges);
}

// visit(entry) for all, under commit_mutex, which others get in between.
template <class List, class Visit> void in_steps(EngineState& engine, List& waiting, Visit&& visit) {
  for (std::size_t i = 0; i < waiting.size();) {
    if (i != 0) let_others_in();
    std::lock_guard lock(engine.commit_mutex);
    StepBudget budget = StepBudget::step();
    do {
      visit(waiting[i]);
    } while (++i < waiting.size() && !budget.spent());
  }
}

// Versions that go on calling each other share a Retirement: a thread that is in one of them may enter the others.
void put_off_incomplete(std::vector<Waiting>& waiting) {
  for (Waiting& entry : waiting)
    if (entry.retirement != nullptr && entry.retirement->ready != entry.retirement->members) entry.retirement = nullptr;
}

// Whoever enters a version that stays may go on into what that leads to: no thread is seen clear of it for good.
void put_off_held(EngineState& engine, std::vector<Waiting>& waiting, Look& look) {
  if (look.held.empty() || waiting.empty()) return;
  Onward onward(engine);
  look.sweep_again |= onward.find(look.held);
  for (Waiting& entry : waiting)
    if (onward.finds(*entry.module) && entry.retirement != nullptr) entry.retirement->ready = 0;
  put_off_incomplete(waiting);
}

std::vector<Waiting> collect(EngineState& engine, Look& look) {
  std::vector<Waiting> waiting;
  std::size_t size;
  {
    std::lock_guard lock(engine.commit_mutex);
    size = engine.removed.size();
    if (size <= Walk::few) {
      for (const std::shared_ptr<ModuleState>& module : engine.removed) add(engine, waiting, module, look);
      put_off_incomplete(waiting);
      for (Waiting& entry : waiting) find_code(engine, entry);
    }
  }
  if (size <= Walk::few) {
    put_off_held(engine, waiting, look);
    return waiting;
  }
  Walk walk(engine);
  std::optional<ModuleList::iterator> seen;
  for (bool all = false; !all;) {
    // What is appended meanwhile is seen, too: of what one commit has appended, a part would not do.
    waiting.reserve(std::max(2 * waiting.size(), size + Walk::few));
    look.held.reserve(waiting.capacity());
    walk.in_steps([&] {
      StepBudget budget = StepBudget::step();
      for (;;) {
        const auto next = seen ? std::next(*seen) : engine.removed.begin();
        all = next == engine.removed.end();
        if (all || waiting.size() == waiting.capacity() || look.held.size() == look.held.capacity()) return true;
        seen = next;
        add(engine, waiting, *next, look);
        if (budget.spent()) return false;
      }
    });
  }
  put_off_incomplete(waiting);
  // While the walk lasts nobody takes anything out of the list.
  in_steps(engine, waiting, [&](Waiting& entry) { find_code(engine, entry); });
  look.sweep_again = walk.end();
  put_off_held(engine, waiting, look);
  return waiting;
}

// They wait no longer, unless they have begun to wait anew meanwhile.
void set_free(EngineState& engine, const std::vector<Waiting>& waiting, const std::vector<reclaim::Verdict>& verdicts) {
  in_steps(engine, waiting, [&](const Waiting& entry) {
    const auto& [module, retirement, ranges] = entry;
    if (retirement != nullptr && verdicts[retirement->verdict].is_free && module->rare().retirement == retirement)
      module->waiting = false;
  });
}

// The caller holds commit_mutex.
void describe(const EngineState& engine, const ModuleState& module, std::span<const reclaim::Delay> by,
              std::vector<Delay>& delays) {
  std::vector<reclaim::Range> code;
  add_code_of(engine, module, code);
  for (const reclaim::Delay& delay : by) {
    // A return address: what it stands behind may be the last instruction of all.
    const Addr call{delay.address.value - 1};
    const bool here = std::any_of(code.begin(), code.end(), [&](const reclaim::Range& range) {
      return delay.address >= range.begin && delay.address <= range.end;
    });
    const bool begins =
        std::any_of(code.begin(), code.end(), [&](const reclaim::Range& range) { return delay.address == range.begin; });
    if (delay.inside && !here) continue; // in one that leads to it
    delays.push_back({delay.name, delay.tid, delay.inside, module.name,
                      delay.inside ? module.function_at(begins ? delay.address : call) : std::string(), delay.address,
                      to_string(delay.why)});
  }
}

// In steps: what is delayed goes on waiting until the check is over, so that its code stays.
void describe(EngineState& engine, const std::vector<Waiting>& waiting, const std::vector<reclaim::Verdict>& verdicts,
              std::vector<Delay>& delays) {
  in_steps(engine, waiting, [&](const Waiting& entry) {
    const auto& [module, retirement, ranges] = entry;
    if (retirement != nullptr && !verdicts[retirement->verdict].delays.empty())
      describe(engine, *module, verdicts[retirement->verdict].delays, delays);
  });
}

} // namespace

Result<std::unique_ptr<Reclaimer>> Reclaimer::create(EngineState& engine, int signal) {
  std::unique_ptr<Reclaimer> reclaimer(new Reclaimer(engine));
  if (signal != 0) {
    Result<std::unique_ptr<reclaim::Signals>> signals = reclaim::Signals::create(signal);
    if (!signals) return std::move(signals).error();
    reclaimer->signals_ = std::move(*signals);
  }
  return reclaimer;
}

Reclaimer::~Reclaimer() { stop(); }

// All that waits was made unreachable before: one epoch serves what has come since the last check.
std::uint64_t Reclaimer::begin_epoch(std::span<const Waiting> waiting) noexcept {
  if (std::all_of(waiting.begin(), waiting.end(),
                  [](const Waiting& entry) { return entry.retirement == nullptr || entry.retirement->epoch != 0; }))
    return 0;
  reclaim::process::sync_cores();
  std::lock_guard lock(engine_.commit_mutex); // atomic commits begin epochs, too
  return borders_.next_epoch();
}

namespace {

// For the verdicts: one for each Retirement, then what can't be freed yet.
struct Question {
  std::vector<reclaim::Retired> retired;
  std::vector<std::vector<ModuleState*>> modules; // beside `retired`
};

Question make_question(std::vector<Waiting>& waiting, std::uint64_t epoch) {
  Question question;
  for (Waiting& entry : waiting) {
    if (entry.retirement == nullptr) continue;
    Retirement& retirement = *entry.retirement;
    const bool begins = retirement.verdict == Retirement::none && retirement.epoch == 0;
    if (retirement.verdict == Retirement::none) {
      retirement.verdict = question.modules.size();
      question.modules.emplace_back();
    }
    if (begins) retirement.ranges.clear();
    retirement.ranges.insert(retirement.ranges.end(), entry.ranges.begin(), entry.ranges.end()); // none if it has begun
    question.modules[retirement.verdict].push_back(entry.module.get());
  }
  question.retired.resize(question.modules.size());
  for (const Waiting& entry : waiting) {
    if (entry.retirement == nullptr) {
      question.modules.push_back({entry.module.get()});
      question.retired.push_back({entry.ranges, 0, nullptr});
      continue;
    }
    Retirement& retirement = *entry.retirement;
    if (retirement.epoch == 0) retirement.epoch = epoch;
    question.retired[retirement.verdict] = {retirement.ranges, retirement.epoch, &retirement.clear};
  }
  return question;
}

} // namespace

// Finds out which of what waits is free. True: something is, and is to be swept.
Result<bool> Reclaimer::judge(std::size_t& left, std::vector<Delay>* delays, std::uint64_t own_frames) {
  std::lock_guard one_at_a_time(mutex_);
  Look look;
  look.number = ++checks_;
  look.later = finish_transitions(engine_);
  if (look.later && delays != nullptr) {
    std::lock_guard lock(engine_.commit_mutex);
    describe_transitions(engine_, *delays);
  }
  std::vector<Waiting> waiting = collect(engine_, look);
  bool sweep_again = look.sweep_again;
  left = look.later ? 1 : 0;
  if (std::none_of(waiting.begin(), waiting.end(), [](const Waiting& entry) { return entry.retirement != nullptr; }))
    return sweep_again;
  const Question question = make_question(waiting, begin_epoch(waiting));
  reclaim::GraceOptions options;
  options.signals = signals_.get();
  options.own_frames = own_frames;
  options.leads_to = [&](std::size_t version, std::span<std::uint8_t> reached) {
    Onward onward(engine_);
    sweep_again |= onward.find(question.modules[version]);
    for (std::size_t v = 0; v < reached.size(); ++v)
      reached[v] = std::any_of(question.modules[v].begin(), question.modules[v].end(),
                               [&](const ModuleState* module) { return onward.finds(*module); });
  };
  reclaim::Grace grace(borders_, stacks_, std::move(options));
  Result<std::vector<reclaim::Verdict>> verdicts = grace.check(question.retired);
  if (!verdicts) return std::move(verdicts).error();
  std::size_t waits = 0, asked = 0;
  for (const Waiting& entry : waiting) {
    if (entry.retirement == nullptr) continue;
    ++asked;
    waits += (*verdicts)[entry.retirement->verdict].is_free ? 0 : 1;
  }
  left += waits;
  if (delays != nullptr) describe(engine_, waiting, *verdicts, *delays);
  if (waits == asked) return sweep_again;
  reclaim::process::sync_cores();
  set_free(engine_, waiting, *verdicts);
  return true;
}

void join(ModuleState& module, const std::shared_ptr<Retirement>& retirement) noexcept {
  ++retirement->members;
  module.rare().retirement = retirement;
}

void leave_retirement(ModuleState& module) noexcept {
  if (module.rare().retirement == nullptr) return;
  --module.rare().retirement->members;
  module.rare().retirement = nullptr;
}

Result<std::size_t> Reclaimer::check(std::vector<Delay>* delays, reclaim::Borders::Thread* border) {
  std::size_t left = 0;
  // From here on down nothing calls linked code until the verdict is there.
  Result<bool> any = judge(left, delays, reinterpret_cast<std::uint64_t>(__builtin_frame_address(0)));
  if (!any) return std::move(any).error();
  if (!*any) return left;
  // Without the lock: libraries that nobody needs any more may close, and their finalizers call anything.
  if (border != nullptr) {
    reclaim::Inside inside(*border);
    sweep(engine_);
  } else {
    sweep(engine_);
  }
  return left;
}

namespace {

// What the program handles is for its own threads: a new thread has the mask of the one that makes it. Left are what an
// instruction causes, profilers' ticks, and the signal by which engines ask each other's threads.
class SignalsHeldBack {
public:
  explicit SignalsHeldBack(int asked_by) noexcept {
    sigset_t held;
    sigfillset(&held);
    for (const int left : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF}) sigdelset(&held, left);
    if (asked_by != 0) sigdelset(&held, asked_by);
    pthread_sigmask(SIG_SETMASK, &held, &before_);
  }
  ~SignalsHeldBack() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeldBack(const SignalsHeldBack&) = delete;
  SignalsHeldBack& operator=(const SignalsHeldBack&) = delete;

private:
  sigset_t before_;
};

} // namespace

void Reclaimer::wake() noexcept {
  std::lock_guard lock(wake_mutex_);
  work_ = true;
  if (!running_ && !stopping_) {
    try {
      const SignalsHeldBack held(engine_.options.reclaim_signal);
      thread_ = std::thread([this] { run(); });
      running_ = true;
    } catch (const std::exception&) {
      return; // no thread to be had: the next commit, or collect(), looks after it
    }
  }
  if (sleeps_) woken_.notify_one();
}

namespace {
constexpr int share = 16;                         // of the time, one part for checks by callers
constexpr std::size_t crowd = 1024;               // half of the time, with more than so many removed modules
constexpr std::chrono::milliseconds saved(10);    // at most: checks for as long can follow each other
constexpr std::chrono::microseconds longest(250); // of a check: a thread that lost its core meanwhile does not pay for that
} // namespace

bool Reclaimer::has_time(std::size_t removed) const noexcept {
  const Clock::rep now = Clock::now().time_since_epoch().count();
  return paid_until_.load(std::memory_order_relaxed) <= now ||
         (removed > crowd && crowded_until_.load(std::memory_order_relaxed) <= now);
}

Reclaimer::Payment::Payment(Reclaimer& reclaimer) noexcept : reclaimer_(reclaimer), begin_(Clock::now()) {}

Reclaimer::Payment::~Payment() {
  const Clock::time_point now = Clock::now();
  const Clock::duration taken = now - begin_;
  const Clock::duration since = std::max(Clock::duration(reclaimer_.paid_until_.load(std::memory_order_relaxed)),
                                         now.time_since_epoch() - share * Clock::duration(saved));
  const Clock::duration paid = since + share * std::min(taken, Clock::duration(longest));
  reclaimer_.paid_until_.store(paid.count(), std::memory_order_relaxed);
  reclaimer_.crowded_until_.store((now + taken).time_since_epoch().count(), std::memory_order_relaxed);
}

void Reclaimer::stop() noexcept {
  {
    std::lock_guard lock(wake_mutex_);
    stopping_ = true;
    woken_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Reclaimer::collect_garbage(reclaim::Borders::Thread& self) noexcept {
  reclaim::Inside inside(self);
  if (collect_unreferenced(engine_)) sweep(engine_); // libraries without a handle may be empty by now
}

// Often enough that nobody waits for long, seldom enough that a thread which sleeps in old code for hours costs nothing that
// could be seen: one look at it takes 15 µs.
void Reclaimer::run() noexcept {
  using Clock = std::chrono::steady_clock;
  constexpr Clock::duration soon = std::chrono::milliseconds(1), later = std::chrono::milliseconds(4);
  // It runs linked code while it collects and sweeps only: finalizers.
  reclaim::Borders::Thread self(borders_, "tenon-reclaim");
  pthread_setname_np(pthread_self(), "tenon-reclaim");
  Clock::duration pause = soon;
  Clock::time_point next_collection{}, next_look{};
  std::unique_lock lock(wake_mutex_);
  while (!stopping_) {
    if (!work_) {
      sleeps_ = true;
      woken_.wait(lock, [this] { return work_ || stopping_; });
      sleeps_ = false;
      pause = soon;
      continue;
    }
    // Not piece by piece while more comes.
    if (woken_.wait_until(lock, next_look, [this] { return stopping_; })) break;
    work_ = false;
    lock.unlock();
    const Clock::time_point begin = Clock::now();
    bool left = true;
    // A program that drops handles all the time has a fifth of a processor for it at most.
    if (begin >= next_collection && engine_.collection.wanted.load(std::memory_order_relaxed)) {
      collect_garbage(self);
      next_collection = Clock::now() + 4 * (Clock::now() - begin);
    }
    try {
      Result<std::size_t> checked = check(nullptr, &self);
      left = !checked || *checked != 0;
    } catch (const std::bad_alloc&) {
    }
    left |= engine_.collection.wanted.load(std::memory_order_relaxed);
    const Clock::duration taken = Clock::now() - begin;
    next_look = Clock::now() + std::max(soon, 2 * taken);
    lock.lock();
    if (!left) continue;
    work_ = true;
    // Not woken by new work: what came a moment ago is rarely free yet, and one check serves many.
    // Nor soon, if there is much of it.
    woken_.wait_for(lock, std::max(pause, 2 * taken), [this] { return stopping_; });
    pause = later;
  }
}

void Reclaimer::after_fork_in_child() noexcept {
  // The thread is not there, and whoever held the locks is not either.
  new (&thread_) std::thread;
  new (&mutex_) std::mutex;
  new (&wake_mutex_) std::mutex;
  new (&woken_) std::condition_variable;
  running_ = sleeps_ = false;
}

} // namespace tenon::engine

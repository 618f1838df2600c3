// The signal handler and those who wait for it.
//
// A slot carries one question. Its states: idle -> pending (asker) -> taken (handler) -> done (handler) -> idle (asker). An
// asker whose patience ends turns a pending slot into an abandoned one; the handler, should it run at last, turns that into
// an idle one and knows that the signal was ours. A taken slot can't be taken back: the handler is reading the question. So
// all that the handler reads is kept until it is done, and the slot stays occupied. Every change of state is a release store
// or an acquiring exchange: the question is complete when a handler takes it, the answer when the asker sees `done`.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/signals.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace tenon::reclaim {
namespace {

constexpr std::size_t slot_count = 32;
constexpr std::uint64_t frame_size = 65536; // more than a signal frame with all vector registers takes

enum : unsigned { idle, pending, taken, done, abandoned };

// What is asked, and the answer. Owned by the slot while that is occupied.
struct Question {
  Question(std::shared_ptr<const RangeSet> set, Home home_of_thread)
      : ranges(std::move(set)), workspace(*ranges), home(home_of_thread) {}

  std::shared_ptr<const RangeSet> ranges;
  Workspace workspace;
  Home home;
  bool readable = false;
};

struct Slot {
  std::atomic<unsigned> state{idle};
  std::atomic<pid_t> tid{0};
  std::atomic<Question*> question{nullptr};
  std::unique_ptr<Question> owned; // the asker's
};

struct Installed {
  int users = 0;
  bool is_ours = false;
  struct sigaction old{};
};

class Shared : public process::ForkParticipant {
public:
  static Shared& the() {
    static Shared* const shared = new Shared; // never destroyed: the handler may outlive everything
    return *shared;
  }

  std::mutex mutex; // held by the asker
  std::array<Installed, 65> installed;

private:
  Shared() : ForkParticipant(0) { join_forks(); }
  void lock_for_fork() noexcept override { mutex.lock(); }
  void unlock_after_fork() noexcept override { mutex.unlock(); }
  void in_child() noexcept override;
};

std::array<Slot, slot_count> slots;
// Apart from Installed, for the handler: what was in place before ours.
std::array<std::atomic<void (*)(int, siginfo_t*, void*)>, 65> old_with_info;
std::array<std::atomic<void (*)(int)>, 65> old_plain;

void Shared::in_child() noexcept {
  for (Slot& slot : slots) { // signals that are on their way are not inherited
    slot.state.store(idle, std::memory_order_relaxed);
    slot.owned.reset();
  }
}

#if defined(__x86_64__)
constexpr bool can_ask = true;
Registers registers_of(const ucontext_t& context) noexcept {
  return {static_cast<std::uint64_t>(context.uc_mcontext.gregs[REG_RSP]),
          static_cast<std::uint64_t>(context.uc_mcontext.gregs[REG_RIP])};
}
#elif defined(__aarch64__)
constexpr bool can_ask = true;
Registers registers_of(const ucontext_t& context) noexcept { return {context.uc_mcontext.sp, context.uc_mcontext.pc}; }
#else
constexpr bool can_ask = false;
Registers registers_of(const ucontext_t&) noexcept { return {}; }
#endif

// Some runtimes (a thread sanitizer's) keep a signal back and call the handler later, with a copy of the registers of then.
// Only a context that the kernel just wrote tells where the thread is now: it lies right below the interrupted stack
// pointer, or on the alternate stack.
bool is_fresh(const ucontext_t& context, std::uint64_t sp) noexcept {
  const auto at = reinterpret_cast<std::uint64_t>(&context);
  if (at < sp && sp - at < frame_size) return true;
  const auto alternate = reinterpret_cast<std::uint64_t>(context.uc_stack.ss_sp);
  return at >= alternate && at - alternate < context.uc_stack.ss_size;
}

void answer(Question& question, const ucontext_t& context) noexcept {
  const Registers registers = registers_of(context);
  question.readable = false;
  if (!is_fresh(context, registers.sp)) return;
  Scan scan(*question.ranges, question.workspace);
  scan.pc(registers.pc);
#if defined(__x86_64__)
  for (int i = 0; i < REG_RIP; ++i) scan.word(static_cast<std::uint64_t>(context.uc_mcontext.gregs[i]));
#elif defined(__aarch64__)
  for (int i = 0; i < 31; ++i) scan.word(context.uc_mcontext.regs[i]);
#endif
  switch (scan.stack(registers.sp & ~std::uint64_t(7), question.home)) {
  case Scan::Outcome::unreadable: return;
  case Scan::Outcome::complete: break;
  case Scan::Outcome::home_unseen:
    if (question.home.begin == 0) return;
    scan.whole(question.home.begin, question.home.end);
  }
  question.readable = true;
}

void handle(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  Slot* const all = &slots[0];
  for (std::size_t i = 0; i < slot_count; ++i) {
    Slot& slot = all[i];
    if (slot.tid.load(std::memory_order_relaxed) != tid) continue;
    unsigned expected = pending;
    if (slot.state.compare_exchange_strong(expected, taken, std::memory_order_acquire)) {
      answer(*slot.question.load(std::memory_order_relaxed), *static_cast<const ucontext_t*>(context));
      slot.state.store(done, std::memory_order_release);
    } else if (expected == abandoned) {
      slot.state.store(idle, std::memory_order_release);
    } else {
      continue;
    }
    errno = saved;
    return;
  }
  errno = saved;
  if (const auto old = old_with_info[static_cast<std::size_t>(signal)].load(std::memory_order_acquire)) {
    old(signal, info, context);
  } else if (const auto plain = old_plain[static_cast<std::size_t>(signal)].load(std::memory_order_acquire)) {
    plain(signal);
  }
}

Result<void> install(int signal) {
  Installed& place = Shared::the().installed[static_cast<std::size_t>(signal)];
  if (place.users++ > 0 || place.is_ours) return {};
  if (sigaction(signal, nullptr, &place.old) != 0) {
    --place.users;
    return Error{ErrorCode::system, std::string("sigaction: ") + std::strerror(errno)};
  }
  const auto at = static_cast<std::size_t>(signal);
  const bool with_info = (place.old.sa_flags & SA_SIGINFO) != 0;
  const bool is_function = place.old.sa_handler != SIG_DFL && place.old.sa_handler != SIG_IGN;
  old_with_info[at].store(with_info && is_function ? place.old.sa_sigaction : nullptr, std::memory_order_release);
  old_plain[at].store(!with_info && is_function ? place.old.sa_handler : nullptr, std::memory_order_release);
  struct sigaction ours{};
  ours.sa_sigaction = handle;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (sigaction(signal, &ours, nullptr) != 0) {
    --place.users;
    return Error{ErrorCode::system, std::string("sigaction: ") + std::strerror(errno)};
  }
  place.is_ours = true;
  return {};
}

bool has_ended(pid_t tid) noexcept { return syscall(SYS_tgkill, getpid(), tid, 0) != 0 && errno == ESRCH; }

// Questions that were answered after all when nobody waited any more, and those that never will be.
void reap() noexcept {
  for (Slot& slot : slots) {
    const unsigned state = slot.state.load(std::memory_order_acquire);
    const bool never = (state == abandoned || state == taken) && has_ended(slot.tid.load(std::memory_order_relaxed));
    if (state != done && !never) continue;
    slot.owned.reset();
    slot.state.store(idle, std::memory_order_relaxed);
  }
}

// A thread whose signal is still on its way: another one could not be told from it.
bool is_owing(pid_t tid) noexcept {
  return std::any_of(slots.begin(), slots.end(), [tid](const Slot& slot) {
    return slot.tid.load(std::memory_order_relaxed) == tid && slot.state.load(std::memory_order_acquire) != idle;
  });
}

Slot* free_slot() noexcept {
  for (Slot& slot : slots)
    if (slot.state.load(std::memory_order_relaxed) == idle) return &slot;
  return nullptr;
}

Look look_of(pid_t tid, const Question& question) {
  Look look{tid, State::unknown, Why::unreadable, {}};
  if (question.workspace.in_transit()) look.why = Why::running;
  if (!question.readable || question.workspace.in_transit()) return look;
  look.hits.assign(question.workspace.hits().begin(), question.workspace.hits().end());
  look.why = Why::none;
  look.state = look.hits.empty() ? State::clear : State::inside;
  return look;
}

// Fills a slot and sends the signal. Nothing: no slot is free, or the thread was not signalled.
Slot* put(int signal, pid_t tid, std::unique_ptr<Question> question, const Signals::Send& send) {
  Slot* const slot = free_slot();
  if (slot == nullptr || is_owing(tid)) return nullptr;
  slot->owned = std::move(question);
  slot->question.store(slot->owned.get(), std::memory_order_relaxed);
  slot->tid.store(tid, std::memory_order_relaxed);
  slot->state.store(pending, std::memory_order_release);
  bool sent = false;
  send(tid, [&] { sent = syscall(SYS_tgkill, getpid(), tid, signal) == 0; });
  if (sent) return slot;
  slot->state.store(idle, std::memory_order_relaxed);
  slot->owned.reset();
  return nullptr;
}

// Takes the answer off a slot, or gives the slot up.
Look collect(const TaskFolder& tasks, Slot& slot, pid_t tid) {
  unsigned expected = pending;
  if (slot.state.compare_exchange_strong(expected, abandoned, std::memory_order_acquire)) {
    slot.owned.reset();
    if (tasks.standing(tid).activity == TaskFolder::Activity::ended) return {tid, State::clear, Why::none, {}};
    return {tid, State::unknown, Why::running, {}};
  }
  if (expected == taken) return {tid, State::unknown, Why::running, {}}; // reap() will free it
  Look look = look_of(tid, *slot.owned);
  slot.owned.reset();
  slot.state.store(idle, std::memory_order_relaxed);
  return look;
}

} // namespace

Result<std::unique_ptr<Signals>> Signals::create(int signal) {
  if (!can_ask) return Error{ErrorCode::unsupported, "threads can't be asked by signals on this machine"};
  const bool possible = signal > 0 && signal < 65 && signal != SIGKILL && signal != SIGSTOP && signal != SIGSEGV &&
                        signal != SIGBUS && signal != SIGILL && signal != SIGFPE && signal != SIGTRAP;
  // 32 and 33 belong to the C library.
  if (!possible || signal == 32 || signal == 33) {
    return Error{ErrorCode::invalid_argument, "signal " + std::to_string(signal) + " can't be used to ask threads"};
  }
  Shared::the();
  return std::unique_ptr<Signals>(new Signals(signal));
}

Signals::~Signals() {
  if (!installed_) return;
  const std::lock_guard lock(Shared::the().mutex);
  reap();
  Installed& place = Shared::the().installed[static_cast<std::size_t>(signal_)];
  if (--place.users > 0) return;
  bool busy = false;
  for (const Slot& slot : slots) busy = busy || slot.state.load(std::memory_order_acquire) != idle;
  struct sigaction current{};
  // Whoever put a handler over ours keeps it, and may call ours.
  if (busy || sigaction(signal_, nullptr, &current) != 0 || current.sa_sigaction != handle) return;
  sigaction(signal_, &place.old, nullptr);
  place.is_ours = false;
}

Result<std::vector<Look>> Signals::ask(Round& round, std::span<const pid_t> threads, std::chrono::microseconds patience,
                                       const Send& send) {
  using Clock = std::chrono::steady_clock;
  const std::lock_guard lock(Shared::the().mutex);
  if (!installed_) {
    if (Result<void> done = install(signal_); !done.ok()) return std::move(done).error();
    installed_ = true;
  }
  reap();
  const auto ranges = std::make_shared<const RangeSet>(round.ranges());
  const Clock::time_point deadline = Clock::now() + patience;
  std::vector<Look> looks;
  for (std::size_t at = 0; at < threads.size();) {
    std::array<Slot*, slot_count> asked{};
    const std::size_t count = std::min(slot_count, threads.size() - at);
    for (std::size_t i = 0; i < count; ++i) {
      const pid_t tid = threads[at + i];
      if (round.tasks().blocks(tid, signal_)) continue;
      Home home = home_of(tid);
      if (const std::optional<Range> mapping = home.end == 0 ? std::nullopt : mapping_of(home.end - 8)) {
        home.begin = mapping->begin.value;
      }
      asked[i] = put(signal_, tid, std::make_unique<Question>(ranges, home), send);
    }
    const auto is_open = [](const Slot* slot) {
      return slot != nullptr && slot->state.load(std::memory_order_acquire) != done;
    };
    while (std::any_of(asked.begin(), asked.end(), is_open) && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    for (std::size_t i = 0; i < count; ++i) {
      const pid_t tid = threads[at + i];
      looks.push_back(asked[i] == nullptr ? Look{tid, State::unknown, Why::running, {}}
                                          : collect(round.tasks(), *asked[i], tid));
    }
    at += count;
  }
  return looks;
}

} // namespace tenon::reclaim

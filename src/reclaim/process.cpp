// fork() handlers and membarrier.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/process.h"

#include "base/check.h"

#include <atomic>
#include <cerrno>
#include <mutex>

#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tenon::reclaim::process {
namespace {

std::atomic<bool> first_thread_at_home{true};

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

bool enroll(int supported, int command, int registration) noexcept {
  return (supported & command) != 0 && (supported & registration) != 0 && membarrier(registration) == 0;
}

Barrier choose() noexcept {
  const long answer = membarrier(MEMBARRIER_CMD_QUERY);
  const int supported = answer < 0 ? 0 : static_cast<int>(answer);
  if (enroll(supported, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE)) {
    return Barrier::sync_core;
  }
  if (enroll(supported, MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)) {
    return Barrier::expedited;
  }
  return Barrier::page;
}

// The registration belongs to the memory of the process; should a child lack it, it registers again.
bool issue(int command, int registration) noexcept {
  if (membarrier(command) == 0) return true;
  return errno == EPERM && membarrier(registration) == 0 && membarrier(command) == 0;
}

// Taking a right away from a page that all cores may have in their translation caches makes the kernel interrupt those that
// run this process; returning from an interrupt serializes (x86). Kernels new enough to do without the interrupt have
// membarrier.
void touch_page() noexcept {
  static std::mutex mutex;
  static volatile char* page = nullptr;
  const std::lock_guard lock(mutex);
  if (page == nullptr) {
    void* const memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TENON_CHECK(memory != MAP_FAILED, "no page for synchronizing cores");
    page = static_cast<volatile char*>(memory);
  }
  void* const memory = const_cast<char*>(page);
  TENON_CHECK(mprotect(memory, 4096, PROT_READ | PROT_WRITE) == 0, "no page for synchronizing cores");
  *page = static_cast<char>(*page + 1);
  TENON_CHECK(mprotect(memory, 4096, PROT_READ) == 0, "no page for synchronizing cores");
}

} // namespace

struct ForkList {
  std::mutex mutex;
  ForkParticipant* first = nullptr; // in the order of locking

  static ForkList& the() {
    static ForkList* const list = new ForkList; // never destroyed: a program may fork while it exits
    return *list;
  }

  static void before() noexcept {
    ForkList& list = the();
    list.mutex.lock();
    for (ForkParticipant* p = list.first; p != nullptr; p = p->next_) p->lock_for_fork();
    forking_on_first = syscall(SYS_gettid) == getpid();
  }

  static void in_parent() noexcept {
    ForkList& list = the();
    for (ForkParticipant* p = list.first; p != nullptr; p = p->next_) p->unlock_after_fork();
    list.mutex.unlock();
  }

  static void in_child() noexcept {
    if (!forking_on_first) first_thread_at_home.store(false, std::memory_order_relaxed);
    for (ForkParticipant* p = the().first; p != nullptr; p = p->next_) p->in_child();
    in_parent();
  }

  static void register_handlers() {
    static const int handlers = pthread_atfork(before, in_parent, in_child);
    TENON_CHECK(handlers == 0, "pthread_atfork failed");
  }

  static void add(ForkParticipant& participant, int rank) {
    register_handlers();
    const std::lock_guard lock(the().mutex);
    ForkParticipant** at = &the().first;
    while (*at != nullptr && (*at)->rank_ <= rank) at = &(*at)->next_;
    participant.next_ = *at;
    *at = &participant;
  }

  static void remove(ForkParticipant& participant) noexcept {
    const std::lock_guard lock(the().mutex);
    ForkParticipant** at = &the().first;
    while (*at != nullptr && *at != &participant) at = &(*at)->next_;
    if (*at != nullptr) *at = participant.next_;
  }

  inline static bool forking_on_first = true;
};

ForkParticipant::ForkParticipant(int rank) : rank_(rank) {}
ForkParticipant::~ForkParticipant() = default;
void ForkParticipant::join_forks() { ForkList::add(*this, rank_); }
void ForkParticipant::leave_forks() { ForkList::remove(*this); }
void register_fork_handlers() { ForkList::register_handlers(); }

bool first_thread_has_first_stack() noexcept { return first_thread_at_home.load(std::memory_order_relaxed); }

Barrier barrier() noexcept {
  // Not initialized under a guard: the child of a fork would wait for a thread that it does not have.
  static constinit std::atomic<int> known{-1};
  int chosen = known.load(std::memory_order_relaxed);
  if (chosen < 0) known.store(chosen = int(choose()), std::memory_order_relaxed);
  return Barrier(chosen);
}

void sync_cores() noexcept {
  switch (barrier()) {
  case Barrier::sync_core:
    if (issue(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE)) return;
    break;
  case Barrier::expedited:
    if (issue(MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)) break;
    [[fallthrough]];
  case Barrier::page: break;
  }
  touch_page();
}

} // namespace tenon::reclaim::process

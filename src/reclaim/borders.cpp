// Registering, and the reclaimer's side of the epochs.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/borders.h"

#include "base/check.h"

#include <algorithm>

#include <sys/syscall.h>
#include <unistd.h>

namespace tenon::reclaim {
namespace {

pid_t this_tid() noexcept { return static_cast<pid_t>(syscall(SYS_gettid)); }

} // namespace

Borders::Borders(Fence fence)
    : fence_in_threads_(fence == Fence::in_threads || process::barrier() == process::Barrier::page) {
  join_forks();
}

Borders::~Borders() {
  leave_forks();
  TENON_CHECK(first_ == nullptr, "threads are still registered with an engine that goes away");
}

std::uint64_t Borders::advance() noexcept {
  process::sync_cores();
  return epoch_.fetch_add(1, std::memory_order_acq_rel) + 1;
}

std::uint64_t Borders::next_epoch(std::atomic<std::uint64_t>* announced) noexcept {
  const std::uint64_t next = epoch_.load(std::memory_order_relaxed) + 1;
  // Release: who enters in the new epoch sees what was announced.
  if (announced != nullptr) announced->store(next, std::memory_order_release);
  epoch_.store(next, std::memory_order_release);
  return next;
}

bool Borders::has_left(const Thread& thread, std::uint64_t epoch) const noexcept {
  const std::uint64_t state = thread.state_.load(std::memory_order_acquire);
  return state == 0 || state >= epoch;
}

std::vector<Borders::Standing> Borders::threads() const {
  std::vector<Standing> standings;
  {
    const std::lock_guard lock(mutex_);
    for (const Thread* t = first_; t != nullptr; t = t->next_)
      standings.push_back({t->tid_, t->state_.load(std::memory_order_acquire), t->real_time_, t->name_});
  }
  std::sort(standings.begin(), standings.end(), [](const Standing& a, const Standing& b) { return a.tid < b.tid; });
  // A thread that registered twice is inside since the earliest of its entries.
  std::vector<Standing> merged;
  for (Standing& standing : standings) {
    if (merged.empty() || merged.back().tid != standing.tid) {
      merged.push_back(std::move(standing));
      continue;
    }
    Standing& same = merged.back();
    if (standing.state != 0 && (same.state == 0 || standing.state < same.state)) same.state = standing.state;
    same.real_time = same.real_time || standing.real_time;
  }
  return merged;
}

void Borders::for_each_lingering(std::uint64_t epoch, const std::function<void(const Standing&)>& visit) const {
  for (const Standing& standing : threads())
    if (!standing.has_left(epoch)) visit(standing);
}

bool Borders::unless_real_time(pid_t tid, const std::function<void()>& action) const {
  const std::lock_guard lock(mutex_);
  for (const Thread* t = first_; t != nullptr; t = t->next_)
    if (t->tid_ == tid && t->real_time_) return false;
  action();
  return true;
}

void Borders::in_child() noexcept {
  // The objects of the other threads lie on stacks that are nobody's any more: only unlinked, never touched again.
  Thread** at = &first_;
  while (*at != nullptr) {
    if (pthread_equal((*at)->self_, pthread_self()) != 0) {
      (*at)->tid_ = this_tid();
      at = &(*at)->next_;
    } else {
      *at = (*at)->next_;
    }
  }
}

Borders::Thread::Thread(Borders& borders, std::string_view name)
    : borders_(borders), tid_(this_tid()), self_(pthread_self()), name_(name) {
  if (name_.empty()) {
    char own[16] = {};
    if (pthread_getname_np(self_, own, sizeof own) == 0) name_ = own;
  }
  pthread_attr_t attributes;
  if (pthread_getattr_np(self_, &attributes) == 0) {
    void* low = nullptr;
    std::size_t size = 0;
    if (pthread_attr_getstack(&attributes, &low, &size) == 0) {
      low_ = reinterpret_cast<std::uintptr_t>(low);
      size_ = size;
    }
    pthread_attr_destroy(&attributes);
  }
  const std::lock_guard lock(borders_.mutex_);
  next_ = borders_.first_;
  borders_.first_ = this;
}

Borders::Thread::~Thread() {
  const std::lock_guard lock(borders_.mutex_);
  Thread** at = &borders_.first_;
  while (*at != nullptr && *at != this) at = &(*at)->next_;
  if (*at != nullptr) *at = next_;
}

void Borders::Thread::set_quiescent_mode(bool on) noexcept {
  outermost_ = on ? always() : nullptr;
  place_ = 0; // no stack holds it, so no entry finds it gone
  if (on) {
    begin();
  } else {
    state_.store(0, std::memory_order_release);
  }
}

void Borders::Thread::set_real_time(bool on) noexcept {
  {
    const std::lock_guard lock(borders_.mutex_);
    real_time_ = on;
  }
  // A signal that was sent before is delivered when this returns from the kernel.
  this_tid();
}

} // namespace tenon::reclaim

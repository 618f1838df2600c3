// The gate, the pipe and the handlers; see the header for what they are for.
//
// Why a writer and fork() never pass each other: a writer adds to its cell, then reads the flag; fork() sets the flag, then
// reads the cells; all four sequentially consistent, so at least one of the two sees the other. A writer that sees the flag
// takes its count back and waits on the mutex that fork() holds. A thread that is already inside skips the flag: its count
// is in its cell since it entered first, so fork() waits for its last leave.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/fork.h"

#include "base/check.h"
#include "base/fault.h"
#include "base/pool.h"
#include "memory/system.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace tenon::memory::fork {

constinit thread_local Thread this_thread;

namespace {

using base::fault::Call;

struct alignas(64) Cell {
  std::atomic<std::uint32_t> inside{0};
};

constexpr std::size_t cell_count = 32;
constexpr std::size_t max_children = 8; // that may still be copying when fork() returns
constexpr int wait_without_pipe_ms = 10'000;

std::array<Cell, cell_count> cells;
std::atomic<bool> closed{false}; // newcomers take the slow way
std::atomic<std::uint32_t> next_cell{0};

// Changed inside the gate under `list_mutex`; fork() reads it when the gate is empty, and so needs no lock that somebody
// inside could hold.
std::mutex list_mutex;
Participant* participants = nullptr;
Participant* resting = nullptr;
bool handlers_installed = false;
// Shared with children: where the child's word goes if there was no descriptor left for a pipe.
std::atomic<std::uint32_t>* shared_word = nullptr;

// All that follows is under `mutex`; fork() holds it from the prepare handler to the parent's or the child's.
std::mutex mutex;
std::array<int, max_children> children; // read ends of the pipes of children that copy
std::size_t copying = 0;
std::array<int, 2> pipe_ends{-1, -1};

void pause_a_little(unsigned round) noexcept {
  if (round < 64) {
    sched_yield();
    return;
  }
  const timespec time{0, 50'000};
  nanosleep(&time, nullptr);
}

void wait_for_oldest_child() noexcept {
  pollfd end{children[0], POLLIN, 0};
  while (::poll(&end, 1, -1) < 0 && errno == EINTR) {
  }
  ::close(children[0]);
  --copying;
  for (std::size_t i = 0; i < copying; ++i) children[i] = children[i + 1];
}

void prepare() noexcept {
  TENON_CHECK(this_thread.depth == 0, "fork() called by a thread that is writing through a Space");
  mutex.lock();
  closed.store(true);
  for (Cell& cell : cells)
    for (unsigned round = 0; cell.inside.load() != 0; ++round) pause_a_little(round);
  base::pool::lock(); // threads take from it inside of a Space
  if (participants == nullptr) return;
  if (copying == max_children) wait_for_oldest_child();
  shared_word->store(0);
  if (base::fault::injected(Call::pipe) || ::pipe2(pipe_ends.data(), O_CLOEXEC) != 0) pipe_ends = {-1, -1};
}

void in_parent() noexcept {
  base::pool::unlock();
  if (participants != nullptr) {
    if (pipe_ends[0] >= 0) {
      ::close(pipe_ends[1]);
      children[copying++] = pipe_ends[0];
    } else {
      // No way to learn of the child's death (or that there is none): wait here, but not for ever.
      for (int waited_ms = 0; shared_word->load() == 0 && waited_ms < wait_without_pipe_ms; ++waited_ms) {
        const timespec time{0, 1'000'000};
        nanosleep(&time, nullptr);
      }
    }
  }
  if (copying == 0) closed.store(false);
  mutex.unlock();
}

void in_child() noexcept {
  base::pool::unlock();
  for (std::size_t i = 0; i < copying; ++i) ::close(children[i]);
  copying = 0;
  // A newcomer of the parent may have been about to take its count back.
  for (Cell& cell : cells) cell.inside.store(0);
  for (Participant* participant = participants; participant != nullptr; participant = participant->next)
    if (participant->copy_in_child != nullptr) participant->copy_in_child(*participant);
  if (resting != nullptr) resting->copy_in_child(*resting);
  if (participants != nullptr) {
    shared_word->store(1);
    if (pipe_ends[0] >= 0) {
      ::close(pipe_ends[0]);
      ::close(pipe_ends[1]); // end-of-file is the word
    }
    // The page is still the parent's: children of this process need one of their own.
    if (base::fault::injected(Call::mmap) || ::mmap(shared_word, system::page_size, PROT_READ | PROT_WRITE,
                                                    MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      give_up_in_child("mmap of the page that fork() waits on");
  }
  closed.store(false);
  mutex.unlock();
}

Result<void> install() {
  if (shared_word == nullptr) {
    Result<std::byte*> page = system::map(nullptr, system::page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                                          0, "the page that fork() waits on");
    if (!page) return std::move(page).error();
    shared_word = reinterpret_cast<std::atomic<std::uint32_t>*>(*page);
  }
  const int reason = base::fault::injected(Call::pthread_atfork) ? errno : ::pthread_atfork(prepare, in_parent, in_child);
  if (reason != 0) {
    errno = reason;
    return system::failure("pthread_atfork", "the memory of engines");
  }
  handlers_installed = true;
  return {};
}

void enter_when_open(std::atomic<std::uint32_t>& inside) noexcept {
  do {
    inside.fetch_sub(1);
    {
      const std::lock_guard lock(mutex); // fork() is over
      while (copying != 0) wait_for_oldest_child();
      closed.store(false);
    }
    inside.fetch_add(1);
  } while (closed.load());
}

} // namespace

void enter_first() noexcept {
  if (this_thread.cell == 0) this_thread.cell = next_cell.fetch_add(1, std::memory_order_relaxed) % cell_count + 1;
  std::atomic<std::uint32_t>& inside = cells[this_thread.cell - 1].inside;
  inside.fetch_add(1);
  if (closed.load()) enter_when_open(inside);
}

void leave_last() noexcept { cells[this_thread.cell - 1].inside.fetch_sub(1, std::memory_order_release); }

Result<void> add(Participant& participant) {
  const std::lock_guard lock(list_mutex);
  if (!handlers_installed) {
    Result<void> done = install();
    if (!done) return done;
  }
  participant.next = participants;
  participant.previous = nullptr;
  if (participants != nullptr) participants->previous = &participant;
  participants = &participant;
  return {};
}

void remove(Participant& participant) noexcept {
  const std::lock_guard lock(list_mutex);
  if (participant.next != nullptr) participant.next->previous = participant.previous;
  if (participant.previous != nullptr)
    participant.previous->next = participant.next;
  else
    participants = participant.next;
}

void set_resting(Participant* participant) noexcept { resting = participant; }

void give_up_in_child(const char* what) noexcept {
  std::fprintf(stderr, "tenon: after fork(): %s: %s: the child can't have memory of its own\n", what, std::strerror(errno));
  std::abort();
}

} // namespace tenon::memory::fork

// The threads of this process as the kernel shows them below /proc/self/task.
//
// Files are opened for each question and closed again. Keeping them open would save two thirds of the time of a look (see
// stacks.h), but a client may close all descriptors it does not know, or fork, and then we would read from, that is, take
// bytes out of, somebody else's file.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "reclaim/scan.h"

#include <tenon/result.h>

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace tenon::reclaim {

pid_t own_tid() noexcept;

// A thread, told from a later one that was given the same number. Start time in clock ticks since boot: numbers are handed
// out in a circle, which takes longer than a tick to come round.
struct ThreadId {
  pid_t tid = 0;
  std::uint64_t start = 0;

  friend auto operator<=>(const ThreadId&, const ThreadId&) = default;
};

class TaskFolder {
public:
  static Result<TaskFolder> open();
  TaskFolder(TaskFolder&& other) noexcept;
  TaskFolder& operator=(TaskFolder&&) = delete;
  ~TaskFolder();

  // All threads that existed when the call began and exist still. A plain directory listing does not promise that: it ends
  // early when the thread at which it stands ends (seen in one of 10,000), and may skip living ones when it then finds its
  // place by counting (reasoned). Hence it is made again until it is proved to be complete. Errors: system, also if threads
  // come and go too fast for that.
  Result<std::vector<pid_t>> list() const;

  struct Description {
    ThreadId id;
    std::string name;
  };
  std::optional<Description> describe(pid_t tid) const; // nothing: it has ended

  // What /proc/self/task/T/syscall says.
  enum class Activity : unsigned char { ended, running, blocked, unreadable };
  struct Standing {
    Activity activity = Activity::unreadable;
    Registers registers;
    bool in_call = false; // in a system call, with these arguments
    std::array<std::uint64_t, 6> arguments{};

    friend bool operator==(const Standing& a, const Standing& b) noexcept {
      return a.activity == b.activity && a.registers.sp == b.registers.sp && a.registers.pc == b.registers.pc &&
             a.in_call == b.in_call && a.arguments == b.arguments;
    }
  };
  Standing standing(pid_t tid) const;

  // How often a thread was put on a processor. If the kernel does not count that: how often it was taken off one.
  struct Movement {
    bool known = false;
    bool arrivals = false;
    std::uint64_t count = 0;
    friend bool operator==(const Movement&, const Movement&) = default;
  };
  Movement movement(pid_t tid) const;

  // Whether the thread blocks that signal; also if that can't be read.
  bool blocks(pid_t tid, int signal) const;

private:
  explicit TaskFolder(int fd) noexcept : fd_(fd) {}
  // The text, or nothing with errno set.
  template <std::size_t N> std::optional<std::string_view> read(pid_t tid, const char* file, std::array<char, N>& to) const;

  int fd_ = -1;
};

// Where the stack ends that a thread was started on, without its begin. No system calls but one.
Home home_of(pid_t tid) noexcept;

// The mapping that holds an address, as the kernel has it now.
std::optional<Range> mapping_of(std::uint64_t address);

} // namespace tenon::reclaim

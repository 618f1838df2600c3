// Reading /proc/self/task, and finding the ends of stacks.
//
// Where does a thread's stack end? The C library puts a thread's control block at the upper end of its stack, be it the
// library's or the client's memory, and the list head that it gave the kernel for robust mutexes is inside of that. The
// kernel tells us where that is for any of our threads. The first thread is different: its stack ends where the kernel put
// the arguments of the program. In a child of fork() the first thread is the one that forked, wherever that had its stack.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/threads.h"

#include "reclaim/process.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tenon::reclaim {
namespace {

constexpr int listings = 32; // attempts at a complete one

Error refused(const char* what) { return {ErrorCode::system, std::string(what) + ": " + std::strerror(errno)}; }

std::size_t read_all(int fd, char* to, std::size_t size) noexcept {
  std::size_t used = 0;
  while (used < size) {
    const ssize_t n = ::read(fd, to + used, size - used);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    used += static_cast<std::size_t>(n);
  }
  return used;
}

// Takes the next number off the front; decimal, or hexadecimal with 0x.
std::optional<std::uint64_t> number(std::string_view& text) {
  const std::size_t begin = text.find_first_not_of(" \t\n");
  if (begin == text.npos) return std::nullopt;
  text.remove_prefix(begin);
  int base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  }
  const bool negative = text.starts_with("-");
  if (negative) text.remove_prefix(1);
  std::uint64_t value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (fault != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return negative ? -value : value;
}

// The value of a line of /proc/.../status, "Name:\tvalue".
std::optional<std::uint64_t> field(std::string_view text, std::string_view name, int base) {
  std::size_t at = text.find(name);
  if (at == text.npos) return std::nullopt;
  at = text.find_first_not_of(" \t", at + name.size());
  if (at == text.npos) return std::nullopt;
  std::uint64_t value = 0;
  if (std::from_chars(text.data() + at, text.data() + text.size(), value, base).ec != std::errc()) return std::nullopt;
  return value;
}

bool alive(pid_t tid) noexcept { return syscall(SYS_tgkill, getpid(), tid, 0) == 0 || errno != ESRCH; }

// What stands behind the name in a line of /proc/.../stat: the name is in parentheses and may hold any character.
std::string_view behind_name(std::string_view stat) {
  const std::size_t close = stat.rfind(')');
  return close == stat.npos ? std::string_view() : stat.substr(close + 1);
}

// Field `index` as proc(5) counts them, from 4 on.
std::optional<std::uint64_t> stat_field(std::string_view stat, int index) {
  std::string_view rest = behind_name(stat);
  if (rest.size() < 3) return std::nullopt;
  rest.remove_prefix(3); // the state, between blanks
  std::optional<std::uint64_t> value;
  for (int i = 4; i <= index; ++i) {
    value = number(rest);
    if (!value) return std::nullopt;
  }
  return value;
}

std::uint64_t read_first_stack_end() {
  const int fd = ::open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  std::array<char, 1024> text;
  const std::size_t size = read_all(fd, text.data(), text.size());
  ::close(fd);
  return stat_field({text.data(), size}, 28).value_or(0) & ~std::uint64_t(7);
}

// From Linux 6.11 on; older headers lack it.
struct ProcmapQuery {
  std::uint64_t size, flags, address, begin, end, mapping_flags, page_size, offset, inode;
  std::uint32_t major, minor, name_size, build_id_size;
  std::uint64_t name_address, build_id_address;
};

} // namespace

pid_t own_tid() noexcept { return static_cast<pid_t>(syscall(SYS_gettid)); }

Result<TaskFolder> TaskFolder::open() {
  const int fd = ::open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return refused("open /proc/self/task");
  return TaskFolder(fd);
}

TaskFolder::TaskFolder(TaskFolder&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }

TaskFolder::~TaskFolder() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::vector<pid_t>> TaskFolder::list() const {
  std::vector<pid_t> threads;
  alignas(8) std::array<char, 16384> buffer;
  for (int attempt = 0; attempt < listings; ++attempt) {
    threads.clear();
    if (lseek(fd_, 0, SEEK_SET) < 0) return refused("seek in /proc/self/task");
    for (;;) {
      const long size = syscall(SYS_getdents64, fd_, buffer.data(), buffer.size());
      if (size < 0) return refused("list /proc/self/task");
      if (size == 0) break;
      for (long at = 0; at < size;) {
        // inode 8, offset 8, length 2, type 1, name
        std::uint16_t length = 0;
        std::memcpy(&length, buffer.data() + at + 16, sizeof length);
        std::string_view name(buffer.data() + at + 19);
        if (name[0] != '.') threads.push_back(static_cast<pid_t>(number(name).value_or(0)));
        at += length;
      }
    }
    // So many threads there are now. If all that were listed live on after this was asked, they are among them; if they are
    // as many, they are all of them.
    struct stat folder{};
    if (fstat(fd_, &folder) != 0) return refused("stat /proc/self/task");
    const std::size_t count = folder.st_nlink - 2;
    if (threads.size() == count && std::all_of(threads.begin(), threads.end(), alive)) return threads;
  }
  return Error{ErrorCode::system, "list /proc/self/task: threads end faster than they can be listed"};
}

template <std::size_t N>
std::optional<std::string_view> TaskFolder::read(pid_t tid, const char* file, std::array<char, N>& to) const {
  char path[48];
  std::snprintf(path, sizeof path, "%d/%s", static_cast<int>(tid), file);
  const int fd = openat(fd_, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  errno = 0;
  const std::size_t size = read_all(fd, to.data(), N);
  const int fault = errno;
  ::close(fd);
  errno = fault;
  if (size == 0) return std::nullopt;
  return std::string_view(to.data(), size);
}

std::optional<TaskFolder::Description> TaskFolder::describe(pid_t tid) const {
  std::array<char, 1024> buffer;
  const std::optional<std::string_view> text = read(tid, "stat", buffer);
  if (!text) return std::nullopt;
  const std::optional<std::uint64_t> start = stat_field(*text, 22);
  const std::size_t open = text->find('('), close = text->rfind(')');
  if (!start || open == text->npos || close == text->npos || close < open) return std::nullopt;
  return Description{{tid, *start}, std::string(text->substr(open + 1, close - open - 1))};
}

TaskFolder::Standing TaskFolder::standing(pid_t tid) const {
  Standing result;
  std::array<char, 256> buffer;
  const std::optional<std::string_view> text = read(tid, "syscall", buffer);
  if (!text) {
    const int fault = errno;
    result.activity = fault == ENOENT || fault == ESRCH || !alive(tid) ? Activity::ended : Activity::unreadable;
    return result;
  }
  if (text->starts_with("running")) {
    result.activity = Activity::running;
    return result;
  }
  std::string_view rest = *text;
  const std::optional<std::uint64_t> call = number(rest);
  if (!call) return result;
  result.in_call = *call != ~std::uint64_t(0);
  if (result.in_call) {
    for (std::uint64_t& argument : result.arguments) {
      const std::optional<std::uint64_t> value = number(rest);
      if (!value) return result;
      argument = *value;
    }
  }
  const std::optional<std::uint64_t> sp = number(rest);
  const std::optional<std::uint64_t> pc = number(rest);
  if (!sp || !pc) return result;
  result.registers = {*sp, *pc};
  // A thread that has ended and is only waited for has no registers any more.
  result.activity = *sp == 0 && *pc == 0 ? Activity::ended : Activity::blocked;
  return result;
}

TaskFolder::Movement TaskFolder::movement(pid_t tid) const {
  std::array<char, 4096> buffer;
  if (const std::optional<std::string_view> text = read(tid, "schedstat", buffer)) {
    std::string_view rest = *text;
    number(rest);
    number(rest);
    const std::uint64_t arrivals = number(rest).value_or(0);
    if (arrivals != 0) return {true, true, arrivals};
  }
  const std::optional<std::string_view> text = read(tid, "status", buffer);
  if (!text) return {};
  // "nonvoluntary_" ends like the other one's name, and comes after it.
  const std::optional<std::uint64_t> voluntary = field(*text, "\nvoluntary_ctxt_switches:", 10);
  const std::optional<std::uint64_t> forced = field(*text, "nonvoluntary_ctxt_switches:", 10);
  if (!voluntary || !forced) return {};
  return {true, false, *voluntary + *forced};
}

bool TaskFolder::blocks(pid_t tid, int signal) const {
  std::array<char, 4096> buffer;
  const std::optional<std::string_view> text = read(tid, "status", buffer);
  if (!text) return true;
  const std::optional<std::uint64_t> blocked = field(*text, "SigBlk:", 16);
  return !blocked || (*blocked >> (signal - 1) & 1) != 0;
}

Home home_of(pid_t tid) noexcept {
  if (tid == getpid() && process::first_thread_has_first_stack()) {
    // No static that is initialized under a guard: the child of a fork would wait for a thread that it does not have.
    // Relaxed: it is the same number whoever reads it.
    static constinit std::atomic<std::uint64_t> known{0};
    std::uint64_t end = known.load(std::memory_order_relaxed);
    if (end == 0) known.store(end = read_first_stack_end(), std::memory_order_relaxed);
    return {0, end};
  }
  std::uint64_t head = 0, size = 0;
  if (syscall(SYS_get_robust_list, tid, &head, &size) != 0) return {};
  return {0, head & ~std::uint64_t(7)};
}

std::optional<Range> mapping_of(std::uint64_t address) {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  ProcmapQuery query{};
  query.size = sizeof query;
  query.address = address;
  std::optional<Range> result;
  if (ioctl(fd, _IOWR('f', 17, ProcmapQuery), &query) == 0) {
    result = Range{{query.begin}, {query.end}};
  } else if (errno != ENOENT) {
    std::string text;
    std::array<char, 16384> buffer;
    while (const std::size_t n = read_all(fd, buffer.data(), buffer.size())) text.append(buffer.data(), n);
    for (std::size_t line = 0; line < text.size() && !result;) {
      std::uint64_t begin = 0, end = 0;
      const char* const last = text.data() + text.size();
      const char* const dash = std::from_chars(text.data() + line, last, begin, 16).ptr;
      if (dash < last) std::from_chars(dash + 1, last, end, 16);
      if (begin <= address && address < end) result = Range{{begin}, {end}};
      const std::size_t feed = text.find('\n', line);
      line = feed == text.npos ? text.size() : feed + 1;
    }
  }
  ::close(fd);
  return result;
}

} // namespace tenon::reclaim

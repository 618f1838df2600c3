// inotify(7).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_watch.h"

#include "live_clang.h"

#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tenon::cli {

namespace {

constexpr std::uint32_t interesting =
    IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr std::chrono::milliseconds look_again(200); // for directories that are not there

// A file that has been created will be closed when it is written; a link is there at once.
bool is_there_at_once(const std::string& path) {
  struct stat status{};
  return lstat(path.c_str(), &status) == 0 && (S_ISLNK(status.st_mode) || status.st_nlink > 1);
}

} // namespace

Result<FileWatch> FileWatch::create() {
  Descriptor events = out_of_the_way(Descriptor(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)));
  if (!events.is_open()) return system_error("inotify_init1");
  Descriptor stop = out_of_the_way(Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
  if (!stop.is_open()) return system_error("eventfd");
  return FileWatch(std::move(events), std::move(stop));
}

bool FileWatch::watch_directory_of(const std::string& file) {
  std::size_t slash = file.rfind('/');
  return watch_directory(slash == 0 ? "/" : file.substr(0, slash));
}

bool FileWatch::watch_directory(const std::string& directory) {
  if (!known_.insert(directory).second) return false;
  if (!add(directory)) lost_.insert(directory);
  return true;
}

bool FileWatch::add(const std::string& directory) {
  int watch = inotify_add_watch(events_.number(), directory.c_str(), interesting);
  if (watch >= 0) directories_[watch].insert(directory);
  return watch >= 0;
}

Result<std::vector<FileEvent>> FileWatch::wait(std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + timeout;
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    bool forever = timeout.count() < 0;
    if (!lost_.empty() && (forever || left > look_again)) left = look_again, forever = false;
    pollfd polled[] = {{events_.number(), POLLIN, 0}, {stop_.number(), POLLIN, 0}};
    int ready = poll(polled, 2, forever ? -1 : static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (ready < 0 && errno != EINTR) return system_error("poll");
    if ((polled[0].revents | polled[1].revents) & POLLNVAL)
      return Error{ErrorCode::system, "the program has closed all descriptors"};
    if (stopped()) return std::vector<FileEvent>();
    Result<std::vector<FileEvent>> events = read_events();
    if (!events) return events;
    look_for_lost(*events);
    if (!events->empty() || (timeout.count() >= 0 && Clock::now() >= end)) return events;
  }
}

Result<std::vector<FileEvent>> FileWatch::read_events() {
  std::vector<FileEvent> events;
  alignas(inotify_event) char buffer[1 << 14];
  ssize_t size;
  while ((size = read(events_.number(), buffer, sizeof buffer)) > 0) {
    inotify_event event;
    for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(sizeof event + event.len)) {
      std::memcpy(&event, buffer + at, sizeof event);
      if (event.mask & IN_Q_OVERFLOW)
        for (const std::string& directory : known_) events.push_back({directory});
      auto found = directories_.find(event.wd);
      if (found == directories_.end()) continue;
      if (event.mask & IN_MOVE_SELF) inotify_rm_watch(events_.number(), event.wd);
      if (event.mask & IN_IGNORED) {
        lost_.insert(found->second.begin(), found->second.end());
        directories_.erase(found);
        continue;
      }
      if (event.len == 0) continue;
      for (const std::string& directory : found->second) {
        std::string path = (directory == "/" ? "" : directory) + "/" + (buffer + at + sizeof event);
        if ((event.mask & IN_CREATE) && !is_there_at_once(path)) continue;
        events.push_back({std::move(path), (event.mask & (IN_MOVED_TO | IN_CREATE | IN_CLOSE_WRITE)) != 0});
      }
    }
  }
  if (size < 0 && errno != EAGAIN && errno != EINTR) return system_error("inotify");
  return events;
}

void FileWatch::look_for_lost(std::vector<FileEvent>& events) {
  std::erase_if(lost_, [&](const std::string& directory) {
    if (!add(directory)) return false;
    events.push_back({directory, true});
    return true;
  });
}

void FileWatch::stop() {
  std::uint64_t one = 1;
  static_cast<void>(!write(stop_.number(), &one, sizeof one));
}

bool FileWatch::stopped() const {
  pollfd polled = {stop_.number(), POLLIN, 0};
  return poll(&polled, 1, 0) > 0;
}

} // namespace tenon::cli

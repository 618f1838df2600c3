// Files under watch, by their directories: an editor that saves writes a new file and renames it, which is nothing that
// happens to the old file.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "descriptor.h"

#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace tenon::cli {

struct FileEvent {
  std::string path;      // absolute, as it was given to watch(); a directory's own path if anything in it may have changed
  bool appeared = false; // it was not there, or another file of that name was
};

class FileWatch {
public:
  static Result<FileWatch> create();

  // Whether the directory is new to it: changes of the file before now went unseen. A directory that is not there, or goes,
  // is looked for until it comes.
  bool watch_directory_of(const std::string& file);
  bool watch_directory(const std::string& directory);

  // What has happened; empty if `timeout` is over (negative: none) or stop() was called.
  Result<std::vector<FileEvent>> wait(std::chrono::milliseconds timeout);

  // Ends every wait(), from another thread.
  void stop();
  bool stopped() const;

private:
  FileWatch(Descriptor events, Descriptor stop) : events_(std::move(events)), stop_(std::move(stop)) {}
  bool add(const std::string& directory);
  Result<std::vector<FileEvent>> read_events();
  void look_for_lost(std::vector<FileEvent>& events);

  Descriptor events_, stop_;
  std::map<int, std::set<std::string>> directories_; // by watch; one directory may have several names
  std::set<std::string> known_;
  std::set<std::string> lost_;
};

} // namespace tenon::cli

// Looking for -lNAME. Debian's development files for libc, libm and some others are linker scripts, texts which name the
// files that are meant: GROUP ( /lib/x86_64-linux-gnu/libm.so.6 AS_NEEDED ( /lib/x86_64-linux-gnu/libmvec.so.1 ) ).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "libraries.h"

#include <algorithm>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

namespace tenon::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* system_directories[] = {
    "/usr/local/lib/x86_64-linux-gnu", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",           "/usr/lib",       "/lib"};
constexpr std::size_t script_limit = 1 << 16;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string read_start(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content(script_limit, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(file.gcount()));
  return content;
}

Result<void> add_shared(const std::string& path, FoundLibrary& found) {
  // Without a slash dlopen would search its own directories.
  std::string with_slash = path.find('/') == std::string::npos ? "./" + path : path;
  void* handle = dlopen(with_slash.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  if (!handle) {
    const char* reason = dlerror();
    return Error{ErrorCode::system, path + ": dlopen: " + (reason ? reason : "refused")};
  }
  found.handles.push_back(handle);
  return {};
}

Result<void> add_archive(const std::string& path, FoundLibrary& found) {
  Result<Archive> archive = Archive::read_file(path);
  if (!archive) return std::move(archive).error();
  found.archives.push_back(std::move(*archive));
  return {};
}

// The files that a script names: its words that look like one, comments left out.
std::vector<std::string> script_files(std::string text) {
  for (std::size_t start; (start = text.find("/*")) != std::string::npos;) {
    std::size_t end = text.find("*/", start + 2);
    text.erase(start, end == std::string::npos ? std::string::npos : end + 2 - start);
  }
  std::vector<std::string> files;
  std::string word;
  text += ' ';
  for (char c : text) {
    if (!std::strchr(" \t\r\n(),", c)) {
      word += c;
      continue;
    }
    if (word.ends_with(".a") || word.ends_with(".so") || word.find(".so.") != std::string::npos) files.push_back(word);
    word.clear();
  }
  return files;
}

Result<FoundLibrary> open_script(const fs::path& path, const std::string& text) {
  std::vector<std::string> files = script_files(text);
  if (files.empty()) return Error{ErrorCode::malformed, path.string() + ": neither a shared object nor a linker script"};
  FoundLibrary found;
  // The archives beside shared objects (libc_nonshared.a) hold what the process gives anyhow.
  bool any_shared = std::any_of(files.begin(), files.end(), [](const std::string& f) { return !f.ends_with(".a"); });
  for (const std::string& file : files) {
    bool archive = file.ends_with(".a");
    if (archive && any_shared) continue;
    std::string full = file.front() == '/' ? file : (path.parent_path() / file).string();
    if (Result<void> added = archive ? add_archive(full, found) : add_shared(full, found); !added)
      return Error(added.error());
  }
  return found;
}

// libNAME.so.N where there is no libNAME.so: the highest N, as the newest interface.
fs::path versioned_shared(const fs::path& directory, const std::string& name) {
  std::string prefix = "lib" + name + ".so.";
  fs::path best;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    std::string file = entry.path().filename().string();
    bool longer = file.size() > best.filename().string().size();
    bool same = file.size() == best.filename().string().size();
    bool number_only = file.starts_with(prefix) && file.find('.', prefix.size()) == std::string::npos;
    if (number_only && (longer || (same && file > best.filename().string()))) best = entry.path();
  }
  return best;
}

Result<FoundLibrary> open_archive_file(const fs::path& path) {
  std::string start = read_start(path);
  if (!start.starts_with("!<")) return open_script(path, start);
  FoundLibrary found;
  if (Result<void> added = add_archive(path.string(), found); !added) return Error(added.error());
  return found;
}

} // namespace

Result<FoundLibrary> open_library_file(const std::string& path) {
  std::string start = read_start(path);
  if (!start.starts_with("\x7f"
                         "ELF"))
    return open_script(path, start);
  FoundLibrary found;
  if (Result<void> added = add_shared(path, found); !added) return Error(added.error());
  return found;
}

Result<FoundLibrary> find_library(const std::string& name, std::span<const std::string> directories) {
  std::vector<fs::path> places(directories.begin(), directories.end());
  places.insert(places.end(), std::begin(system_directories), std::end(system_directories));
  for (const fs::path& place : places) {
    if (name.starts_with(':')) {
      fs::path file = place / name.substr(1);
      if (is_there(file)) return name.ends_with(".a") ? open_archive_file(file) : open_library_file(file.string());
      continue;
    }
    if (fs::path shared = place / ("lib" + name + ".so"); is_there(shared)) return open_library_file(shared.string());
    if (fs::path archive = place / ("lib" + name + ".a"); is_there(archive)) return open_archive_file(archive);
  }
  for (const fs::path& place : places)
    if (fs::path file = versioned_shared(place, name); !file.empty()) return open_library_file(file.string());
  return Error{ErrorCode::system, "-l" + name + ": no lib" + name + ".so and no lib" + name +
                                      ".a (hint: -L DIR adds a directory, and the -dev package may be missing)"};
}

} // namespace tenon::cli

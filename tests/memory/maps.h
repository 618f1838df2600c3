// What the kernel says about this process's mappings, for the tests of the memory layer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

// A sanitizer's shadow lies below the libraries, where reservations otherwise go, and is beyond any RLIMIT_AS.
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TENON_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TENON_SANITIZED
#endif

namespace tenon::memory {

struct KernelMapping {
  std::uint64_t begin = 0, end = 0;
  std::string permissions;
  std::string name;
  std::string flags; // VmFlags of smaps
};

inline std::vector<KernelMapping> kernel_mappings(bool with_flags = false) {
  std::ifstream file(with_flags ? "/proc/self/smaps" : "/proc/self/maps");
  std::vector<KernelMapping> mappings;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmFlags:", 0) == 0) {
      mappings.back().flags = line.substr(8) + " ";
      continue;
    }
    KernelMapping mapping;
    char dash = 0;
    std::string offset, device, inode;
    std::istringstream words(line);
    if (words >> std::hex >> mapping.begin >> dash >> mapping.end >> mapping.permissions >> offset >> device >> inode &&
        dash == '-') {
      std::getline(words >> std::ws, mapping.name);
      mappings.push_back(mapping);
    }
  }
  return mappings;
}

// How many mappings there are. A sanitizer maps memory of its own as it goes, all of it without a name: only named ones
// count then.
inline std::size_t count_mappings() {
  std::size_t count = 0;
  for (const KernelMapping& mapping : kernel_mappings()) {
#ifdef TENON_SANITIZED
    if (mapping.name.empty()) continue;
#endif
    count += mapping.name == "[heap]" ? 0 : 1;
  }
  return count;
}

inline std::uint64_t resident_bytes() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * 4096;
}

} // namespace tenon::memory

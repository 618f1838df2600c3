// What is linked: sets of archive members, made ready in memory before anything is timed.
//
// Every participant gets the same bytes in the same order, and the same rules:
// - debug sections are stripped; members with thread-local sections or symbols are left out, since RuntimeDyld aborts the
//   process on them;
// - STV_INTERNAL symbols are turned into STV_HIDDEN ones, since JITLink rejects the former (22 of liblua's 32 members);
//   to a linker the two mean the same;
// - the set's own definitions win over the host process's, strong ones over weak ones, then the first in order;
// - what neither the set nor dlsym() defines is given as an absolute symbol, the address of a `ret` instruction;
// - static initializers are not run.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace versus {

using tenon::Error;
using tenon::ErrorCode;
using tenon::Result;

struct InputObject {
  std::string name; // ARCHIVE(MEMBER), unique within the set
  std::vector<std::byte> bytes;
};

struct Absolute {
  std::string name;
  std::uint64_t address = 0;
};

// What a linker cannot do without, as flat lists: the floors execute this and nothing else.
struct FloorPlan {
  enum Segment : std::uint8_t { code, rodata, data, segment_count };
  struct Copy {
    const std::byte* from;
    std::size_t offset; // from the start of the image
    std::size_t size;
  };
  struct Store {
    std::uint32_t offset; // from the start of the image
    bool wide;            // 8 bytes, else 4
  };
  std::array<std::size_t, segment_count> start{}; // page-aligned
  std::array<std::size_t, segment_count> size{};
  std::size_t total = 0;
  std::vector<Copy> copies;
  std::vector<Store> stores;
};

struct Counts {
  std::size_t objects = 0;
  std::size_t sections = 0;    // allocated ones with content or size, COMDAT copies that lose left out
  std::size_t relocations = 0; // in those
  std::size_t content = 0;     // bytes in those
  std::size_t zero = 0;        // bytes of .bss in those
  std::size_t lost_sections = 0, lost_relocations = 0, lost_content = 0; // of COMDAT copies that lose
  std::size_t left_out = 0;                                              // members with thread-local data
  std::size_t hidden = 0;                                                // STV_INTERNAL symbols patched
  std::size_t from_host = 0;                                             // undefined symbols that dlsym() finds
};

struct InputSet {
  std::string name;
  std::vector<InputObject> objects;
  std::vector<Absolute> absolutes;       // see above
  std::vector<std::string> names;        // looked up after linking: exported, from as many objects as possible
  std::vector<std::string> hidden_roots; // one definition of each object that exports nothing, for those who link on demand
  FloorPlan plan;
  Counts counts;
};

// An address that `__dso_handle` can stand for; participants that define one themselves don't need it.
std::uint64_t dso_handle_address();

// What becomes of members with thread-local data.
enum class ThreadLocal : std::uint8_t { left_out, kept };

// Reads the archives in order. `wanted` are names that must be among `names`; at most `name_limit` names in all.
Result<InputSet> load_set(std::string name, const std::vector<std::string>& archives, const std::vector<std::string>& wanted,
                          std::size_t name_limit = 1000, ThreadLocal thread_local_members = ThreadLocal::left_out);

// The members of an archive in order, debug sections stripped (archive_members.cpp, the one part that uses LLVM).
Result<std::vector<InputObject>> archive_members(const std::string& path);

} // namespace versus

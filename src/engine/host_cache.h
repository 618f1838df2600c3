// What dlsym(RTLD_DEFAULT) has found in the process, for an engine's later changes: glibc walks the scope for every name
// anew, library by library.
//
// Only what was found is kept, never that something is not there, and only until a shared object is loaded or unloaded:
// until then a name that the scope has goes on meaning what it means. Thread-local variables are left out.
//
// Owner: EngineState. Lock: EngineState::tables, shared for find, exclusive for add.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/symbol_table.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace tenon::engine {

// Changes with every shared object that is loaded or unloaded.
struct HostGeneration {
  std::uint64_t loaded = 0, unloaded = 0;

  static HostGeneration now() noexcept;
  bool operator==(const HostGeneration&) const = default;
};

class HostCache {
public:
  struct Entry {
    std::string_view name;
    std::uint64_t hash = 0;
    std::uint64_t address = 0;
  };

  // 0: not known.
  std::uint64_t find(std::string_view name, std::uint64_t hash) const noexcept {
    const SymbolRecord* record = table_.find(name, hash);
    return record != nullptr ? record->address() : 0;
  }
  const HostGeneration& generation() const noexcept { return generation_; }
  // What was found while the process was as `generation` says. May throw std::bad_alloc, and then nothing has changed, or
  // all is forgotten.
  void add(const HostGeneration& generation, std::span<const Entry> found);

private:
  HostGeneration generation_;
  SymbolTable table_;
  std::vector<std::unique_ptr<std::byte[]>> records_; // a chunk for each add()
};

} // namespace tenon::engine

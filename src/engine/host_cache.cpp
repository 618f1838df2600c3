// Keeping what dlsym has found.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/host_cache.h"

#include <link.h>

#include <utility>

namespace tenon::engine {

HostGeneration HostGeneration::now() noexcept {
  HostGeneration generation;
  // glibc gives both counts with every object: the first one's are enough.
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        *static_cast<HostGeneration*>(data) = {info->dlpi_adds, info->dlpi_subs};
        return 1;
      },
      &generation);
  return generation;
}

void HostCache::add(const HostGeneration& generation, std::span<const Entry> found) {
  if (generation != generation_) {
    table_ = {};
    records_.clear();
    generation_ = generation;
  }
  std::size_t bytes = 0;
  for (const Entry& entry : found) bytes += SymbolRecord::bytes_for(entry.name.size());
  records_.reserve(records_.size() + 1);
  table_.reserve(found.size());
  auto chunk = std::make_unique_for_overwrite<std::byte[]>(bytes);
  std::byte* at = chunk.get();
  for (const Entry& entry : found) {
    if (find(entry.name, entry.hash) != 0) continue; // another change was faster
    SymbolRecord* record = SymbolRecord::make(at, entry.name, entry.hash);
    at += SymbolRecord::bytes(entry.name.size());
    record->address = entry.address;
    table_.insert(record);
  }
  records_.push_back(std::move(chunk));
}

} // namespace tenon::engine

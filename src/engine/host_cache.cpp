// Keeping what dlsym has found.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/host_cache.h"

#include "engine/host.h"

#include <utility>

namespace tenon::engine {

HostGeneration HostGeneration::now() noexcept {
  HostGeneration generation;
  // glibc gives both counts with every object: the first one's are enough.
  for_each_shared_object(
      [](dl_phdr_info* info, std::size_t, void* data) {
        *static_cast<HostGeneration*>(data) = {info->dlpi_adds, info->dlpi_subs};
        return 1;
      },
      &generation);
  return generation;
}

namespace {
SymbolRecord::Form form_of(const HostCache::Entry& entry) noexcept {
  return SymbolRecord::is_narrow(entry.address, 0) ? SymbolRecord::Form::narrow : SymbolRecord::Form::wide;
}
} // namespace

void HostCache::add(const HostGeneration& generation, std::span<const Entry> found) {
  if (generation != generation_) {
    table_ = {};
    records_.clear();
    generation_ = generation;
  }
  std::size_t bytes = 0;
  for (const Entry& entry : found) bytes += SymbolRecord::bytes_for(entry.name.size(), form_of(entry));
  records_.reserve(records_.size() + 1);
  table_.reserve(found.size());
  auto chunk = std::make_unique_for_overwrite<std::byte[]>(bytes);
  std::byte* at = chunk.get();
  for (const Entry& entry : found) {
    if (find(entry.name, entry.hash) != 0) continue; // another change was faster
    SymbolRecord* record = SymbolRecord::make(at, entry.name, entry.hash, form_of(entry));
    at += record->bytes();
    record->set_address(entry.address);
    table_.insert(record);
  }
  records_.push_back(std::move(chunk));
}

} // namespace tenon::engine

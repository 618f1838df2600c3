// Packing a module's relocations for keeps.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_relocations.h"

namespace tenon::engine {

KeptRelocations KeptRelocations::of(const link::Module& module) {
  KeptRelocations kept;
  std::size_t sections = 0;
  for (std::uint32_t i : module.kept) sections += module.relocations(i).empty() ? 0 : 1;
  kept.sections_.reserve(sections);
  kept.words_.reserve(module.relocation_count);
  for (std::uint32_t i : module.kept) {
    if (module.relocations(i).empty()) continue;
    kept.sections_.push_back({i, std::uint32_t(kept.words_.size())});
    for (const Relocation& r : module.relocations(i)) {
      if (fits(r)) {
        kept.words_.push_back(pack(r));
      } else {
        kept.words_.push_back(std::uint64_t(escape) << 48);
        kept.wide_.push_back(r);
      }
    }
  }
  return kept;
}

} // namespace tenon::engine

// Frame descriptions (.eh_frame, LSB 5.0 section 10.6) seen through their relocations: the relocated first field of each
// description says which function it is for, so that descriptions of dropped functions are told from live ones.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"
#include "object/eh_frame.h"

#include <algorithm>

namespace tenon::link {

// Where the function that a description begins at lies in its section; before symbols are settled.
inline std::uint64_t frame_offset(const Module& module, const Relocation& start) {
  return module.targets[start.symbol].address + std::uint64_t(start.addend);
}

// Whether a description is of code of this module that takes part in the program.
inline bool frame_is_of_code(const Module& module, const Relocation& start) {
  const Target& target = module.targets[start.symbol];
  return target.kind == TargetKind::section && target.where < module.object_sections() && module.places[target.where].kept &&
         module.places[target.where].run == Run::code;
}

// Compilers describe functions without any code too, and those may lie at the very end of a section: nothing runs there.
inline bool frame_is_live(const Module& module, const Relocation& start) {
  return frame_is_of_code(module, start) &&
         frame_offset(module, start) < module.places[module.targets[start.symbol].where].size;
}

// Calls visit(relocation of pc_begin, record) for each description. Descriptions without a relocation are
// passed over: nothing says where they belong. Errors: malformed.
template <class Visit> Result<void> for_each_frame(const Module& module, std::uint32_t section, Visit&& visit) {
  std::span<const Relocation> relocations = module.relocations(section);
  auto by_offset = [](const Relocation& a, const Relocation& b) { return a.offset < b.offset; };
  std::vector<Relocation> sorted;
  if (!std::is_sorted(relocations.begin(), relocations.end(), by_offset)) {
    sorted.assign(relocations.begin(), relocations.end());
    std::sort(sorted.begin(), sorted.end(), by_offset);
    relocations = sorted;
  }
  std::size_t next = 0;
  return object::walk_eh_frame(module.sections()[section].content, [&](const object::EhRecord& record) {
    if (record.is_cie) return;
    while (next < relocations.size() && relocations[next].offset < record.pc_begin_offset) ++next;
    if (next < relocations.size() && relocations[next].offset == record.pc_begin_offset) visit(relocations[next], record);
  });
}

} // namespace tenon::link

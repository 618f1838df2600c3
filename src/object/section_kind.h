// What a section is for, told from its ELF type, flags and name. See section_kind.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/elf_format.h"

#include <tenon/object.h>

namespace tenon::object {

// Sets kind, init_table, init_priority and the flags of `section`, whose name is set already.
void classify(const elf::SectionHeader& header, Machine machine, Section& section) noexcept;

// Whether a section of this type holds relocations, of any encoding.
inline bool holds_relocations(std::uint32_t type) noexcept {
  return type == elf::sht_rela || type == elf::sht_rel || type == elf::sht_relr || type == elf::sht_crel ||
         type == elf::sht_android_rel || type == elf::sht_android_rela;
}

} // namespace tenon::object

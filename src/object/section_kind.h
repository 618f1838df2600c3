// What a section is for, told from its ELF type, flags and name. See section_kind.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/elf_format.h"

#include <tenon/object.h>

namespace tenon::object {

// The flags that say something of a section that is a table of the file format.
inline constexpr std::uint64_t flags_of_content =
    elf::shf_write | elf::shf_execinstr | elf::shf_strings | elf::shf_gnu_retain | elf::shf_x86_64_large;

// Merging is only defined for whole elements that nobody writes to. Of a section with SHF_MERGE that is allocated.
inline bool can_merge(std::uint32_t type, std::uint64_t flags, std::uint64_t size, std::uint64_t entry) noexcept {
  return entry != 0 && (flags & elf::shf_write) == 0 && type != elf::sht_nobits && size % entry == 0;
}

// Types below 32 are found in a mask: this is asked for each section several times.
constexpr std::uint32_t type_bit(std::uint32_t type) noexcept { return std::uint32_t(1) << type; }

// Whether a section of this type holds relocations, of any encoding.
inline bool holds_relocations(std::uint32_t type) noexcept {
  constexpr std::uint32_t mask = type_bit(elf::sht_rela) | type_bit(elf::sht_rel) | type_bit(elf::sht_relr);
  if (type < 32) [[likely]]
    return (mask >> type & 1) != 0;
  return type == elf::sht_crel || type == elf::sht_android_rel || type == elf::sht_android_rela;
}

// Tables of the file format are never loaded, whatever their flags say.
inline bool is_format_table(std::uint32_t type) noexcept {
  constexpr std::uint32_t mask = type_bit(elf::sht_null) | type_bit(elf::sht_symtab) | type_bit(elf::sht_strtab) |
                                 type_bit(elf::sht_group) | type_bit(elf::sht_symtab_shndx) | type_bit(elf::sht_rela) |
                                 type_bit(elf::sht_rel) | type_bit(elf::sht_relr);
  return type < 32 ? (mask >> type & 1) != 0 : holds_relocations(type);
}

bool is_debug_name(std::string_view name) noexcept;
// Of an allocated section whose kind is set by its type and flags: what its name says besides.
void classify_by_name(std::uint32_t type, Section& section) noexcept;

// Whether classify_by_name() has something to say: two characters rule it out for nearly all. Not of .d, which is .data,
// unless it is .dt.
inline bool may_be_special(std::uint32_t type, const char* name) noexcept {
  if (type != elf::sht_progbits && type != elf::sht_nobits) return true;
  if (name[0] != '.') return false;
  constexpr std::uint32_t special = type_bit('n' & 31) | type_bit('e' & 31) | type_bit('i' & 31) | type_bit('f' & 31) |
                                    type_bit('p' & 31) | type_bit('c' & 31);
  if (name[1] == 'd') return name[2] == 't';
  return (special >> (name[1] & 31) & 1) != 0;
}

// Sets kind, init_table, init_priority and the flags of `section`, which is as it was made but for its name (which is
// terminated); but for what needs more than its header's type and flags.
inline void classify(std::uint32_t type, std::uint64_t flags, Machine machine, Section& section) noexcept {
  const bool writable = (flags & elf::shf_write) != 0, executable = (flags & elf::shf_execinstr) != 0;
  section.writable = writable;
  section.executable = executable;
  section.strings = (flags & elf::shf_strings) != 0;
  if ((flags & (elf::shf_gnu_retain | elf::shf_x86_64_large)) != 0) [[unlikely]] {
    section.retain = (flags & elf::shf_gnu_retain) != 0;
    section.large = machine == Machine::x86_64 && (flags & elf::shf_x86_64_large) != 0;
  }
  if (is_format_table(type)) return;
  if ((flags & elf::shf_alloc) == 0) {
    if (is_debug_name(section.name)) section.kind = SectionKind::debug;
    return;
  }
  if ((flags & elf::shf_exclude) != 0) return;
  section.allocated = true;
  const bool zero = type == elf::sht_nobits;
  if ((flags & elf::shf_tls) != 0)
    section.kind = zero ? SectionKind::tls_zero : SectionKind::tls_data;
  else if (zero)
    section.kind = SectionKind::zero;
  else if (type == elf::sht_x86_64_unwind && machine == Machine::x86_64)
    section.kind = SectionKind::unwind;
  else
    section.kind = executable ? SectionKind::code : writable ? SectionKind::data : SectionKind::rodata;
  if (may_be_special(type, section.name.data())) classify_by_name(type, section);
}

} // namespace tenon::object

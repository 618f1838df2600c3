// Flags decide where they can; names only where the ELF has no other word: .eh_frame of compilers that do not use the
// psABI's type for it, .ctors and .dtors (ordinary data to ELF), priorities, and debug sections (of type PROGBITS like any
// other).
//
// Priorities follow GNU ld's SORT_BY_INIT_PRIORITY: .init_array.N has priority N, .ctors.N priority 65535 - N, because a
// .ctors table is run from its end.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/section_kind.h"

#include <algorithm>

namespace tenon::object {

namespace {

struct InitName {
  std::string_view name;
  std::uint32_t type; // SHT_ that says the same, or 0
  InitTable table;
  bool reversed;
};

constexpr InitName init_names[] = {
    {".init_array", elf::sht_init_array, InitTable::init, false},
    {".fini_array", elf::sht_fini_array, InitTable::fini, false},
    {".preinit_array", elf::sht_preinit_array, InitTable::preinit, false},
    {".ctors", 0, InitTable::ctors, true},
    {".dtors", 0, InitTable::dtors, true},
};

constexpr std::uint16_t no_priority = 65535;

// The number after the last dot, as GNU ld reads it; anything else means no priority.
std::uint16_t parse_priority(std::string_view digits) noexcept {
  if (digits.empty()) return no_priority;
  std::uint32_t value = 0;
  for (char c : digits) {
    if (c < '0' || c > '9') return no_priority;
    value = std::min<std::uint32_t>(value * 10 + static_cast<std::uint32_t>(c - '0'), no_priority);
  }
  return static_cast<std::uint16_t>(value);
}

void classify_init_table(std::uint32_t type, Section& section) noexcept {
  for (const InitName& entry : init_names) {
    const bool by_name = section.name.starts_with(entry.name) &&
                         (section.name.size() == entry.name.size() || section.name[entry.name.size()] == '.');
    const bool by_type = entry.type != 0 && type == entry.type;
    if (!by_name && !by_type) continue;
    section.kind = SectionKind::init;
    section.init_table = entry.table;
    if (by_name && section.name.size() > entry.name.size()) {
      const std::uint16_t priority = parse_priority(section.name.substr(entry.name.size() + 1));
      section.init_priority = entry.reversed && priority != no_priority ? no_priority - priority : priority;
    }
    return;
  }
}

bool is_debug_name(std::string_view name) noexcept {
  return name.starts_with(".debug") || name.starts_with(".zdebug") || name.starts_with(".stab") || name == ".gdb_index";
}

// Tables of the file format are never loaded, whatever their flags say.
bool is_format_table(std::uint32_t type) noexcept {
  return type == elf::sht_null || type == elf::sht_symtab || type == elf::sht_strtab || type == elf::sht_group ||
         type == elf::sht_symtab_shndx || holds_relocations(type);
}

SectionKind allocated_kind(const elf::SectionHeader& header, Machine machine, std::string_view name) noexcept {
  const bool empty_in_file = header.type == elf::sht_nobits;
  if ((header.flags & elf::shf_tls) != 0) return empty_in_file ? SectionKind::tls_zero : SectionKind::tls_data;
  if (empty_in_file) return SectionKind::zero;
  if (name == ".eh_frame" || (machine == Machine::x86_64 && header.type == elf::sht_x86_64_unwind))
    return SectionKind::unwind;
  if ((header.flags & elf::shf_execinstr) != 0) return SectionKind::code;
  return (header.flags & elf::shf_write) != 0 ? SectionKind::data : SectionKind::rodata;
}

} // namespace

void classify(const elf::SectionHeader& header, Machine machine, Section& section) noexcept {
  const std::uint64_t flags = header.flags;
  section.retain = (flags & elf::shf_gnu_retain) != 0;
  section.writable = (flags & elf::shf_write) != 0;
  section.executable = (flags & elf::shf_execinstr) != 0;
  section.strings = (flags & elf::shf_strings) != 0;
  section.large = machine == Machine::x86_64 && (flags & elf::shf_x86_64_large) != 0;
  const bool table = is_format_table(header.type);
  section.allocated =
      (flags & elf::shf_alloc) != 0 && (flags & elf::shf_exclude) == 0 && !table && section.name != ".note.gnu.property";
  if (!section.allocated) {
    const bool debug = (flags & elf::shf_alloc) == 0 && !table && is_debug_name(section.name);
    section.kind = debug ? SectionKind::debug : SectionKind::other;
    return;
  }
  section.kind = allocated_kind(header, machine, section.name);
  if (section.kind == SectionKind::data || section.kind == SectionKind::rodata) classify_init_table(header.type, section);
  // Merging is only defined for whole elements that nobody writes to.
  section.mergeable = (flags & elf::shf_merge) != 0 && header.entsize != 0 && !section.writable &&
                      header.type != elf::sht_nobits && header.size % header.entsize == 0;
}

} // namespace tenon::object

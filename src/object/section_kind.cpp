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

} // namespace

bool is_debug_name(std::string_view name) noexcept {
  if (name.size() < 5 || name[0] != '.') return false;
  return name.starts_with(".debug") || name.starts_with(".zdebug") || name.starts_with(".stab") || name == ".gdb_index";
}

void classify_by_name(std::uint32_t type, Section& section) noexcept {
  const bool thread_local_data = section.kind == SectionKind::tls_data || section.kind == SectionKind::tls_zero;
  if (section.name == ".note.gnu.property") {
    section.allocated = false;
    section.kind = SectionKind::other;
  } else if (section.name == ".eh_frame" && !thread_local_data && type != elf::sht_nobits) {
    section.kind = SectionKind::unwind;
  } else if (section.kind == SectionKind::data || section.kind == SectionKind::rodata) {
    classify_init_table(type, section);
  }
}

} // namespace tenon::object

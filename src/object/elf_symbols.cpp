// The symbols, relocations and groups of an ELF64 relocatable file, whose sections are read already. See elf_reader.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "base/check.h"
#include "object/elf_pass.h"
#include "object/elf_reader.h"
#include "object/section_kind.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace tenon::object {

inline constexpr std::uint8_t invalid = 0xFF;
// By st_info: eight tests in one look. Local symbols stand before all others.
struct Infos {
  struct {
    std::uint8_t binding, type;
  } of[256];
  constexpr explicit Infos(bool locals_only) : of() {
    constexpr std::pair<unsigned, Binding> bindings[] = {{elf::stb_local, Binding::local},
                                                         {elf::stb_global, Binding::global},
                                                         {elf::stb_weak, Binding::weak},
                                                         {elf::stb_gnu_unique, Binding::unique}};
    constexpr std::pair<unsigned, SymbolType> types[] = {
        {elf::stt_notype, SymbolType::none},   {elf::stt_object, SymbolType::object},
        {elf::stt_func, SymbolType::function}, {elf::stt_section, SymbolType::section},
        {elf::stt_file, SymbolType::file},     {elf::stt_common, SymbolType::common},
        {elf::stt_tls, SymbolType::tls},       {elf::stt_gnu_ifunc, SymbolType::ifunc}};
    for (auto& info : of) info = {invalid, invalid};
    for (auto [binding_code, binding] : bindings)
      for (auto [type_code, type] : types)
        if (!locals_only || binding == Binding::local)
          of[binding_code << 4 | type_code] = {static_cast<std::uint8_t>(binding), static_cast<std::uint8_t>(type)};
  }
};
namespace {
constexpr Infos local_infos(true), all_infos(false);
} // namespace

Result<void> ElfReader::read_symbols() {
  if (symbol_table_ == 0) {
    if (extended_indices_table_ != 0)
      return malformed(section_label(extended_indices_table_) + " extends a symbol table, but there is none");
    return {};
  }
  const auto header = section_header(symbol_table_);
  const auto label = [&] { return section_label(symbol_table_); };
  if (header.entsize != sizeof(elf::Symbol))
    return malformed(label() + " has symbols of " + number(header.entsize) + " bytes; they must have 24");
  if (header.size % sizeof(elf::Symbol) != 0)
    return malformed(label() + " has the size " + number(header.size) + ", not a multiple of 24");
  if (symbol_count_ >= unusable) return unsupported(label() + " has too many symbols, " + number(symbol_count_));
  if (header.info > std::max<std::uint64_t>(symbol_count_, 1))
    return malformed(label() + " has " + number(header.info) + " local symbols (sh_info), but only " +
                     number(symbol_count_) + " in all");
  if (header.link == 0 || header.link >= section_count_)
    return malformed(label() + " has its names in section [" + number(header.link) + "], which does not exist");
  auto names = string_table(header.link, "the table of symbol names");
  if (!names) return std::move(names).error();
  symbol_names_ = *names;
  if (extended_indices_table_ != 0)
    if (auto done = read_extended_indices(); !done) return done;

  file_->first_global = std::max(header.info, 1U);
  return read_symbols_in_table();
}

Result<void> ElfReader::read_symbols_in_table() {
  const std::byte* const table = sections_[symbol_table_].content.data();
  const StringTable names = symbol_names_;
  Symbol* const symbols = symbols_;
  const std::uint32_t ordinary = std::min(section_count_, elf::shn_loreserve); // section indices that mean themselves
  std::uint64_t index = 1;
  const auto read_to = [&](std::uint64_t end, const Infos& infos) {
    for (; index < end; ++index) {
      const std::byte* at = table + index * sizeof(elf::Symbol);
      const auto name = load_le<std::uint32_t>(at + offsetof(elf::Symbol, name));
      const auto info = infos.of[load_le<std::uint8_t>(at + offsetof(elf::Symbol, info))];
      const auto section = load_le<std::uint16_t>(at + offsetof(elf::Symbol, shndx));
      if (name >= names.size || info.binding == invalid || section >= ordinary) [[unlikely]]
        return false;
      const auto other = load_le<std::uint8_t>(at + offsetof(elf::Symbol, other));
      new (symbols + index) Symbol{names.begin + name,
                                   load_le<std::uint64_t>(at + offsetof(elf::Symbol, value)),
                                   load_le<std::uint64_t>(at + offsetof(elf::Symbol, size)),
                                   section,
                                   static_cast<Binding>(info.binding),
                                   static_cast<SymbolType>(info.type),
                                   static_cast<Visibility>(other & 3),
                                   false};
    }
    return true;
  };
  const std::uint64_t locals_end = std::min<std::uint64_t>(file_->first_global, symbol_count_);
  while (!read_to(locals_end, local_infos) || !read_to(symbol_count_, all_infos)) {
    const auto odd = load_le<elf::Symbol>(table + index * sizeof(elf::Symbol));
    if (auto done = read_symbol(static_cast<std::uint32_t>(index), odd); !done) return done;
    ++index;
  }
  return {};
}

Result<void> ElfReader::read_extended_indices() {
  const auto header = section_header(extended_indices_table_);
  if (header.link != symbol_table_)
    return malformed(section_label(extended_indices_table_) + " extends section [" + number(header.link) +
                     "], which is not the symbol table");
  const Bytes content = sections_[extended_indices_table_].content;
  if (content.size() / 4 < symbol_count_)
    return malformed(section_label(extended_indices_table_) + " has " + number(content.size() / 4) + " entries for " +
                     number(symbol_count_) + " symbols");
  extended_indices_ = content.data();
  return {};
}

// A symbol that is wrong, or in no ordinary section.
Result<void> ElfReader::read_symbol(std::uint32_t index, const elf::Symbol& from) {
  Symbol& to = *new (symbols_ + index) Symbol;
  if (from.name >= symbol_names_.size)
    return malformed(symbol_label(index) + " has its name at offset " + number(from.name) + " of a table of " +
                     number(symbol_names_.size) + " bytes");
  to.name_begin = symbol_names_.begin + from.name;
  const unsigned binding = from.info >> 4;
  const unsigned type = from.info & 15U;
  // Each with a companion that is known.
  if (all_infos.of[binding << 4 | elf::stt_notype].binding == invalid)
    return malformed(symbol_label(index) + " has the unknown binding " + number(binding));
  if (all_infos.of[elf::stb_local << 4 | type].type == invalid)
    return malformed(symbol_label(index) + " has the unknown type " + number(type));
  if (index < file_->first_global && binding != elf::stb_local)
    return malformed(symbol_label(index) + " is not local, but stands among the local symbols (sh_info is " +
                     number(file_->first_global) + ")");
  to.value = from.value;
  to.size = from.size;
  to.binding = static_cast<Binding>(all_infos.of[from.info].binding);
  to.type = static_cast<SymbolType>(all_infos.of[from.info].type);
  to.visibility = static_cast<Visibility>(from.other & 3);
  return read_special_section(index, from, to);
}

Result<void> ElfReader::read_special_section(std::uint32_t index, const elf::Symbol& from, Symbol& to) {
  std::uint32_t section = from.shndx;
  if (section == elf::shn_abs) {
    to.section = section_absolute;
    return {};
  }
  const bool large = machine_ == Machine::x86_64 && section == elf::shn_x86_64_lcommon;
  if (section == elf::shn_common || large) {
    to.section = section_common;
    to.large_common = large;
    to.value = std::max<std::uint64_t>(to.value, 1);
    if (!base::is_power_of_two(to.value) || to.value > max_alignment)
      return malformed(symbol_label(index) + " is common with the impossible alignment " + hex(to.value));
    if (to.size > max_memory_size)
      return malformed(symbol_label(index) + " is common with the impossible size " + hex(to.size));
    return {};
  }
  if (section == elf::shn_xindex) {
    if (extended_indices_ == nullptr)
      return malformed(symbol_label(index) + " has its section in an SHT_SYMTAB_SHNDX table, but there is none");
    section = load_le<std::uint32_t>(extended_indices_ + std::size_t(index) * 4);
  } else if (section >= elf::shn_loreserve) {
    return malformed(symbol_label(index) + " is in the unknown reserved section " + hex(section));
  }
  if (section >= section_count_)
    return malformed(symbol_label(index) + " is in section [" + number(section) + "], but there are only " +
                     number(section_count_));
  to.section = section;
  return {};
}

// --- Relocations ---

// Those that are special, or wrong: SectionPass has taken all others.
Result<void> ElfReader::read_relocations_left() {
  for (std::uint32_t index = 1; index < section_count_; ++index) {
    if (!holds_relocations(section_type(index))) continue;
    const std::uint32_t target = header_at(index).info();
    if (target < section_count_ && relocation_tables_[target].section == index) continue;
    if (auto done = read_relocation_section(index); !done) return done;
  }
  return {};
}

Result<void> ElfReader::read_relocation_section(std::uint32_t index) {
  const auto header = section_header(index);
  const auto label = [&] { return section_label(index); }; // messages are made when there is something to say
  if (header.info == 0 || header.info >= section_count_)
    return malformed(label() + " has relocations for section [" + number(header.info) + "], which does not exist");
  const auto for_target = [&] { return " (for " + section_label(header.info) + ")"; };
  const std::uint32_t target_type = section_type(header.info);
  if (holds_relocations(target_type))
    return malformed(label() + " has relocations for another relocation section" + for_target());
  if (is_format_table(target_type)) return malformed(label() + " has relocations for a table of the file" + for_target());
  if (header.size == 0) return {};
  if (header.type != elf::sht_rela) {
    // LLVM writes SHT_REL for its call graph profile, which is not for linking.
    if (sections_[header.info].kind == SectionKind::other) return {};
    return unsupported(label() + for_target() + " is of type " + hex(header.type) +
                       (header.type == elf::sht_rel ? " (SHT_REL)" : "") + "; only SHT_RELA is read");
  }
  if (target_type == elf::sht_nobits)
    return malformed(label() + " has relocations for a section without content" + for_target());
  if (header.entsize != elf::rela_size || header.size % elf::rela_size != 0)
    return malformed(label() + " has relocations of " + number(header.entsize) + " bytes in " + number(header.size) +
                     "; they must have 24");
  if (header.link != symbol_table_)
    return malformed(label() + " uses section [" + number(header.link) + "] as its symbol table, which it is not");
  const std::uint64_t count = header.size / elf::rela_size;
  if (count > std::numeric_limits<std::uint32_t>::max())
    return unsupported(label() + " has too many relocations, " + number(count));
  RelocationTable& table = relocation_tables_[header.info];
  if (table.section != 0)
    return unsupported(section_label(std::max(index, table.section)) + " is a second relocation section" + for_target() +
                       " beside " + section_label(std::min(index, table.section)));
  table = {reinterpret_cast<const Relocation*>(sections_[index].content.data()), static_cast<std::uint32_t>(count), index};
  if (!sections_[header.info].allocated) return {};
  return check_relocations(*file_, header.info);
}

// --- Groups ---

Result<void> ElfReader::read_groups() {
  for (std::uint32_t index = 1; index < section_count_; ++index)
    if (section_type(index) == elf::sht_group)
      if (auto done = read_group(index); !done) return done;
  return {};
}

Result<void> ElfReader::read_group(std::uint32_t index) {
  const auto label = [&] { return "group " + section_label(index); };
  const SectionHeaderView header = header_at(index);
  const Bytes content = sections_[index].content;
  if (content.size() < 4 || content.size() % 4 != 0)
    return malformed(label() + " has " + number(content.size()) + " bytes, not a multiple of 4 above zero");
  const std::uint32_t signed_by = header.info();
  if (symbol_table_ == 0 || header.link() != symbol_table_)
    return malformed(label() + " uses section [" + number(header.link()) + "] as its symbol table, which it is not");
  if (signed_by == 0 || signed_by >= file_->symbols.size())
    return malformed(label() + " is signed by symbol [" + number(signed_by) + "], which does not exist");
  const std::byte* words = content.data();
  const auto flags = load_le<std::uint32_t>(words);
  if ((flags & ~elf::grp_comdat) != 0) return unsupported(label() + " has the unknown flags " + hex(flags));

  TENON_CHECK(groups_read_ < group_count_, "more groups than there were: the bytes have changed while they were read");
  Group& group = *new (groups_ + groups_read_) Group;
  group.comdat = (flags & elf::grp_comdat) != 0;
  const Symbol& signature = symbols_[signed_by];
  group.signature = signature.name();
  if (signature.type == SymbolType::section && group.signature.empty() && signature.section < section_count_)
    group.signature = sections_[signature.section].name;
  if (!count_name(group.signature.size())) return too_many_names(index);
  if (group.comdat && group.signature.empty())
    return malformed(label() + " is signed by " + symbol_label(signed_by) + ", which has no name");

  const std::uint64_t first = members_read_;
  for (std::size_t offset = 4; offset < content.size(); offset += 4) {
    const auto member = load_le<std::uint32_t>(words + offset);
    if (member == 0 || member >= section_count_)
      return malformed(label() + " contains section [" + number(member) + "], which does not exist");
    if (section_type(member) == elf::sht_group)
      return malformed(label() +
                       (member == index ? " contains itself" : " contains another group, " + section_label(member)) +
                       ": groups are cyclic or nested");
    Section& section = sections_[member];
    if (section.group >= 0) return malformed(section_label(member) + " is in two groups, the second being " + label());
    section.group = static_cast<std::int32_t>(groups_read_);
    TENON_CHECK(members_read_ < member_count_, "a group has grown: the bytes have changed while they were read");
    members_[members_read_++] = member;
  }
  group.sections = {members_ + first, members_read_ - first};
  ++groups_read_;
  return {};
}

Result<void> check_relocations(const Object::File& file, std::uint32_t index) {
  const auto relocations = file.relocations_in_place(index);
  if (relocations_in_range(relocations, file.symbols.size())) return {};
  const auto bad = std::find_if(relocations.begin(), relocations.end(),
                                [&](const Relocation& relocation) { return relocation.symbol >= file.symbols.size(); });
  return Error{ErrorCode::malformed,
               file.name + ": relocation " + number(static_cast<std::uint64_t>(bad - relocations.begin())) +
                   " of section [" + number(index) + "] " + base::printable(file.sections[index].name) + " names symbol [" +
                   number(bad->symbol) + "], but there are only " + number(file.symbols.size())};
}

} // namespace tenon::object

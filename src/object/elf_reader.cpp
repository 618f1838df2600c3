// An ELF64 relocatable file: header, section headers, symbols, relocation sections, groups. (System V gABI; psABI x86-64.)
// Everything that the rest of the linker indexes with is checked here, so that nothing behind this file checks again.
//
// What it costs: 64 bytes read per section, 24 per symbol, 4 per relocation of an allocated section, and flat tables
// written, which one look over the sections' types measures, so that they are one piece of memory. Section contents are not
// touched, but for the header of a compressed one. The sum of all section sizes is held against the file's size before
// anything is done with them, so that no file can make this take more than linear time or memory by overlapping sections.
//
// What passes over all sections, symbols and relocations only finds out whether all is well, in as few instructions as may
// be. If not, another function goes over the one that is wrong and says what is: section_fault(), read_symbol(),
// read_relocation_section().
//
// Strict where GNU ld is; lenient as it is about local symbols behind sh_info, values of symbols, flags without meaning
// here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/elf_reader.h"

#include "base/align.h"
#include "object/elf_pass.h"
#include "object/section_kind.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace tenon::object {

Result<void> ElfReader::survey() {
  if (auto done = read_header(); !done) return done;
  if (auto done = read_section_table_place(); !done) return done;
  if (auto done = read_section_names(); !done) return done;
  count_tables();
  return {};
}

Result<void> ElfReader::read(Object::File& file, std::byte* tables) {
  file_ = &file;
  name_ = &file.name;
  file.machine = machine_;
  lay_out(tables);
  if (auto done = read_sections(); !done) return done;
  if (auto done = read_symbols(); !done) return done;
  if (relocations_left_)
    if (auto done = read_relocations_left(); !done) return done;
  if (group_count_ == 0) return {};
  return read_groups();
}

// --- The file ---

const char* machine_name(std::uint16_t machine) {
  switch (machine) {
  case elf::em_386: return "i386";
  case elf::em_ppc64: return "PowerPC64";
  case elf::em_s390: return "S/390";
  case elf::em_arm: return "ARM";
  case elf::em_x86_64: return "x86-64";
  case elf::em_bpf: return "BPF";
  case elf::em_loongarch: return "LoongArch";
  default: return nullptr;
  }
}

Result<void> ElfReader::read_header() {
  const auto truncated = [&] {
    return malformed("is truncated: an ELF header is 64 bytes long, the file " + number(bytes_.size()));
  };
  if (bytes_.size() < 16) return truncated();
  const auto* ident = reinterpret_cast<const unsigned char*>(bytes_.data());
  if (ident[4] == elf::class_32) return unsupported("is a 32-bit ELF file; only 64-bit ones are read");
  if (ident[4] != elf::class_64) return malformed("has ELF class " + number(ident[4]) + ", neither 32-bit nor 64-bit");
  if (ident[5] == elf::data_big) return unsupported("is a big-endian ELF file; only little-endian ones are read");
  if (ident[5] != elf::data_little)
    return malformed("has ELF data encoding " + number(ident[5]) + ", neither little- nor big-endian");
  if (bytes_.size() < sizeof(elf::Header)) return truncated();
  header_ = load_le<elf::Header>(bytes_.data());
  if (ident[6] != elf::version_current || header_.version != elf::version_current)
    return unsupported("has ELF version " + number(ident[6] != elf::version_current ? ident[6] : header_.version) +
                       ", not 1");
  switch (header_.type) {
  case elf::et_rel: break;
  case elf::et_exec: return unsupported("is an executable, not a relocatable object");
  case elf::et_dyn: return unsupported("is a shared library, not a relocatable object");
  case elf::et_core: return unsupported("is a core dump, not a relocatable object");
  default: return unsupported("has ELF type " + number(header_.type) + ", not that of a relocatable object");
  }
  switch (header_.machine) {
  case elf::em_x86_64: machine_ = Machine::x86_64; break;
  case elf::em_aarch64: machine_ = Machine::aarch64; break;
  case elf::em_riscv: machine_ = Machine::riscv64; break;
  default: {
    const char* name = machine_name(header_.machine);
    return unsupported("is for machine " + number(header_.machine) +
                       (name ? std::string(" (") + name + ")" : std::string()) + ", which is not supported");
  }
  }
  return {};
}

// Where the section headers are and how many: with 65,280 sections and more, the numbers stand in section 0 (gABI, "ELF
// Header").
Result<void> ElfReader::read_section_table_place() {
  constexpr std::uint64_t entry = sizeof(elf::SectionHeader);
  if (header_.shoff == 0) {
    if (header_.shnum != 0) return malformed("has " + number(header_.shnum) + " sections, but no section header table");
    return {};
  }
  if (header_.shentsize != entry)
    return malformed("has section headers of " + number(header_.shentsize) + " bytes; they must have 64");
  if (header_.shoff < sizeof(elf::Header))
    return malformed("has its section header table at offset " + number(header_.shoff) + ", inside the ELF header");
  if (!base::range_fits(header_.shoff, entry, bytes_.size()))
    return malformed("is truncated: the section header table at offset " + number(header_.shoff) +
                     " lies past the end of the " + "file, " + number(bytes_.size()) + " bytes");
  const auto first = section_header(0);
  const std::uint64_t count = header_.shnum != 0 ? header_.shnum : first.size;
  if (count == 0) return malformed("has a section header table, but no section");
  if (header_.shnum >= elf::shn_loreserve || count >= unusable)
    return malformed("has an impossible number of sections, " + number(count));
  if (count > (bytes_.size() - header_.shoff) / entry)
    return malformed("is truncated: " + number(count) + " section headers at offset " + number(header_.shoff) +
                     " reach past the end of the file, " + number(bytes_.size()) + " bytes");
  section_count_ = static_cast<std::uint32_t>(count);
  headers_end_ = header_.shoff + count * entry;
  section_names_index_ = header_.shstrndx == elf::shn_xindex ? first.link : header_.shstrndx;
  if (section_names_index_ >= section_count_)
    return malformed("has its section names in section [" + number(section_names_index_) + "], but only " + number(count) +
                     " sections");
  return {};
}

// `user` is what needs the table, for messages. The range is checked here because section names are read before sections
// are.
Result<StringTable> ElfReader::string_table(std::uint32_t index, std::string_view user) const {
  const SectionHeaderView header = header_at(index);
  const std::uint32_t type = header.type();
  const std::uint64_t offset = header.offset(), size = header.size();
  const auto label = [&] { return std::string(user) + " (" + section_label(index) + ")"; };
  if (type != elf::sht_strtab) return malformed(label() + " is of type " + hex(type) + ", not a string table");
  if (!base::range_fits(offset, size, bytes_.size())) return malformed(label() + " reaches past the end of the file");
  if (size == 0) return StringTable{};
  if (*at(offset + size - 1) != std::byte(0)) return malformed(label() + " is unterminated: its last byte is not NUL");
  return StringTable{reinterpret_cast<const char*>(at(offset)), size};
}

Result<void> ElfReader::read_section_names() {
  if (section_names_index_ == elf::shn_undef) return {};
  auto table = string_table(section_names_index_, "the table of section names");
  if (!table) return std::move(table).error();
  section_names_ = *table;
  return {};
}

// --- Room for the tables ---

// By the types alone: sizes that can't be are found when the sections are read, and must only not ask for too much here.
void ElfReader::count_tables() noexcept {
  constexpr std::size_t entry = sizeof(elf::SectionHeader);
  const std::byte* header = at(header_.shoff);
  std::uint32_t tables = 0;
  for (std::uint32_t index = 1; index < section_count_; ++index) {
    const SectionHeaderView one(header += entry);
    const std::uint32_t type = one.type();
    if (!is_format_table(type)) continue;
    ++tables;
    if (holds_relocations(type)) {
      has_relocations_ = true;
    } else if (type == elf::sht_group) {
      ++group_count_;
      member_count_ += std::min<std::uint64_t>(one.size() / 4, section_count_);
    } else if (type == elf::sht_symtab && symbol_table_ == 0) {
      symbol_table_ = index;
      symbol_count_ = one.size() <= bytes_.size() ? one.size() / sizeof(elf::Symbol) : 0;
    } else if (type == elf::sht_symtab_shndx && extended_indices_table_ == 0) {
      extended_indices_table_ = index;
    }
  }
  contents_count_ = section_count_ - tables;
  member_count_ = std::min<std::uint64_t>(member_count_, section_count_); // no section is in two groups
}

// Each count is below the size of the file, divided by that of its record there.
std::size_t ElfReader::tables_size() const noexcept {
  return cache_line - 1 + std::max(section_count_, 1U) * sizeof(Section) +
         std::max<std::uint64_t>(symbol_count_, 1) * sizeof(Symbol) +
         (has_relocations_ ? section_count_ * sizeof(RelocationTable) : 0) + group_count_ * sizeof(Group) +
         (contents_count_ + member_count_) * sizeof(std::uint32_t);
}

// Sections first, each in a cache line of its own. Nothing of it is destroyed, it is only given back.
void ElfReader::lay_out(std::byte* tables) noexcept {
  static_assert(std::is_trivially_destructible_v<Section> && std::is_trivially_destructible_v<Symbol> &&
                std::is_trivially_destructible_v<RelocationTable> && std::is_trivially_destructible_v<Group>);
  static_assert(sizeof(Section) == cache_line && alignof(Symbol) == alignof(Section) &&
                alignof(RelocationTable) == alignof(Section) && alignof(Group) == alignof(Section));
  const std::size_t section_count = std::max(section_count_, 1U);
  const std::size_t symbol_count = std::max<std::uint64_t>(symbol_count_, 1);
  const std::size_t relocation_tables = has_relocations_ ? section_count_ : 0;
  const auto first = base::align_up(reinterpret_cast<std::uintptr_t>(tables), cache_line);
  sections_ = reinterpret_cast<Section*>(first);
  symbols_ = reinterpret_cast<Symbol*>(sections_ + section_count);
  relocation_tables_ = reinterpret_cast<RelocationTable*>(symbols_ + symbol_count);
  groups_ = reinterpret_cast<Group*>(relocation_tables_ + relocation_tables);
  contents_ = reinterpret_cast<std::uint32_t*>(groups_ + group_count_);
  members_ = contents_ + contents_count_;
  new (sections_) Section;
  new (symbols_) Symbol;
  std::memset(static_cast<void*>(relocation_tables_), 0, relocation_tables * sizeof(RelocationTable)); // none
  file_->sections = {sections_, section_count};
  file_->symbols = {symbols_, symbol_count};
  file_->relocation_tables = {relocation_tables_, relocation_tables};
  file_->groups = {groups_, group_count_};
}

namespace {

// Gives std::allocate_shared a piece of memory with room for the tables behind what it makes.
struct Room {
  std::size_t size;
  std::byte* begin;
};
template <class T> class WithRoom {
public:
  using value_type = T;
  explicit WithRoom(Room& room) noexcept : room_(&room) {}
  template <class U> WithRoom(const WithRoom<U>& other) noexcept : room_(other.room_) {}
  T* allocate(std::size_t count) {
    auto* memory = static_cast<std::byte*>(::operator new(count * sizeof(T) + room_->size));
    room_->begin = memory + count * sizeof(T);
    return reinterpret_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) noexcept { ::operator delete(static_cast<void*>(memory)); }
  template <class U> bool operator==(const WithRoom<U>& other) const noexcept { return room_ == other.room_; }

private:
  template <class U> friend class WithRoom;
  Room* room_; // alive while allocate() may be called
};

} // namespace

Result<std::shared_ptr<const Object::File>> read_elf(Bytes bytes, std::shared_ptr<const void> owner, std::string name) {
  ElfReader reader(bytes, name);
  if (auto done = reader.survey(); !done) return done.error();
  Room room{reader.tables_size(), nullptr};
  auto file = std::allocate_shared<Object::File>(WithRoom<Object::File>(room));
  file->name = std::move(name);
  file->bytes = bytes;
  file->owner = std::move(owner);
  if (auto done = reader.read(*file, room.begin); !done) return done.error();
  return std::shared_ptr<const Object::File>(std::move(file));
}

} // namespace tenon::object

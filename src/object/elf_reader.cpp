// One pass over an ELF64 relocatable file: header, section headers, symbols, relocation sections, groups. (System V gABI;
// psABI x86-64.) Everything that the rest of the linker indexes with is checked here, so that nothing behind this file
// checks again.
//
// What it costs: 64 bytes read per section, 24 per symbol, 4 per relocation of an allocated section, and three flat arrays
// written. Section contents are not touched, but for the header of a compressed one. The sum of all section sizes is held
// against the file's size before anything is done with them, so that no file can make this take more than linear time or
// memory by overlapping sections.
//
// Strict where GNU ld is; lenient as it is about local symbols behind sh_info, values of symbols, flags without meaning
// here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/elf_reader.h"

#include "base/align.h"
#include "base/bytes.h"
#include "base/printable.h"
#include "object/elf_format.h"
#include "object/section_kind.h"

#include <algorithm>
#include <limits>

namespace tenon::object {

namespace {

using base::load_le;

static_assert(sizeof(Relocation) == elf::rela_size && offsetof(Relocation, offset) == 0 && offsetof(Relocation, type) == 8 &&
                  offsetof(Relocation, symbol) == 12 && offsetof(Relocation, addend) == 16 && alignof(Relocation) == 1,
              "Relocation is a view of Elf64_Rela");

constexpr std::uint64_t max_alignment = std::uint64_t(1) << 31;
constexpr std::uint64_t max_memory_size = std::uint64_t(1) << 47; // of the user half of the address space
constexpr std::uint32_t unusable = 0xFFFFFFF0;                    // indices from here on mean section_absolute and the like

std::string hex(std::uint64_t value) {
  std::string text;
  do {
    text.insert(text.begin(), "0123456789abcdef"[value & 15]);
    value >>= 4;
  } while (value != 0);
  return "0x" + text;
}
std::string number(std::uint64_t value) { return std::to_string(value); }

// A string table that ends in NUL, so that any offset below its size is a terminated string.
struct StringTable {
  const char* begin = "";
  std::uint64_t size = 1;
};

class Reader {
public:
  explicit Reader(Object::File& file) : file_(file), bytes_(file.bytes) {}
  Result<void> read();

private:
  Result<void> read_header();
  Result<void> read_section_table_place();
  Result<void> read_section_names();
  Result<void> read_sections();
  bool read_table(const elf::SectionHeader& header, Section& section) noexcept;
  Result<void> read_section(std::uint32_t index, const elf::SectionHeader& header);
  Result<void> read_compression(std::uint32_t index, const elf::SectionHeader& header);
  Result<void> find_tables(std::uint32_t index, const elf::SectionHeader& header);
  Result<void> read_symbols();
  Result<void> read_extended_indices(std::uint64_t symbol_count);
  Result<void> read_symbol(std::uint32_t index, const elf::Symbol& from, Symbol& to);
  Result<void> read_special_section(std::uint32_t index, const elf::Symbol& from, Symbol& to);
  Result<void> read_relocation_section(std::uint32_t index, const elf::SectionHeader& header);
  Result<void> read_groups();
  Result<void> read_group(std::uint32_t index, const elf::SectionHeader& header);
  std::string_view section_name(std::uint32_t offset, std::uint32_t type);
  // Names lie anywhere in their table: each is a cache miss unless it is asked for ahead.
  void prefetch_name(std::uint32_t index) const noexcept {
    if (index >= section_count_) return;
    const auto offset = load_le<std::uint32_t>(at(header_.shoff + std::uint64_t(index) * sizeof(elf::SectionHeader)));
    if (offset < section_names_.size) __builtin_prefetch(section_names_.begin + offset);
  }
  bool count_name(std::uint64_t length) noexcept;
  Error too_many_names(std::uint32_t section) const;
  Result<StringTable> string_table(std::uint32_t index, std::string_view user) const;

  const std::byte* at(std::uint64_t offset) const noexcept { return bytes_.data() + offset; }
  elf::SectionHeader section_header(std::uint32_t index) const noexcept {
    return load_le<elf::SectionHeader>(at(header_.shoff + std::uint64_t(index) * sizeof(elf::SectionHeader)));
  }
  std::uint32_t section_type(std::uint32_t index) const noexcept {
    return load_le<std::uint32_t>(at(header_.shoff + std::uint64_t(index) * sizeof(elf::SectionHeader) + 4));
  }
  std::string section_label(std::uint32_t index) const {
    std::string label = "section [" + number(index) + "]";
    if (index < file_.sections.size() && !file_.sections[index].name.empty())
      label += " " + base::printable(file_.sections[index].name);
    return label;
  }
  std::string symbol_label(std::uint32_t index) const {
    std::string label = "symbol [" + number(index) + "]";
    if (*file_.symbols[index].name_begin != '\0') label += " " + base::printable(file_.symbols[index].name());
    return label;
  }
  Error malformed(const std::string& what) const { return {ErrorCode::malformed, file_.name + ": " + what}; }
  Error unsupported(const std::string& what) const { return {ErrorCode::unsupported, file_.name + ": " + what}; }

  Object::File& file_;
  Bytes bytes_;
  elf::Header header_{};
  std::uint32_t section_count_ = 0;
  std::uint32_t section_names_index_ = 0;
  StringTable section_names_;
  std::string_view last_name_, last_group_name_;                                            // see section_name()
  std::uint64_t last_name_at_ = ~std::uint64_t(0), last_group_name_at_ = ~std::uint64_t(0); // in the table
  StringTable symbol_names_;
  std::uint64_t content_size_ = 0; // of all sections so far
  std::uint64_t names_size_ = 0;   // of the names whose lengths were taken so far
  std::uint32_t symbol_table_ = 0;
  std::uint32_t extended_indices_table_ = 0;
  const std::byte* extended_indices_ = nullptr;
  std::uint32_t group_count_ = 0;
  bool has_relocations_ = false;
};

Result<void> Reader::read() {
  using Step = Result<void> (Reader::*)();
  for (Step step : {&Reader::read_header, &Reader::read_section_table_place, &Reader::read_section_names,
                    &Reader::read_sections, &Reader::read_symbols})
    if (auto done = (this->*step)(); !done) return done;
  if (has_relocations_) {
    file_.relocation_tables.resize(section_count_);
    for (std::uint32_t index = 1; index < section_count_; ++index) {
      if (!holds_relocations(section_type(index))) continue;
      if (auto done = read_relocation_section(index, section_header(index)); !done) return done;
    }
  }
  return read_groups();
}

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

Result<void> Reader::read_header() {
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
  case elf::em_x86_64: file_.machine = Machine::x86_64; break;
  case elf::em_aarch64: file_.machine = Machine::aarch64; break;
  case elf::em_riscv: file_.machine = Machine::riscv64; break;
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
Result<void> Reader::read_section_table_place() {
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
  section_names_index_ = header_.shstrndx == elf::shn_xindex ? first.link : header_.shstrndx;
  if (section_names_index_ >= section_count_)
    return malformed("has its section names in section [" + number(section_names_index_) + "], but only " + number(count) +
                     " sections");
  return {};
}

// `user` is what needs the table, for messages. The range is checked here because section names are read before sections
// are.
Result<StringTable> Reader::string_table(std::uint32_t index, std::string_view user) const {
  const auto header = section_header(index);
  const auto label = [&] { return std::string(user) + " (" + section_label(index) + ")"; };
  if (header.type != elf::sht_strtab) return malformed(label() + " is of type " + hex(header.type) + ", not a string table");
  if (!base::range_fits(header.offset, header.size, bytes_.size()))
    return malformed(label() + " reaches past the end of the file");
  if (header.size == 0) return StringTable{};
  if (*at(header.offset + header.size - 1) != std::byte(0))
    return malformed(label() + " is unterminated: its last byte is not NUL");
  return StringTable{reinterpret_cast<const char*>(at(header.offset)), header.size};
}

// Real names share their ends at most, so their lengths sum up to little more than the table. Names that all begin at the
// front of one long string would make the time quadratic.
bool Reader::count_name(std::uint64_t length) noexcept {
  names_size_ += length;
  return names_size_ / 64 <= bytes_.size();
}
Error Reader::too_many_names(std::uint32_t section) const {
  return malformed("section [" + number(section) + "] brings the names of sections and groups to the impossible total of " +
                   number(names_size_) + " bytes");
}

// The name at an offset inside of the table. Most need not be read to their ends: all groups are called ".group", and the
// section of relocations that follows section X is called ".relaX", whose end string tables share with X.
std::string_view Reader::section_name(std::uint32_t offset, std::uint32_t type) {
  constexpr std::string_view rela = ".rela";
  const char* begin = section_names_.begin + offset;
  if (begin + rela.size() == last_name_.data() && std::memcmp(begin, rela.data(), rela.size()) == 0)
    return {begin, last_name_.size() + rela.size()};
  if (type == elf::sht_group && begin == last_group_name_.data()) return last_group_name_;
  const std::string_view name = begin;
  (type == elf::sht_group ? last_group_name_ : last_name_) = name;
  (type == elf::sht_group ? last_group_name_at_ : last_name_at_) = offset;
  return name;
}

Result<void> Reader::read_section_names() {
  if (section_names_index_ == elf::shn_undef) return {};
  auto table = string_table(section_names_index_, "the table of section names");
  if (!table) return std::move(table).error();
  section_names_ = *table;
  return {};
}

Result<void> Reader::read_sections() {
  file_.sections.resize(std::max(section_count_, 1U)); // the count is below the file's size / 64
  for (std::uint32_t index = 1; index < section_count_; ++index) {
    prefetch_name(index + 12);
    const elf::SectionHeader header = section_header(index);
    has_relocations_ |= holds_relocations(header.type);
    if (read_table(header, file_.sections[index])) continue;
    if (auto done = read_section(index, header); !done) return done;
  }
  return {};
}

// Half of a program's sections hold relocations or groups, whose names need not be read, and of which nothing is known but
// where they are. False, and nothing is done: whatever is special, or wrong, is for read_section().
bool Reader::read_table(const elf::SectionHeader& header, Section& section) noexcept {
  constexpr std::uint64_t special = elf::shf_write | elf::shf_alloc | elf::shf_execinstr | elf::shf_strings |
                                    elf::shf_link_order | elf::shf_compressed | elf::shf_gnu_retain | elf::shf_x86_64_large |
                                    elf::shf_exclude;
  constexpr std::string_view rela = ".rela";
  std::size_t name_size = 0;
  if (header.type == elf::sht_rela && header.name + rela.size() == last_name_at_ &&
      std::memcmp(section_names_.begin + header.name, rela.data(), rela.size()) == 0)
    name_size = last_name_.size() + rela.size();
  else if (header.type == elf::sht_group && header.name == last_group_name_at_)
    name_size = last_group_name_.size();
  else
    return false;
  const std::uint64_t headers_size = std::uint64_t(section_count_) * sizeof(elf::SectionHeader);
  if ((header.flags & special) != 0 || header.size == 0 || header.offset < sizeof(elf::Header) ||
      !base::range_fits(header.offset, header.size, bytes_.size()) ||
      base::ranges_overlap(header.offset, header.size, header_.shoff, headers_size) ||
      header.size > bytes_.size() - content_size_ || header.addralign == 0 || header.addralign > 64 ||
      !base::is_power_of_two(header.addralign) || !count_name(name_size))
    return false;
  content_size_ += header.size;
  section.name = {section_names_.begin + header.name, name_size};
  section.content = bytes_.subspan(header.offset, header.size);
  section.size = header.size;
  section.alignment = static_cast<std::uint32_t>(header.addralign);
  group_count_ += header.type == elf::sht_group;
  return true;
}

Result<void> Reader::read_section(std::uint32_t index, const elf::SectionHeader& header) {
  Section& section = file_.sections[index];
  if (header.name >= section_names_.size)
    return malformed(section_label(index) + " has its name at offset " + number(header.name) + " of a table of " +
                     number(section_names_.size) + " bytes");
  section.name = section_name(header.name, header.type);
  if (!count_name(section.name.size())) return too_many_names(index);
  if (header.type == elf::sht_null) return {};
  classify(header, file_.machine, section);

  if (header.type != elf::sht_nobits && header.size != 0) {
    if (!base::range_fits(header.offset, header.size, bytes_.size()))
      return malformed(section_label(index) + " lies outside the file: offset " + number(header.offset) + ", size " +
                       number(header.size) + ", file size " + number(bytes_.size()));
    const std::uint64_t headers_size = std::uint64_t(section_count_) * sizeof(elf::SectionHeader);
    if (header.offset < sizeof(elf::Header) || base::ranges_overlap(header.offset, header.size, header_.shoff, headers_size))
      return malformed(section_label(index) + " overlaps the " +
                       (header.offset < sizeof(elf::Header) ? "ELF header" : "section header table"));
    content_size_ += header.size; // at most the sum of section_count_ sizes, each below the file's: no overflow
    if (content_size_ > bytes_.size())
      return malformed(section_label(index) + " overlaps another section: the sections up to it have " +
                       number(content_size_) + " bytes, the file " + number(bytes_.size()));
    section.content = bytes_.subspan(header.offset, header.size);
  }
  section.size = header.size;
  if (header.type == elf::sht_nobits && header.size > max_memory_size)
    return malformed(section_label(index) + " has the impossible size " + hex(header.size));

  const std::uint64_t alignment = header.addralign == 0 ? 1 : header.addralign;
  if (!base::is_power_of_two(alignment))
    return malformed(section_label(index) + " has alignment " + hex(alignment) + ", which is not a power of two");
  if (alignment > max_alignment) return malformed(section_label(index) + " has the impossible alignment " + hex(alignment));
  section.alignment = static_cast<std::uint32_t>(alignment);
  if (section.mergeable) {
    if (header.entsize > std::numeric_limits<std::uint32_t>::max())
      return malformed(section_label(index) + " has the impossible entry size " + hex(header.entsize));
    section.entry_size = static_cast<std::uint32_t>(header.entsize);
  }
  if ((header.flags & elf::shf_link_order) != 0) {
    if (header.link >= section_count_)
      return malformed(section_label(index) + " is ordered by section [" + number(header.link) + "], which does not exist");
    section.link_order = header.link;
  }
  if ((header.flags & elf::shf_compressed) != 0 || section.kind == SectionKind::debug)
    if (auto done = read_compression(index, header); !done) return done;
  group_count_ += header.type == elf::sht_group;
  if (header.type != elf::sht_symtab && header.type != elf::sht_symtab_shndx) return {};
  return find_tables(index, header);
}

// How big it will be; the rest of the compression header is for who asks for the bytes (compressed.cpp).
Result<void> Reader::read_compression(std::uint32_t index, const elf::SectionHeader& header) {
  Section& section = file_.sections[index];
  if ((header.flags & elf::shf_compressed) != 0) {
    if ((header.flags & elf::shf_alloc) != 0 || header.type == elf::sht_nobits)
      return malformed(section_label(index) + " is compressed, which a section of the program can't be");
    if (section.content.size() < sizeof(elf::CompressionHeader))
      return malformed(section_label(index) + " is too short for the header of a compressed section");
    const auto compression = load_le<elf::CompressionHeader>(section.content.data());
    if (compression.addralign != 0 && !base::is_power_of_two(compression.addralign))
      return malformed(section_label(index) + " has alignment " + hex(compression.addralign) +
                       ", which is not a power of two");
    if (compression.addralign > max_alignment)
      return malformed(section_label(index) + " has the impossible alignment " + hex(compression.addralign));
    section.compressed = true;
    section.size = compression.size;
    section.alignment = std::max(static_cast<std::uint32_t>(compression.addralign), 1U);
  } else if (section.kind == SectionKind::debug && section.name.starts_with(".zdebug") && section.content.size() >= 12 &&
             std::memcmp(section.content.data(), "ZLIB", 4) == 0) {
    section.compressed = true;
    section.size = base::load_be<std::uint64_t>(section.content.data() + 4);
  }
  return {};
}

// Remembers the symbol table and its extension.
Result<void> Reader::find_tables(std::uint32_t index, const elf::SectionHeader& header) {
  std::uint32_t* place = header.type == elf::sht_symtab         ? &symbol_table_
                         : header.type == elf::sht_symtab_shndx ? &extended_indices_table_
                                                                : nullptr;
  if (place != nullptr) {
    if (*place != 0)
      return malformed(section_label(index) + " is a second table of its kind beside section [" + number(*place) + "]");
    *place = index;
  }
  return {};
}

// --- Symbols ---

constexpr std::uint8_t invalid = 0xFF;
constexpr std::uint8_t to_byte(Binding value) { return static_cast<std::uint8_t>(value); }
constexpr std::uint8_t to_byte(SymbolType value) { return static_cast<std::uint8_t>(value); }

struct InfoTables {
  std::uint8_t binding[16];
  std::uint8_t type[16];
  constexpr InfoTables() : binding(), type() {
    std::fill(binding, binding + 16, invalid);
    std::fill(type, type + 16, invalid);
    binding[elf::stb_local] = to_byte(Binding::local);
    binding[elf::stb_global] = to_byte(Binding::global);
    binding[elf::stb_weak] = to_byte(Binding::weak);
    binding[elf::stb_gnu_unique] = to_byte(Binding::unique);
    type[elf::stt_notype] = to_byte(SymbolType::none);
    type[elf::stt_object] = to_byte(SymbolType::object);
    type[elf::stt_func] = to_byte(SymbolType::function);
    type[elf::stt_section] = to_byte(SymbolType::section);
    type[elf::stt_file] = to_byte(SymbolType::file);
    type[elf::stt_common] = to_byte(SymbolType::common);
    type[elf::stt_tls] = to_byte(SymbolType::tls);
    type[elf::stt_gnu_ifunc] = to_byte(SymbolType::ifunc);
  }
};
constexpr InfoTables info_tables;

Result<void> Reader::read_symbols() {
  if (symbol_table_ == 0) {
    if (extended_indices_table_ != 0)
      return malformed(section_label(extended_indices_table_) + " extends a symbol table, but there is none");
    file_.symbols.resize(1);
    return {};
  }
  const auto header = section_header(symbol_table_);
  const auto label = [&] { return section_label(symbol_table_); };
  if (header.entsize != sizeof(elf::Symbol))
    return malformed(label() + " has symbols of " + number(header.entsize) + " bytes; they must have 24");
  if (header.size % sizeof(elf::Symbol) != 0)
    return malformed(label() + " has the size " + number(header.size) + ", not a multiple of 24");
  const std::uint64_t count = header.size / sizeof(elf::Symbol);
  if (count >= unusable) return unsupported(label() + " has too many symbols, " + number(count));
  if (header.info > std::max<std::uint64_t>(count, 1))
    return malformed(label() + " has " + number(header.info) + " local symbols (sh_info), but only " + number(count) +
                     " in all");
  if (header.link == 0 || header.link >= section_count_)
    return malformed(label() + " has its names in section [" + number(header.link) + "], which does not exist");
  auto names = string_table(header.link, "the table of symbol names");
  if (!names) return std::move(names).error();
  symbol_names_ = *names;
  if (auto done = read_extended_indices(count); !done) return done;

  file_.first_global = std::max(header.info, 1U);
  file_.symbols.resize(std::max<std::uint64_t>(count, 1));
  const std::byte* table = file_.sections[symbol_table_].content.data();
  const std::uint32_t ordinary = std::min(section_count_, elf::shn_loreserve); // section indices that mean themselves
  for (std::uint32_t index = 1; index < count; ++index) {
    const auto from = load_le<elf::Symbol>(table + std::size_t(index) * sizeof(elf::Symbol));
    Symbol& to = file_.symbols[index];
    const std::uint8_t binding = info_tables.binding[from.info >> 4];
    const std::uint8_t type = info_tables.type[from.info & 15];
    const bool global_too_early = index < header.info && binding != to_byte(Binding::local);
    if (from.name >= symbol_names_.size || binding == invalid || type == invalid || global_too_early ||
        from.shndx >= ordinary) [[unlikely]] {
      if (auto done = read_symbol(index, from, to); !done) return done;
      continue;
    }
    to.name_begin = symbol_names_.begin + from.name;
    to.value = from.value;
    to.size = from.size;
    to.section = from.shndx;
    to.binding = static_cast<Binding>(binding);
    to.type = static_cast<SymbolType>(type);
    to.visibility = static_cast<Visibility>(from.other & 3);
  }
  return {};
}

Result<void> Reader::read_extended_indices(std::uint64_t symbol_count) {
  if (extended_indices_table_ == 0) return {};
  const auto header = section_header(extended_indices_table_);
  if (header.link != symbol_table_)
    return malformed(section_label(extended_indices_table_) + " extends section [" + number(header.link) +
                     "], which is not the symbol table");
  if (header.size / 4 < symbol_count)
    return malformed(section_label(extended_indices_table_) + " has " + number(header.size / 4) + " entries for " +
                     number(symbol_count) + " symbols");
  extended_indices_ = file_.sections[extended_indices_table_].content.data();
  return {};
}

// A symbol that is wrong, or in no ordinary section.
Result<void> Reader::read_symbol(std::uint32_t index, const elf::Symbol& from, Symbol& to) {
  if (from.name >= symbol_names_.size)
    return malformed(symbol_label(index) + " has its name at offset " + number(from.name) + " of a table of " +
                     number(symbol_names_.size) + " bytes");
  to.name_begin = symbol_names_.begin + from.name;
  const unsigned binding = from.info >> 4;
  const unsigned type = from.info & 15U;
  if (info_tables.binding[binding] == invalid)
    return malformed(symbol_label(index) + " has the unknown binding " + number(binding));
  if (info_tables.type[type] == invalid) return malformed(symbol_label(index) + " has the unknown type " + number(type));
  if (index < file_.first_global && binding != elf::stb_local)
    return malformed(symbol_label(index) + " is not local, but stands among the local symbols (sh_info is " +
                     number(file_.first_global) + ")");
  to.value = from.value;
  to.size = from.size;
  to.binding = static_cast<Binding>(info_tables.binding[binding]);
  to.type = static_cast<SymbolType>(info_tables.type[type]);
  to.visibility = static_cast<Visibility>(from.other & 3);
  return read_special_section(index, from, to);
}

Result<void> Reader::read_special_section(std::uint32_t index, const elf::Symbol& from, Symbol& to) {
  std::uint32_t section = from.shndx;
  if (section == elf::shn_abs) {
    to.section = section_absolute;
    return {};
  }
  const bool large = file_.machine == Machine::x86_64 && section == elf::shn_x86_64_lcommon;
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

Result<void> Reader::read_relocation_section(std::uint32_t index, const elf::SectionHeader& header) {
  const auto label = [&] { return section_label(index); }; // messages are made when there is something to say
  if (header.info == 0 || header.info >= section_count_)
    return malformed(label() + " has relocations for section [" + number(header.info) + "], which does not exist");
  Section& target = file_.sections[header.info];
  const auto for_target = [&] { return " (for " + section_label(header.info) + ")"; };
  const std::uint32_t target_type = section_type(header.info);
  if (holds_relocations(target_type))
    return malformed(label() + " has relocations for another relocation section" + for_target());
  if (target_type == elf::sht_symtab || target_type == elf::sht_strtab || target_type == elf::sht_group ||
      target_type == elf::sht_symtab_shndx || target_type == elf::sht_null)
    return malformed(label() + " has relocations for a table of the file" + for_target());
  if (header.size == 0) return {};
  if (header.type != elf::sht_rela) {
    // LLVM writes SHT_REL for its call graph profile, which is not for linking.
    if (target.kind == SectionKind::other) return {};
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
  if (target.first_relocation_section != 0)
    return unsupported(label() + " is a second relocation section" + for_target() + " beside " +
                       section_label(target.first_relocation_section));
  target.first_relocation_section = index;
  target.relocation_count = static_cast<std::uint32_t>(count);
  // The bytes are an array of implicit-lifetime Relocations, of alignment 1.
  const auto* table = reinterpret_cast<const Relocation*>(file_.sections[index].content.data());
  file_.relocation_tables[header.info] = {table, target.relocation_count};
  if (!target.allocated || relocations_in_range({table, target.relocation_count}, file_.symbols.size())) return {};
  return check_relocations(file_, header.info);
}

// --- Groups ---

Result<void> Reader::read_groups() {
  if (group_count_ == 0) return {};
  file_.groups.reserve(group_count_);
  file_.group_members.reserve(section_count_); // no section is in two groups: the spans into it stay valid
  for (std::uint32_t index = 1; index < section_count_; ++index) {
    if (section_type(index) != elf::sht_group) continue;
    if (auto done = read_group(index, section_header(index)); !done) return done;
  }
  return {};
}

Result<void> Reader::read_group(std::uint32_t index, const elf::SectionHeader& header) {
  const auto label = [&] { return "group " + section_label(index); };
  if (header.size < 4 || header.size % 4 != 0)
    return malformed(label() + " has " + number(header.size) + " bytes, not a multiple of 4 above zero");
  if (symbol_table_ == 0 || header.link != symbol_table_)
    return malformed(label() + " uses section [" + number(header.link) + "] as its symbol table, which it is not");
  if (header.info == 0 || header.info >= file_.symbols.size())
    return malformed(label() + " is signed by symbol [" + number(header.info) + "], which does not exist");
  const std::byte* words = file_.sections[index].content.data();
  const auto flags = load_le<std::uint32_t>(words);
  if ((flags & ~elf::grp_comdat) != 0) return unsupported(label() + " has the unknown flags " + hex(flags));

  Group group;
  group.comdat = (flags & elf::grp_comdat) != 0;
  const Symbol& signature = file_.symbols[header.info];
  group.signature = signature.name();
  if (signature.type == SymbolType::section && group.signature.empty() && signature.section < section_count_)
    group.signature = file_.sections[signature.section].name;
  if (!count_name(group.signature.size())) return too_many_names(index);
  if (group.comdat && group.signature.empty())
    return malformed(label() + " is signed by " + symbol_label(header.info) + ", which has no name");

  const auto number_of_group = static_cast<std::int32_t>(file_.groups.size());
  const std::size_t first = file_.group_members.size();
  for (std::uint64_t offset = 4; offset < header.size; offset += 4) {
    const auto member = load_le<std::uint32_t>(words + offset);
    if (member == 0 || member >= section_count_)
      return malformed(label() + " contains section [" + number(member) + "], which does not exist");
    if (section_type(member) == elf::sht_group)
      return malformed(label() +
                       (member == index ? " contains itself" : " contains another group, " + section_label(member)) +
                       ": groups are cyclic or nested");
    Section& section = file_.sections[member];
    if (section.group >= 0) return malformed(section_label(member) + " is in two groups, the second being " + label());
    section.group = number_of_group;
    file_.group_members.push_back(member);
  }
  group.sections = {file_.group_members.data() + first, file_.group_members.size() - first};
  file_.groups.push_back(group);
  return {};
}

} // namespace

bool relocations_in_range(std::span<const Relocation> relocations, std::size_t symbol_count) noexcept {
  std::uint32_t highest = 0; // a plain maximum, which compilers turn into vector code: one test for the whole table
  for (const Relocation& relocation : relocations) {
    const std::uint32_t symbol = relocation.symbol;
    highest = symbol > highest ? symbol : highest;
  }
  return highest < symbol_count;
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

Result<void> read_elf(Object::File& file) { return Reader(file).read(); }

} // namespace tenon::object

// What reading an ELF64 relocatable file keeps in mind, for elf_reader.cpp (the file, what there is and room for it),
// elf_sections.cpp, and elf_symbols.cpp (symbols, relocations, groups).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/bytes.h"
#include "base/printable.h"
#include "object/elf_format.h"
#include "object/object_file.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace tenon::object {

using base::load_le;

static_assert(sizeof(Relocation) == elf::rela_size && offsetof(Relocation, offset) == 0 && offsetof(Relocation, type) == 8 &&
                  offsetof(Relocation, symbol) == 12 && offsetof(Relocation, addend) == 16 && alignof(Relocation) == 1,
              "Relocation is a view of Elf64_Rela");

inline constexpr std::uint64_t max_alignment = std::uint64_t(1) << 31;
inline constexpr std::uint64_t max_memory_size = std::uint64_t(1) << 47; // of the user half of the address space
inline constexpr std::uint32_t unusable = 0xFFFFFFF0; // indices from here on mean section_absolute and the like

std::string hex(std::uint64_t value); // elf_sections.cpp
inline std::string number(std::uint64_t value) { return std::to_string(value); }

// A string table that ends in NUL, so that any offset below its size is a terminated string.
struct StringTable {
  const char* begin = "";
  std::uint64_t size = 1;
};

// A section header where it stands: only what is asked for is loaded.
class SectionHeaderView {
public:
  explicit SectionHeaderView(const std::byte* at) noexcept : at_(at) {}
  std::uint32_t name() const noexcept { return load_le<std::uint32_t>(at_ + offsetof(elf::SectionHeader, name)); }
  std::uint32_t type() const noexcept { return load_le<std::uint32_t>(at_ + offsetof(elf::SectionHeader, type)); }
  std::uint64_t flags() const noexcept { return load_le<std::uint64_t>(at_ + offsetof(elf::SectionHeader, flags)); }
  std::uint64_t offset() const noexcept { return load_le<std::uint64_t>(at_ + offsetof(elf::SectionHeader, offset)); }
  std::uint64_t size() const noexcept { return load_le<std::uint64_t>(at_ + offsetof(elf::SectionHeader, size)); }
  std::uint32_t link() const noexcept { return load_le<std::uint32_t>(at_ + offsetof(elf::SectionHeader, link)); }
  std::uint32_t info() const noexcept { return load_le<std::uint32_t>(at_ + offsetof(elf::SectionHeader, info)); }
  std::uint64_t addralign() const noexcept { return load_le<std::uint64_t>(at_ + offsetof(elf::SectionHeader, addralign)); }
  std::uint64_t entsize() const noexcept { return load_le<std::uint64_t>(at_ + offsetof(elf::SectionHeader, entsize)); }
  SectionHeaderView next() const noexcept { return SectionHeaderView(at_ + sizeof(elf::SectionHeader)); }

private:
  const std::byte* at_;
};

using RelocationTable = Object::File::RelocationTable;

inline constexpr std::size_t cache_line = 64;

class ElfReader {
public:
  ElfReader(Bytes bytes, const std::string& name) noexcept : bytes_(bytes), name_(&name) {}
  // Looks how much there is to read. Nothing needs memory yet.
  Result<void> survey();
  std::size_t tables_size() const noexcept;
  // `tables` has that many bytes, and is the file's.
  Result<void> read(Object::File& file, std::byte* tables);

private:
  Result<void> read_header();
  Result<void> read_section_table_place();
  Result<void> read_section_names();
  void count_tables() noexcept;
  void lay_out(std::byte* tables) noexcept;
  Result<void> read_sections();
  Error section_fault(std::uint32_t index) const;
  Error compression_fault(std::uint32_t index) const;
  Result<void> read_symbols();
  Result<void> read_extended_indices();
  Result<void> read_symbols_in_table();
  Result<void> read_symbol(std::uint32_t index, const elf::Symbol& from);
  Result<void> read_special_section(std::uint32_t index, const elf::Symbol& from, Symbol& to);
  Result<void> read_relocations_left();
  Result<void> read_relocation_section(std::uint32_t index);
  Result<void> read_groups();
  Result<void> read_group(std::uint32_t index);
  // Real names share their ends at most, so their lengths sum up to little more than the table. Names that all begin at the
  // front of one long string would make the time quadratic.
  bool count_name(std::uint64_t length) noexcept { return (names_size_ += length) / 64 <= bytes_.size(); }
  Error too_many_names(std::uint32_t section) const;
  Result<StringTable> string_table(std::uint32_t index, std::string_view user) const;

  const std::byte* at(std::uint64_t offset) const noexcept { return bytes_.data() + offset; }
  SectionHeaderView header_at(std::uint32_t index) const noexcept {
    return SectionHeaderView(at(header_.shoff + std::uint64_t(index) * sizeof(elf::SectionHeader)));
  }
  elf::SectionHeader section_header(std::uint32_t index) const noexcept {
    return load_le<elf::SectionHeader>(at(header_.shoff + std::uint64_t(index) * sizeof(elf::SectionHeader)));
  }
  std::uint32_t section_type(std::uint32_t index) const noexcept { return header_at(index).type(); }
  std::string section_label(std::uint32_t index) const {
    std::string label = "section [" + number(index) + "]";
    if (index < sections_read_ && !sections_[index].name.empty()) label += " " + base::printable(sections_[index].name);
    return label;
  }
  std::string symbol_label(std::uint32_t index) const {
    std::string label = "symbol [" + number(index) + "]";
    if (*symbols_[index].name_begin != '\0') label += " " + base::printable(symbols_[index].name());
    return label;
  }
  Error malformed(const std::string& what) const { return {ErrorCode::malformed, *name_ + ": " + what}; }
  Error unsupported(const std::string& what) const { return {ErrorCode::unsupported, *name_ + ": " + what}; }

  friend class SectionPass;

  Bytes bytes_;
  const std::string* name_;
  Object::File* file_ = nullptr;
  elf::Header header_;
  Machine machine_ = Machine::other;
  std::uint32_t section_count_ = 0;
  std::uint32_t section_names_index_ = 0;
  std::uint64_t headers_end_ = 0; // in the file
  StringTable section_names_;
  // What there is, by the sections' types.
  bool has_relocations_ = false;
  std::uint32_t symbol_table_ = 0;
  std::uint32_t extended_indices_table_ = 0;
  std::uint32_t contents_count_ = 0; // at most
  std::uint32_t group_count_ = 0;
  std::uint64_t member_count_ = 0; // at most
  std::uint64_t symbol_count_ = 0; // not counting the null symbol that there is without a table
  // The file's tables, being filled.
  Section* sections_ = nullptr;
  Symbol* symbols_ = nullptr;
  RelocationTable* relocation_tables_ = nullptr;
  Group* groups_ = nullptr;
  std::uint32_t* contents_ = nullptr;
  std::uint32_t* members_ = nullptr;
  std::uint32_t sections_read_ = 0; // these have names
  std::uint32_t groups_read_ = 0;
  std::uint64_t members_read_ = 0;
  bool relocations_left_ = false; // some that were no ordinary ones
  StringTable symbol_names_;
  std::uint64_t content_size_ = 0; // of all sections so far
  std::uint64_t names_size_ = 0;   // of the names whose lengths were taken so far
  const std::byte* extended_indices_ = nullptr;
};

} // namespace tenon::object

// Makes ELF64 relocatable files byte by byte, so that a test can break exactly one thing. Headers are written with memcpy
// from the reader's own records; the tests of real archives hold those records against what compilers write.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/bytes.h"
#include "object/elf_format.h"

#include <tenon/object.h>

#include <functional>
#include <string>
#include <vector>

namespace tenon::test {

namespace elf = object::elf;

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

template <class T> void append(std::vector<std::byte>& to, const T& value) {
  const std::size_t at = to.size();
  to.resize(at + sizeof value);
  std::memcpy(to.data() + at, &value, sizeof value);
}

class ElfBuilder {
public:
  struct BuiltSection {
    std::string name;
    elf::SectionHeader header{}; // offset, size and name are set when building
    std::vector<std::byte> content;
  };

  ElfBuilder() { sections.push_back({}); }

  // Returns its index. Sections stand in the file in this order; .symtab, .strtab and .shstrtab follow when building.
  std::uint32_t section(std::string name, std::uint32_t type, std::uint64_t flags, std::vector<std::byte> content = {},
                        std::uint64_t alignment = 1) {
    BuiltSection added;
    added.name = std::move(name);
    added.header.type = type;
    added.header.flags = flags;
    added.header.addralign = alignment;
    added.header.size = content.size();
    added.content = std::move(content);
    sections.push_back(std::move(added));
    return static_cast<std::uint32_t>(sections.size() - 1);
  }
  std::uint32_t text(std::size_t size = 16) {
    return section(".text", elf::sht_progbits, elf::shf_alloc | elf::shf_execinstr, std::vector<std::byte>(size), 16);
  }

  // Returns its index; locals first.
  std::uint32_t symbol(const std::string& name, unsigned binding, unsigned type, std::uint32_t shndx,
                       std::uint64_t value = 0, std::uint64_t size = 0, unsigned char other = 0) {
    elf::Symbol added{};
    added.name = name.empty() ? 0 : static_cast<std::uint32_t>(names.size());
    if (!name.empty()) names += name + '\0';
    added.info = static_cast<unsigned char>(binding << 4 | type);
    added.other = other;
    added.shndx = static_cast<std::uint16_t>(shndx);
    added.value = value;
    added.size = size;
    symbols.push_back(added);
    return static_cast<std::uint32_t>(symbols.size() - 1);
  }

  struct Rela {
    std::uint64_t offset;
    std::uint32_t type;
    std::uint32_t symbol;
    std::int64_t addend;
  };
  std::uint32_t relocations(std::uint32_t target, const std::vector<Rela>& records) {
    std::vector<std::byte> content;
    for (const Rela& record : records) append(content, record);
    // A section that comes later has no name yet.
    const std::string name = ".rela" + (target < sections.size() ? sections[target].name : "");
    const std::uint32_t index = section(name, elf::sht_rela, 0, std::move(content), 8);
    sections[index].header.info = target;
    sections[index].header.entsize = 24;
    links_to_symbols.push_back(index);
    return index;
  }

  std::uint32_t group(std::uint32_t signature, const std::vector<std::uint32_t>& members,
                      std::uint32_t flags = elf::grp_comdat) {
    std::vector<std::byte> content;
    append(content, flags);
    for (std::uint32_t member : members) append(content, member);
    const std::uint32_t index = section(".group", elf::sht_group, 0, std::move(content), 4);
    sections[index].header.info = signature;
    sections[index].header.entsize = 4;
    links_to_symbols.push_back(index);
    return index;
  }

  // `adjust` sees everything as it is about to be written.
  using Adjust = std::function<void(elf::Header&, std::vector<BuiltSection>&)>;
  std::vector<std::byte> build(const Adjust& adjust = {}) {
    std::vector<BuiltSection> all = sections;
    std::vector<std::byte> table;
    std::uint32_t locals = 0;
    for (const elf::Symbol& one : symbols) {
      append(table, one);
      locals += one.info >> 4 == 0;
    }
    const auto symtab = static_cast<std::uint32_t>(all.size());
    const auto add = [&](const char* name, std::uint32_t type, std::vector<std::byte> content) -> BuiltSection& {
      BuiltSection& added = all.emplace_back();
      added.name = name;
      added.header.type = type;
      added.header.addralign = 1;
      added.content = std::move(content);
      return added;
    };
    BuiltSection& symbol_table = add(".symtab", elf::sht_symtab, std::move(table));
    symbol_table.header.entsize = 24;
    symbol_table.header.link = symtab + 1;
    symbol_table.header.info = locals;
    symbol_table.header.addralign = 8;
    add(".strtab", elf::sht_strtab, to_bytes(names));
    add(".shstrtab", elf::sht_strtab, {});
    for (std::uint32_t index : links_to_symbols) all[index].header.link = symtab;
    std::string section_names(1, '\0');
    for (BuiltSection& one : all) {
      one.header.name = one.name.empty() ? 0 : static_cast<std::uint32_t>(section_names.size());
      if (!one.name.empty()) section_names += one.name + '\0';
    }
    all.back().content = to_bytes(section_names);

    std::uint64_t offset = sizeof(elf::Header);
    for (BuiltSection& one : all) {
      if (one.header.type == elf::sht_null) continue;
      offset = (offset + 7) & ~std::uint64_t(7);
      one.header.offset = offset;
      if (one.header.type != elf::sht_nobits) one.header.size = one.content.size();
      offset += one.content.size();
    }
    elf::Header header{};
    std::memcpy(header.ident,
                "\x7F"
                "ELF\x02\x01\x01",
                7);
    header.type = elf::et_rel;
    header.machine = elf::em_x86_64;
    header.version = 1;
    header.ehsize = 64;
    header.shentsize = 64;
    header.shoff = (offset + 7) & ~std::uint64_t(7);
    header.shnum = static_cast<std::uint16_t>(all.size());
    header.shstrndx = static_cast<std::uint16_t>(all.size() - 1);
    // Contents go where they were planned; what `adjust` changes are the claims of the headers.
    std::vector<std::uint64_t> places;
    for (const BuiltSection& one : all) places.push_back(one.header.offset);
    const std::uint64_t table_place = header.shoff;
    if (adjust) adjust(header, all);

    std::vector<std::byte> file(table_place + all.size() * sizeof(elf::SectionHeader));
    std::memcpy(file.data(), &header, sizeof header);
    for (std::size_t index = 0; index < all.size(); ++index) {
      if (!all[index].content.empty())
        std::memcpy(file.data() + places[index], all[index].content.data(), all[index].content.size());
      std::memcpy(file.data() + table_place + index * sizeof(elf::SectionHeader), &all[index].header,
                  sizeof(elf::SectionHeader));
    }
    return file;
  }

  std::vector<BuiltSection> sections;
  std::vector<elf::Symbol> symbols{elf::Symbol{}};
  std::string names = std::string(1, '\0');
  std::vector<std::uint32_t> links_to_symbols;
};

} // namespace tenon::test

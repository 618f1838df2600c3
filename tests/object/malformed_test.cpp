// Broken objects, one fault each: what is wrong is said in one line that names the file and the thing, with the right code.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "elf_builder.h"

#include <gtest/gtest.h>

namespace tenon {
namespace {

using namespace test;

constexpr std::uint64_t A = elf::shf_alloc, W = elf::shf_write, X = elf::shf_execinstr;
constexpr auto malformed = ErrorCode::malformed, unsupported = ErrorCode::unsupported;

void expect_error(const std::vector<std::byte>& bytes, ErrorCode code, const std::string& part) {
  const auto object = Object::copy(bytes, "bad.o");
  ASSERT_FALSE(object.ok()) << "accepted, but should say: " << part;
  EXPECT_EQ(to_string(object.error().code), std::string(to_string(code))) << object.error().message;
  EXPECT_NE(object.error().message.find(part), std::string::npos) << object.error().message;
  EXPECT_EQ(object.error().message.find("bad.o: "), 0U) << object.error().message;
  EXPECT_EQ(object.error().message.find('\n'), std::string::npos);
}

// Section 1 .text, 2 .data, 3 .rela.text, then .symtab, .strtab, .shstrtab; symbols 1 local, 2 global.
constexpr std::size_t text = 1, data = 2, rela = 3, symtab = 4, strtab = 5, shstrtab = 6;
ElfBuilder sound() {
  ElfBuilder builder;
  builder.text();
  builder.section(".data", elf::sht_progbits, A | W, to_bytes("12345678"), 8);
  builder.symbol("local", 0, elf::stt_func, 1);
  builder.symbol("callee", 1, 0, 0);
  builder.relocations(1, {{1, 4, 2, -4}});
  return builder;
}
using Sections = std::vector<ElfBuilder::BuiltSection>;
void expect_header_error(ErrorCode code, const std::string& part, const std::function<void(elf::Header&)>& change) {
  expect_error(sound().build([&](elf::Header& header, Sections&) { change(header); }), code, part);
}
void expect_section_error(ErrorCode code, const std::string& part, const std::function<void(Sections&)>& change) {
  expect_error(sound().build([&](elf::Header&, Sections& all) { change(all); }), code, part);
}
// Symbol `index` changed.
void expect_symbol_error(ErrorCode code, const std::string& part, std::size_t index,
                         const std::function<void(elf::Symbol&)>& change) {
  ElfBuilder builder = sound();
  builder.symbols.resize(4); // one more, global, to play with
  builder.symbols[3].info = 1 << 4;
  change(builder.symbols[index]);
  expect_error(builder.build([](elf::Header&, Sections& all) { all[symtab].header.info = 2; }), code, part);
}

TEST(Malformed, TheSoundOneIsAccepted) { EXPECT_TRUE(Object::copy(sound().build(), "good.o").ok()); }

TEST(Malformed, OtherFiles) {
  using namespace std::string_literals;
  const auto expect = [](const std::string& begin, ErrorCode code, const char* part) {
    expect_error(to_bytes(begin), code, part);
  };
  expect("", malformed, "is empty");
  expect("!<arch>\nmore", unsupported, "is an archive, not an object");
  expect("!<thin>\n", unsupported, "is a thin archive");
  expect("BC\xC0\xDE....", unsupported, "is LLVM bitcode: it must be compiled first");
  expect("\xDE\xC0\x17\x0B....", unsupported, "is LLVM bitcode");
  expect("\xCF\xFA\xED\xFE....", unsupported, "is a Mach-O file");
  expect("\xCA\xFE\xBA\xBE....", unsupported, "is a Mach-O universal file");
  expect("MZ\x90\0"s, unsupported, "is a PE executable");
  expect("\x64\x86\x02\0"s, unsupported, "is a COFF object");
  expect("\0asm\1\0\0\0"s, unsupported, "is a WebAssembly module");
  expect("; ModuleID = 'x'\n", malformed, "is textual LLVM IR");
  expect("int main() {}\n", malformed, "is text, not an object file");
  expect("\1\2\3\4\5\6\7", malformed, "is not an object file of any known format");
  expect("\x7F"
         "E",
         malformed, "is truncated");
}

TEST(Malformed, ElfHeader) {
  expect_header_error(unsupported, "is a 32-bit ELF file", [](auto& h) { h.ident[4] = 1; });
  expect_header_error(malformed, "has ELF class 7", [](auto& h) { h.ident[4] = 7; });
  expect_header_error(unsupported, "is a big-endian ELF file", [](auto& h) { h.ident[5] = 2; });
  expect_header_error(malformed, "has ELF data encoding 9", [](auto& h) { h.ident[5] = 9; });
  expect_header_error(unsupported, "has ELF version 3", [](auto& h) { h.ident[6] = 3; });
  expect_header_error(unsupported, "has ELF version 2", [](auto& h) { h.version = 2; });
  expect_header_error(unsupported, "is an executable, not a relocatable object", [](auto& h) { h.type = elf::et_exec; });
  expect_header_error(unsupported, "is a shared library, not a relocatable object", [](auto& h) { h.type = elf::et_dyn; });
  expect_header_error(unsupported, "is a core dump", [](auto& h) { h.type = elf::et_core; });
  expect_header_error(unsupported, "has ELF type 77", [](auto& h) { h.type = 77; });
  expect_header_error(unsupported, "is for machine 21 (PowerPC64)", [](auto& h) { h.machine = 21; });
  expect_header_error(unsupported, "is for machine 999,", [](auto& h) { h.machine = 999; });
}

TEST(Malformed, SectionTable) {
  expect_header_error(malformed, "sections, but no section header table", [](auto& h) { h.shoff = 0; });
  expect_header_error(malformed, "has section headers of 40 bytes", [](auto& h) { h.shentsize = 40; });
  expect_header_error(malformed, "inside the ELF header", [](auto& h) { h.shoff = 8; });
  expect_header_error(malformed, "lies past the end", [](auto& h) { h.shoff = ~std::uint64_t(0); });
  expect_header_error(malformed, "lies past the end", [](auto& h) { h.shoff = 1 << 20; });
  expect_header_error(malformed, "reach past the end", [](auto& h) { h.shnum = 0xFE00; });
  expect_header_error(malformed, "impossible number of sections", [](auto& h) { h.shnum = 0xFF00; });
  expect_header_error(malformed, "but no section", [](auto& h) { h.shnum = 0; });
  expect_header_error(malformed, "section names in section [300]", [](auto& h) { h.shstrndx = 300; });
  expect_header_error(malformed, "not a string table", [](auto& h) { h.shstrndx = 1; });
  const auto extended = [](std::uint64_t count) {
    return sound().build([=](elf::Header& header, Sections& all) {
      header.shnum = 0;
      all[0].header.size = count;
    });
  };
  EXPECT_TRUE(Object::copy(extended(7), "good.o").ok());
  expect_error(extended(8), malformed, "reach past the end");
  expect_error(extended(std::uint64_t(1) << 32), malformed, "impossible number of sections");
  expect_error(extended(~std::uint64_t(0)), malformed, "impossible number of sections");
  expect_error(extended(std::uint64_t(1) << 31), malformed, "reach past the end");
}

TEST(Malformed, SectionPlaces) {
  expect_section_error(malformed, "section [2] .data lies outside the file", [](auto& s) { s[data].header.size = 1 << 20; });
  expect_section_error(malformed, "section [2] .data lies outside the file",
                       [](auto& s) { s[data].header.offset = 1 << 20; });
  expect_section_error(malformed, "lies outside the file", [](auto& s) { s[data].header.offset = ~std::uint64_t(0) - 3; });
  expect_section_error(malformed, "lies outside the file", [](auto& s) { s[data].header.size = ~std::uint64_t(0) - 63; });
  expect_section_error(malformed, "section [2] .data overlaps the ELF header", [](auto& s) { s[data].header.offset = 60; });
  expect_error(sound().build([](elf::Header& header, Sections& all) { all[data].header.offset = header.shoff + 64; }),
               malformed, "section [2] .data overlaps the section header table");
  ElfBuilder big = sound();
  big.sections[text].content.resize(2000);
  expect_error(big.build([](elf::Header&, Sections& all) {
    all[data].header.offset = 100;
    all[data].header.size = 1900;
  }),
               malformed, "section [2] .data overlaps another section: the sections up to it have 3900 bytes");
  expect_section_error(malformed, "alignment 0x3, which is not a power of two",
                       [](auto& s) { s[data].header.addralign = 3; });
  expect_section_error(malformed, "impossible alignment 0x10000000000",
                       [](auto& s) { s[data].header.addralign = std::uint64_t(1) << 40; });
  expect_section_error(malformed, "section [2] .data has the impossible size", [](auto& s) {
    s[data].header.type = elf::sht_nobits;
    s[data].header.size = std::uint64_t(1) << 60;
  });
  expect_section_error(malformed, "ordered by section [99]", [](auto& s) {
    s[data].header.flags |= elf::shf_link_order;
    s[data].header.link = 99;
  });
  expect_section_error(malformed, "impossible entry size", [](auto& s) {
    s[data].header.type = elf::sht_progbits;
    s[data].header.flags = A | elf::shf_merge;
    s[data].header.size = 0;
    s[data].header.entsize = std::uint64_t(1) << 33;
  });
}

TEST(Malformed, StringTables) {
  expect_section_error(malformed, "the table of section names (section [6]) is unterminated",
                       [](auto& s) { s[shstrtab].content.back() = std::byte('x'); });
  expect_section_error(malformed, "the table of symbol names (section [5] .strtab) is unterminated",
                       [](auto& s) { s[strtab].content.back() = std::byte('x'); });
  expect_section_error(malformed, "the table of section names (section [6]) reaches past the end",
                       [](auto& s) { s[shstrtab].header.size = 1 << 20; });
  expect_section_error(malformed, "section [2] has its name at offset 5000", [](auto& s) { s[data].header.name = 5000; });
  expect_section_error(malformed, "names in section [99]", [](auto& s) { s[symtab].header.link = 99; });
  expect_section_error(malformed, "not a string table", [](auto& s) { s[symtab].header.link = 1; });
  expect_symbol_error(malformed, "symbol [3] has its name at offset 5000", 3, [](auto& s) { s.name = 5000; });
  // An empty table serves symbols without names.
  ElfBuilder builder = sound();
  builder.symbols[1].name = builder.symbols[2].name = 0;
  builder.names.clear();
  EXPECT_TRUE(Object::copy(builder.build(), "good.o").ok());
}

// Thousands of names that all begin at the front of one very long string.
TEST(Malformed, QuadraticNames) {
  ElfBuilder builder;
  for (int i = 0; i < 2000; ++i) builder.section("", elf::sht_progbits, A);
  builder.section(std::string(200000, 'n'), elf::sht_progbits, A);
  expect_error(builder.build([](elf::Header&, Sections& all) {
    for (auto& one : all) one.header.name = 1;
  }),
               malformed, "names of sections and groups to the impossible total");
}

TEST(Malformed, Symbols) {
  expect_symbol_error(malformed, "symbol [2] callee has the unknown binding 5", 2, [](auto& s) { s.info = 5 << 4; });
  expect_symbol_error(malformed, "symbol [2] callee has the unknown type 9", 2, [](auto& s) { s.info = 1 << 4 | 9; });
  expect_symbol_error(malformed, "symbol [2] callee is in section [99], but there are only 7", 2,
                      [](auto& s) { s.shndx = 99; });
  expect_symbol_error(malformed, "in the unknown reserved section 0xff20", 2, [](auto& s) { s.shndx = 0xFF20; });
  expect_symbol_error(malformed, "SHT_SYMTAB_SHNDX table, but there is none", 2, [](auto& s) { s.shndx = elf::shn_xindex; });
  expect_symbol_error(malformed, "symbol [1] local is not local", 1, [](auto& s) { s.info = 1 << 4; });
  expect_symbol_error(malformed, "common with the impossible alignment 0x3", 2, [](auto& s) {
    s.shndx = elf::shn_common;
    s.value = 3;
  });
  expect_symbol_error(malformed, "common with the impossible size", 2, [](auto& s) {
    s.shndx = elf::shn_common;
    s.size = ~std::uint64_t(0);
  });
  expect_section_error(malformed, "has symbols of 16 bytes", [](auto& s) { s[symtab].header.entsize = 16; });
  expect_section_error(malformed, "not a multiple of 24", [](auto& s) { s[symtab].header.size -= 1; });
  expect_section_error(malformed, "has 50 local symbols (sh_info), but only 3", [](auto& s) { s[symtab].header.info = 50; });
  ElfBuilder two = sound();
  two.section(".symtab2", elf::sht_symtab, 0);
  expect_error(two.build(), malformed, "second table of its kind");
  // SHN_X86_64_LCOMMON is of x86-64 alone.
  ElfBuilder large = sound();
  large.symbol("big", 1, 0, elf::shn_x86_64_lcommon);
  expect_error(large.build([](elf::Header& header, auto&) { header.machine = elf::em_aarch64; }), malformed, "0xff02");
}

TEST(Malformed, ExtendedIndices) {
  const auto with_table = [](std::vector<std::uint32_t> indices, bool linked) {
    ElfBuilder builder = sound();
    std::vector<std::byte> content;
    for (std::uint32_t index : indices) append(content, index);
    const auto table = builder.section(".symtab_shndx", elf::sht_symtab_shndx, 0, content, 4);
    if (linked) builder.links_to_symbols.push_back(table);
    builder.symbols[2].shndx = elf::shn_xindex;
    return builder.build();
  };
  EXPECT_TRUE(Object::copy(with_table({0, 0, 1}, true), "good.o").ok());
  expect_error(with_table({0, 0, 1}, false), malformed, "extends section [0], which is not the symbol table");
  expect_error(with_table({0, 0}, true), malformed, "has 2 entries for 3 symbols");
  expect_error(with_table({0, 0, 0xFFFFFFF1}, true), malformed, "is in section [4294967281]");
  ElfBuilder alone = sound();
  alone.section(".symtab_shndx", elf::sht_symtab_shndx, 0);
  expect_error(alone.build([](elf::Header&, Sections& all) { all[symtab + 1].header.type = elf::sht_progbits; }), malformed,
               "extends a symbol table, but there is none");
}

TEST(Malformed, Relocations) {
  expect_section_error(malformed, "section [3] .rela.text has relocations for section [99]",
                       [](auto& s) { s[rela].header.info = 99; });
  expect_section_error(malformed, "has relocations for section [0]", [](auto& s) { s[rela].header.info = 0; });
  expect_section_error(malformed, "for another relocation section", [](auto& s) { s[rela].header.info = rela; });
  expect_section_error(malformed, "for a table of the file", [](auto& s) { s[rela].header.info = symtab; });
  expect_section_error(malformed, "has relocations of 16 bytes", [](auto& s) { s[rela].header.entsize = 16; });
  expect_section_error(malformed, "has relocations of 24 bytes in 23", [](auto& s) { s[rela].header.size = 23; });
  expect_section_error(malformed, "uses section [2] as its symbol table", [](auto& s) { s[rela].header.link = data; });
  expect_section_error(malformed, "for a section without content (for section [1] .text)",
                       [](auto& s) { s[text].header.type = elf::sht_nobits; });
  expect_section_error(unsupported, "section [3] .rela.text (for section [1] .text) is of type 0x9 (SHT_REL)",
                       [](auto& s) { s[rela].header.type = elf::sht_rel; });
  expect_section_error(unsupported, "is of type 0x40000014; only SHT_RELA is read",
                       [](auto& s) { s[rela].header.type = elf::sht_crel; });
  ElfBuilder two = sound();
  two.relocations(1, {{2, 4, 2, 0}});
  expect_error(two.build(), unsupported, "section [4] .rela.text is a second relocation section (for section [1] .text)");
  ElfBuilder symbol = sound();
  symbol.relocations(2, {{0, 1, 2, 0}, {0, 1, 3, 0}});
  expect_error(symbol.build(), malformed, "relocation 1 of section [2] .data names symbol [3], but there are only 3");
}

// LLVM's call graph profile is SHT_REL even here; nobody links it.
TEST(Malformed, RelOfSectionsThatAreNotLinkedIsIgnored) {
  ElfBuilder builder = sound();
  const auto profile = builder.section(".llvm.call-graph-profile", 0x6FFF4C09, elf::shf_exclude, to_bytes("12345678"));
  const auto index = builder.relocations(profile, {{0, 0, 1, 0}});
  builder.sections[index].header.type = elf::sht_rel;
  const auto object = Object::copy(builder.build(), "good.o");
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_TRUE(object->relocations(profile).empty());
}

TEST(Malformed, RelocationsBeforeTheirSection) {
  for (std::uint32_t symbol : {2U, 77U}) {
    ElfBuilder builder = sound();
    const auto later = static_cast<std::uint32_t>(builder.sections.size()) + 1;
    builder.relocations(later, {{0, 1, symbol, 0}});
    ASSERT_EQ(builder.section(".data.later", elf::sht_progbits, elf::shf_alloc, to_bytes("12345678")), later);
    if (symbol == 77) {
      expect_error(builder.build(), malformed, "relocation 0 of section [" + std::to_string(later) + "] .data.later names");
      continue;
    }
    const auto object = Object::copy(builder.build(), "good.o");
    ASSERT_TRUE(object.ok()) << object.error().message;
    EXPECT_EQ(object->relocations(later).size(), 1U);
  }
}

TEST(Malformed, DebugRelocationsAreCheckedWhenAskedFor) {
  ElfBuilder builder = sound();
  const auto info = builder.section(".debug_info", elf::sht_progbits, 0, to_bytes("12345678"));
  builder.relocations(info, {{0, 1, 77, 0}});
  const auto line = builder.section(".debug_line", elf::sht_progbits, 0, to_bytes("12345678"));
  builder.relocations(line, {{0, 1, 2, 0}});
  const auto note = builder.section(".annotations", elf::sht_progbits, 0, to_bytes("12345678"));
  builder.relocations(note, {{0, 1, 78, 0}});
  const auto object = Object::copy(builder.build(), "bad.o");
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_TRUE(object->relocations(info).empty());
  EXPECT_TRUE(object->relocations(note).empty());
  EXPECT_FALSE(object->check_relocations(note).ok());
  const auto check = object->check_relocations(info);
  ASSERT_FALSE(check.ok());
  EXPECT_EQ(check.error().message, "bad.o: relocation 0 of section [" + std::to_string(info) +
                                       "] .debug_info names symbol [77], but there are only 3");
  EXPECT_TRUE(object->check_relocations(line).ok());
  EXPECT_EQ(object->relocations(line).size(), 1U);
}

TEST(Malformed, Groups) {
  const auto with = [](const std::function<void(ElfBuilder&, std::uint32_t)>& add) {
    ElfBuilder builder = sound();
    const auto f = builder.section(".text.f", elf::sht_progbits, A | X, to_bytes("x"));
    add(builder, f);
    return builder.build();
  };
  constexpr std::uint32_t first_group = 5; // after .text.f, section 4
  EXPECT_TRUE(Object::copy(with([](auto& b, auto f) { b.group(2, {f}); }), "good.o").ok());
  expect_error(with([](auto& b, auto) { b.group(2, {first_group}); }), malformed,
               "group section [5] .group contains itself");
  expect_error(with([](auto& b, auto f) {
                 b.group(2, {first_group + 1});
                 b.group(1, {f, first_group});
               }),
               malformed,
               "group section [5] .group contains another group, section [6] .group: groups are cyclic or nested");
  expect_error(with([](auto& b, auto f) {
                 b.group(2, {f});
                 b.group(1, {f});
               }),
               malformed, "section [4] .text.f is in two groups, the second being group section [6]");
  expect_error(with([](auto& b, auto f) { b.group(2, {f, f}); }), malformed, "is in two groups");
  expect_error(with([](auto& b, auto) { b.group(2, {99}); }), malformed, "contains section [99], which does not exist");
  expect_error(with([](auto& b, auto) { b.group(2, {0}); }), malformed, "contains section [0]");
  expect_error(with([](auto& b, auto f) { b.group(0, {f}); }), malformed, "signed by symbol [0], which does not exist");
  expect_error(with([](auto& b, auto f) { b.group(9, {f}); }), malformed, "signed by symbol [9], which does not exist");
  expect_error(with([](auto& b, auto f) { b.group(2, {f}, 6); }), unsupported, "has the unknown flags 0x6");
  expect_error(with([](auto& b, auto f) { b.group(2, {f}), b.links_to_symbols.pop_back(); }), malformed,
               "uses section [0] as its symbol table");
  expect_error(with([](auto& b, auto) { b.sections[b.group(2, {})].content.resize(3); }), malformed, "has 3 bytes");
  expect_error(with([](auto& b, auto f) {
                 b.symbols[2].name = 0;
                 b.group(2, {f});
               }),
               malformed, "is signed by symbol [2], which has no name");
}

TEST(Malformed, CompressionHeaders) {
  const auto compressed = [](std::uint64_t flags, std::vector<std::byte> content) {
    ElfBuilder builder;
    builder.section(".debug_info", elf::sht_progbits, flags | elf::shf_compressed, std::move(content));
    return builder.build();
  };
  const auto header = [](std::uint64_t alignment) {
    std::vector<std::byte> out;
    append(out, elf::CompressionHeader{1, 0, 1, alignment});
    return out;
  };
  EXPECT_TRUE(Object::copy(compressed(0, header(1)), "good.o").ok());
  expect_error(compressed(A, header(1)), malformed, "is compressed, which a section of the program can't be");
  expect_error(compressed(0, to_bytes("short")), malformed, "too short for the header of a compressed section");
  expect_error(compressed(0, header(5)), malformed, "alignment 0x5");
  expect_error(compressed(0, header(std::uint64_t(1) << 50)), malformed, "impossible alignment");
}

TEST(Malformed, NamesInMessagesArePrintable) {
  ElfBuilder builder = sound();
  builder.sections[data].name = "evil\n\x1b[31m" + std::string(5000, 'x');
  builder.sections[data].header.addralign = 3;
  const auto object = Object::copy(builder.build(), "bad.o");
  ASSERT_FALSE(object.ok());
  EXPECT_NE(object.error().message.find("evil\\x0a\\x1b[31m"), std::string::npos);
  EXPECT_LT(object.error().message.size(), 1000U);
}

TEST(Malformed, MissingFiles) {
  const auto missing = Object::read_file("/nonexistent/x.o");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::system);
  EXPECT_EQ(missing.error().message, "/nonexistent/x.o: cannot open: No such file or directory");
  const auto folder = Object::read_file("/usr");
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.error().message, "/usr: cannot read: Is a directory");
  const auto text_file = Object::read_file("/proc/self/status");
  ASSERT_FALSE(text_file.ok());
  EXPECT_EQ(text_file.error().message, "/proc/self/status: is text, not an object file");
}

// --- Sweeps: no crash whatever is cut or flipped (meant for the sanitizers) ---

// Touches all views; returns a number so that nothing is optimized away.
std::uint64_t touch(const Object& object) {
  std::uint64_t sum = object.groups().size();
  for (std::uint32_t index = 0; index < object.sections().size(); ++index) {
    const Section& section = object.sections()[index];
    for (std::byte byte : section.content) sum += std::to_integer<unsigned>(byte);
    for (const Relocation& relocation : object.relocations(index)) sum += object.symbols()[relocation.symbol].value;
    if (section.compressed)
      if (const auto bytes = object.uncompressed(index, 1 << 20)) sum += bytes->size();
  }
  for (const Symbol& symbol : object.symbols())
    sum += symbol.name().size() + (symbol.section < object.sections().size() ? object.sections()[symbol.section].size : 0);
  for (const Group& group : object.groups())
    for (std::uint32_t member : group.sections) sum += object.sections()[member].size;
  return sum;
}

std::vector<std::byte> rich() {
  ElfBuilder builder = sound();
  const auto f = builder.section(".text.f", elf::sht_progbits, A | X, to_bytes("x"));
  builder.group(2, {f});
  std::vector<std::byte> indices;
  for (std::uint32_t value : {0U, 0U, 1U}) append(indices, value);
  builder.links_to_symbols.push_back(builder.section(".symtab_shndx", elf::sht_symtab_shndx, 0, indices, 4));
  std::vector<std::byte> compressed;
  append(compressed, elf::CompressionHeader{1, 0, 5, 1});
  builder.section(".debug_info", elf::sht_progbits, elf::shf_compressed, compressed);
  return builder.build();
}

TEST(Sweeps, EveryTruncation) {
  const auto bytes = rich();
  ASSERT_TRUE(Object::copy(bytes, "rich.o").ok());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    // A heap block of exactly this size, so that reading past it shows.
    const auto object = Object::copy(Bytes(bytes).first(size), "cut.o");
    EXPECT_FALSE(object.ok()) << size; // the section header table stands last
  }
}

TEST(Sweeps, EveryByteSetToEachExtreme) {
  const auto bytes = rich();
  std::uint64_t accepted = 0, refused = 0, sum = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at)
    for (unsigned value : {0x00U, 0x01U, 0x7FU, 0x80U, 0xFFU}) {
      auto changed = bytes;
      changed[at] = std::byte(value);
      if (const auto object = Object::copy(changed, "changed.o")) {
        ++accepted;
        sum += touch(*object);
      } else {
        ++refused;
      }
    }
  EXPECT_GT(accepted, 0U);
  EXPECT_GT(refused, 0U);
  EXPECT_GT(sum, 0U);
}

} // namespace
} // namespace tenon

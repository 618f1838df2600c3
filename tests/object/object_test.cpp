// What a well-formed object is read as: sections of every kind, symbols of every binding, type, visibility and place,
// groups, relocations, compressed sections.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "elf_builder.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <thread>

namespace tenon {
namespace {

using namespace test;

Object read(const std::vector<std::byte>& bytes) {
  auto object = Object::copy(bytes, "test.o");
  EXPECT_TRUE(object.ok()) << (object.ok() ? "" : object.error().message);
  return std::move(object).value();
}

// The only section of an object made with these properties.
Section classified(const std::string& name, std::uint32_t type, std::uint64_t flags) {
  ElfBuilder builder;
  const auto index = builder.section(name, type, flags, type == elf::sht_nobits ? to_bytes("") : to_bytes("12345678"), 8);
  if (type == elf::sht_nobits) builder.sections[index].header.size = 8;
  static std::vector<Object> kept; // the section's views point into it
  kept.push_back(read(builder.build()));
  return kept.back().sections()[index];
}

constexpr std::uint64_t A = elf::shf_alloc, W = elf::shf_write, X = elf::shf_execinstr, T = elf::shf_tls;

TEST(SectionKinds, FlagsDecide) {
  EXPECT_EQ(classified(".text.f", elf::sht_progbits, A | X).kind, SectionKind::code);
  EXPECT_EQ(classified(".rodata", elf::sht_progbits, A).kind, SectionKind::rodata);
  EXPECT_EQ(classified(".gcc_except_table", elf::sht_progbits, A).kind, SectionKind::rodata);
  EXPECT_EQ(classified(".data", elf::sht_progbits, A | W).kind, SectionKind::data);
  EXPECT_EQ(classified(".bss", elf::sht_nobits, A | W).kind, SectionKind::zero);
  EXPECT_EQ(classified(".tdata", elf::sht_progbits, A | W | T).kind, SectionKind::tls_data);
  EXPECT_EQ(classified(".tbss", elf::sht_nobits, A | W | T).kind, SectionKind::tls_zero);
  const Section bss = classified(".bss", elf::sht_nobits, A | W);
  EXPECT_EQ(bss.size, 8U);
  EXPECT_TRUE(bss.content.empty());
  EXPECT_TRUE(bss.allocated && bss.writable && !bss.executable);
}

TEST(SectionKinds, UnwindByNameOrType) {
  EXPECT_EQ(classified(".eh_frame", elf::sht_progbits, A).kind, SectionKind::unwind);
  EXPECT_EQ(classified(".eh_frame", elf::sht_x86_64_unwind, A).kind, SectionKind::unwind);
  EXPECT_EQ(classified(".eh_frame_hdr", elf::sht_progbits, A).kind, SectionKind::rodata);
}

TEST(SectionKinds, DebugAndOther) {
  for (const char* name : {".debug_info", ".zdebug_line", ".stab", ".stabstr", ".gdb_index"}) {
    const Section section = classified(name, elf::sht_progbits, 0);
    EXPECT_EQ(section.kind, SectionKind::debug) << name;
    EXPECT_FALSE(section.allocated) << name;
  }
  EXPECT_EQ(classified(".debug_loaded", elf::sht_progbits, A).kind, SectionKind::rodata);
  EXPECT_EQ(classified(".comment", elf::sht_progbits, elf::shf_merge | elf::shf_strings).kind, SectionKind::other);
  EXPECT_EQ(classified(".note.GNU-stack", elf::sht_progbits, 0).kind, SectionKind::other);
  EXPECT_EQ(classified(".llvm_addrsig", 0x6FFF4C03, elf::shf_exclude).kind, SectionKind::other);
  const Section excluded = classified(".llvmbc", elf::sht_progbits, A | elf::shf_exclude);
  EXPECT_EQ(excluded.kind, SectionKind::other);
  EXPECT_FALSE(excluded.allocated);
  EXPECT_FALSE(classified(".note.gnu.property", elf::sht_note, A).allocated);
  EXPECT_EQ(classified(".note.mine", elf::sht_note, A).kind, SectionKind::rodata);
}

TEST(SectionKinds, InitTables) {
  const auto expect = [](const char* name, std::uint32_t type, InitTable table, unsigned priority) {
    const Section section = classified(name, type, A | W);
    EXPECT_EQ(section.kind, SectionKind::init) << name;
    EXPECT_EQ(section.init_table, table) << name;
    EXPECT_EQ(section.init_priority, priority) << name;
  };
  expect(".init_array", elf::sht_init_array, InitTable::init, 65535);
  expect(".init_array", elf::sht_progbits, InitTable::init, 65535);
  expect(".init_array.00101", elf::sht_init_array, InitTable::init, 101);
  expect(".init_array.0", elf::sht_init_array, InitTable::init, 0);
  expect(".init_array.99999", elf::sht_init_array, InitTable::init, 65535);
  expect(".init_array.foo", elf::sht_init_array, InitTable::init, 65535);
  expect(".fini_array.5", elf::sht_fini_array, InitTable::fini, 5);
  expect(".preinit_array", elf::sht_preinit_array, InitTable::preinit, 65535);
  expect("odd_name", elf::sht_init_array, InitTable::init, 65535);
  expect(".ctors", elf::sht_progbits, InitTable::ctors, 65535);
  expect(".ctors.65434", elf::sht_progbits, InitTable::ctors, 101);
  expect(".dtors.00001", elf::sht_progbits, InitTable::dtors, 65534);
  EXPECT_EQ(classified(".init_arrays", elf::sht_progbits, A | W).kind, SectionKind::data);
  EXPECT_EQ(classified(".ctors_x", elf::sht_progbits, A | W).init_table, InitTable::none);
}

TEST(SectionKinds, MergeRetainLarge) {
  ElfBuilder builder;
  const auto strings =
      builder.section(".rodata.str1.1", elf::sht_progbits, A | elf::shf_merge | elf::shf_strings, to_bytes("ab"));
  builder.sections[strings].header.entsize = 1;
  const auto uneven = builder.section(".rodata.cst8", elf::sht_progbits, A | elf::shf_merge, to_bytes("123"));
  builder.sections[uneven].header.entsize = 8;
  const auto large = builder.section(".ldata", elf::sht_progbits, A | W | elf::shf_x86_64_large | elf::shf_gnu_retain);
  const auto ordered = builder.section("meta", elf::sht_progbits, A | elf::shf_link_order, to_bytes("x"));
  builder.sections[ordered].header.link = large;
  const Object object = read(builder.build());
  const auto sections = object.sections();
  EXPECT_TRUE(sections[strings].mergeable && sections[strings].strings);
  EXPECT_EQ(sections[strings].entry_size, 1U);
  EXPECT_FALSE(sections[uneven].mergeable);
  EXPECT_TRUE(sections[large].large && sections[large].retain);
  EXPECT_EQ(sections[ordered].link_order, large);
  EXPECT_EQ(sections[large].link_order, 0U);
}

TEST(Symbols, EveryBindingTypeVisibilityAndPlace) {
  ElfBuilder builder;
  const auto text = builder.text();
  builder.symbol("a.c", 0, elf::stt_file, elf::shn_abs);
  builder.symbol("", 0, elf::stt_section, text);
  builder.symbol("local", 0, elf::stt_func, text, 4, 2);
  builder.symbol("undefined", 1, 0, 0);
  builder.symbol("global", 1, elf::stt_func, text, 8, 1);
  builder.symbol("weak", 2, elf::stt_object, text, 0, 0, 2);
  builder.symbol("unique", 10, elf::stt_object, text, 0, 0, 1);
  builder.symbol("ifunc", 1, elf::stt_gnu_ifunc, text, 0, 0, 3);
  builder.symbol("tls", 1, elf::stt_tls, 0);
  builder.symbol("absolute", 1, 0, elf::shn_abs, 0xFFFFFFFF80000000);
  builder.symbol("common", 1, elf::stt_object, elf::shn_common, 32, 100);
  builder.symbol("large", 1, elf::stt_common, elf::shn_x86_64_lcommon, 0, 5);
  builder.symbol("late_local", 0, 0, text);
  auto object = read(builder.build([](auto&, auto& all) { all[2].header.info = 4; })); // .symtab is section 2
  const auto symbols = object.symbols();
  ASSERT_EQ(symbols.size(), 14U);
  EXPECT_EQ(object.first_global(), 4U);
  EXPECT_EQ(symbols[0].name(), "");
  EXPECT_FALSE(symbols[0].defined());
  EXPECT_EQ(symbols[1].name(), "a.c");
  EXPECT_EQ(symbols[1].type, SymbolType::file);
  EXPECT_EQ(symbols[1].section, section_absolute);
  EXPECT_EQ(symbols[2].type, SymbolType::section);
  EXPECT_EQ(symbols[3].name(), "local");
  EXPECT_TRUE(symbols[3].is_local());
  EXPECT_EQ(symbols[3].value, 4U);
  EXPECT_EQ(symbols[3].size, 2U);
  EXPECT_EQ(symbols[3].section, text);
  EXPECT_FALSE(symbols[4].defined());
  EXPECT_EQ(symbols[5].binding, Binding::global);
  EXPECT_EQ(symbols[5].type, SymbolType::function);
  EXPECT_EQ(symbols[6].binding, Binding::weak);
  EXPECT_EQ(symbols[6].visibility, Visibility::hidden);
  EXPECT_EQ(symbols[7].binding, Binding::unique);
  EXPECT_EQ(symbols[7].visibility, Visibility::internal);
  EXPECT_EQ(symbols[8].type, SymbolType::ifunc);
  EXPECT_EQ(symbols[8].visibility, Visibility::protected_);
  EXPECT_EQ(symbols[9].type, SymbolType::tls);
  EXPECT_EQ(symbols[10].value, 0xFFFFFFFF80000000);
  EXPECT_EQ(symbols[11].section, section_common);
  EXPECT_EQ(symbols[11].value, 32U);
  EXPECT_FALSE(symbols[11].large_common);
  EXPECT_EQ(symbols[12].section, section_common);
  EXPECT_EQ(symbols[12].value, 1U); // no alignment means 1
  EXPECT_TRUE(symbols[12].large_common);
  EXPECT_TRUE(symbols[13].is_local());
}

TEST(Symbols, ExtendedSectionIndices) {
  ElfBuilder builder;
  const auto text = builder.text();
  builder.symbol("f", 1, elf::stt_func, elf::shn_xindex);
  std::vector<std::byte> indices;
  append(indices, std::uint32_t(0));
  append(indices, text);
  builder.links_to_symbols.push_back(builder.section(".symtab_shndx", elf::sht_symtab_shndx, 0, indices, 4));
  EXPECT_EQ(read(builder.build()).symbols()[1].section, text);
}

TEST(Objects, MoreThan65279Sections) {
  ElfBuilder builder;
  for (int i = 0; i < 66000; ++i) builder.section(".rodata.x", elf::sht_progbits, A, to_bytes("x"));
  builder.symbol("last", 1, elf::stt_object, elf::shn_xindex);
  std::vector<std::byte> indices;
  append(indices, std::uint32_t(0));
  append(indices, std::uint32_t(66000));
  builder.links_to_symbols.push_back(builder.section(".symtab_shndx", elf::sht_symtab_shndx, 0, indices, 4));
  const Object object = read(builder.build([](elf::Header& header, auto& all) {
    header.shnum = 0;
    header.shstrndx = elf::shn_xindex;
    all[0].header.size = all.size();
    all[0].header.link = static_cast<std::uint32_t>(all.size() - 1);
  }));
  EXPECT_EQ(object.sections().size(), 66005U);
  EXPECT_EQ(object.sections()[66000].name, ".rodata.x");
  EXPECT_EQ(object.symbols()[1].section, 66000U);
}

TEST(Objects, RelocationsAreViewsOfTheFileAtAnyAlignment) {
  ElfBuilder builder;
  const auto text = builder.text();
  const auto symbol = builder.symbol("callee", 1, 0, 0);
  builder.relocations(text, {{1, 4, symbol, -4}, {9, 2, 0, 1LL << 40}});
  const auto bytes = builder.build();
  for (std::size_t shift = 0; shift < 9; ++shift) {
    std::vector<std::byte> shifted(shift);
    shifted.insert(shifted.end(), bytes.begin(), bytes.end());
    const auto object = Object::borrow(Bytes(shifted).subspan(shift), nullptr, "shifted.o");
    ASSERT_TRUE(object.ok()) << object.error().message;
    EXPECT_EQ(object->bytes().data(), shifted.data() + shift);
    const auto relocations = object->relocations(text);
    ASSERT_EQ(relocations.size(), 2U);
    EXPECT_GE(reinterpret_cast<const std::byte*>(relocations.data()), shifted.data());
    EXPECT_LT(reinterpret_cast<const std::byte*>(relocations.data()), shifted.data() + shifted.size());
    const Relocation first = relocations[0], second = relocations[1];
    EXPECT_EQ(+first.offset, 1U);
    EXPECT_EQ(+first.type, 4U);
    EXPECT_EQ(+first.symbol, symbol);
    EXPECT_EQ(+first.addend, -4);
    EXPECT_EQ(+second.addend, 1LL << 40);
  }
}

TEST(Objects, ViewsLiveAsLongAsAnyCopy) {
  std::span<const Section> sections;
  std::optional<Object> kept;
  {
    ElfBuilder builder;
    builder.text();
    const Object first = read(builder.build());
    kept = first;
    sections = first.sections();
  }
  EXPECT_EQ(kept->sections().data(), sections.data());
  EXPECT_EQ(sections[1].name, ".text");
  EXPECT_EQ(kept->name(), "test.o");
}

TEST(Objects, OtherMachines) {
  ElfBuilder builder;
  builder.text();
  const auto with_machine = [&](std::uint16_t machine) {
    return read(builder.build([&](elf::Header& header, auto&) { header.machine = machine; })).machine();
  };
  EXPECT_EQ(with_machine(elf::em_x86_64), Machine::x86_64);
  EXPECT_EQ(with_machine(elf::em_aarch64), Machine::aarch64);
  EXPECT_EQ(with_machine(elf::em_riscv), Machine::riscv64);
}

TEST(Objects, WithoutSections) {
  const Object object = read(ElfBuilder().build([](elf::Header& header, auto&) {
    header.shoff = 0;
    header.shnum = 0;
    header.shstrndx = 0;
  }));
  EXPECT_EQ(object.sections().size(), 1U);
  EXPECT_EQ(object.symbols().size(), 1U);
  EXPECT_TRUE(object.relocations(0).empty());
}

TEST(Groups, MembersAndSignatures) {
  ElfBuilder builder;
  const auto text = builder.section(".text.f", elf::sht_progbits, A | X, to_bytes("x"));
  const auto data = builder.section(".data.f", elf::sht_progbits, A | W, to_bytes("x"));
  const auto other = builder.section(".text.g", elf::sht_progbits, A | X, to_bytes("x"));
  const auto section_symbol = builder.symbol("", 0, elf::stt_section, other);
  const auto f = builder.symbol("f", 2, elf::stt_func, text);
  builder.group(f, {text, data});
  builder.group(section_symbol, {other}, 0);
  const Object object = read(builder.build());
  ASSERT_EQ(object.groups().size(), 2U);
  const Group& first = object.groups()[0];
  EXPECT_EQ(first.signature, "f");
  EXPECT_TRUE(first.comdat);
  ASSERT_EQ(first.sections.size(), 2U);
  EXPECT_EQ(first.sections[0], text);
  EXPECT_EQ(first.sections[1], data);
  EXPECT_EQ(object.groups()[1].signature, ".text.g");
  EXPECT_FALSE(object.groups()[1].comdat);
  EXPECT_EQ(object.sections()[text].group, 0);
  EXPECT_EQ(object.sections()[other].group, 1);
  EXPECT_EQ(object.sections()[0].group, -1);
}

// --- Compressed sections ---

std::string sample() {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "line " + std::to_string(i) + "\n";
  return text;
}
std::vector<std::byte> zlib_of(const std::string& text) {
  std::vector<std::byte> out(compressBound(text.size()));
  uLongf size = out.size();
  EXPECT_EQ(compress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(text.data()), text.size()),
            Z_OK);
  out.resize(size);
  return out;
}
std::vector<std::byte> zstd_of(const std::string& text) {
  std::vector<std::byte> out(ZSTD_compressBound(text.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}
std::vector<std::byte> with_header(std::uint32_t type, std::uint64_t size, std::uint64_t alignment,
                                   const std::vector<std::byte>& data) {
  std::vector<std::byte> out;
  out.reserve(sizeof(elf::CompressionHeader) + data.size());
  append(out, elf::CompressionHeader{type, 0, size, alignment});
  out.insert(out.end(), data.begin(), data.end());
  return out;
}
Object debug_object(const std::string& name, std::vector<std::byte> content, std::uint64_t flags = elf::shf_compressed) {
  ElfBuilder builder;
  builder.section(name, elf::sht_progbits, flags, std::move(content));
  return read(builder.build());
}

TEST(Compressed, ZlibZstdAndTheOldForm) {
  const std::string text = sample();
  const auto expect = [&](const Object& object) {
    EXPECT_TRUE(object.sections()[1].compressed);
    EXPECT_EQ(object.sections()[1].kind, SectionKind::debug);
    EXPECT_EQ(object.sections()[1].size, text.size());
    const auto bytes = object.uncompressed(1);
    ASSERT_TRUE(bytes.ok()) << bytes.error().message;
    EXPECT_EQ(*bytes, to_bytes(text));
  };
  const Object zlib = debug_object(".debug_info", with_header(1, text.size(), 8, zlib_of(text)));
  expect(zlib);
  EXPECT_EQ(zlib.sections()[1].alignment, 8U);
  expect(debug_object(".debug_info", with_header(2, text.size(), 1, zstd_of(text))));
  std::vector<std::byte> old = to_bytes(std::string("ZLIB\0\0\0\0\0\0", 10));
  old.push_back(std::byte(text.size() >> 8));
  old.push_back(std::byte(text.size() & 255));
  const auto data = zlib_of(text);
  old.insert(old.end(), data.begin(), data.end());
  expect(debug_object(".zdebug_info", old, 0));
}

TEST(Compressed, OrdinarySectionsAreCopied) {
  const Object plain = debug_object(".debug_str", to_bytes("plain"), 0);
  EXPECT_FALSE(plain.sections()[1].compressed);
  EXPECT_EQ(*plain.uncompressed(1), to_bytes("plain"));
  EXPECT_EQ(debug_object(".debug_str", with_header(1, 0, 1, zlib_of(""))).uncompressed(1)->size(), 0U);
  ElfBuilder builder;
  const auto bss = builder.section(".bss", elf::sht_nobits, A | W);
  builder.sections[bss].header.size = 100;
  const Object zero = read(builder.build());
  EXPECT_EQ(*zero.uncompressed(bss), std::vector<std::byte>(100));
  EXPECT_FALSE(zero.uncompressed(bss, 99).ok());
}

TEST(Compressed, Faults) {
  const std::string text = sample();
  const auto fault = [](const Object& object, const char* part, ErrorCode code = ErrorCode::malformed) {
    const auto bytes = object.uncompressed(1);
    ASSERT_FALSE(bytes.ok());
    EXPECT_EQ(bytes.error().code, code);
    EXPECT_NE(bytes.error().message.find(part), std::string::npos) << bytes.error().message;
    EXPECT_NE(bytes.error().message.find("test.o: section [1] .debug_info"), std::string::npos) << bytes.error().message;
  };
  const auto make = [](std::uint32_t type, std::uint64_t size, const std::vector<std::byte>& data) {
    return debug_object(".debug_info", with_header(type, size, 1, data));
  };
  auto zlib = zlib_of(text);
  fault(make(1, text.size() + 1, zlib), "shorter than its header says");
  fault(make(1, text.size() - 1, zlib), "longer than its header says");
  fault(make(2, text.size() + 1, zstd_of(text)), "shorter than its header says");
  fault(make(2, text.size() - 1, zstd_of(text)), "longer than its header says");
  fault(make(3, 1, zlib), "unknown method 3", ErrorCode::unsupported);
  fault(make(1, std::uint64_t(1) << 40, zlib), "above the limit", ErrorCode::unsupported);
  fault(make(1, std::uint64_t(1) << 29, zlib), "can't have 536870912 bytes");
  fault(make(2, std::uint64_t(1) << 29, to_bytes("abc")), "can't have 536870912 bytes");
  fault(make(2, 1000, to_bytes("not zstd")), "damaged");
  zlib.resize(zlib.size() / 2);
  fault(make(1, text.size(), zlib), "damaged");
  fault(make(1, 10, {}), "can't have 10 bytes");
}

} // namespace
} // namespace tenon

// Objects that the reader takes and the linker must not trust: each gets a named error or links harmlessly, and the engine
// goes on. Most were found by fuzzing (fuzz/fuzz_link.cpp) or by reading the linker as an attacker would.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tests/object/elf_builder.h"

#include <tenon/tenon.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tenon::test {
namespace {

using testing::HasSubstr;

constexpr std::uint32_t r_64 = 1, r_pc32 = 2, r_plt32 = 4, r_tlsgd = 19, r_rex_gotpcrelx = 42;
constexpr std::uint64_t alloc = elf::shf_alloc, code = elf::shf_alloc | elf::shf_execinstr,
                        data = elf::shf_alloc | elf::shf_write, tls = elf::shf_alloc | elf::shf_write | elf::shf_tls;
constexpr unsigned local = elf::stb_local, global = elf::stb_global;

std::vector<std::byte> hex(std::initializer_list<unsigned> bytes) {
  std::vector<std::byte> made;
  for (unsigned byte : bytes) made.push_back(std::byte(byte));
  return made;
}

// Everything is far away, unless it is told to be somewhere.
struct FixedResolver final : Resolver {
  explicit FixedResolver(Addr at) : address(at) {}
  Result<void> resolve(std::span<const Needed>, std::span<Answer> answers) noexcept override {
    for (Answer& answer : answers) answer = Answer::at(address);
    return {};
  }
  Addr address;
};

class MalformedLink : public testing::Test {
protected:
  MalformedLink() : engine_(make()), library_(*engine_.library()) {
    EXPECT_TRUE(library_.search({Source::resolver(std::make_shared<FixedResolver>(Addr{0x1000}))}));
  }

  // Whatever happened before, something ordinary still links, and nothing is left of what failed.
  ~MalformedLink() override {
    EXPECT_EQ(engine_.usage().live, live_);
    ElfBuilder builder;
    std::uint32_t text = builder.text();
    builder.symbol("fine", global, elf::stt_func, text);
    EXPECT_TRUE(link(builder.build()));
  }

  Result<Draft> draft(std::vector<std::byte> bytes, ModuleOptions options = {}) {
    Result<Object> object = Object::copy(bytes, "bad.o");
    if (!object) return std::move(object).error();
    Change change = engine_.change();
    change.add(library_, std::move(*object), std::move(options));
    return std::move(change).draft();
  }

  Result<Linked> link(std::vector<std::byte> bytes, ModuleOptions options = {}) {
    Result<Draft> drafted = draft(std::move(bytes), std::move(options));
    if (!drafted) return std::move(drafted).error();
    return finish(std::move(*drafted).place());
  }

  // At addresses one after another, or far apart.
  Result<Linked> link_at(std::vector<std::byte> bytes, Granularity granularity, std::uint64_t gap = 0) {
    Result<Draft> drafted = draft(std::move(bytes));
    if (!drafted) return std::move(drafted).error();
    Result<std::vector<BlockRequest>> requests = drafted->blocks(granularity);
    if (!requests) return std::move(requests).error();
    std::vector<Addr> addresses;
    std::uint64_t at = 0x10000;
    for (const BlockRequest& request : *requests) {
      at = (at + request.alignment - 1) & ~(request.alignment - 1);
      addresses.push_back({at});
      at += request.size + gap;
    }
    return finish(std::move(*drafted).place(granularity, addresses));
  }

  template <class T> static void expect_error(const Result<T>& result, ErrorCode code, std::string_view text) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_THAT(result.error().message, HasSubstr(std::string(text)));
    EXPECT_THAT(result.error().message, HasSubstr("bad.o"));
  }

  Engine engine_;
  Library library_;

private:
  static Engine make() {
    Options options;
    options.reservation_bytes = std::uint64_t(1) << 28;
    return *Engine::create(options);
  }
  static Result<Linked> finish(Result<Placed> placed) {
    if (!placed) return std::move(placed).error();
    return std::move(*placed).link();
  }

  std::uint64_t live_ = engine_.usage().live;
};

TEST_F(MalformedLink, LocalCommonSymbol) {
  ElfBuilder builder;
  builder.text();
  builder.symbol("c", local, elf::stt_object, elf::shn_common, 8, 8);
  expect_error(link(builder.build()), ErrorCode::malformed, "symbol [1] c is common, but local");
}

TEST_F(MalformedLink, IfuncOutsideOfCode) {
  for (const std::uint64_t flags : {data, tls, alloc}) {
    ElfBuilder builder;
    std::uint32_t place = builder.section("place", elf::sht_progbits, flags, std::vector<std::byte>(16));
    builder.symbol("f", global, elf::stt_gnu_ifunc, place);
    expect_error(link(builder.build()), ErrorCode::malformed, "f is an IFUNC, but does not lie in code");
  }
}

// mov f@GOTPCREL(%rip), %rax, relaxed for whatever lies in the module: so there is no GOT entry to fall back to.
TEST_F(MalformedLink, RelaxedLoadOfValueBeyondItsSection) {
  ElfBuilder builder;
  std::uint32_t text = builder.section(".text", elf::sht_progbits, code, hex({0x48, 0x8B, 0x05, 0, 0, 0, 0, 0xC3}));
  std::uint32_t f = builder.symbol("f", global, elf::stt_func, text, std::uint64_t(1) << 40);
  builder.relocations(text, {{3, r_rex_gotpcrelx, f, -4}});
  expect_error(link(builder.build()), ErrorCode::out_of_range, "R_X86_64_REX_GOTPCRELX at offset 0x3 against 'f'");
}

TEST_F(MalformedLink, RelaxedLoadWithAnotherAddend) {
  for (const std::int64_t addend :
       {std::int64_t(0), std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()}) {
    ElfBuilder builder;
    std::uint32_t text = builder.section(".text", elf::sht_progbits, code, hex({0x48, 0x8B, 0x05, 0, 0, 0, 0, 0xC3}));
    std::uint32_t f = builder.symbol("f", global, elf::stt_func, text);
    builder.relocations(text, {{3, r_rex_gotpcrelx, f, addend}});
    const Result<Linked> linked = link(builder.build());
    if (addend != 0) {
      expect_error(linked, ErrorCode::out_of_range, "against 'f'");
      continue;
    }
    ASSERT_TRUE(linked) << linked.error().message;
    EXPECT_EQ(linked->bytes({{0}, text})[1], std::byte(0x8B))
        << "a load beside the cell is no load of the cell: not relaxed";
  }
}

TEST_F(MalformedLink, RelaxedLoadUnderAnotherRelocation) {
  ElfBuilder builder;
  std::uint32_t text = builder.section(".text", elf::sht_progbits, code, hex({0x48, 0x8B, 0x05, 0, 0, 0, 0, 0xC3, 0, 0, 0}));
  std::uint32_t f = builder.symbol("f", global, elf::stt_func, text);
  builder.relocations(text, {{0, r_64, f, 0x5555}, {3, r_rex_gotpcrelx, f, -4}});
  const Result<Linked> linked = link(builder.build());
  EXPECT_TRUE(linked) << linked.error().message;
}

TEST_F(MalformedLink, RelaxableBytesAtTheEdgesOfASection) {
  for (const std::uint64_t offset : {0, 1, 2}) {
    ElfBuilder builder;
    std::uint32_t text =
        builder.section(".text", elf::sht_progbits, code, std::vector<std::byte>(offset + 4, std::byte(0xFF)));
    builder.sections[text].content[offset == 0 ? 0 : offset - 1] = std::byte(0x25); // jmp *f@GOTPCREL(%rip), at most
    std::uint32_t f = builder.symbol("f", global, elf::stt_func, text);
    builder.relocations(text, {{offset, r_rex_gotpcrelx, f, -4}});
    const Result<Linked> linked = link(builder.build());
    EXPECT_TRUE(linked) << linked.error().message;
  }
}

TEST_F(MalformedLink, SymbolOfAnEmptySectionIsNear) {
  ElfBuilder builder;
  std::uint32_t text =
      builder.section(".text", elf::sht_progbits, code, hex({0x48, 0x8B, 0x05, 0, 0, 0, 0, 0xE8, 0, 0, 0, 0}));
  std::uint32_t empty = builder.section("empty", elf::sht_progbits, data);
  builder.symbol("e", global, elf::stt_object, empty);
  builder.symbol("__start_empty", global, elf::stt_notype, 0);
  builder.relocations(text, {{3, r_rex_gotpcrelx, 2, -4}, {8, r_pc32, 1, -4}});
  const Result<Linked> linked = link(builder.build());
  EXPECT_TRUE(linked) << linked.error().message;
}

// What looks like `mov sym(%rip), %reg` from its last bytes, but adds a register to the field, or knows half an address.
TEST_F(MalformedLink, FarOperandsThatAreNotRelativeToTheInstruction) {
  for (const std::vector<std::byte>& instruction :
       {hex({0x8B, 0x04, 0x05, 0, 0, 0, 0}), hex({0x67, 0x48, 0x8D, 0x05, 0, 0, 0, 0})}) {
    ElfBuilder builder;
    std::uint32_t text = builder.section(".text", elf::sht_progbits, code, instruction);
    builder.relocations(text, {{instruction.size() - 4, r_pc32, builder.symbol("far", global, elf::stt_object, 0), -4}});
    expect_error(link(builder.build()), ErrorCode::out_of_range, "can be reached by `mov`");
  }
}

TEST_F(MalformedLink, StubsFarFromTheirCells) {
  ElfBuilder builder;
  std::uint32_t text = builder.section(".text", elf::sht_progbits, code, hex({0xE8, 0, 0, 0, 0}));
  builder.relocations(text, {{1, r_plt32, builder.symbol("far", global, elf::stt_func, 0), -4}});
  expect_error(link_at(builder.build(), Granularity::function, std::uint64_t(1) << 33), ErrorCode::out_of_range,
               "the stub of 'far'");
}

TEST_F(MalformedLink, BoundedSectionsOfDifferentKinds) {
  for (const std::uint64_t second : {alloc, code, tls}) {
    ElfBuilder builder;
    std::uint32_t first = builder.section("set", elf::sht_progbits, data, std::vector<std::byte>(8));
    builder.section("set", elf::sht_progbits, second, std::vector<std::byte>(64));
    builder.relocations(first, {{0, r_64, builder.symbol("__start_set", global, elf::stt_notype, 0), 0}});
    ASSERT_TRUE(library_.search({}));
    expect_error(link(builder.build()), ErrorCode::unsupported, "sections [1] of bad.o and [2] of bad.o, set");
  }
}

// A reference that takes a function or datum for a thread-local variable.
TEST_F(MalformedLink, ThreadLocalReferenceToAnOrdinarySymbol) {
  const Absolute symbols[] = {{"plain", {0x1000}}};
  ASSERT_TRUE(library_.define(symbols));
  ASSERT_TRUE(library_.search({Source::process()}));
  for (const char* name : {"plain", "stdout", "atexit", "__tls_get_addr"}) {
    ElfBuilder builder;
    std::uint32_t text = builder.text();
    builder.relocations(text, {{4, r_tlsgd, builder.symbol(name, global, elf::stt_tls, 0), -4}});
    const Result<Linked> linked = link(builder.build());
    ASSERT_FALSE(linked) << name;
    EXPECT_THAT(linked.error().message, HasSubstr(name));
  }
}

TEST_F(MalformedLink, FrameOutsideOfItsSection) {
  for (const std::int64_t addend :
       {std::int64_t(15), std::int64_t(16), std::int64_t(17), std::int64_t(-1), std::numeric_limits<std::int64_t>::min()}) {
    ElfBuilder builder;
    std::uint32_t text = builder.text(16);
    std::vector<std::byte> frames = hex({16, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1B, 0, 0, 0});
    for (unsigned byte : {16U, 0U, 0U, 0U, 24U, 0U, 0U, 0U}) frames.push_back(std::byte(byte));
    frames.resize(frames.size() + 12);
    std::uint32_t unwind = builder.section(".eh_frame", elf::sht_progbits, alloc, std::move(frames), 8);
    builder.relocations(unwind, {{28, r_pc32, builder.symbol("", local, elf::stt_section, text), addend}});
    const Result<Linked> linked = link(builder.build());
    if (addend == 15 || addend == 16)
      EXPECT_TRUE(linked) << linked.error().message; // 16: a function without code, at the very end
    else
      expect_error(linked, ErrorCode::malformed, ".eh_frame");
  }
}

TEST_F(MalformedLink, GiantZeroFillCostsNothingAtPlainAddresses) {
  ElfBuilder builder;
  std::uint32_t bss = builder.section(".bss", elf::sht_nobits, data);
  builder.sections[bss].header.size = std::uint64_t(1) << 38;
  builder.symbol("b", global, elf::stt_object, bss);
  builder.section(".data", elf::sht_progbits, data, hex({1, 2, 3}));
  for (const Granularity granularity : {Granularity::whole, Granularity::section, Granularity::function}) {
    const Result<Linked> linked = link_at(builder.build(), granularity);
    EXPECT_TRUE(linked) << linked.error().message;
  }
  expect_error(link(builder.build()), ErrorCode::exhausted, "");
}

TEST_F(MalformedLink, ZeroFillIsDeliveredAsZeros) {
  ElfBuilder builder;
  std::uint32_t bss = builder.section(".bss", elf::sht_nobits, data);
  builder.sections[bss].header.size = 5;
  builder.section(".data", elf::sht_progbits, data, hex({1, 2, 3}));
  const Result<Linked> linked = link_at(builder.build(), Granularity::whole);
  ASSERT_TRUE(linked) << linked.error().message;
  std::vector<std::byte> buffer(8, std::byte(0xEE));
  const std::span<std::byte> buffers[] = {buffer};
  ASSERT_TRUE(linked->copy_out(buffers));
  EXPECT_EQ(buffer, hex({1, 2, 3, 0, 0, 0, 0, 0}));
}

TEST_F(MalformedLink, GiantAlignment) {
  ElfBuilder builder;
  for (int i = 0; i < 4; ++i)
    builder.section(".rodata." + std::to_string(i), elf::sht_progbits, alloc, hex({1}), std::uint64_t(1) << 31);
  expect_error(link_at(builder.build(), Granularity::whole), ErrorCode::exhausted, "bytes of buffers");
  const Result<Linked> linked = link(builder.build());
  EXPECT_FALSE(linked);
}

TEST_F(MalformedLink, GiantThreadLocalBlock) {
  ElfBuilder builder;
  std::uint32_t zero = builder.section(".tbss", elf::sht_nobits, tls);
  builder.sections[zero].header.size = std::uint64_t(1) << 36;
  expect_error(link(builder.build()), ErrorCode::exhausted, "thread-local");
}

TEST_F(MalformedLink, GiantCommonSymbols) {
  ElfBuilder builder;
  for (int i = 0; i < 3; ++i)
    builder.symbol("c" + std::to_string(i), global, elf::stt_object, elf::shn_common, std::uint64_t(1) << 31,
                   std::uint64_t(1) << 47);
  expect_error(link(builder.build()), ErrorCode::exhausted, "common symbols");
}

// 2^17 times 2^47 is 0 in 64 bits.
TEST_F(MalformedLink, CommonSymbolsWhoseSizesWrapAround) {
  ElfBuilder builder;
  for (int i = 0; i < 1 << 17; ++i)
    builder.symbol("c" + std::to_string(i), global, elf::stt_object, elf::shn_common, 1, std::uint64_t(1) << 47);
  expect_error(link(builder.build()), ErrorCode::exhausted, "common symbols");
}

TEST_F(MalformedLink, ThreadLocalImageIsInOnePieceOfAWholeBlock) {
  ElfBuilder builder;
  std::uint32_t first = builder.section(".tdata.a", elf::sht_progbits, tls, std::vector<std::byte>(8, std::byte(1)));
  std::uint32_t between = builder.section(".rodata", elf::sht_progbits, alloc, std::vector<std::byte>(8, std::byte(2)));
  std::uint32_t second = builder.section(".tdata.b", elf::sht_progbits, tls, std::vector<std::byte>(8, std::byte(3)));
  const Result<Linked> linked = link_at(builder.build(), Granularity::whole);
  ASSERT_TRUE(linked) << linked.error().message;
  EXPECT_EQ(linked->bytes({{0}, first})[0], std::byte(1));
  EXPECT_EQ(linked->bytes({{0}, between})[0], std::byte(2));
  EXPECT_EQ(linked->bytes({{0}, second})[0], std::byte(3));
}

// A section called like the image's own block.
TEST_F(MalformedLink, OrdinarySectionCalledTdata) {
  ElfBuilder builder;
  builder.section(".tdata", elf::sht_progbits, tls, std::vector<std::byte>(8, std::byte(1)));
  std::uint32_t plain = builder.section(".tdata", elf::sht_progbits, alloc, std::vector<std::byte>(8, std::byte(2)));
  std::uint32_t third = builder.section(".tdata.c", elf::sht_progbits, tls, std::vector<std::byte>(8, std::byte(3)));
  const Result<Linked> linked = link_at(builder.build(), Granularity::section);
  ASSERT_TRUE(linked) << linked.error().message;
  EXPECT_EQ(linked->bytes({{0}, plain})[0], std::byte(2));
  EXPECT_EQ(linked->bytes({{0}, third})[0], std::byte(3));
}

// A reference and a definition of one name, in one module, are two symbols.
TEST_F(MalformedLink, ReferenceRenamedToADefinitionOfItsOwnModule) {
  ElfBuilder builder;
  std::uint32_t text = builder.section(".text", elf::sht_progbits, code, std::vector<std::byte>(64));
  std::uint32_t words = builder.section(".data", elf::sht_progbits, data, std::vector<std::byte>(8));
  builder.symbol("there", global, elf::stt_func, text, 32);
  builder.relocations(words, {{0, r_64, builder.symbol("here", global, elf::stt_func, 0), 0}});
  Result<Draft> drafted = draft(builder.build());
  ASSERT_TRUE(drafted);
  const Result<void> edited = drafted->edit({Edit::rename({0}, "here", "there")});
  ASSERT_TRUE(edited) << edited.error().message;
  Result<Placed> placed = std::move(*drafted).place();
  ASSERT_TRUE(placed);
  const Result<Linked> linked = std::move(*placed).link();
  ASSERT_TRUE(linked) << linked.error().message;
  std::uint64_t word = 0, begin = 0;
  std::memcpy(&word, linked->bytes({{0}, words}).data(), sizeof word);
  for (const PlacedSection& section : linked->sections())
    if (section.id.index == text) begin = section.address.value;
  EXPECT_EQ(word, begin + 32);
}

TEST_F(MalformedLink, ArchiveIndexThatLies) {
  ElfBuilder member;
  member.text();
  const std::vector<std::byte> bytes = member.build();
  const auto header = [](std::string name, std::size_t size) {
    const auto padded = [](std::string text, std::size_t width) { return text + std::string(width - text.size(), ' '); };
    return padded(std::move(name), 16) + padded("0", 12) + padded("0", 6) + padded("0", 6) + padded("644", 8) +
           padded(std::to_string(size), 10) + "`\n";
  };
  std::string archive = "!<arch>\n" + header("/", 16);
  const char index[] = {0, 0, 0, 1, 0, 0, 0, 84}; // one symbol, in the member behind this index
  archive.append(index, sizeof index).append("missing\0", 8);
  archive += header("m.o/", bytes.size());
  archive.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Result<Archive> read = Archive::copy(to_bytes(archive), "lying.a");
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_TRUE(library_.search({Source::archive(std::move(*read))}));
  ElfBuilder builder;
  std::uint32_t words = builder.section(".data", elf::sht_progbits, data, std::vector<std::byte>(8));
  builder.relocations(words, {{0, r_64, builder.symbol("missing", global, elf::stt_notype, 0), 0}});
  expect_error(link(builder.build()), ErrorCode::undefined, "'missing'");
}

TEST_F(MalformedLink, NamesThatShareOneLongEnd) {
  ElfBuilder builder;
  builder.symbol(std::string(1 << 20, 'x'), global, elf::stt_notype, 0);
  for (int i = 0; i < 50'000; ++i) {
    builder.symbols.push_back(builder.symbols[1]);
    builder.symbols.back().name += unsigned(i);
  }
  const Result<Linked> linked = link(builder.build());
  ASSERT_FALSE(linked);
  EXPECT_EQ(linked.error().code, ErrorCode::malformed);
  EXPECT_LT(linked.error().message.size(), 2000U);
}

TEST_F(MalformedLink, ManyMissingSymbolsInASectionWithALongName) {
  ASSERT_TRUE(library_.search({}));
  ElfBuilder builder;
  std::uint32_t words = builder.section(std::string(1 << 16, 'n'), elf::sht_progbits, data, std::vector<std::byte>(8));
  std::vector<ElfBuilder::Rela> relocations;
  for (int i = 0; i < 10'000; ++i)
    relocations.push_back({0, r_64, builder.symbol("m" + std::to_string(i), global, elf::stt_notype, 0), 0});
  builder.relocations(words, relocations);
  const Result<Linked> linked = link(builder.build());
  expect_error(linked, ErrorCode::undefined, "10000 symbols");
  EXPECT_LT(linked.error().message.size(), std::size_t(4) << 20);
}

// What follows is about time: quadratic passes over these would take minutes.
TEST_F(MalformedLink, ManyThunks) {
  ASSERT_TRUE(library_.search({Source::resolver(std::make_shared<FixedResolver>(Addr{0x1000}))}));
  constexpr unsigned count = 60'000;
  ElfBuilder builder;
  std::uint32_t text = builder.section(".text", elf::sht_progbits, code);
  std::uint32_t far = builder.symbol("far", global, elf::stt_object, 0);
  std::vector<ElfBuilder::Rela> relocations;
  for (unsigned i = 0; i < count; ++i) {
    std::vector<std::byte>& bytes = builder.sections[text].content;
    relocations.push_back({bytes.size() + 3, r_pc32, far, -4});
    for (unsigned byte : {0x48U, 0x8BU, 0x05U, 0U, 0U, 0U, 0U}) bytes.push_back(std::byte(byte));
    if (i % 2 != 0) std::swap(relocations[i], relocations[i - 1]);
  }
  builder.relocations(text, relocations);
  const Result<Linked> linked = link(builder.build());
  EXPECT_TRUE(linked) << linked.error().message;
}

TEST_F(MalformedLink, ManySectionsAndBounds) {
  constexpr unsigned count = 20'000;
  ElfBuilder builder;
  for (unsigned i = 0; i < count; ++i) {
    const std::string name = "s" + std::to_string(i);
    builder.section(name, elf::sht_progbits, data, hex({1}));
    builder.symbol("__start_" + name, global, elf::stt_notype, 0);
    builder.symbol("__stop_" + name, global, elf::stt_notype, 0);
  }
  ASSERT_TRUE(library_.search({}));
  const Result<Linked> placed = link(builder.build());
  EXPECT_TRUE(placed) << placed.error().message;
  for (const Granularity granularity : {Granularity::section, Granularity::function}) {
    const Result<Linked> linked = link_at(builder.build(), granularity);
    EXPECT_TRUE(linked) << linked.error().message;
  }
}

} // namespace
} // namespace tenon::test

// Symbols whose values and sizes no compiler writes: what is kept of them is right, or the change is refused, and the
// process goes on.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/engine_state.h"
#include "tests/object/elf_builder.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>

namespace tenon::test {
namespace {

constexpr std::array<std::uint64_t, 8> values = {std::uint64_t(1) << 47,  (std::uint64_t(1) << 48) - 16,
                                                 std::uint64_t(1) << 48,  std::uint64_t(1) << 62,
                                                 std::uint64_t(1) << 63,  ~std::uint64_t(0),
                                                 -std::uint64_t(1) << 47, -std::uint64_t(1) << 32};

Object object_of(unsigned type, std::uint32_t section, std::uint64_t value, std::uint64_t size = 0) {
  ElfBuilder builder;
  const std::uint32_t text = builder.text();
  const std::uint32_t tls = builder.section(".tbss", elf::sht_nobits, elf::shf_alloc | elf::shf_write | elf::shf_tls, {}, 8);
  builder.sections[tls].header.size = 16;
  builder.symbol("far", elf::stb_global, type, section == 0 ? (type == elf::stt_tls ? tls : text) : section, value, size);
  builder.symbol("near", elf::stb_global, elf::stt_func, text, 0);
  return expect(Object::copy(builder.build(), "far.o"));
}

struct Values : testing::TestWithParam<bool> {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = GetParam()}));
};

TEST_P(Values, OfSymbolsFarOutsideOfTheirSections) {
  for (const std::uint64_t value : values) {
    SCOPED_TRACE(value);
    Result<Committed> committed = try_commit(engine, library, {object_of(elf::stt_func, 0, value)});
    if (!committed) continue; // refused
    // Of a replaceable function it is that of its stub.
    const std::uint64_t near = address_of(library, "near").value;
    EXPECT_EQ(address_of(library, "far").value == near + value, !GetParam());
    expect(try_remove(engine, {committed->modules()[0]}));
  }
}

TEST_P(Values, OfThreadLocalSymbolsFarOutsideOfTheirSections) {
  for (const std::uint64_t value : values) {
    SCOPED_TRACE(value);
    Result<Committed> committed = try_commit(engine, library, {object_of(elf::stt_tls, 0, value)});
    if (committed) expect(try_remove(engine, {committed->modules()[0]}));
  }
}

TEST_P(Values, OfAbsoluteSymbols) {
  for (const std::uint64_t value : values) {
    SCOPED_TRACE(value);
    Committed committed = expect(try_commit(engine, library, {object_of(elf::stt_func, elf::shn_abs, value)}));
    EXPECT_EQ(address_of(library, "far").value, value);
    expect(try_remove(engine, {committed.modules()[0]}));
  }
  Committed committed = expect(try_commit(engine, library, {object_of(elf::stt_func, elf::shn_abs, 0)}));
  EXPECT_EQ(address_of(library, "far").value, 0U);
}

// A relocation may ask for it: of another module's symbol, the record says it.
TEST_P(Values, OfSizes) {
  for (const std::uint64_t size : values) {
    SCOPED_TRACE(size);
    Committed committed = expect(try_commit(engine, library, {object_of(elf::stt_func, 0, 0, size)}));
    Committed user =
        expect(try_commit(engine, library, {assemble(".data\n.globl size_of_far\nsize_of_far: .quad far@SIZE\n")}));
    EXPECT_EQ(*address_of(library, "size_of_far").as<const std::uint64_t*>(), size);
    expect(try_remove(engine, {user.modules()[0]}));
    expect(try_remove(engine, {committed.modules()[0]}));
  }
}

// Memory is backed ahead for all modules of a change: not for longer than that one fails.
TEST(Sizes, OfAChangeThatFailsAreNotKept) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  const memory::Space& space = *library.handle().engine->machinery->space;
  const Object large = assemble(".section .rodata\n.globl large\nlarge: .fill 24000000, 1, 7\n", "large.o");
  for (int i = 0; i < 2; ++i) {
    Result<Committed> refused =
        try_commit(engine, library, {assemble(".text\n.globl f\nf: ret\n.bss\n.skip 4000000000\n", "too_large.o"), large});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
    EXPECT_LE(space.usage(memory::AreaKind::rodata).committed, std::uint64_t(1) << 20);
  }
  commit(engine, library, large);
  EXPECT_EQ(*address_of(library, "large").as<const char*>(), 7);
}

INSTANTIATE_TEST_SUITE_P(Libraries, Values, testing::Bool(),
                         [](const auto& info) { return info.param ? "replaceable" : "plain"; });

} // namespace
} // namespace tenon::test

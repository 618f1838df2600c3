// __start_X and __stop_X over the modules of a change, the sizes that relocations ask for, and what binds modules together.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <cstdint>
#include <string>

extern "C" {
// Its symbol is to have the size that is written here: no red zone of a sanitizer's.
#ifdef __clang__
__attribute__((no_sanitize("address")))
#endif
__attribute__((visibility("default"))) char bounds_host_array[37] = {};
}

namespace tenon::test {
namespace {

using testing::HasSubstr;

constexpr const char* registers_and_walks = R"(
typedef int (*hook)(void);
extern hook __start_hooks[], __stop_hooks[];
static int one(void) { return 1; }
__attribute__((section("hooks"), used)) static hook h1 = one;
__attribute__((section("hooks"), used)) static hook h2 = one;
int walk(void) { int sum = 0; for (hook *h = __start_hooks; h != __stop_hooks; ++h) sum = sum * 10 + (*h)(); return sum; }
)";
constexpr const char* registers = R"(
typedef int (*hook)(void);
static int two(void) { return 2; }
__attribute__((section("hooks"), used)) static hook h = two;
)";
constexpr const char* only_walks = R"(
typedef int (*hook)(void);
extern hook __start_hooks[], __stop_hooks[];
int walk_too(void) { int sum = 0; for (hook *h = __start_hooks; h != __stop_hooks; ++h) sum = sum * 10 + (*h)(); return sum; }
)";

struct SectionBounds : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library());
};

TEST_F(SectionBounds, SpanTheModulesOfAChange) {
  commit(engine, library,
         {compile_c(only_walks, "-O1 -fPIC", "w.o"), compile_c(registers_and_walks, "-O1 -fPIC", "a.o"),
          compile_c(registers, "-O1 -fPIC", "b.o"), compile_c(registers, "-O1 -fPIC", "c.o")});
  EXPECT_EQ(function<int()>(library, "walk")(), 1122);
  EXPECT_EQ(function<int()>(library, "walk_too")(), 1122);
}

TEST_F(SectionBounds, EachLibraryAndEachChangeHasItsOwn) {
  Library other = expect(engine.library());
  Change change = engine.change();
  change.add(library, compile_c(registers_and_walks));
  change.add(other, compile_c(registers_and_walks));
  change.add(other, compile_c(registers));
  expect(try_commit(std::move(change)));
  EXPECT_EQ(function<int()>(library, "walk")(), 11);
  EXPECT_EQ(function<int()>(other, "walk")(), 112);
  commit(engine, library, compile_c(registers));
  EXPECT_EQ(function<int()>(library, "walk")(), 11);
}

TEST_F(SectionBounds, TieModulesTogether) {
  Committed committed = commit(engine, library,
                               {compile_c(registers_and_walks, "-O1 -fPIC", "a.o"), compile_c(registers, "-O1 -fPIC", "b.o"),
                                compile_c(registers, "-O1 -fPIC", "c.o")});
  std::vector<Module> modules(committed.modules().begin(), committed.modules().end());
  for (const std::vector<Module>& some : {std::vector{modules[0]}, std::vector{modules[1]},
                                          std::vector{modules[0], modules[1]}, std::vector{modules[1], modules[2]}}) {
    Result<void> refused = try_remove(engine, some);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::still_used);
    EXPECT_THAT(refused.error().message, HasSubstr("'__start_hooks'"));
  }
  EXPECT_EQ(function<int()>(library, "walk")(), 1122);
  expect(try_remove(engine, modules));
  EXPECT_EQ(engine.usage().live, 0U);
}

// Code in such sections lies in another module's memory, and unwinding finds its frames there.
TEST_F(SectionBounds, ExceptionsPassThroughCode) {
  constexpr const char* first = R"(
extern "C" char __start_phase[], __stop_phase[];
extern "C" int second(int);
extern "C" __attribute__((section("phase"))) int first(int v) { try { return second(v); } catch (int e) { return e + 1; } }
extern "C" bool inside(void *p) { return p >= __start_phase && p < __stop_phase; }
)";
  constexpr const char* last = R"(
extern "C" __attribute__((section("phase"))) int second(int v) { if (v > 3) throw v; return v; }
extern "C" int plain(int v) { try { return second(v); } catch (int e) { return -e; } }
)";
  Committed committed = commit(engine, library, {compile_cpp(first), compile_cpp(last)});
  EXPECT_EQ(function<int(int)>(library, "first")(2), 2);
  EXPECT_EQ(function<int(int)>(library, "first")(5), 6);
  EXPECT_EQ(function<int(int)>(library, "plain")(6), -6);
  auto inside = function<bool(void*)>(library, "inside");
  EXPECT_TRUE(inside(address_of(library, "first").as<void*>()));
  EXPECT_TRUE(inside(address_of(library, "second").as<void*>()));
  EXPECT_FALSE(inside(address_of(library, "plain").as<void*>()));
  expect(try_remove(engine, {committed.modules().begin(), committed.modules().end()}));
}

TEST_F(SectionBounds, OfTwoKindsOfMemoryAreRefused) {
  Result<Committed> refused =
      try_commit(engine, library,
                 {compile_c(registers_and_walks, "-O1 -fPIC", "a.o"),
                  assemble(".section hooks,\"a\",@progbits\n.quad 1\n.section .note.GNU-stack\n", "flat.o")});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_THAT(refused.error().message,
              testing::AllOf(HasSubstr("a.o"), HasSubstr("flat.o"), HasSubstr("one kind of memory")));
}

constexpr const char* asks_for_size = R"(
  .data
  .globl asked
asked: .quad wanted@SIZE + 2
  .section .note.GNU-stack
)";
constexpr const char* has_size = R"(
  .data
  .globl wanted
  .type wanted, @object
  .size wanted, 24
wanted: .zero 24
  .section .note.GNU-stack
)";

std::uint64_t asked(const Library& library) { return *address_of(library, "asked").as<std::uint64_t*>(); }

TEST_F(SectionBounds, SizesAreThoseOfTheDefinition) {
  commit(engine, library, {assemble(asks_for_size), assemble(has_size)});
  EXPECT_EQ(asked(library), 26U) << "of the same change";
  Library later = expect(engine.library());
  commit(engine, later, assemble(has_size));
  commit(engine, later, assemble(asks_for_size));
  EXPECT_EQ(asked(later), 26U) << "of an earlier one";
  Library common = expect(engine.library());
  commit(engine, common, {assemble(asks_for_size), assemble(".comm wanted, 40, 8\n"), assemble(".comm wanted, 48, 8\n")});
  EXPECT_EQ(asked(common), 50U) << "a common symbol";
  Library of_host = expect(engine.library());
  commit(engine, of_host, assemble(".data\n.globl asked\nasked: .quad bounds_host_array@SIZE\n.section .note.GNU-stack\n"));
  EXPECT_EQ(asked(of_host), 37U) << "the host's";
}

TEST_F(SectionBounds, AnUnknownSizeIsNamed) {
  const Absolute absolute{"wanted", Addr{0x1000}};
  expect(library.define({&absolute, 1}));
  Result<Committed> refused = try_commit(engine, library, {assemble(asks_for_size, "asks.o")});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_THAT(refused.error().message, testing::AllOf(HasSubstr("asks.o"), HasSubstr("'wanted'"), HasSubstr("size")));
}

} // namespace
} // namespace tenon::test

// What is kept of a module has short forms for what is usual, and longer ones for the rest (src/engine/symbol_record.h,
// KeptUsage): names of 255 letters and more, symbols said to be larger than 4 GiB, sizes that don't fit their bits.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gtest/gtest.h>

#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace tenon::test {
namespace {

constexpr std::size_t lengths[] = {1, 7, 8, 9, 253, 254, 255, 256, 300, 70000};

std::string name_of(std::size_t length) { return "n" + std::string(length - 1, 'x'); }

Object object_with_names() {
  std::string text = ".text\n";
  for (std::size_t length : lengths) {
    const std::string name = name_of(length);
    text += ".globl " + name + "\n.type " + name + ",@function\n" + name + ": ret\n.size " + name + ", 1\n";
  }
  return assemble(text, "names.o");
}

void expect_names(const Library& library) {
  std::set<std::uint64_t> addresses;
  for (std::size_t length : lengths) addresses.insert(address_of(library, name_of(length)).value);
  EXPECT_EQ(addresses.size(), std::size(lengths));
  EXPECT_FALSE(library.find(name_of(252)));
  EXPECT_FALSE(library.find(name_of(257)));
}

} // namespace

struct KeptSizes : testing::TestWithParam<bool> {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = GetParam()}));
};

TEST_P(KeptSizes, NamesOfAnyLengthAreFoundAndRemoved) {
  Module module = commit(engine, library, object_with_names());
  expect_names(library);
  Result<Committed> again = try_commit(engine, library, {object_with_names()});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::duplicate);
  expect(try_remove(engine, {module}));
  for (std::size_t length : lengths) EXPECT_FALSE(library.find(name_of(length))) << length;
}

TEST_P(KeptSizes, SymbolsMayClaimToBeHuge) {
  Module module = commit(engine, library,
                         assemble(".data\n.globl huge, small\n.size huge, 0x123456789\nhuge: .quad small\n"
                                  ".size small, 8\nsmall: .quad 0\n"));
  EXPECT_EQ(address_of(library, "small").value, address_of(library, "huge").value + 8);
  expect(try_remove(engine, {module}));
}

TEST_P(KeptSizes, SizesAreExactWhetherTheyFitOrNot) {
  std::string text = ".data\n", few = ".data\n";
  std::vector<Absolute> absolute;
  std::vector<std::string> names;
  for (int i = 0; i < 200; ++i) names.push_back("outside_" + std::to_string(i));
  for (int i = 0; i < 200; ++i) {
    absolute.push_back({names[std::size_t(i)], {0x10000U + unsigned(i)}, false});
    text += ".long " + names[std::size_t(i)] + "@GOTPCREL\n";
  }
  few += ".long outside_0@GOTPCREL\n.zero 96\n";
  expect(library.define(absolute));
  const Usage many_used = commit(engine, library, assemble(text, "many.o")).usage();
  EXPECT_EQ(many_used.got, 200U * 8);
  EXPECT_EQ(many_used.data, 200U * 4);
  EXPECT_GT(many_used.bookkeeping, 0U);
  const Usage few_used = commit(engine, library, assemble(few, "few.o")).usage();
  EXPECT_EQ(few_used.got, 8U);
  EXPECT_EQ(few_used.data, 100U);
}

INSTANTIATE_TEST_SUITE_P(Libraries, KeptSizes, testing::Bool(),
                         [](const auto& replaceable) { return replaceable.param ? "Replaceable" : "Plain"; });

} // namespace tenon::test

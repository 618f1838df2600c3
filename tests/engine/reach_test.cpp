// What is near: code lies in a part of the reservation only, so that a function of the host may be within its reach and out
// of that of the data (link::Reach).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "link/module.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tenon::test {
namespace {

constexpr std::uint64_t gib = std::uint64_t(1) << 30;

std::int64_t field_at(std::uint64_t address) {
  std::int32_t value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
  return value;
}

} // namespace

TEST(Reach, OfCodeIsMoreThanThatOfData) {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  commit(engine, library, assemble(".text\n.globl c\nc: ret\n.data\n.globl d\nd: .quad 1\n"));
  const std::uint64_t code = address_of(library, "c").value, data = address_of(library, "d").value;
  const std::uint64_t there = data + 2 * gib + gib / 2 + gib / 8; // nobody goes there
  ASSERT_LT(there - code, 2 * gib - gib / 16) << "code lies high in a reservation";
  const Absolute host[] = {{"there", {there}, false}};
  expect(library.define(host));

  Module caller = commit(engine, library, assemble(".text\n.globl f\nf: call there\nret\n"));
  EXPECT_EQ(caller.usage().stubs, 0U);
  const std::uint64_t f = address_of(library, "f").value;
  EXPECT_EQ(f + 5 + std::uint64_t(field_at(f + 1)), there) << "directly";

  commit(engine, library, assemble(".section .rodata,\"a\"\n.globl pointer\npointer: .long there@PLT - .\n"));
  const std::uint64_t pointer = address_of(library, "pointer").value, stub = pointer + std::uint64_t(field_at(pointer));
  ASSERT_NE(stub, there) << "by a stub";
  std::uint64_t held = 0;
  std::memcpy(&held, reinterpret_cast<const void*>(stub + 6 + std::uint64_t(field_at(stub + 2))), sizeof held);
  EXPECT_EQ(held, there);
}

TEST(Reach, IsOfEveryByte) {
  const link::Reach whole{true, 4 * gib, 6 * gib, 5 * gib, 6 * gib};
  EXPECT_FALSE(whole.covers(4 * gib)) << "2 GiB from the other end";
  EXPECT_TRUE(whole.covers(5 * gib));
  EXPECT_FALSE(whole.covers(6 * gib));
  EXPECT_FALSE(whole.covers(7 * gib - gib / 2));
  const link::Reach code = whole.from_code();
  EXPECT_TRUE(code.covers(7 * gib - gib / 2));
  EXPECT_TRUE(code.covers(4 * gib + gib / 2));
  EXPECT_FALSE(code.covers(3 * gib));
  EXPECT_FALSE(code.covers(0));
  EXPECT_FALSE(link::Reach{}.covers(0));
}

} // namespace tenon::test

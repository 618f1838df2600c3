// Disassembler: lengths, names, operands and text, and what it makes of bytes that are no instruction.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "samples.h"

#include <gtest/gtest.h>

namespace tenon::testing {
namespace {

Disassembler disassembler() {
  auto made = Disassembler::create();
  EXPECT_TRUE(made.ok());
  return std::move(*made);
}

std::vector<std::byte> code(std::initializer_list<unsigned> values) {
  std::vector<std::byte> bytes;
  for (unsigned value : values) bytes.push_back(std::byte(value));
  return bytes;
}

TEST(Disassembler, DecodesLengthOpcodeOperandsAndText) {
  auto d = disassembler();
  const auto bytes = code({0xb8, 0x2a, 0, 0, 0, /**/ 0xe8, 0x10, 0, 0, 0, /**/ 0xc3});
  auto move = d.decode(bytes, 0);
  ASSERT_TRUE(move.ok());
  EXPECT_EQ(move->size, 5u);
  EXPECT_EQ(move->opcode, "MOV32ri");
  EXPECT_EQ(move->mnemonic, "movl");
  EXPECT_EQ(move->text, "movl $0x2a, %eax");
  ASSERT_EQ(move->operands.size(), 2u);
  EXPECT_EQ(move->operands[0].kind, Disassembler::Operand::Kind::reg);
  EXPECT_EQ(move->operands[1].kind, Disassembler::Operand::Kind::immediate);
  EXPECT_EQ(move->operands[1].value, 42);

  auto call = d.decode(bytes, 5, Addr{0x1000});
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(call->call);
  EXPECT_EQ(call->text, "callq 0x101a");
  EXPECT_EQ(call->operands.at(0).value, 0x10);

  auto last = d.decode(bytes, 10, {}, Disassembler::Detail::opcode);
  ASSERT_TRUE(last.ok());
  EXPECT_TRUE(last->returns);
  EXPECT_TRUE(last->text.empty());
  EXPECT_EQ(last->mnemonic, "retq");
}

TEST(Disassembler, WhatIsNoInstructionIsAnError) {
  auto d = disassembler();
  const auto bytes = code({0x06, /**/ 0xe8, 0x10});
  EXPECT_EQ(d.decode(bytes, 0).error().code, ErrorCode::malformed);
  EXPECT_EQ(d.decode(bytes, 1).error().code, ErrorCode::malformed) << "reaches past the end";
  EXPECT_EQ(d.decode(bytes, 3).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(d.decode({}, 0).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(Disassembler::create(Machine::other).error().code, ErrorCode::unsupported);
}

} // namespace
} // namespace tenon::testing

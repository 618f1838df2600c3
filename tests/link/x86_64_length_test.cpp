// Lengths of instructions against Zydis, over prefixes, REX, both maps, all opcodes, ModRM and SIB bytes. What is known of a
// kind comes from the first instruction of it that was asked for, in whatever form that came: so there are two rounds, in
// opposite orders, and code that a process has met in between changes nothing.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64_length.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace tenon::link::arch {
namespace {

using Code = std::array<std::uint8_t, 16>;

class InstructionLength : public ::testing::Test {
protected:
  void SetUp() override {
    ASSERT_TRUE(ZYAN_SUCCESS(ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
  }

  std::size_t zydis(const std::uint8_t* code, std::size_t size) const {
    ZydisDecodedInstruction instruction;
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder_, nullptr, code, size, &instruction)) ? instruction.length
                                                                                                     : 0;
  }
  std::size_t ours(const std::uint8_t* code, std::size_t size) const {
    return instruction_length(decoder_, reinterpret_cast<const std::byte*>(code), size);
  }
  void compare(const std::uint8_t* code, std::size_t size) {
    const std::size_t wanted = zydis(code, size), found = ours(code, size);
    valid_ += wanted != 0;
    if (wanted == found || ++wrong_ > 20) return;
    std::ostringstream text;
    for (std::size_t i = 0; i < size; ++i) text << std::hex << unsigned(code[i]) << ' ';
    ADD_FAILURE() << text.str() << ": " << std::dec << found << " bytes, not " << wanted;
  }

  // All opcodes, ModRM bytes and a few SIB bytes behind these.
  void compare_all(const std::vector<std::uint8_t>& prefixes, bool backwards) {
    for (unsigned map = 0; map < 2; ++map)
      for (unsigned n = 0; n < 65536; ++n) {
        const unsigned both = backwards ? 65535 - n : n;
        for (std::uint8_t sib : {0x25, 0x98}) {
          Code code{};
          std::size_t at = 0;
          for (std::uint8_t prefix : prefixes) code[at++] = prefix;
          if (map == 1) code[at++] = 0x0F;
          code[at] = std::uint8_t(both >> 8);
          code[at + 1] = std::uint8_t(both);
          code[at + 2] = sib;
          compare(code.data(), code.size());
          if ((both & 7) != 4 || (both >> 6 & 3) == 3) break; // no SIB byte
        }
      }
  }

  ZydisDecoder decoder_;
  std::size_t valid_ = 0, wrong_ = 0;
};

TEST_F(InstructionLength, IsThatOfZydis) {
  std::vector<std::vector<std::uint8_t>> all;
  for (const std::vector<std::uint8_t>& prefixes : std::vector<std::vector<std::uint8_t>>{
           {}, {0x66}, {0xF2}, {0xF3}, {0x64}, {0x3E}, {0x66, 0x2E}, {0x66, 0x66}, {0x66, 0xF2}, {0x67}, {0xF0}})
    for (std::uint8_t rex : {0x00, 0x40, 0x41, 0x44, 0x48, 0x4C, 0x4F}) {
      all.push_back(prefixes);
      if (rex != 0) all.back().push_back(rex);
    }
  for (const auto& prefixes : all) compare_all(prefixes, false);
  std::reverse(all.begin(), all.end());
  for (const auto& prefixes : all) compare_all(prefixes, true);
  EXPECT_GT(valid_, 5'000'000U);
  EXPECT_EQ(wrong_, 0U);
}

// An instruction that reaches beyond the code is none, nothing behind the code is read, and bytes that come in the way of a
// prefix are.
TEST_F(InstructionLength, EndsWithTheCode) {
  const std::vector<std::vector<std::uint8_t>> instructions = {
      {0xC3},                                           // ret
      {0x55},                                           // push
      {0x48, 0x8B, 0x05, 1, 2, 3, 4},                   // mov x(%rip), %rax
      {0x8B, 0x44, 0x8B, 0x05},                         // mov 5(%rbx,%rcx,4), %eax
      {0xC7, 0x44, 0x8B, 0x05, 1, 2, 3, 4},             // movl $x, 5(%rbx,%rcx,4)
      {0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8},             // movabs
      {0x66, 0x2E, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0},    // nopw
      {0x62, 0xF2, 0x7D, 0x48, 0x8B, 0x05, 1, 2, 3, 4}, // vpcompressd %zmm0, x(%rip)
      {0xC5, 0xF8, 0x77},                               // vzeroupper
      {0xF7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8},             // testl $x, y(%rip)
      {0xF7, 0xD8},                                     // neg
      {0xA0, 1, 2, 3, 4, 5, 6, 7, 8},                   // movabs x, %al
      {0xC8, 1, 2, 3},                                  // enter
      {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}, // too long
  };
  for (int round = 0; round < 2; ++round)
    for (const auto& code : instructions) {
      EXPECT_EQ(ours(code.data(), code.size()), code.size() <= 15 ? code.size() : 0);
      for (std::size_t size = 0; size <= code.size(); ++size) {
        const std::vector<std::uint8_t> cut(code.begin(), code.begin() + std::ptrdiff_t(size)); // exactly so much memory
        compare(cut.data(), cut.size());
      }
    }
}

} // namespace
} // namespace tenon::link::arch

// The search for kernel entries in machine code that the sandbox example builds on the Disassembler.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "examples/sandbox/find_syscall.h"
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

TEST(FindSyscall, FindsEachWayIntoTheKernel) {
  auto d = disassembler();
  EXPECT_EQ(sandbox::find_syscall(d, code({0x90, 0x0f, 0x05})), 1u);
  EXPECT_EQ(sandbox::find_syscall(d, code({0x90, 0x90, 0x0f, 0x34})), 2u);
  EXPECT_EQ(sandbox::find_syscall(d, code({0xcd, 0x80})), 0u);
  EXPECT_EQ(sandbox::find_syscall(d, code({0x06, 0x0f, 0x05})), 1u) << "goes on behind what is no instruction";
}

TEST(FindSyscall, IsNotFooledByOperands) {
  auto d = disassembler();
  EXPECT_EQ(sandbox::find_syscall(d, code({0xb8, 0x0f, 0x05, 0, 0, 0xc3})), std::nullopt) << "an immediate";
  EXPECT_EQ(sandbox::find_syscall(d, code({0xcd, 0x03, 0xcc, 0xc3})), std::nullopt) << "other interrupts";
  EXPECT_EQ(sandbox::find_syscall(d, {}), std::nullopt);
}

TEST(FindSyscall, FindsWhatTheCompilerMade) {
  constexpr std::string_view ir = "define i64 @pid() {\n %r = call i64 asm sideeffect \"syscall\", "
                                  "\"={rax},{rax},~{rcx},~{r11},~{memory}\"(i64 39)\n ret i64 %r\n}\n";
  auto compiler = Compiler::create();
  ASSERT_TRUE(compiler.ok());
  auto with = compiler->compile_ir(bytes_of(ir), "pid");
  auto without = compiler->compile_ir(bytes_of(add_ir), "add");
  ASSERT_TRUE(with.ok() && without.ok());
  auto d = disassembler();
  EXPECT_EQ(sandbox::find_syscall(d, find_section(*with, ".text.pid")->content), 5u);
  EXPECT_EQ(sandbox::find_syscall(d, find_section(*without, ".text.add")->content), std::nullopt);
}

} // namespace
} // namespace tenon::testing

// Compiler and the form with a client's own TargetMachine: what comes out, what is refused, what stays untouched.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <llvm/AsmParser/Parser.h>
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/GVMaterializer.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/TargetParser/Host.h>

namespace tenon::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// ELF numbers of x86-64 relocations (psABI, table 4.9).
constexpr std::uint32_t r_64 = 1, r_plt32 = 4, r_tlsgd = 19, r_tlsld = 20, r_tpoff32 = 23;

Compiler compiler(const CompileOptions& options = {}) {
  auto made = Compiler::create(options);
  EXPECT_TRUE(made.ok());
  return std::move(*made);
}

CompileOptions at(OptLevel level) {
  CompileOptions options;
  options.level = level;
  return options;
}

std::unique_ptr<llvm::Module> parse(llvm::LLVMContext& context, std::string_view text) {
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseAssemblyString(llvm::StringRef(text.data(), text.size()), diagnostic, context);
  EXPECT_NE(module, nullptr) << diagnostic.getMessage().str();
  return module;
}

std::string printed(const llvm::Module& module) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  module.print(stream, nullptr, /*ShouldPreserveUseListOrder=*/false);
  return text;
}

std::string message_of(const Result<Object>& result, ErrorCode code) {
  if (result.ok()) {
    ADD_FAILURE() << "compiled";
    return {};
  }
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
  return result.error().message;
}

// What a compilation writes to stderr: nothing, ever.
class Compile : public ::testing::Test {
protected:
  void SetUp() override {
    ::testing::internal::CaptureStderr();
    ::testing::internal::CaptureStdout();
  }
  void TearDown() override {
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  }
};

TEST_F(Compile, TextGivesAnObjectWithASectionPerFunction) {
  for (OptLevel level : {OptLevel::O0, OptLevel::O1, OptLevel::O2, OptLevel::O3}) {
    auto object = compiler(at(level)).compile_ir(bytes_of(add_ir), "add.ll");
    ASSERT_TRUE(object.ok()) << object.error().message;
    EXPECT_EQ(object->name(), "add.ll");
    EXPECT_EQ(object->machine(), Machine::x86_64);
    const Section* section = find_section(*object, ".text.add");
    ASSERT_NE(section, nullptr);
    EXPECT_EQ(section->kind, SectionKind::code);
    EXPECT_GT(section->size, 0u);
    const Symbol* symbol = find_symbol(*object, "add");
    ASSERT_NE(symbol, nullptr);
    EXPECT_EQ(symbol->binding, Binding::global);
    EXPECT_EQ(&object->sections()[symbol->section], section);
  }
}

TEST_F(Compile, SectionsCanBeShared) {
  CompileOptions options;
  options.function_sections = options.data_sections = false;
  auto object = compiler(options).compile_ir(bytes_of(rich_ir), "rich.ll");
  ASSERT_TRUE(object.ok());
  EXPECT_EQ(find_section(*object, ".text.select"), nullptr);
  EXPECT_EQ(find_section(*object, ".bss.zeros"), nullptr);
  ASSERT_NE(find_section(*object, ".text"), nullptr);
  auto separate = compiler().compile_ir(bytes_of(rich_ir), "rich.ll");
  ASSERT_TRUE(separate.ok());
  EXPECT_NE(find_section(*separate, ".text.select"), nullptr);
  EXPECT_NE(find_section(*separate, ".bss.zeros"), nullptr);
}

TEST_F(Compile, BitcodeGivesTheSameBytesAsText) {
  llvm::LLVMContext context;
  auto module = parse(context, rich_ir);
  std::string bitcode;
  llvm::raw_string_ostream stream(bitcode);
  llvm::WriteBitcodeToFile(*module, stream);
  auto from_bitcode = compiler().compile_ir(bytes_of(bitcode), "rich");
  auto from_text = compiler().compile_ir(bytes_of(rich_ir), "rich");
  ASSERT_TRUE(from_bitcode.ok()) << from_bitcode.error().message;
  ASSERT_TRUE(from_text.ok()) << from_text.error().message;
  EXPECT_EQ(string_of(from_bitcode->bytes()), string_of(from_text->bytes()));
}

TEST_F(Compile, OptimizationCanBeLeftToTheClient) {
  constexpr std::string_view ir =
      "define i32 @f() {\n %p = alloca i32\n store i32 5, ptr %p\n store volatile i32 6, ptr %p\n"
      " %q = alloca i32\n store i32 7, ptr %q\n %v = load i32, ptr %q\n ret i32 %v\n}\n";
  CompileOptions off;
  off.optimize = false;
  auto optimized = compiler().compile_ir(bytes_of(ir), "f");
  auto plain = compiler(off).compile_ir(bytes_of(ir), "f");
  ASSERT_TRUE(optimized.ok() && plain.ok());
  EXPECT_LT(find_section(*optimized, ".text.f")->size, find_section(*plain, ".text.f")->size);
}

TEST_F(Compile, SyntaxErrorsShowTheLine) {
  auto c = compiler();
  EXPECT_EQ(message_of(c.compile_ir(bytes_of("define i32 @f() {\n  %x = bogus i32 1\n  ret i32 %x\n}\n"), "bad.ll"),
                       ErrorCode::compile),
            "bad.ll:2:8: expected instruction opcode: %x = bogus i32 1");
  EXPECT_THAT(message_of(c.compile_ir(bytes_of("\x7f"
                                               "ELF\x02\x01\x01"),
                                      "a.o"),
                         ErrorCode::compile),
              HasSubstr("a.o: an ELF file"));
  EXPECT_THAT(message_of(c.compile_ir(bytes_of("!<arch>\n"), "a.a"), ErrorCode::compile), HasSubstr("a.a: an archive"));
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(std::string_view("BC\xc0\xde\x35\x14\0\0\x05\0\0\0", 12)), "a.bc"),
                         ErrorCode::compile),
              HasSubstr("a.bc: bad bitcode: "));
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(std::string_view("\0\1\2\3\4\r\n\xff", 8)), "junk"), ErrorCode::compile),
              HasSubstr("junk:1:2: "));
  EXPECT_TRUE(c.compile_ir(bytes_of(add_ir), "add.ll").ok()) << "the compiler goes on";
}

TEST_F(Compile, TruncatedBitcodeIsAnError) {
  llvm::LLVMContext context;
  std::string bitcode;
  llvm::raw_string_ostream stream(bitcode);
  llvm::WriteBitcodeToFile(*parse(context, rich_ir), stream);
  auto c = compiler(at(OptLevel::O0));
  for (std::size_t size = 4; size < bitcode.size(); size += 4 + size / 8)
    EXPECT_EQ(c.compile_ir(bytes_of(bitcode.substr(0, size)), "cut.bc").ok(), false) << size;
  EXPECT_TRUE(c.compile_ir(bytes_of(bitcode), "whole.bc").ok());
}

TEST_F(Compile, IrThatDoesNotVerifyIsRefused) {
  llvm::LLVMContext context;
  llvm::Module module("broken", context);
  auto* type = llvm::FunctionType::get(llvm::Type::getInt32Ty(context), false);
  auto* function = llvm::Function::Create(type, llvm::Function::ExternalLinkage, "no_end", module);
  llvm::BasicBlock::Create(context, "entry", function);
  const std::string text = message_of(compiler().compile(module), ErrorCode::compile);
  EXPECT_THAT(text, HasSubstr("broken: the IR does not verify: "));
  EXPECT_THAT(text, HasSubstr("Basic Block in function 'no_end' does not have terminator"));
}

TEST_F(Compile, TextThatParsesButDoesNotVerifyIsRefused) {
  // Taking an intrinsic's address is fine for the parser.
  constexpr std::string_view ir = "declare i32 @llvm.bswap.i32(i32)\n@p = global ptr @llvm.bswap.i32\n";
  EXPECT_THAT(message_of(compiler().compile_ir(bytes_of(ir), "intrinsic.ll"), ErrorCode::compile),
              HasSubstr("intrinsic.ll: the IR does not verify: Invalid user of intrinsic"));
}

TEST_F(Compile, BrokenDebugInformationIsDroppedAndTheClientsIsNot) {
  llvm::LLVMContext context;
  auto module = parse(context, add_ir);
  module->getOrInsertNamedMetadata("llvm.dbg.cu")->addOperand(llvm::MDNode::get(context, {}));
  const std::string before = printed(*module);
  auto object = compiler().compile(*module);
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_EQ(printed(*module), before);
}

TEST_F(Compile, OtherTargetsAreRefused) {
  auto c = compiler();
  const std::string arm = "target triple = \"aarch64-unknown-linux-gnu\"\n" + std::string(add_ir);
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(arm), "arm.ll"), ErrorCode::unsupported),
              HasSubstr("arm.ll: IR for target aarch64-unknown-linux-gnu, but this compiles for x86_64"));
  const std::string coff = "target triple = \"x86_64-pc-windows-msvc\"\n" + std::string(add_ir);
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(coff), "coff.ll"), ErrorCode::unsupported), HasSubstr("windows"));
  const std::string layout = "target datalayout = \"E-p:32:32\"\n" + std::string(add_ir);
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(layout), "layout.ll"), ErrorCode::unsupported),
              HasSubstr("data layout \"E-p:32:32"));
  const std::string vendor = "target triple = \"x86_64-unknown-linux-musl\"\n" + std::string(add_ir);
  EXPECT_TRUE(c.compile_ir(bytes_of(vendor), "same.ll").ok()) << "the vendor and the C library do not matter";
}

TEST_F(Compile, InlineAssemblyErrorsAreResults) {
  constexpr std::string_view ir =
      "define void @f() {\n  call void asm sideeffect \"frobnicate %eax\", \"\"()\n  ret void\n}\n";
  auto c = compiler();
  EXPECT_THAT(message_of(c.compile_ir(bytes_of(ir), "asm.ll"), ErrorCode::compile),
              HasSubstr("invalid instruction mnemonic 'frobnicate'"));
  EXPECT_THAT(message_of(c.compile_ir(bytes_of("module asm \"frobnicate\"\n"), "asm.ll"), ErrorCode::compile),
              HasSubstr("frobnicate"));
  EXPECT_THAT(
      message_of(c.compile_ir(bytes_of("define i32 @f() {\n %r = call i32 asm \"\", \"={nowhere}\"()\n ret i32 %r\n}\n"),
                              "constraint.ll"),
                 ErrorCode::compile),
      HasSubstr("constraint"));
  auto after = c.compile_ir(bytes_of(rich_ir), "rich");
  auto alone = compiler().compile_ir(bytes_of(rich_ir), "rich");
  ASSERT_TRUE(after.ok() && alone.ok());
  EXPECT_EQ(string_of(after->bytes()), string_of(alone->bytes())) << "an error leaves no trace";
}

TEST_F(Compile, TheClientsModuleStaysAsItIs) {
  for (OptLevel level : {OptLevel::O0, OptLevel::O2}) {
    llvm::LLVMContext context;
    auto module = parse(context, rich_ir);
    const std::string before = printed(*module);
    auto c = compiler(at(level));
    auto first = c.compile(*module);
    ASSERT_TRUE(first.ok()) << first.error().message;
    EXPECT_EQ(printed(*module), before);
    EXPECT_FALSE(llvm::verifyModule(*module));
    auto second = c.compile(*module);
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(string_of(first->bytes()), string_of(second->bytes()));
  }
}

TEST_F(Compile, AModuleCanBeGivenAway) {
  CompileOptions options;
  options.consume_ir = true;
  llvm::LLVMContext context;
  auto module = parse(context, rich_ir);
  const std::string before = printed(*module);
  auto consumed = compiler(options).compile(*module);
  auto borrowed = compiler().compile(*parse(context, rich_ir));
  ASSERT_TRUE(consumed.ok() && borrowed.ok());
  EXPECT_NE(printed(*module), before);
  EXPECT_EQ(string_of(consumed->bytes()), string_of(borrowed->bytes()));
}

TEST_F(Compile, AModuleThatIsNotReadInIsRefused) {
  llvm::LLVMContext context;
  auto module = parse(context, add_ir);
  class Lazy : public llvm::GVMaterializer {
    llvm::Error materialize(llvm::GlobalValue*) override { return llvm::Error::success(); }
    llvm::Error materializeModule() override { return llvm::Error::success(); }
    llvm::Error materializeMetadata() override { return llvm::Error::success(); }
    void setStripDebugInfo() override {}
    std::vector<llvm::StructType*> getIdentifiedStructTypes() const override { return {}; }
  };
  module->setMaterializer(new Lazy);
  EXPECT_THAT(message_of(compiler().compile(*module), ErrorCode::invalid_argument), HasSubstr("materializeAll"));
}

TEST_F(Compile, ReuseDoesNotShowInTheBytes) {
  // Long function bodies and short ones, with and without llvm.used (which LLVM's target machine remembers by address).
  std::vector<std::string> inputs = {std::string(add_ir), std::string(rich_ir),
                                     "@u = global i32 1\n@llvm.used = appending global [1 x ptr] [ptr @u], section "
                                     "\"llvm.metadata\"\n"};
  for (int i = 0; i < 12; ++i) inputs.push_back(numbered_ir(i) + "@v" + std::to_string(i) + " = global i32 1\n");
  for (OptLevel level : {OptLevel::O0, OptLevel::O2}) {
    auto reused = compiler(at(level));
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        auto later = reused.compile_ir(bytes_of(inputs[i]), "m");
        auto alone = compiler(at(level)).compile_ir(bytes_of(inputs[i]), "m");
        ASSERT_TRUE(later.ok() && alone.ok()) << i;
        ASSERT_EQ(string_of(later->bytes()), string_of(alone->bytes())) << "input " << i << " in round " << round;
      }
    }
  }
}

TEST_F(Compile, PositionIndependentThreadLocalsWorkInALibrary) {
  constexpr std::string_view tls = "@counter = dso_local thread_local global i32 7\n"
                                   "define i32 @f() {\n %v = load i32, ptr @counter\n ret i32 %v\n}\n"
                                   "!llvm.module.flags = !{!0, !1}\n!0 = !{i32 7, !\"PIE Level\", i32 2}\n"
                                   "!1 = !{i32 1, !\"wchar_size\", i32 4}\n";
  auto pic = compiler().compile_ir(bytes_of(tls), "tls.ll");
  ASSERT_TRUE(pic.ok());
  EXPECT_THAT(code_relocations(*pic), Not(Contains(r_tpoff32)));
  EXPECT_THAT(code_relocations(*pic), ::testing::AnyOf(Contains(r_tlsgd), Contains(r_tlsld)));
  CompileOptions options;
  options.pic = false;
  auto fixed = compiler(options).compile_ir(bytes_of(tls), "tls.ll");
  ASSERT_TRUE(fixed.ok());
  EXPECT_THAT(code_relocations(*fixed), Contains(r_tpoff32));
}

TEST_F(Compile, CodeModelsDecideTheRelocations) {
  constexpr std::string_view ir = "declare void @g()\ndefine void @f() {\n call void @g()\n ret void\n}\n";
  auto small = compiler().compile_ir(bytes_of(ir), "call.ll");
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(code_relocations(*small), std::vector<std::uint32_t>{r_plt32});
  CompileOptions options;
  options.pic = false;
  options.code_model = CompileOptions::CodeModel::large;
  auto large = compiler(options).compile_ir(bytes_of(ir), "call.ll");
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(code_relocations(*large), std::vector<std::uint32_t>{r_64});
  options.code_model = CompileOptions::CodeModel::medium;
  EXPECT_TRUE(compiler(options).compile_ir(bytes_of(ir), "call.ll").ok());
}

TEST_F(Compile, HostFeaturesAreAnOption) {
  // 256 bits in one register, which plain x86-64 lacks.
  constexpr std::string_view ir = "define <8 x float> @f(<8 x float> %a) {\n %r = fadd <8 x float> %a, %a\n"
                                  " ret <8 x float> %r\n}\n";
  CompileOptions generic;
  generic.host_cpu = false;
  auto plain = compiler(generic).compile_ir(bytes_of(ir), "f");
  auto host = compiler().compile_ir(bytes_of(ir), "f");
  ASSERT_TRUE(plain.ok() && host.ok());
  const bool avx = llvm::sys::getHostCPUFeatures().lookup("avx");
  EXPECT_EQ(string_of(plain->bytes()) != string_of(host->bytes()), avx);
}

TEST_F(Compile, TheClientsDiagnosticHandlerGetsWarningsAndComesBack) {
  struct Seen : llvm::DiagnosticHandler {
    int& count;
    explicit Seen(int& count) : count(count) {}
    bool handleDiagnostics(const llvm::DiagnosticInfo& info) override {
      if (info.getSeverity() == llvm::DS_Warning) ++count;
      EXPECT_NE(info.getSeverity(), llvm::DS_Error);
      return true;
    }
  };
  int count = 0;
  llvm::LLVMContext context;
  context.setDiagnosticHandler(std::make_unique<Seen>(count));
  const auto* handler = context.getDiagHandlerPtr();
  // The loop can't be vectorized, which its metadata forces.
  auto module = parse(context, "define void @f(ptr %p) {\nentry:\n br label %l\nl:\n"
                               " %v = load volatile i32, ptr %p\n %c = icmp eq i32 %v, 0\n"
                               " br i1 %c, label %e, label %l, !llvm.loop !0\ne:\n ret void\n}\n"
                               "!0 = distinct !{!0, !1}\n!1 = !{!\"llvm.loop.vectorize.enable\", i1 true}\n");
  ASSERT_TRUE(compiler().compile(*module).ok());
  EXPECT_EQ(context.getDiagHandlerPtr(), handler);
  EXPECT_EQ(count, 1);
  auto broken = parse(context, "module asm \"frobnicate\"\n");
  EXPECT_FALSE(compiler().compile(*broken).ok());
  EXPECT_EQ(count, 1) << "errors are in the Result only";
}

TEST_F(Compile, AClientsTargetMachineIsServed) {
  compiler(); // fills LLVM's registry
  std::string why;
  const llvm::Triple triple(llvm::sys::getProcessTriple());
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(triple, why);
  ASSERT_NE(target, nullptr) << why;
  llvm::TargetOptions options;
  options.FunctionSections = true;
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(triple, "x86-64", "", options, llvm::Reloc::PIC_, llvm::CodeModel::Small));
  llvm::LLVMContext context;
  auto module = parse(context, rich_ir);
  const std::string before = printed(*module);
  auto object = compile(*machine, *module);
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_NE(find_section(*object, ".text.select"), nullptr);
  EXPECT_EQ(printed(*module), before);
  auto broken = parse(context, "module asm \"frobnicate\"\n");
  EXPECT_THAT(message_of(compile(*machine, *broken), ErrorCode::compile), HasSubstr("frobnicate"));
}

} // namespace
} // namespace tenon::testing

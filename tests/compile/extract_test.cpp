// Compiler::compile_functions: objects of single functions that fit into the module, compiled as a whole.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replaceable_samples.h"

#include <gmock/gmock.h>

#include <llvm/AsmParser/Parser.h>
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>

#include <optional>

namespace tenon::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Names = std::vector<std::string_view>;

// C as clang gives it: statics of the file and of a function, literals, a table, variable arguments, recursion, other
// functions of each linkage, a weak declaration, thread-local data, an alias.
constexpr std::string_view c_ir = R"(
@global = global i32 1, align 4
@hidden_global = hidden global i32 1, align 4
@file_static = internal global i32 2, align 4
@f.calls = internal global i32 0, align 4
@named_table = internal constant [4 x i32] [i32 1, i32 2, i32 3, i32 4], align 16
@.str = private unnamed_addr constant [7 x i8] c"number\00", align 1
@.str.1 = private unnamed_addr constant [6 x i8] c"other\00", align 1
@__const.f.pair = private unnamed_addr constant [2 x ptr] [ptr @.str, ptr @file_function], align 16
@per_thread = internal thread_local global i32 3, align 4
@elsewhere = external global i32, align 4
@second_name = alias i32 (i32), ptr @g
declare i32 @printf(ptr, ...)
declare extern_weak i32 @maybe()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.va_start.p0(ptr)
declare void @llvm.va_end.p0(ptr)

define i32 @f(i32 %n) {
  %pair = alloca [2 x ptr], align 16
  %a = load i32, ptr @global, align 4
  %b = load i32, ptr @file_static, align 4
  %h = load i32, ptr @hidden_global, align 4
  %calls = load i32, ptr @f.calls, align 4
  %more = add i32 %calls, 1
  store i32 %more, ptr @f.calls, align 4
  %entry = getelementptr [4 x i32], ptr @named_table, i64 0, i32 %n
  %c = load i32, ptr %entry, align 4
  %d = load i32, ptr @elsewhere, align 4
  call void @llvm.memcpy.p0.p0.i64(ptr align 16 %pair, ptr align 16 @__const.f.pair, i64 16, i1 false)
  %second = getelementptr [2 x ptr], ptr %pair, i64 0, i64 1
  %callee = load ptr, ptr %second, align 8
  %e = call i32 %callee(i32 %n)
  %p = call i32 (ptr, ...) @printf(ptr @.str, i32 %n)
  %g = call i32 @g(i32 %a)
  %s = call i32 @file_function(i32 %b)
  %i = call i32 @always(i32 %s)
  %weak = icmp ne ptr @maybe, null
  %o = call i32 @second_name(i32 %n)
  %ab = add i32 %a, %b
  %cd = add i32 %c, %d
  %eh = add i32 %e, %h
  %gi = add i32 %g, %i
  %abcd = add i32 %ab, %cd
  %ehgi = add i32 %eh, %gi
  %abcdehgi = add i32 %abcd, %ehgi
  %r = select i1 %weak, i32 %abcdehgi, i32 0
  ret i32 %r
}
define i32 @g(i32 %n) {
  %p = call i32 (ptr, ...) @printf(ptr @.str.1, i32 %n)
  ret i32 %n
}
define internal i32 @file_function(i32 %n) nounwind memory(none) {
  ret i32 %n
}
define internal i32 @always(i32 %n) alwaysinline {
  %v = load i32, ptr @file_static, align 4
  %r = add i32 %n, %v
  ret i32 %r
}
define internal i32 @recursive(i32 %n) {
  %done = icmp eq i32 %n, 0
  br i1 %done, label %end, label %more
end:
  ret i32 1
more:
  %m = sub i32 %n, 1
  %r = call i32 @recursive(i32 %m)
  %s = mul i32 %r, %n
  ret i32 %s
}
define i32 @sum(i32 %n, ...) {
  %list = alloca [24 x i8], align 16
  call void @llvm.va_start.p0(ptr %list)
  %v = va_arg ptr %list, i32
  call void @llvm.va_end.p0(ptr %list)
  ret i32 %v
}
define i32 @thread() {
  %v = load i32, ptr @per_thread, align 4
  ret i32 %v
}
define private i32 @unseen() {
  ret i32 6
}
define weak i32 @weak_one() {
  %r = call i32 @unseen()
  ret i32 %r
}
define available_externally i32 @copy() {
  ret i32 7
}
)";

// C++: inline functions in groups; a catch with type information; a virtual table that nobody needs in the end; an inline
// constant.
constexpr std::string_view cxx_ir = R"(
$_Z5localv = comdat any
$_Z6inlinev = comdat any
$_ZTV1A = comdat any
$_ZTI1A = comdat any
$table = comdat any
@_ZTV1A = linkonce_odr unnamed_addr constant { [3 x ptr] } { [3 x ptr] [ptr null, ptr @_ZTI1A, ptr @_Z6inlinev] }, comdat, align 8
@_ZTI1A = linkonce_odr constant { ptr, ptr } { ptr null, ptr null }, comdat, align 8
@table = linkonce_odr constant [2 x i32] [i32 11, i32 12], comdat, align 4
declare i32 @__gxx_personality_v0(...)
declare void @__cxa_throw(ptr, ptr, ptr)
declare ptr @__cxa_begin_catch(ptr)
declare void @__cxa_end_catch()
define linkonce_odr void @_Z5localv() comdat {
  %object = alloca ptr, align 8
  store ptr getelementptr inbounds ({ [3 x ptr] }, ptr @_ZTV1A, i32 0, i32 0, i32 2), ptr %object, align 8
  ret void
}
define linkonce_odr i32 @_Z6inlinev() comdat {
  %v = load i32, ptr getelementptr ([2 x i32], ptr @table, i64 0, i64 1), align 4
  ret i32 %v
}
define i32 @_Z5catchv() personality ptr @__gxx_personality_v0 {
  %r = invoke i32 @_Z6inlinev() to label %done unwind label %caught
done:
  ret i32 %r
caught:
  %pad = landingpad { ptr, i32 } catch ptr @_ZTI1A
  %exception = extractvalue { ptr, i32 } %pad, 0
  %object = call ptr @__cxa_begin_catch(ptr %exception)
  call void @__cxa_end_catch()
  ret i32 -1
}
)";

Result<Object> try_functions(std::string_view ir, const Names& names, const CompileOptions& options) {
  auto compiler = Compiler::create(options);
  if (!compiler) return compiler.error();
  return compiler->compile_functions_ir(bytes_of(ir), "m", names);
}

Object functions(std::string_view ir, const Names& names, OptLevel level) {
  auto object = try_functions(ir, names, replaceable_at(level));
  if (!object) throw std::runtime_error(object.error().message);
  return std::move(*object);
}

std::string error_of(std::string_view ir, const Names& names, ErrorCode code) {
  auto object = try_functions(ir, names, replaceable_at(OptLevel::O1));
  if (object) return "no error";
  EXPECT_EQ(object.error().code, code);
  return object.error().message;
}

// Undefined symbols, sorted, hidden ones marked.
std::vector<std::string> needs_of(const Object& object) {
  std::set<std::string> names;
  for (const Symbol& symbol : object.symbols().subspan(1))
    if (!symbol.defined() && symbol.name() != "_GLOBAL_OFFSET_TABLE_" && symbol.name() != "__tls_get_addr")
      names.insert(std::string(symbol.name()) + (symbol.visibility == Visibility::hidden ? " hidden" : "") +
                   (symbol.binding == Binding::weak ? " weak" : ""));
  return {names.begin(), names.end()};
}

std::vector<std::string> variable_names(const Object& object) {
  std::vector<std::string> names;
  for (const Variable& variable : variables_of(object)) names.push_back(std::get<0>(variable));
  return names;
}

TEST(Extract, DefinesTheFunctionAndNeedsTheRestByName) {
  for (OptLevel level : all_levels) {
    const Object object = functions(c_ir, {"f"}, level);
    EXPECT_EQ(object.name(), "m(f)");
    EXPECT_THAT(functions_of(object), ElementsAre("f"));
    EXPECT_THAT(needs_of(object),
                ElementsAre("elsewhere", "f.calls hidden", "file_function hidden", "file_static hidden", "g", "global",
                            "hidden_global hidden", "maybe weak", "named_table hidden", "printf", "second_name"))
        << static_cast<int>(level);
    EXPECT_THAT(variable_names(object), IsEmpty());
    EXPECT_THAT(string_of(object.bytes()), AllOf(HasSubstr("number"), Not(HasSubstr("other")))) << "its literals only";
    EXPECT_THAT(picture(object, ".text.f"), HasSubstr(" 2 file_static -4")) << "PC32, no GOT entry";
    EXPECT_THAT(picture(object, ".text.f"), AllOf(HasSubstr(" 4 file_function -4"), HasSubstr(" 4 g -4")));
    const Sites sites = call_sites(object);
    EXPECT_EQ(sites.aligned, sites.all);
  }
}

TEST(Extract, CodeIsThatOfTheWholeModule) {
  // But for constants whose value the whole module shows and for how literals and thread-local variables are reached.
  for (OptLevel level : all_levels) {
    const Object whole = compiled(replaceable_at(level), c_ir);
    for (std::string_view name : {"g", "recursive", "sum", "weak_one", "unseen"}) {
      const Object object = functions(c_ir, {name}, level);
      const std::string section = ".text." + std::string(name);
      EXPECT_EQ(string_of(find_section(object, section)->content), string_of(find_section(whole, section)->content));
      EXPECT_EQ(functions_of(object).size(), 1u);
      const Symbol *made = find_symbol(object, name), *original = find_symbol(whole, name);
      EXPECT_EQ(made->binding, original->binding) << name;
      EXPECT_EQ(made->size, original->size) << name;
    }
  }
}

TEST(Extract, ACallOfItselfGoesToTheSymbol) {
  for (OptLevel level : all_levels) {
    const Object object = functions(c_ir, {"recursive"}, level);
    EXPECT_THAT(functions_of(object), ElementsAre("recursive local"));
    EXPECT_THAT(picture(object, ".text.recursive"), HasSubstr(" 4 recursive -4"));
    EXPECT_THAT(needs_of(object), IsEmpty());
  }
}

TEST(Extract, SeveralFunctionsReferToEachOther) {
  for (OptLevel level : all_levels) {
    const Object object = functions(c_ir, {"weak_one", "unseen", "g", "g"}, level);
    EXPECT_EQ(object.name(), "m(4 functions)");
    EXPECT_THAT(functions_of(object), ElementsAre("g", "unseen local", "weak_one weak"));
    EXPECT_THAT(needs_of(object), ElementsAre("printf"));
    EXPECT_THAT(picture(object, ".text.weak_one"), HasSubstr(" 4 unseen -4"));
  }
  EXPECT_THAT(needs_of(functions(c_ir, {"weak_one"}, OptLevel::O2)), ElementsAre("unseen hidden"));
}

TEST(Extract, CalleesAreOpaque) {
  // `file_function` says that it does nothing; a later version may.
  constexpr std::string_view ir = R"(
define internal i32 @callee(ptr %p) nounwind memory(none) willreturn {
  ret i32 1
}
define i32 @caller(ptr %p) {
  %before = load i32, ptr %p
  %unused = call i32 @callee(ptr %p) nounwind memory(none) willreturn
  %after = load i32, ptr %p
  %r = sub i32 %after, %before
  ret i32 %r
}
)";
  for (OptLevel level : all_levels)
    EXPECT_EQ(picture(functions(ir, {"caller"}, level), ".text.caller"),
              picture(compiled(replaceable_at(level), ir), ".text.caller"));
}

TEST(Extract, ThreadLocalVariablesAreAskedForByName) {
  constexpr std::uint32_t tlsgd = 19;
  for (OptLevel level : all_levels) {
    const Object object = functions(c_ir, {"thread"}, level);
    EXPECT_THAT(needs_of(object), ElementsAre("per_thread"));
    EXPECT_THAT(code_relocations(object), Contains(tlsgd));
  }
}

TEST(Extract, GroupsExceptionsAndTables) {
  for (OptLevel level : all_levels) {
    const Object inline_one = functions(cxx_ir, {"_Z6inlinev"}, level);
    EXPECT_THAT(functions_of(inline_one), ElementsAre("_Z6inlinev weak"));
    EXPECT_THAT(inline_one.groups(), IsEmpty());
    EXPECT_THAT(needs_of(inline_one), ElementsAre("table"));
    if (level == OptLevel::O0) {
      EXPECT_THAT(needs_of(functions(cxx_ir, {"_Z5localv"}, level)), ElementsAre("_ZTV1A"));
    }
    const Object catches = functions(cxx_ir, {"_Z5catchv"}, level);
    EXPECT_THAT(functions_of(catches), ElementsAre("_Z5catchv"));
    EXPECT_THAT(needs_of(catches),
                ElementsAre("_Z6inlinev", "_ZTI1A", "__cxa_begin_catch", "__cxa_end_catch", "__gxx_personality_v0"));
    EXPECT_NE(find_section(catches, ".gcc_except_table._Z5catchv"), nullptr);
    // What they need is there, whatever the whole module was compiled at.
    const Object whole = compiled(replaceable_at(level), cxx_ir);
    for (std::string_view name : {"_ZTV1A", "_ZTI1A", "table", "_Z6inlinev"}) {
      ASSERT_NE(find_symbol(whole, name), nullptr) << name;
      EXPECT_TRUE(find_symbol(whole, name)->defined()) << name;
    }
  }
}

TEST(Extract, InlineFunctionsComeAlongIfTheyArePartOfCallers) {
  CompileOptions options = replaceable_at(OptLevel::O2);
  options.replaceable_inline = false;
  auto object = try_functions(cxx_ir, {"_Z5catchv"}, options);
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_THAT(picture(*object, ".text._Z5catchv"), Not(HasSubstr("_Z6inlinev"))) << "inlined";
  options.level = OptLevel::O0;
  object = try_functions(cxx_ir, {"_Z5catchv"}, options);
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_THAT(functions_of(*object), ElementsAre("_Z5catchv", "_Z6inlinev weak"));
  ASSERT_EQ(object->groups().size() >= 1, true);
  EXPECT_FALSE(try_functions(cxx_ir, {"_Z6inlinev"}, options).ok()) << "is in its callers";
}

TEST(Extract, TablesOfLabelsBelongToTheirFunction) {
  constexpr std::string_view head = R"(
define i32 @f(i32 %n) {
  %entry = getelementptr [2 x ptr], ptr @f.labels, i64 0, i32 %n
  %target = load ptr, ptr %entry, align 8
  indirectbr ptr %target, [label %one, label %two]
one:
  ret i32 10
two:
  ret i32 20
}
)";
  const std::string table = " [2 x ptr] [ptr blockaddress(@f, %one), ptr blockaddress(@f, %two)], align 16\n";
  for (OptLevel level : all_levels) {
    const Object object = functions(std::string(head) + "@f.labels = internal constant" + table, {"f"}, level);
    EXPECT_THAT(functions_of(object), ElementsAre("f"));
    EXPECT_THAT(needs_of(object), IsEmpty());
  }
  EXPECT_THAT(error_of(std::string(head) + "@f.labels = internal global" + table, {"f"}, ErrorCode::unsupported),
              HasSubstr("'f.labels'"));
}

TEST(Extract, DebugInformationIsThatOfTheFunction) {
  constexpr std::string_view ir = R"(
@counter = internal global i32 0, align 4, !dbg !20
define i32 @f() !dbg !5 {
  %v = load i32, ptr @counter, align 4, !dbg !10
  ret i32 %v, !dbg !10
}
define i32 @g() !dbg !6 {
  %v = call i32 @f(), !dbg !11
  ret i32 %v, !dbg !11
}
!llvm.dbg.cu = !{!0}
!llvm.module.flags = !{!2}
!0 = distinct !DICompileUnit(language: DW_LANG_C11, file: !1, emissionKind: FullDebug, globals: !{!20})
!1 = !DIFile(filename: "m.c", directory: "/src")
!2 = !{i32 2, !"Debug Info Version", i32 3}
!5 = distinct !DISubprogram(name: "f", scope: !1, file: !1, line: 3, type: !8, unit: !0, spFlags: DISPFlagDefinition)
!6 = distinct !DISubprogram(name: "g", scope: !1, file: !1, line: 4, type: !8, unit: !0, spFlags: DISPFlagDefinition)
!8 = !DISubroutineType(types: !{})
!10 = !DILocation(line: 3, column: 1, scope: !5)
!11 = !DILocation(line: 4, column: 1, scope: !6)
!20 = !DIGlobalVariableExpression(var: !21, expr: !DIExpression())
!21 = distinct !DIGlobalVariable(name: "counter", scope: !0, file: !1, line: 1, type: !22, isLocal: true, isDefinition: true)
!22 = !DIBasicType(name: "int", size: 32, encoding: DW_ATE_signed)
)";
  for (OptLevel level : all_levels) {
    const Object object = functions(ir, {"g"}, level);
    const Section* strings = find_section(object, ".debug_str");
    ASSERT_NE(strings, nullptr);
    EXPECT_NE(find_section(object, ".debug_line"), nullptr);
    EXPECT_THAT(string_of(strings->content), AllOf(HasSubstr(std::string("g\0", 2)), Not(HasSubstr("counter"))));
    EXPECT_THAT(needs_of(object), ElementsAre("f"));
  }
}

std::string printed(const llvm::Module& module) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  module.print(stream, nullptr);
  return text;
}

TEST(Extract, TheModuleStaysAndTheObjectIsTheSame) {
  for (std::string_view ir : {c_ir, cxx_ir, rich_ir}) {
    llvm::LLVMContext context;
    llvm::SMDiagnostic diagnostic;
    auto module = llvm::parseAssemblyString(llvm::StringRef(ir.data(), ir.size()), diagnostic, context);
    ASSERT_NE(module, nullptr) << diagnostic.getMessage().str();
    module->setModuleIdentifier("m");
    if (!ir.starts_with("\nsource_filename")) module->setSourceFileName("m");
    llvm::SmallVector<char, 0> bitcode;
    llvm::BitcodeWriter writer(bitcode);
    writer.writeModule(*module);
    writer.writeSymtab();
    writer.writeStrtab();
    const std::string before = printed(*module);
    for (OptLevel level : all_levels) {
      CompileOptions options = replaceable_at(level);
      options.consume_ir = true;
      auto compiler = Compiler::create(options);
      unsigned compiled_functions = 0;
      for (const llvm::Function& function : *module) {
        if (function.isDeclaration() || function.hasAvailableExternallyLinkage() || function.getName() == "always") continue;
        const Names names = {std::string_view(function.getName())};
        auto object = compiler->compile_functions(*module, names);
        ASSERT_TRUE(object.ok()) << object.error().message;
        auto from_bitcode =
            compiler->compile_functions_ir(std::as_bytes(std::span(bitcode.data(), bitcode.size())), "m", names);
        ASSERT_TRUE(from_bitcode.ok()) << from_bitcode.error().message;
        EXPECT_TRUE(string_of(object->bytes()) == string_of(from_bitcode->bytes())) << names[0];
        EXPECT_TRUE(string_of(object->bytes()) == string_of(functions(ir, names, level).bytes())) << names[0];
        ++compiled_functions;
      }
      EXPECT_GE(compiled_functions, 3u);
    }
    EXPECT_EQ(printed(*module), before);
  }
}

TEST(Extract, WhatCannotBeTakenOutIsSaid) {
  const ErrorCode bad = ErrorCode::invalid_argument;
  EXPECT_EQ(error_of(c_ir, {"missing"}, bad), "m: 'missing': the module has no function of that name");
  EXPECT_EQ(error_of(c_ir, {"f", "printf"}, bad), "m: 'printf' is only declared in the module");
  EXPECT_EQ(error_of(c_ir, {"global"}, bad), "m: 'global' is no function");
  EXPECT_EQ(error_of(c_ir, {"second_name"}, bad), "m: 'second_name' is an alias of 'g': name that");
  EXPECT_EQ(error_of(c_ir, {"copy"}, bad), "m: 'copy' is a copy for inlining: another module defines it");
  EXPECT_EQ(error_of(c_ir, {"always"}, bad), "m: 'always' is inline, a part of those that call it: name these");
  EXPECT_EQ(error_of(c_ir, {}, bad), "m: no function is named");
  EXPECT_THAT(error_of("@0 = internal global i32 0\ndefine i32 @f() {\n %v = load i32, ptr @0\n ret i32 %v\n}\n", {"f"},
                       ErrorCode::unsupported),
              HasSubstr("m: 'f': it refers to a function or variable without a name"));
  EXPECT_THAT(error_of("define i32 @f() {", {"f"}, ErrorCode::compile), HasSubstr("m:1:18"));
  EXPECT_THAT(error_of("define i32 @f() {\n %v = call i32 asm sideeffect \"frobnicate %eax\", \"=r\"()\n ret i32 %v\n}\n",
                       {"f"}, ErrorCode::compile),
              HasSubstr("frobnicate"));
  CompileOptions plain;
  auto object = try_functions(c_ir, {"f"}, plain);
  ASSERT_FALSE(object.ok());
  EXPECT_EQ(object.error().code, bad);
  EXPECT_THAT(object.error().message, HasSubstr("replaceable"));
}

TEST(Extract, WorkersTakeFunctionsToo) {
  auto pool = CompilerPool::create(replaceable_at(OptLevel::O1), 2);
  ASSERT_TRUE(pool.ok());
  const CompilerPool::Input inputs[] = {{bytes_of(c_ir), "m", {}, {"f"}},
                                        {bytes_of(c_ir), "m", {}, {"g"}},
                                        {bytes_of(c_ir), "m", {}, {"missing"}},
                                        {bytes_of(c_ir), "m"}};
  auto results = pool->compile(inputs);
  ASSERT_TRUE(results.ok());
  EXPECT_THAT(functions_of(*(*results)[0]), ElementsAre("f"));
  EXPECT_THAT(functions_of(*(*results)[1]), ElementsAre("g"));
  EXPECT_FALSE((*results)[2].ok());
  EXPECT_EQ(functions_of(*(*results)[3]).size(), 9u);
}

TEST(Extract, ACompilerServesAgainAfterAnError) {
  auto compiler = Compiler::create(replaceable_at(OptLevel::O2));
  const Names names = {"f"};
  const std::string expected = string_of(compiler->compile_functions_ir(bytes_of(c_ir), "m", names)->bytes());
  const Names missing = {"missing"};
  EXPECT_FALSE(compiler->compile_functions_ir(bytes_of(c_ir), "m", missing).ok());
  EXPECT_EQ(string_of(compiler->compile_functions_ir(bytes_of(c_ir), "m", names)->bytes()), expected);
}

} // namespace
} // namespace tenon::testing

// CompileOptions::replaceable: no trace of a function in its callers, variables that stay as they are, initializers apart,
// calls that can be retargeted.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replaceable_samples.h"

#include <tenon/tenon.h>

#include <gmock/gmock.h>

#include <llvm/AsmParser/Parser.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/CommandLine.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>

#include <thread>

namespace tenon::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view callers[] = {"twice", "keeps_values", "drops", "tail", "catches"};

CompileOptions plain_at(OptLevel level) {
  CompileOptions options;
  options.level = level;
  return options;
}

TEST(Replaceable, CallersAreTheSameWhateverTheBodyIs) {
  for (OptLevel level : all_levels) {
    const Object reference = compiled(replaceable_at(level), with_callee(callee_bodies[0]));
    for (std::string_view body : callee_bodies) {
      const Object other = compiled(replaceable_at(level), with_callee(body));
      for (std::string_view caller : callers) {
        const std::string section = ".text." + std::string(caller);
        EXPECT_EQ(picture(other, section), picture(reference, section)) << caller << " with\n" << body;
        EXPECT_THAT(picture(other, section), HasSubstr(" callee -4")) << "a call by relocation, of the static function";
      }
    }
  }
}

TEST(Replaceable, WithoutItCallersDiffer) {
  // That the test above can fail.
  const Object reference = compiled(plain_at(OptLevel::O2), with_callee(callee_bodies[0]));
  const Object other = compiled(plain_at(OptLevel::O2), with_callee(callee_bodies[1]));
  for (std::string_view caller : callers) {
    if (caller == "drops") continue;
    const std::string section = ".text." + std::string(caller);
    EXPECT_NE(picture(other, section), picture(reference, section)) << caller;
  }
}

TEST(Replaceable, AttributesThatSpeakOfTheBodyDoNotCount) {
  // As clang and earlier passes write them.
  std::string derived = with_callee(callee_bodies[0]);
  const std::string_view head = "@callee(i32 %a, i32 %b, ptr %p) {";
  derived.replace(derived.find(head), head.size(),
                  "@callee(i32 returned %a, i32 %b, ptr readnone captures(none) %p) nounwind willreturn norecurse nofree "
                  "nosync memory(none) {");
  const std::string_view call = "call i32 @callee(i32 %x, i32 2, ptr %p)";
  derived.replace(derived.find(call), call.size(), std::string(call) + " nounwind willreturn memory(none)");
  for (OptLevel level : all_levels) {
    const Object with = compiled(replaceable_at(level), derived);
    const Object without = compiled(replaceable_at(level), with_callee(callee_bodies[0]));
    for (std::string_view caller : callers)
      EXPECT_EQ(picture(with, ".text." + std::string(caller)), picture(without, ".text." + std::string(caller))) << caller;
  }
}

// All stages of a change.
Result<Committed> commit(Change change, const std::vector<Edit>& edits = {}) {
  auto draft = std::move(change).draft();
  if (!draft) return draft.error();
  if (auto edited = draft->edit(edits); !edited) return edited.error();
  auto placed = std::move(*draft).place();
  if (!placed) return placed.error();
  auto linked = std::move(*placed).link();
  if (!linked) return linked.error();
  return std::move(*linked).commit();
}

TEST(Replaceable, AnOldCallerAndANewFunctionAgree) {
  // Global functions, for the engine can send their calls elsewhere: the second version uses what the first ignored, and
  // `fact` proves that a function's calls of itself go out.
  constexpr std::string_view first = R"(
define i32 @f(i32 %a, i32 %b) {
  ret i32 7
}
define i32 @fact(i32 %n) {
  %done = icmp eq i32 %n, 0
  br i1 %done, label %end, label %more
end:
  ret i32 1
more:
  %m = sub i32 %n, 1
  %r = call i32 @fact(i32 %m)
  ret i32 %r
}
define i32 @caller(i32 %x) {
  %p = call i32 @f(i32 %x, i32 1)
  %q = call i32 @f(i32 %x, i32 2)
  %s = add i32 %p, %q
  ret i32 %s
}
)";
  constexpr std::string_view second = R"(
@calls = global i32 0
define i32 @new_f(i32 %a, i32 %b) {
  %old = load i32, ptr @calls
  %new = add i32 %old, 100
  store i32 %new, ptr @calls
  %p = mul i32 %a, %b
  %r = add i32 %p, %new
  ret i32 %r
}
define i32 @new_fact(i32 %n) {
  %r = add i32 %n, 1000
  ret i32 %r
}
)";
  for (OptLevel level : all_levels) {
    auto engine = Engine::create();
    ASSERT_TRUE(engine.ok());
    auto library = engine->library("l");
    ASSERT_TRUE(library.ok());
    Change newer = engine->change();
    newer.add(*library, compiled(replaceable_at(level), second, "second"));
    const auto there = commit(std::move(newer));
    ASSERT_TRUE(there.ok()) << there.error().message;
    Change older = engine->change();
    const ModuleId module = older.add(*library, compiled(replaceable_at(level), first, "first"));
    const auto mixed = commit(std::move(older), {Edit::bind(module, "f", *library->find("new_f")),
                                                 Edit::bind(module, "fact", *library->find("new_fact"))});
    ASSERT_TRUE(mixed.ok()) << mixed.error().message;
    EXPECT_EQ(library->find("caller")->as<int (*)(int)>()(5), 5 * 1 + 100 + 5 * 2 + 200);
    EXPECT_EQ(library->find("fact")->as<int (*)(int)>()(5), 1004) << "the version that is called is the new one";
  }
}

TEST(Replaceable, CallsOfItselfAndTailCallsAreRelocated) {
  constexpr std::string_view ir = R"(
define internal i32 @sum(i32 %n, i32 %s) {
  %done = icmp eq i32 %n, 0
  br i1 %done, label %end, label %more
end:
  ret i32 %s
more:
  %m = sub i32 %n, 1
  %t = add i32 %s, %n
  %r = tail call i32 @sum(i32 %m, i32 %t)
  ret i32 %r
}
define i32 @start(i32 %n) {
  %r = tail call i32 @sum(i32 %n, i32 0)
  ret i32 %r
}
)";
  for (OptLevel level : {OptLevel::O1, OptLevel::O2}) {
    const Object object = compiled(replaceable_at(level), ir);
    EXPECT_THAT(picture(object, ".text.start"), HasSubstr(" 4 sum -4"));
    EXPECT_THAT(picture(object, ".text.sum"), HasSubstr(" 4 sum -4"));
    EXPECT_EQ(call_sites(object).all, 2u);
    // E9 before each: a tail call stays one.
    const Section& start = *find_section(object, ".text.start");
    EXPECT_EQ(std::to_integer<int>(start.content[start.content.size() - 5]), 0xe9);
    EXPECT_EQ(find_symbol(object, "__tenon_self.sum"), nullptr);
  }
}

TEST(Replaceable, VariablesAreTheSameAtEveryLevel) {
  const Object plain = compiled(plain_at(OptLevel::O0), variables_ir);
  auto expected = variables_of(plain);
  expected.insert({"private", 4, Binding::local, Visibility::normal, SymbolType::object, 4}); // has a symbol now
  EXPECT_EQ(expected.size(), 15u);
  for (OptLevel level : all_levels)
    EXPECT_EQ(variables_of(compiled(replaceable_at(level), variables_ir)), expected) << static_cast<int>(level);
  EXPECT_NE(variables_of(compiled(plain_at(OptLevel::O2), variables_ir)), variables_of(plain)) << "or it is no test";
}

TEST(Replaceable, BindingsAndGroupsAreThoseOfTheModule) {
  constexpr std::string_view ir = R"(
$once = comdat any
@other = alias i32 (), ptr @strong
define i32 @strong() minsize optsize {
  ret i32 1
}
define weak i32 @weak_one() {
  ret i32 2
}
define hidden i32 @hidden_one() {
  ret i32 3
}
define linkonce_odr i32 @once() comdat {
  ret i32 4
}
define internal i32 @local() {
  ret i32 5
}
define private i32 @unseen() {
  ret i32 6
}
define available_externally i32 @elsewhere() {
  ret i32 7
}
define internal i32 @always() alwaysinline {
  ret i32 80
}
define i32 @all() {
  %a = call i32 @other()
  %b = call i32 @weak_one()
  %c = call i32 @hidden_one()
  %d = call i32 @once()
  %e = call i32 @local()
  %f = call i32 @unseen()
  %g = call i32 @elsewhere()
  %h = call i32 @always()
  ret i32 %h
}
)";
  for (OptLevel level : all_levels) {
    const Object object = compiled(replaceable_at(level), ir);
    EXPECT_THAT(functions_of(object), ElementsAre("all", "hidden_one", "local local", "once weak", "other", "strong",
                                                  "unseen local", "weak_one weak"));
    EXPECT_EQ(find_symbol(object, "hidden_one")->visibility, Visibility::hidden);
    ASSERT_EQ(object.groups().size(), 1u);
    EXPECT_EQ(object.groups()[0].signature, "once");
    for (std::string_view called : {"other", "weak_one", "hidden_one", "once", "local", "unseen", "elsewhere"})
      EXPECT_THAT(picture(object, ".text.all"), HasSubstr(" 4 " + std::string(called) + " -4"));
    for (const Section& section : object.sections()) {
      const bool code = section.kind == SectionKind::code && section.size > 0;
      EXPECT_TRUE(!code || section.alignment >= 16) << section.name;
    }
  }
}

TEST(Replaceable, InlineFunctionsCanBeLeftOut) {
  constexpr std::string_view ir = R"(
define linkonce_odr i32 @small(i32 %a) {
  %r = add i32 %a, 1
  ret i32 %r
}
define internal i32 @local(i32 %a) {
  %r = add i32 %a, 1
  ret i32 %r
}
define i32 @caller(i32 %a) {
  %b = call i32 @small(i32 %a)
  %c = call i32 @local(i32 %b)
  ret i32 %c
}
)";
  EXPECT_THAT(functions_of(compiled(replaceable_at(OptLevel::O2), ir)), Contains("small weak"));
  CompileOptions options = replaceable_at(OptLevel::O2);
  options.replaceable_inline = false;
  EXPECT_THAT(functions_of(compiled(options, ir)), ElementsAre("caller", "local local"));
}

// The function that each initializer's entry leads to, in the order of their tables.
std::vector<std::string> initializers_of(const Object& object) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < object.sections().size(); ++i) {
    const Section& section = object.sections()[i];
    if (section.init_table != InitTable::init) continue;
    for (const Relocation& relocation : object.relocations(i))
      names.push_back(std::to_string(section.init_priority) + " " + name_of_target(object, relocation));
  }
  return names;
}

TEST(Replaceable, InitializersStayApartInOrder) {
  for (OptLevel level : all_levels) {
    const Object object = compiled(replaceable_at(level), initializers_ir);
    EXPECT_THAT(initializers_of(object),
                ElementsAre("101 .text.__tenon_init.early", "65535 .text.__tenon_init.inline_one",
                            "65535 .text.__tenon_init.object", "65535 .text.__tenon_init._ZL6result",
                            "65535 .text.__tenon_init.derived", "65535 .text.__cxx_global_var_init.3"));
    EXPECT_THAT(picture(object, ".text.__tenon_init.object"), HasSubstr(" 4 __cxa_atexit -4"))
        << "though this version's destructor does nothing";
    EXPECT_THAT(functions_of(object), Contains("__tenon_init.derived local"));
    EXPECT_EQ(find_symbol(object, "_GLOBAL__sub_I_file.cpp"), nullptr);
    for (const Section& section : object.sections()) EXPECT_NE(section.name, ".text.startup");
  }
  EXPECT_EQ(initializers_of(compiled(plain_at(OptLevel::O0), initializers_ir)).size(), 3u) << "only when asked for";
}

TEST(Replaceable, InitializersThatDoMoreThanCallAreLeftAlone) {
  std::string ir(initializers_ir);
  const std::string_view head = "define internal void @_GLOBAL__sub_I_file.cpp() section \".text.startup\" {\n";
  ir.insert(ir.find(head) + head.size(), "  store i32 8, ptr @left, align 4\n");
  const auto names = initializers_of(compiled(replaceable_at(OptLevel::O0), ir));
  EXPECT_THAT(names, ElementsAre("101 .text.__tenon_init.early", "65535 .text.__tenon_init.inline_one",
                                 "65535 .text._GLOBAL__sub_I_file.cpp"));
}

TEST(Replaceable, ConstructorFunctionsOfTheSourceAreNotInitializers) {
  constexpr std::string_view ir = R"(
@variable = global i32 0, align 4
@llvm.global_ctors = appending global [2 x { i32, ptr, ptr }] [
  { i32, ptr, ptr } { i32 65535, ptr @setup, ptr null }, { i32, ptr, ptr } { i32 65535, ptr @both, ptr null }]
define internal void @setup() {
  store i32 1, ptr @variable, align 4
  ret void
}
define internal void @one() {
  store i32 2, ptr @variable, align 4
  ret void
}
define internal void @both() {
  call void @one()
  ret void
}
)";
  for (OptLevel level : all_levels) {
    const Object object = compiled(replaceable_at(level), ir);
    EXPECT_THAT(initializers_of(object), ElementsAre("65535 .text.setup", "65535 .text.both"));
    EXPECT_THAT(picture(object, ".text.setup"), HasSubstr("variable")) << "not done at compile time";
  }
}

TEST(Replaceable, CallSitesCanBeRetargeted) {
  std::string ir = "declare i32 @outside(i32) nonlazybind\n";
  for (int i = 0; i < 40; ++i) {
    const std::string n = std::to_string(i);
    ir += "define i32 @f" + n + "(i32 %a, ptr %p) {\n";
    // Instructions of other lengths before each call, and a conditional branch that has to grow.
    for (int j = 0; j <= i % 9; ++j)
      ir += "  %v" + std::to_string(j) + " = call i32 @outside(i32 " + std::to_string(j * 97 * (i + 1)) +
            ") nonlazybind\n  store i32 %v" + std::to_string(j) + ", ptr %p\n";
    ir += "  %c = icmp eq i32 %a, " + n + "\n  br i1 %c, label %x, label %y\nx:\n";
    for (int j = 0; j < i; ++j) ir += "  call i32 @outside(i32 " + std::to_string(j) + ")\n";
    ir += "  ret i32 0\ny:\n  %t = tail call i32 @f" + std::to_string((i + 1) % 40) + "(i32 %a, ptr %p)\n  ret i32 %t\n}\n";
  }
  ir += "!llvm.module.flags = !{!0}\n!0 = !{i32 7, !\"RtLibUseGOT\", i32 1}\n";
  for (OptLevel level : all_levels) {
    const Sites sites = call_sites(compiled(replaceable_at(level), ir));
    EXPECT_GT(sites.all, 900u);
    EXPECT_EQ(sites.aligned, sites.all);
    const Sites before = call_sites(compiled(plain_at(level), ir));
    EXPECT_LT(before.aligned, before.all * 3 / 4);
  }
}

TEST(Replaceable, SequencesOfFixedLengthAreNotTorn) {
  constexpr std::string_view ir = "@variable = thread_local global i32 7\ndeclare void @g()\n"
                                  "define i32 @f() {\n call void @g()\n %v = load i32, ptr @variable\n ret i32 %v\n}\n";
  for (OptLevel level : {OptLevel::O0, OptLevel::O2}) {
    const Object object = compiled(replaceable_at(level), ir);
    const std::string code = string_of(find_section(object, ".text.f")->content);
    // data16 leaq variable@TLSGD(%rip), %rdi; data16 data16 rex64 callq __tls_get_addr
    EXPECT_THAT(code, HasSubstr(std::string("\x66\x48\x8d\x3d\0\0\0\0\x66\x66\x48\xe8", 12)));
    EXPECT_THAT(picture(object, ".text.f"), HasSubstr(" __tls_get_addr -4"));
  }
}

std::string printed(const llvm::Module& module) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  module.print(stream, nullptr);
  return text;
}

TEST(Replaceable, TheClientsModuleStaysAsItIs) {
  for (std::string_view ir : {variables_ir, initializers_ir, rich_ir})
    for (OptLevel level : all_levels) {
      llvm::LLVMContext context;
      llvm::SMDiagnostic diagnostic;
      auto module = llvm::parseAssemblyString(llvm::StringRef(ir.data(), ir.size()), diagnostic, context);
      ASSERT_NE(module, nullptr) << diagnostic.getMessage().str();
      const std::string before = printed(*module);
      auto compiler = Compiler::create(replaceable_at(level));
      ASSERT_TRUE(compiler.ok());
      auto first = compiler->compile(*module);
      ASSERT_TRUE(first.ok()) << first.error().message;
      EXPECT_EQ(printed(*module), before);
      auto second = compiler->compile(*module);
      ASSERT_TRUE(second.ok());
      EXPECT_EQ(string_of(first->bytes()), string_of(second->bytes()));
    }
}

TEST(Replaceable, LlvmsOptionsAreTheClients) {
  std::map<std::string, int> before;
  for (const auto& option : llvm::cl::getRegisteredOptions())
    before[option.first.str()] = option.second->getNumOccurrences();
  EXPECT_TRUE(before.contains("x86-align-branch"));
  const std::string plain = string_of(compiled(plain_at(OptLevel::O2), with_callee(callee_bodies[4])).bytes());
  compiled(replaceable_at(OptLevel::O2), with_callee(callee_bodies[4]));
  EXPECT_EQ(string_of(compiled(plain_at(OptLevel::O2), with_callee(callee_bodies[4])).bytes()), plain);
  for (const auto& option : llvm::cl::getRegisteredOptions())
    EXPECT_EQ(option.second->getNumOccurrences(), before[option.first.str()]) << option.first.str();
}

TEST(Replaceable, ErrorsLeaveNoTrace) {
  auto compiler = Compiler::create(replaceable_at(OptLevel::O2));
  ASSERT_TRUE(compiler.ok());
  const auto failed = compiler->compile_ir(bytes_of("@v = internal global i32 0\ndefine void @f() {\n store i32 1, ptr @v\n"
                                                    " call void asm sideeffect \"frobnicate %eax\", \"\"()\n ret void\n}\n"),
                                           "bad");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::compile);
  auto after = compiler->compile_ir(bytes_of(variables_ir), "m");
  ASSERT_TRUE(after.ok()) << after.error().message;
  EXPECT_EQ(string_of(after->bytes()), string_of(compiled(replaceable_at(OptLevel::O2), variables_ir).bytes()));
}

TEST(Replaceable, ThreadsWithAndWithoutItAtOnce) {
  const std::string inputs[] = {std::string(rich_ir), std::string(variables_ir), std::string(initializers_ir),
                                with_callee(callee_bodies[4])};
  constexpr int rounds = 40;
  const auto work = [&](const CompileOptions& options, std::vector<std::string> expected, int& same) {
    auto compiler = Compiler::create(options);
    for (int i = 0; i < rounds; ++i) {
      const std::size_t which = static_cast<std::size_t>(i) % std::size(inputs);
      auto object = compiler->compile_ir(bytes_of(inputs[which]), "m");
      if (object && string_of(object->bytes()) == expected[which]) ++same;
    }
  };
  std::vector<CompileOptions> kinds = {plain_at(OptLevel::O2), replaceable_at(OptLevel::O2), plain_at(OptLevel::O0),
                                       replaceable_at(OptLevel::O0)};
  std::vector<int> same(kinds.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    std::vector<std::string> expected;
    for (const std::string& input : inputs) expected.push_back(string_of(compiled(kinds[i], input).bytes()));
    threads.emplace_back([&, i, expected] { work(kinds[i], expected, same[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(same, ElementsAre(rounds, rounds, rounds, rounds));
}

TEST(Replaceable, IrThatIsNotOptimizedHereToo) {
  CompileOptions options = replaceable_at(OptLevel::O2);
  options.optimize = false;
  const Object object = compiled(options, with_callee(callee_bodies[0]));
  EXPECT_THAT(picture(object, ".text.tail"), HasSubstr(" 4 callee -4"));
  options.consume_ir = true;
  EXPECT_EQ(string_of(compiled(options, with_callee(callee_bodies[0])).bytes()), string_of(object.bytes()));
}

} // namespace
} // namespace tenon::testing

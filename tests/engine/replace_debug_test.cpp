// Debug information in replacing: variables that a compiler numbers are told apart by it, and changed signatures are told.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string split = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline ";
const std::string gcc_c = "-x c -w -fno-ipa-ra -fno-common " + split;

// A function with a counter of its own; each version may have others before it.
std::string counter(const std::string& name, int first, const std::string& type = "int") {
  return type + " " + name + "(void) { static " + type + " count = " + std::to_string(first) + "; return ++count; }\n";
}

std::vector<std::string> locals_of(const Object& object) {
  std::vector<std::string> names;
  for (const Symbol& symbol : object.symbols())
    if (symbol.type == SymbolType::object && symbol.is_local()) names.emplace_back(symbol.name());
  return names;
}

struct ReplaceDebug : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));

  static Object gcc(const std::string& text, const std::string& flags = "-g") {
    return compile_gcc("\n" + text, gcc_c + flags);
  }
  static Object clang(const std::string& text, const std::string& flags = "-g") { return compile_c(text, split + flags); }

  Result<Committed> try_replace(const Module& module, Object object, DataPolicy policy = {}) {
    Change change = engine.change();
    change.replace(module, std::move(object), std::move(policy));
    return try_commit(std::move(change));
  }
  void replace(const Module& module, Object object) { expect(try_replace(module, std::move(object))); }
  std::string refusal(const Module& module, Object object) {
    Result<Committed> refused = try_replace(module, std::move(object));
    EXPECT_FALSE(refused);
    if (refused) return "";
    EXPECT_EQ(refused.error().code, ErrorCode::needs_flag);
    return refused.error().message;
  }
  std::vector<Warning> warnings(const Module& module, Object object, bool opaque = false) {
    Change change = engine.change();
    ModuleOptions options;
    options.opaque = opaque;
    change.replace(module, std::move(object), {}, options);
    Draft draft = expect(std::move(change).draft());
    std::vector<Warning> told(draft.warnings().begin(), draft.warnings().end());
    Placed placed = expect(std::move(draft).place());
    Linked linked = expect(std::move(placed).link());
    expect(std::move(linked).commit());
    return told;
  }
  int call(const char* name) { return function<int()>(library, name)(); }
};

TEST_F(ReplaceDebug, NumberedVariablesAreFoundByTheirFunctions) {
  const Object first = gcc(counter("f", 10));
  const Object second = gcc(counter("before", 100) + counter("f", 10) + counter("after", 1000));
  ASSERT_THAT(locals_of(first), testing::Contains("count.0"));
  ASSERT_THAT(locals_of(second), testing::UnorderedElementsAre("count.0", "count.1", "count.2"));
  Module m = commit(engine, library, first);
  EXPECT_EQ(call("f"), 11);
  replace(m, second);
  EXPECT_EQ(call("f"), 12);
  EXPECT_EQ(call("before"), 101);
  EXPECT_EQ(call("after"), 1001);
  replace(m, gcc(counter("after", 5) + counter("f", 5) + counter("fresh", 7)));
  EXPECT_EQ(call("f"), 13);
  EXPECT_EQ(call("after"), 1002);
  EXPECT_EQ(call("fresh"), 8);
  replace(m, gcc(counter("f", 5) + counter("before", 50) + counter("fresh", 5) + counter("after", 5)));
  EXPECT_EQ(call("f"), 14);
  EXPECT_EQ(call("after"), 1003);
  EXPECT_EQ(call("fresh"), 9);
  EXPECT_EQ(call("before"), 51) << "the version before did not have it: it begins anew";
}

TEST_F(ReplaceDebug, WithoutDebugInformationTheyAreRefused) {
  const std::string text = counter("f", 10);
  const std::string more = counter("before", 100) + text;
  Module m = commit(engine, library, gcc(text, "-g0"));
  EXPECT_EQ(call("f"), 11);
  EXPECT_THAT(refusal(m, gcc(more, "-g0")),
              AllOf(HasSubstr("'count."), HasSubstr("numbered by the compiler"), HasSubstr("-g")));
  EXPECT_THAT(refusal(m, gcc(more, "-g")), AllOf(HasSubstr("'count."), HasSubstr("without -g")));
  EXPECT_THAT(refusal(m, gcc(text, "-g0")), HasSubstr("'count.0'")) << "the same number says nothing";
  EXPECT_EQ(call("f"), 12) << "nothing has happened";

  Library other = expect(engine.library("other", {.replaceable = true}));
  Module with = commit(engine, other, gcc(text, "-g"));
  EXPECT_THAT(refusal(with, gcc(more, "-g0")), AllOf(HasSubstr("'count."), HasSubstr("compile with -g")));
}

TEST_F(ReplaceDebug, SeveralOfOneNameInAFunctionMustBeTheSameOnes) {
  auto text = [](const std::string& before, const std::string& inside) {
    return before +
           "int f(int which) { if (which == 0) { static int count = 10; return ++count; } if (which == 1) { static long "
           "count = 20; return ++count; } " +
           inside + " return 0; }\n";
  };
  const std::string third = "if (which == 2) { static long count = 30; return ++count; }";
  for (bool by_clang : {false, true}) {
    SCOPED_TRACE(by_clang ? "clang" : "gcc");
    auto compile = [&](const std::string& source, const char* flags) {
      return by_clang ? clang(source, flags) : gcc(source, flags);
    };
    Library own = expect(engine.library(by_clang ? "clang" : "gcc", {.replaceable = true}));
    Module m = commit(engine, own, compile(text("", ""), "-g"));
    auto* f = function<int(int)>(own, "f");
    EXPECT_EQ(f(0), 11);
    EXPECT_EQ(f(1), 21);
    replace(m, compile(text(counter("other", 0), ""), "-g"));
    EXPECT_EQ(f(0), 12);
    EXPECT_EQ(f(1), 22);
    EXPECT_THAT(refusal(m, compile(text("", third), "-g")), HasSubstr("'f::count'"));
    EXPECT_THAT(refusal(m, compile(text("", ""), "-g0")), HasSubstr("-g"));
    EXPECT_EQ(f(0), 13);
    EXPECT_EQ(f(1), 23);
  }
}

TEST_F(ReplaceDebug, VariablesInFramesMayHaveTheName) {
  auto text = [](const std::string& before, const std::string& inside) {
    return before + "int f(void) { static int count = 10; " + inside + " return ++count; }\n";
  };
  Module m = commit(engine, library, gcc(text("", ""), "-g -O0"));
  EXPECT_EQ(call("f"), 11);
  replace(m, gcc(text(counter("g", 0), "{ int count = 3; count++; }"), "-g -O0"));
  EXPECT_EQ(call("f"), 12);
}

// In C++ the number comes after the variable's name, which may itself end like one.
TEST_F(ReplaceDebug, DiscriminatorsOfMangledNames) {
  for (const std::string name : {"v2", "count_", "a1b_22"}) {
    SCOPED_TRACE(name);
    const std::string one =
        "int f(int which) { if (which == 1) { static int " + name + " = 20; return ++" + name + "; } return 0; }\n";
    const std::string two = "int f(int which) { if (which == 0) { static int " + name + " = 10; return ++" + name +
                            "; } if (which == 1) { static int " + name + " = 20; return ++" + name + "; } return 0; }\n";
    Library own = expect(engine.library(name, {.replaceable = true}));
    Module m = commit(engine, own, compile_cpp(one, split));
    auto* f = function<int(int)>(own, "_Z1fi");
    EXPECT_EQ(f(1), 21);
    EXPECT_THAT(refusal(m, compile_cpp(two, split)), HasSubstr("_ZZ1fiE"));
    replace(m, compile_cpp("int g() { return 0; }" + one, split));
    EXPECT_EQ(f(1), 22);
  }
}

TEST_F(ReplaceDebug, TheFirstOfSeveralIsNumberedToo) {
  // Clang calls the first one f.count, whichever it is.
  const std::string one = "int f(int which) { if (which == 1) { static int count = 20; return ++count; } return 0; }\n";
  const std::string two =
      "int f(int which) { if (which == 0) { static int count = 10; return ++count; } if (which == 1) { static "
      "int count = 20; return ++count; } return 0; }\n";
  for (const char* flags : {"-g0", "-g"}) {
    SCOPED_TRACE(flags);
    Library own = expect(engine.library(flags, {.replaceable = true}));
    Module m = commit(engine, own, clang(one, flags));
    auto* f = function<int(int)>(own, "f");
    EXPECT_EQ(f(1), 21);
    EXPECT_THAT(refusal(m, clang(two, flags)), HasSubstr("'f.count"));
    EXPECT_EQ(f(1), 22);
    replace(m, clang(one + "int more(void) { return 1; }", flags));
    EXPECT_EQ(f(1), 23) << "where there is only one, its name says enough";
    // The other way round: what is left has the name that the first one had.
    Library fewer = expect(engine.library(std::string("fewer ") + flags, {.replaceable = true}));
    Module both = commit(engine, fewer, clang(two, flags));
    EXPECT_EQ(function<int(int)>(fewer, "f")(0), 11);
    EXPECT_THAT(refusal(both, clang(one, flags)), HasSubstr("'f.count'"));
  }
}

TEST_F(ReplaceDebug, NumberedConstantsKeepTheirAddresses) {
  auto table = [](const std::string& name, int n) {
    return "const int* " + name + "(void) { static const int table[2] = {" + std::to_string(n) + ", 2}; return table; }\n";
  };
  Module m = commit(engine, library, gcc(table("f", 1)));
  auto* f = function<const int*()>(library, "f");
  const int* before = f();
  replace(m, gcc(table("g", 5) + table("f", 1)));
  EXPECT_EQ(f(), before);
  EXPECT_EQ(function<const int*()>(library, "g")()[0], 5);
  replace(m, gcc(table("g", 5) + table("f", 7)));
  EXPECT_EQ(f()[0], 7);
  EXPECT_EQ(before[0], 1) << "pointers to the old one stay good";
}

TEST_F(ReplaceDebug, NumberedThreadLocalVariablesAreKept) {
  const std::string local = "int t(void) { static __thread int count = 40; return ++count; }\n";
  Module m = commit(engine, library, gcc(local + counter("f", 10)));
  EXPECT_EQ(call("t"), 41);
  replace(m, gcc(counter("before", 100) + local + counter("f", 10)));
  EXPECT_EQ(call("t"), 42);
  EXPECT_EQ(call("f"), 11);
}

TEST_F(ReplaceDebug, GuardsGoWithTheirVariables) {
  auto text = [](const std::string& more) {
    return "extern \"C\" { int made = 0; } struct Object { int value; Object(int n) : value(n) { ++made; } };\n" + more +
           "extern \"C\" int first() { { static Object count(made + 10); return ++count.value; } }\n"
           "int two(int which) { if (which == 0) { static Object count(made + 100); return ++count.value; } static Object "
           "count(made + 200); return ++count.value; }\n"
           "extern \"C\" int a() { return two(0); } extern \"C\" int b() { return two(1); }\n";
  };
  for (bool by_clang : {false, true}) {
    SCOPED_TRACE(by_clang ? "clang" : "gcc");
    auto compile = [&](const std::string& source) {
      return by_clang ? compile_cpp(source, split + "-g") : compile_gcc(source, split + "-fno-ipa-ra -g");
    };
    const Object object = compile(text(""));
    ASSERT_THAT(locals_of(object), testing::Contains("_ZZ3twoiE5count_0"));
    Library own = expect(engine.library(by_clang ? "clang" : "gcc", {.replaceable = true}));
    Module m = commit(engine, own, object);
    auto* a = function<int()>(own, "a");
    auto* b = function<int()>(own, "b");
    const int first_a = a(), first_b = b();
    const int made = *address_of(own, "made").as<int*>();
    replace(m, compile(text("int other() { static int count = 3; return ++count; }")));
    EXPECT_EQ(a(), first_a + 1);
    EXPECT_EQ(b(), first_b + 1);
    EXPECT_EQ(*address_of(own, "made").as<int*>(), made) << "nothing was constructed again";
  }
}

// `ld -r` of units that are called a.c, b.c and so on; the last may have flags of its own.
Object joined(const std::vector<std::string>& units, const std::string& flags, const std::string& of_last = "") {
  namespace fs = std::filesystem;
  std::string folder = fs::path(TENON_BINARY_DIR) / "test-objects" / "joined.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
  std::string command = "cd " + folder;
  std::string names;
  for (std::size_t i = 0; i < units.size(); ++i) {
    const std::string name(1, char('a' + i));
    std::ofstream(folder + "/" + name + ".c") << units[i];
    command += " && gcc -c " + gcc_c + flags + (i + 1 == units.size() ? " " + of_last : "") + " " + name + ".c";
    names += " " + name + ".o";
  }
  command += " && ld -r -o all.o" + names;
  if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
  std::ifstream file(folder + "/all.o", std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  fs::remove_all(folder);
  return expect(Object::copy(std::as_bytes(std::span(bytes)), "all.o"));
}

TEST_F(ReplaceDebug, WhatOldFramesMayCountOnIsTheMostThatAnyUnitMay) {
  static std::function<void()> action;
  const std::array symbols{Absolute{"pause", Addr{reinterpret_cast<std::uint64_t>(+[] { action(); })}}};
  expect(library.define(symbols));
  auto units = [](int n) {
    return std::vector<std::string>{"void pause(void); int f(void) { int r; asm volatile(\"movl $" + std::to_string(n) +
                                        ", %0\" : \"=r\"(r)); return r; } int run(void) { pause(); return f(); }\n",
                                    "int other(void) { return 3; }\n"};
  };
  for (const auto& [of_last, follows] : {std::pair{"", true}, {"-O0", true}, {"-g0", false}, {"-fpie", false}}) {
    auto object = [&, of = of_last](int n) { return joined(units(n), "-g -O2 -fPIC", of); };
    Module m = commit(engine, library, object(1));
    action = [&] { replace(m, object(2)); };
    EXPECT_EQ(call("run"), follows ? 2 : 1) << of_last;
    action = [] {};
    EXPECT_EQ(call("run"), 2);
    expect(try_remove(engine, {m}));
  }
}

TEST_F(ReplaceDebug, UnitsOfOneObjectHaveTheirOwnVariables) {
  auto unit = [](const std::string& name, int first) {
    return "static int count = " + std::to_string(first) + "; int " + name + "(void) { return ++count; }\n";
  };
  Module m = commit(engine, library, joined({unit("f", 10), unit("g", 20)}, "-g"));
  EXPECT_EQ(call("f"), 11);
  EXPECT_EQ(call("g"), 21);
  replace(m, joined({unit("f", 1), "int added = 5;\n" + unit("g", 2)}, "-g"));
  EXPECT_EQ(call("f"), 12);
  EXPECT_EQ(call("g"), 22);
  EXPECT_THAT(refusal(m, joined({unit("f", 1), unit("g", 2)}, "-g0")), HasSubstr("several local variables 'count'"));
  EXPECT_THAT(refusal(m, gcc(unit("f", 1))), HasSubstr("'count'")) << "of which unit it is can't be told";
  EXPECT_EQ(call("f"), 13);
  // One that all see has the name, too.
  Library own = expect(engine.library("own", {.replaceable = true}));
  const std::string seen = "int count = 30; int g(void) { return ++count; }\n";
  Module both = commit(engine, own, joined({unit("f", 10), seen}, "-g"));
  EXPECT_EQ(function<int()>(own, "f")() + function<int()>(own, "g")(), 11 + 31);
  replace(both, joined({unit("f", 1), seen}, "-g"));
  EXPECT_EQ(function<int()>(own, "f")(), 12);
  EXPECT_EQ(function<int()>(own, "g")(), 32);
}

TEST_F(ReplaceDebug, ChangedSignaturesAreTold) {
  const std::string old_text =
      "struct S { int a, b; }; int f(int x) { return x; } long g(struct S s) { return s.a; } void h(const "
      "char* p) { } int same(int a, ...) { return a; }";
  ModuleOptions named;
  named.name = "m";
  Module m = commit(engine, library, clang(old_text), named);
  const std::vector<Warning> told = warnings(
      m, clang("struct S { int a, b, c; }; int f(long x) { return x; } long g(struct S s) { return s.a; } typedef char "
               "letter; void h(const letter* const p) { } int same(int b, ...) { return b + 1; }"));
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].symbol, "f");
  EXPECT_EQ(told[0].module, "m");
  EXPECT_EQ(told[0].text,
            "'f' of module m: was int (int), is int (long): callers that are not replaced pass what the old one took");
  EXPECT_THAT(told[1].text, AllOf(HasSubstr("'g'"), HasSubstr("struct S{8}"), HasSubstr("struct S{12}")));
  EXPECT_EQ(function<int(long)>(library, "f")(5), 5) << "it is no error";
}

TEST_F(ReplaceDebug, WhatIsTheSameOrNotKnownIsNotTold) {
  const std::string text = "struct Inside; int f(int x) { return x; } long unsigned int g(struct Inside* p) { return 1; }";
  Module m = commit(engine, library, clang(text));
  EXPECT_THAT(warnings(m, clang(text + "int more;")), testing::IsEmpty());
  EXPECT_THAT(
      warnings(m, gcc("struct Inside { int a; }; int f(const int x) { return x; } unsigned long g(struct Inside* q) { "
                      "return q->a; }")),
      testing::IsEmpty())
      << "another compiler, the same types";
  EXPECT_THAT(warnings(m, clang("int f(long x) { return x; } int g(void) { return 0; }", "-g0")), testing::IsEmpty());
  EXPECT_THAT(warnings(m, clang("int f(char x) { return x; } int g(char x) { return 0; }")), testing::IsEmpty());
}

TEST_F(ReplaceDebug, OnlyWhoCanBeCalledByOthersIsTold) {
  auto text = [](const std::string& type) {
    return "__attribute__((noinline)) static int helper(" + type + " x) { return x + 1; } int f(void) { return helper(3); }";
  };
  Module m = commit(engine, library, gcc(text("int"), "-g -O0"));
  EXPECT_THAT(warnings(m, gcc(text("long"), "-g -O0"), true), testing::IsEmpty()) << "old frames call their own";
  EXPECT_EQ(warnings(m, gcc(text("char"), "-g -O0")).size(), 1U) << "those of an opaque version call the new one";
}

TEST_F(ReplaceDebug, DebugInformationThatIsBrokenIsNone) {
  const Object good = gcc(counter("f", 10));
  std::vector<std::byte> bytes(good.bytes().begin(), good.bytes().end());
  for (const Section& section : good.sections())
    if (section.name == ".debug_info" || section.name == ".debug_abbrev")
      for (std::byte& byte :
           std::span(bytes).subspan(std::size_t(section.content.data() - good.bytes().data()), section.size))
        byte = std::byte{0xFF};
  Module m = commit(engine, library, good);
  EXPECT_EQ(call("f"), 11);
  EXPECT_THAT(refusal(m, expect(Object::copy(bytes, "broken.o"))), HasSubstr("'count.0'"));
  EXPECT_EQ(call("f"), 12);
}

} // namespace
} // namespace tenon::test

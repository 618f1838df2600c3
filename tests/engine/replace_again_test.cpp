// What comes again: constants, literals and variables that later versions have as earlier ones had them are where they were
// then, and versions that take turns do not pile up.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <functional>

namespace tenon::test {
namespace {

const CompilerSetting compilers[] = {
    {"gcc -O0", compile_gcc, "-O0 -fPIC -ffunction-sections -fdata-sections"},
    {"gcc -O2", compile_gcc, "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline -fno-ipa-ra"},
    {"gcc -O0, C", compile_gcc, "-x c -std=c17 -O0 -fPIC -ffunction-sections -fdata-sections"},
    {"gcc -O2, C", compile_gcc, "-x c -std=c17 -O2 -fPIC -ffunction-sections -fdata-sections -fno-inline -fno-ipa-ra"},
    {"clang -O0", compile_cpp, "-O0 -fPIC -ffunction-sections -fdata-sections"},
    {"clang -O2", compile_cpp, "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline"},
    {"clang -O0, C", compile_c, "-O0 -fPIC -ffunction-sections -fdata-sections"},
    {"clang -O2, C", compile_c, "-O2 -fPIC -ffunction-sections -fdata-sections -fno-inline"},
};

// Tables of strings, of functions, of structures with tables in them, and a switch. What differs is of the same size.
std::string tables(int version) {
  const std::string v = std::to_string(version);
  const std::string first = version % 2 == 0 ? "fa" : "fb", second = version % 2 == 0 ? "fb" : "fa";
  return "#ifdef __cplusplus\nextern \"C\" {\n#endif\n"
         "struct Inner { const char* text; const int* number; };\n"
         "struct Outer { const char* name; int (*call)(int); struct Inner in[2]; const struct Outer* next; };\n"
         "static const int numbers[2] = {1" +
         v + ", 2" + v +
         "};\n"
         "int fa(int x) { return x + 1; } int fb(int x) { return x + 2; }\n"
         "const char* name_of(int i) { static const char* const names[] = {\"a" +
         v + "\", \"b" + v +
         "\"}; return names[i]; }\n"
         "int (*function_of(int i))(int) { static int (*const functions[])(int) = {" +
         first + ", " + second +
         "}; return functions[i]; }\n"
         "extern const struct Outer ring[2];\n"
         "const struct Outer ring[2] = {{\"r" +
         v + "\", fa, {{\"s\", numbers}, {\"t\", numbers + 1}}, &ring[1]}, {\"q\", " + first +
         ", {{\"u\", numbers}, {\"v\", 0}}, &ring[0]}};\n"
         "const char* ring_of(int i) { return ring[i].next->next->name; }\n"
         "int number_of(int i) { return *ring[0].in[i].number; }\n"
         "const char* chosen(int i) { switch (i) { case 0: return \"c0" +
         v + "\"; case 1: return \"c1\"; case 2: return \"c2\"; case 3: return \"c3" + v +
         "\"; case 4: return \"c4\"; } return \"none\"; }\n"
         "#ifdef __cplusplus\n}\n#endif\n";
}

struct ReplaceAgain : ReplaceFixture {
  void check(int version) {
    const std::string v = std::to_string(version);
    ASSERT_EQ(std::string(get<const char*(int)>("name_of")(1)), "b" + v);
    ASSERT_EQ(std::string(get<const char*(int)>("ring_of")(0)), "r" + v);
    ASSERT_EQ(std::string(get<const char*(int)>("chosen")(3)), "c3" + v);
    ASSERT_EQ(get<int(int)>("number_of")(1), 20 + version);
    ASSERT_EQ(get<int (*(int))(int)>("function_of")(0)(10), version % 2 == 0 ? 11 : 12);
  }
  // Each version once, then over and over: usage must be as it was after the first round.
  void take_turns(const std::vector<Object>& versions, int swaps, const std::function<void(int)>& look) {
    Module m = commit(engine, library, versions[0]);
    const int count = int(versions.size());
    std::uint64_t live = 0;
    for (int i = 1; i <= swaps; ++i) {
      replace(m, versions[std::size_t(i % count)]);
      look(i % count);
      if (testing::Test::HasFatalFailure()) return;
      if (i != 3 * count && i != swaps) continue;
      settle();
      if (i == swaps)
        EXPECT_EQ(engine.usage().live, live);
      else
        live = engine.usage().live;
    }
    expect(try_remove(engine, {m}));
    settle();
    EXPECT_EQ(engine.usage().live, 0U);
  }
};

TEST_F(ReplaceAgain, TablesOfPointersThatTakeTurns) {
  for (const CompilerSetting& compiler : compilers) {
    SCOPED_TRACE(compiler.name);
    std::vector<Object> versions;
    for (int v = 0; v < 2; ++v) versions.push_back(compiler.compile(tables(v), compiler.flags, "tables.o"));
    take_turns(versions, 1000, [&](int version) { check(version); });
  }
}

TEST_F(ReplaceAgain, ThreeVersionsThatTakeTurns) {
  std::vector<Object> versions;
  for (int v = 0; v < 3; ++v) versions.push_back(compile_gcc(tables(v), compilers[3].flags));
  take_turns(versions, 300, [&](int version) { check(version); });
}

// A pointer to a literal outlives the version that had it, whatever section the compiler has put it in.
TEST_F(ReplaceAgain, ALiteralStays) {
  for (const CompilerSetting& compiler : compilers) {
    SCOPED_TRACE(compiler.name);
    auto text = [](int version) {
      return std::string("\n#ifdef __cplusplus\nextern \"C\"\n#endif\nconst char* literal(void) { return \"literal ") +
             std::to_string(version) + "\"; }\n";
    };
    Module m = commit(engine, library, compiler.compile(text(1), compiler.flags, "literal.o"));
    const char* first = get<const char*()>("literal")();
    replace(m, compiler.compile(text(2), compiler.flags, "literal.o"));
    settle();
    EXPECT_EQ(std::string(first), "literal 1");
    replace(m, compiler.compile(text(1), compiler.flags, "literal.o"));
    EXPECT_EQ(get<const char*()>("literal")(), first);
    expect(try_remove(engine, {m}));
    settle();
  }
}

const char* const with_variable =
    "extern \"C\" int made; int made = 0; struct Object { long value; Object() : value(++made * "
    "10) {} ~Object() {} }; Object object; static int plain = 3; extern \"C\" long "
    "value() { return object.value + ++plain; }";
const char* const without_variable = "extern \"C\" int made; int made = 0; extern \"C\" long value() { return -1; }";

TEST_F(ReplaceAgain, AVariableThatComesBackIsTheSame) {
  Module m = commit(engine, library, cpp(with_variable));
  EXPECT_EQ(get<long()>("value")(), 14);
  const Addr object = address_of(library, "object");
  replace(m, cpp(without_variable));
  settle();
  EXPECT_FALSE(library.find("object"));
  EXPECT_EQ(*object.as<long*>(), 10) << "its storage is there, and its destructor still to run";
  replace(m, cpp(with_variable));
  EXPECT_EQ(address_of(library, "object"), object);
  EXPECT_EQ(get<long()>("value")(), 15);
  EXPECT_EQ(*address_of(library, "made").as<int*>(), 1) << "it was not constructed again";
}

TEST_F(ReplaceAgain, VariablesThatComeAndGo) {
  take_turns({cpp(with_variable), cpp(without_variable)}, 1000, [](int) {});
}

TEST_F(ReplaceAgain, AVariableThatComesBackWithAnotherSizeIsNew) {
  Module m = commit(engine, library, c("int v = 7; int f(void) { return v; }"));
  *address_of(library, "v").as<int*>() = 8;
  replace(m, c("int f(void) { return 0; }"));
  replace(m, c("long v[4] = {70}; int f(void) { return v[0]; }"));
  EXPECT_EQ(get<int()>("f")(), 70);
  replace(m, c("int f(void) { return 0; }"));
  replace(m, c("int v = 7; int f(void) { return v; }"));
  EXPECT_EQ(get<int()>("f")(), 8) << "the storage of that size has stayed";
  settle();
}

TEST_F(ReplaceAgain, SectionsOfSeveralVariablesComeBackToo) {
  const char* const flags = "-O1 -fPIC -fno-inline -fno-data-sections";
  auto both = [&] { return compile_c("int a = 1; int b = 2; int f(void) { return a * 10 + b; }", flags); };
  Module m = commit(engine, library, both());
  *address_of(library, "b").as<int*>() = 5;
  replace(m, compile_c("int f(void) { return 0; }", flags));
  settle();
  replace(m, both());
  EXPECT_EQ(get<int()>("f")(), 15);
  settle();
}

} // namespace
} // namespace tenon::test

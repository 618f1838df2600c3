// Lambdas that a compiler has numbered: what of an earlier version is still held runs what it was made for, whatever their
// numbers are now.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <functional>
#include <memory>

namespace tenon::test {
namespace {

const CompilerSetting compilers[] = {{"clang", compile_cpp, replaceable_clang}, {"gcc", compile_gcc, replaceable_gcc}};

std::string flags_of(const CompilerSetting& compiler, const std::string& level) {
  std::string flags = compiler.flags;
  flags.replace(flags.find("-O1"), 3, level);
  if (compiler.compile == compile_gcc) flags += " -fno-ipa-icf"; // one body for two lambdas can't be taken apart
  return flags + " -std=c++17";
}

// Functions that give away lambdas, in the order in which they are numbered.
std::string text_of(const std::string& lambdas, const std::string& tail = "") {
  return "#include <functional>\n"
         "extern \"C\" void make(std::function<int()>* to, int which, int n, const char* text) {\n"
         "  if (which < 0) return;\n" +
         lambdas + "}\nextern \"C\" int version() { return " + (tail.empty() ? "0" : tail) + "; }\n";
}

const std::string kept = "  if (which == 0) *to = [n] { return n * 3; };\n";
const std::string inserted = "  if (which == 1) *to = [text, n] { return text[0] + (n > 5 ? 1000 : 0); };\n";

class ReplaceClosures : public ReplaceFixture, public testing::WithParamInterface<std::tuple<int, const char*>> {
protected:
  ReplaceClosures() : compiler_(compilers[std::get<0>(GetParam())]) {}

  Object compile(const std::string& text) const {
    return compiler_.compile(text, flags_of(compiler_, std::get<1>(GetParam())), "snippet.o");
  }
  std::function<int()> make(int which, int n, const char* text = "") {
    std::function<int()> made;
    get<void(std::function<int()>*, int, int, const char*)>("make")(&made, which, n, text);
    return made;
  }

  std::uint64_t live_bytes() {
    settle();
    return engine.usage().live;
  }

private:
  const CompilerSetting& compiler_;
};

TEST_P(ReplaceClosures, OneThatIsHeldRunsItsOwnBodyThoughAnotherHasItsNumber) {
  Module m = commit(engine, library, compile(text_of(kept)));
  const std::function<int()> held = make(0, 7);
  EXPECT_EQ(held(), 21);
  replace(m, compile(text_of(inserted + kept)));
  scrub_stack();
  expect(engine.collect());
  EXPECT_EQ(held(), 21) << "the number is another's now, which takes a pointer to be captured";
  EXPECT_EQ(make(0, 8)(), 24);
  EXPECT_EQ(make(1, 8, "a")(), 1097);
  const std::function<int()> copy = held; // copied by the old version's manager
  EXPECT_EQ(copy(), 21);
  replace(m, compile(text_of("  if (which == 0) *to = [n] { return n * 4; };\n")));
  EXPECT_EQ(held(), 21) << "an edited body can't be told from another's";
  EXPECT_EQ(make(0, 8)(), 32);
  replace(m, compile(text_of(kept, "1")));
  EXPECT_EQ(held(), 21);
  EXPECT_EQ(get<int()>("version")(), 1);
}

TEST_P(ReplaceClosures, WhatOneCallsCounts) {
  const std::string outer = "  if (which == 0) *to = [inner] { return inner() + 1; };\n";
  Module m = commit(engine, library, compile(text_of("  auto inner = [n] { return n * 3; };\n" + outer)));
  const std::function<int()> held = make(0, 7);
  EXPECT_EQ(held(), 22);
  replace(m, compile(text_of("  auto inner = [text] { return int(text[0]); };\n" + outer)));
  EXPECT_EQ(held(), 22) << "the code of the outer one may be as it was, but it calls another";
  EXPECT_EQ(make(0, 7, "a")(), 98);
}

TEST_P(ReplaceClosures, OneThatIsAsItWasIsTakenOverAndNothingAddsUp) {
  const Object versions[] = {compile(text_of(kept, "1")), compile(text_of(kept, "2"))};
  Module m = commit(engine, library, versions[1]);
  const std::function<int()> held = make(0, 7);
  std::uint64_t after_ten = 0;
  for (int i = 0; i < 200; ++i) {
    replace(m, versions[i % 2]);
    EXPECT_EQ(held(), 21);
    EXPECT_EQ(make(0, i)(), 3 * i);
    EXPECT_EQ(get<int()>("version")(), i % 2 + 1);
    if (i == 9) after_ten = live_bytes();
  }
  EXPECT_LE(live_bytes(), after_ten);
}

TEST_P(ReplaceClosures, ASingleFunctionBringsItsOwn) {
  const std::string other = "extern \"C\" void other(std::function<int()>* to, int n) { *to = [n] { return n + 1; }; }\n";
  ModuleOptions opaque;
  opaque.opaque = true;
  Module m = commit(engine, library, compile(text_of(kept) + other), opaque);
  const std::function<int()> held = make(0, 7);
  Change change = engine.change();
  change.replace_functions(m, compile(text_of(inserted + kept) + other), {"make"}, {}, opaque);
  expect(try_commit(std::move(change)));
  EXPECT_EQ(held(), 21);
  EXPECT_EQ(make(0, 8)(), 24);
  EXPECT_EQ(make(1, 8, "a")(), 1097);
  replace(m, compile(text_of(inserted + kept, "5") + other));
  EXPECT_EQ(held(), 21);
  EXPECT_EQ(make(1, 8, "a")(), 1097);
}

// One that counts from `begin` on.
std::string counter(int which, int begin) {
  return "  if (which == " + std::to_string(which) + ") *to = [] { static int count = " + std::to_string(begin) +
         "; return ++count; };\n";
}

TEST_P(ReplaceClosures, AVariableInOneKeepsItsValueWhateverTheNumber) {
  Module m = commit(engine, library, compile(text_of(counter(0, 0))));
  EXPECT_EQ(make(0, 0)(), 1);
  EXPECT_EQ(make(0, 0)(), 2);
  replace(m, compile(text_of(inserted + counter(0, 0))));
  EXPECT_EQ(make(0, 0)(), 3);
  EXPECT_EQ(make(1, 8, "a")(), 1097);
  replace(m, compile(text_of(counter(0, 0), "1")));
  EXPECT_EQ(make(0, 0)(), 4);
}

TEST_P(ReplaceClosures, WhichOfSeveralVariablesItIsIsNeverGuessed) {
  Module m = commit(engine, library, compile(text_of(counter(0, 10) + counter(1, 20))));
  EXPECT_EQ(make(0, 0)(), 11);
  EXPECT_EQ(make(1, 0)(), 21);
  replace(m, compile(text_of(counter(0, 10) + counter(1, 20), "1")));
  EXPECT_EQ(make(0, 0)(), 12) << "the lambdas are what they were";
  EXPECT_EQ(make(1, 0)(), 22);
  const Result<Committed> replaced = try_replace(m, compile(text_of(kept + counter(0, 10) + counter(1, 20))));
  ASSERT_FALSE(replaced.ok());
  EXPECT_EQ(replaced.error().code, ErrorCode::needs_flag);
  EXPECT_NE(replaced.error().message.find("count"), std::string::npos) << replaced.error().message;
  EXPECT_EQ(make(0, 0)(), 13);
}

TEST_P(ReplaceClosures, OnesThatModulesMayShareAreWarnedOf) {
  const auto text = [&](const std::string& lambdas) {
    return "#include <functional>\n"
           "inline std::function<int()> give(int which, int n, const char* text) {\n"
           "  if (which < 0) return {};\n  std::function<int()> made, *to = &made;\n" +
           lambdas + "  return made; }\n" +
           "extern \"C\" void make(std::function<int()>* to, int which, int n, const char* text) "
           "{ *to = give(which, n, text); }\n";
  };
  Module m = commit(engine, library, compile(text(kept)));
  EXPECT_EQ(make(0, 7)(), 21);
  const auto warnings = [&](const std::string& of) {
    Change change = engine.change();
    change.replace(m, compile(text(of)));
    Draft draft = expect(std::move(change).draft());
    std::vector<Warning> told(draft.warnings().begin(), draft.warnings().end());
    expect(expect(expect(std::move(draft).place()).link()).commit());
    return told;
  };
  EXPECT_TRUE(warnings(kept).empty());
  const std::vector<Warning> told = warnings(inserted + kept);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_NE(told[0].text.find("numbers"), std::string::npos) << told[0].text;
  EXPECT_EQ(make(0, 8)(), 24);
}

std::string name_of(const testing::TestParamInfo<std::tuple<int, const char*>>& info) {
  return std::string(compilers[std::get<0>(info.param)].name) + (std::get<1>(info.param) + 1);
}

INSTANTIATE_TEST_SUITE_P(Clang, ReplaceClosures,
                         testing::Combine(testing::Values(0), testing::Values("-O0", "-O1", "-O2", "-O3")), name_of);
INSTANTIATE_TEST_SUITE_P(Gcc, ReplaceClosures,
                         testing::Combine(testing::Values(1), testing::Values("-O0", "-O1", "-O2", "-O3")), name_of);

} // namespace
} // namespace tenon::test

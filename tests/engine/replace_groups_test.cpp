// Inline functions of modules that are replaced: one module provides them, the copies of the others are dropped.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <gmock/gmock.h>

namespace tenon::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct ReplaceGroups : ReplaceFixture {
  Object text(const char* name, int body, int own, const std::string& more = {}) {
    return compile_cpp("inline const char* shared() { return \"body " + std::to_string(body) + "\"; }" + more +
                           "extern \"C\" const char* " + name + "() { return shared(); } extern \"C\" int own_" + name +
                           "() { return " + std::to_string(own) + "; }",
                       replaceable_clang, std::string(name) + ".o");
  }
  // The warnings of a change that is committed.
  std::vector<Warning> replace_all(std::vector<std::pair<Module, Object>> modules) {
    Change change = engine.change();
    for (auto& [module, object] : modules) change.replace(module, std::move(object));
    Draft draft = expect(std::move(change).draft());
    std::vector<Warning> warnings(draft.warnings().begin(), draft.warnings().end());
    Placed placed = expect(std::move(draft).place());
    Linked linked = expect(std::move(placed).link());
    expect(std::move(linked).commit());
    return warnings;
  }
  std::string call(const char* name) { return get<const char*()>(name)(); }
  Module provider = commit(engine, library, text("first", 1, 1));
  Module sharer = commit(engine, library, text("second", 1, 1));
};

TEST_F(ReplaceGroups, ANewBodyThatIsNotTheProvidersIsNotUsedWithoutAWord) {
  std::vector<Warning> warnings = replace_all({{sharer, text("second", 2, 2)}});
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_EQ(warnings[0].module, "second.o");
  EXPECT_EQ(warnings[0].symbol, "_Z6sharedv");
  EXPECT_THAT(warnings[0].text, AllOf(HasSubstr("second.o has changed"), HasSubstr("replace first.o, too")));
  EXPECT_EQ(call("second"), "body 1");
  EXPECT_EQ(replace_all({{sharer, text("second", 2, 3)}}).size(), 1U) << "it differs still";
  EXPECT_TRUE(replace_all({{provider, text("first", 2, 2)}}).empty());
  EXPECT_EQ(call("first") + call("second"), "body 2body 2") << "all follow the provider";
  EXPECT_TRUE(replace_all({{sharer, text("second", 2, 4)}}).empty()) << "they agree";
  settle();
}

TEST_F(ReplaceGroups, TheProviderFirst) {
  EXPECT_TRUE(replace_all({{provider, text("first", 2, 1)}}).empty());
  EXPECT_EQ(call("second"), "body 2");
  std::vector<Warning> warnings = replace_all({{sharer, text("second", 1, 2)}});
  ASSERT_EQ(warnings.size(), 1U) << "from the old source";
  EXPECT_THAT(warnings[0].text, AllOf(HasSubstr("second.o is as it was"), HasSubstr("replace second.o, too")));
  EXPECT_TRUE(replace_all({{sharer, text("second", 2, 3)}}).empty());
}

TEST_F(ReplaceGroups, TogetherTheyAgree) {
  EXPECT_TRUE(replace_all({{sharer, text("second", 2, 2)}, {provider, text("first", 2, 2)}}).empty());
  EXPECT_EQ(call("first") + call("second"), "body 2body 2");
  EXPECT_TRUE(replace_all({{provider, text("first", 3, 2)}, {sharer, text("second", 3, 2)}}).empty());
  EXPECT_EQ(call("first") + call("second"), "body 3body 3");
  EXPECT_TRUE(replace_all({{sharer, text("second", 3, 5)}}).empty());
}

// Compilers make different code of one source in different files, and literals lie elsewhere.
TEST_F(ReplaceGroups, CodeThatDiffersForOtherReasonsIsNotWarnedOf) {
  EXPECT_TRUE(
      replace_all({{sharer, text("second", 1, 2, "extern \"C\" const char* before() { return \"another\"; }")}}).empty());
  EXPECT_TRUE(replace_all({{sharer, text("second", 1, 3)}}).empty());
  auto other = [](const char* flags, int own) {
    return compile_cpp(
        "inline int sum(int* x, int n) { int s = 0; for (int i = 0; i < n; ++i) s += x[i]; return s; } extern "
        "\"C\" int third(int* x, int n) { return sum(x, n) + " +
            std::to_string(own) + "; }",
        flags, "third.o");
  };
  commit(engine, library,
         compile_cpp("inline int sum(int* x, int n) { int s = 0; for (int i = 0; i < n; ++i) s += x[i]; return s; } extern "
                     "\"C\" int zeroth(int* x, int n) { return sum(x, n); }",
                     replaceable_clang, "zeroth.o"));
  const char* const at_o0 = "-O0 -fPIC -ffunction-sections -fdata-sections";
  Module third = commit(engine, library, other(at_o0, 1));
  EXPECT_TRUE(replace_all({{third, other(at_o0, 2)}}).empty());
}

} // namespace
} // namespace tenon::test

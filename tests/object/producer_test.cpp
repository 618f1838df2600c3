// What DW_AT_producer tells of how functions were compiled for each other.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/producer.h"

#include <gtest/gtest.h>

#include <string>

namespace tenon::object {
namespace {

TEST(Producer, TheLastOfContradictingOptionsCounts) {
  const auto gcc = [](const std::string& flags) { return knowledge_of("GNU C17 12.2.0 -mtune=generic" + flags); };
  EXPECT_EQ(gcc(""), Knowledge::none);
  EXPECT_EQ(gcc(" -fpie"), Knowledge::none);
  EXPECT_EQ(gcc(" -O2 -O0"), Knowledge::none);
  EXPECT_EQ(gcc(" -O"), Knowledge::any);
  EXPECT_EQ(gcc(" -Og -fPIC"), Knowledge::not_public);
  EXPECT_EQ(gcc(" -O2 -fpic"), Knowledge::not_public);
  EXPECT_EQ(gcc(" -O2 -fPIE -fPIC"), Knowledge::not_public);
  EXPECT_EQ(gcc(" -O2 -fPIC -fPIE"), Knowledge::any);
  EXPECT_EQ(gcc(" -O2 -fPIC -fno-pic"), Knowledge::any);
  EXPECT_EQ(gcc(" -fPIC -Ofast"), Knowledge::any);
  EXPECT_EQ(gcc(" -fPIC -Ofast -fsemantic-interposition"), Knowledge::not_public);
  EXPECT_EQ(gcc(" -O2 -fPIC -fno-semantic-interposition"), Knowledge::any);
}

TEST(Producer, WhoDoesNotSayItMayHaveDoneAnything) {
  for (const char* producer :
       {"", " ", "GNU", "GNU AS 2.40", "GNU GIMPLE 12.2.0 -fPIC", "rustc version 1.80 -fPIC", "clang version 22.1.8",
        "Debian clang version 22.1.8 (1~deb12u1)", "clang version 22.1.8 -O2 -fPIC -fsemantic-interposition",
        "clang version 22.1.8 /usr/bin/clang -grecord-command-line -O2 -fPIC"})
    EXPECT_EQ(knowledge_of(producer), Knowledge::any) << producer;
  EXPECT_EQ(knowledge_of("clang version 22.1.8 /usr/bin/clang -O2 -fPIC -fsemantic-interposition -grecord-command-line"),
            Knowledge::not_public);
  EXPECT_EQ(knowledge_of("clang version 22.1.8 /usr/bin/clang -grecord-gcc-switches"), Knowledge::none);
}

} // namespace
} // namespace tenon::object

// CompileOptions::replaceable on a program of some size: SQLite's amalgamation, if cmake/fetch_sqlite.sh has fetched it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replaceable_samples.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>

namespace tenon::testing {
namespace {

namespace fs = std::filesystem;

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::string output;
  std::array<char, 65536> buffer;
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) != 0;) output.append(buffer.data(), got);
  return pclose(pipe) == 0 ? output : std::string();
}

std::uint64_t code_size(const Object& object) {
  std::uint64_t size = 0;
  for (const Section& section : object.sections())
    if (section.kind == SectionKind::code) size += section.size;
  return size;
}

Object timed(const CompileOptions& options, std::string_view ir) {
  const auto begin = std::chrono::steady_clock::now();
  Object object = compiled(options, ir, "sqlite3.bc");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const Sites sites = call_sites(object);
  std::printf("-O%d%s: %.1f s, %zu bytes of code, %u of %u call sites (%.1f %%) can be retargeted\n",
              static_cast<int>(options.level), options.replaceable ? " replaceable" : "", took.count(),
              static_cast<std::size_t>(code_size(object)), sites.aligned, sites.all, 100.0 * sites.aligned / sites.all);
  return object;
}

TEST(ReplaceableSqlite, IsTheSameFromOutsideAtEveryLevel) {
  const std::string source = std::string(TENON_SOURCE_DIR) + "/build/third_party/sqlite3/sqlite3.c";
  if (!fs::exists(source)) GTEST_SKIP() << "no " << source << ": run cmake/fetch_sqlite.sh";
  const std::string installed = "/usr/lib/llvm-22/bin/clang";
  const std::string clang = fs::exists(installed) ? installed : "clang-22";
  const std::string ir = output_of(clang + " -w -O2 -Xclang -disable-llvm-passes -fPIC -emit-llvm -c -o - '" + source + "'");
  ASSERT_FALSE(ir.empty());

  CompileOptions plain;
  plain.level = OptLevel::O0;
  const Object unoptimized = timed(plain, ir);
  for (OptLevel level : {OptLevel::O0, OptLevel::O1, OptLevel::O2}) {
    const Object object = timed(replaceable_at(level), ir);
    EXPECT_EQ(variables_of(object), variables_of(unoptimized));
    EXPECT_EQ(functions_of(object), functions_of(unoptimized));
    const Sites sites = call_sites(object);
    EXPECT_GT(sites.all, 10'000u);
    EXPECT_GE(sites.aligned, sites.all * 0.95);
  }
  plain.level = OptLevel::O2;
  timed(plain, ir);
}

} // namespace
} // namespace tenon::testing

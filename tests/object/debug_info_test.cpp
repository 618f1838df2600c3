// What debug information of both compilers says of variables and functions, in both versions of DWARF, compressed or not;
// and that broken information is none, or some, and nothing worse.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_info.h"

#include "object/elf_format.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace tenon::object {
namespace {

using testing::Contains;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// Compiled with `command`, which names the compiler and its flags.
Object compiled(const std::string& command, const std::string& text, const std::string& extension = ".c") {
  namespace fs = std::filesystem;
  std::string folder = fs::path(TENON_BINARY_DIR) / "debug-info.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
  std::ofstream(folder + "/unit" + extension) << text;
  const std::string line = "cd " + folder + " && " + command + " -c unit" + extension + " -o unit.o";
  const int status = std::system(line.c_str());
  std::ifstream file(folder + "/unit.o", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  fs::remove_all(folder);
  Result<Object> object = Object::copy(std::as_bytes(std::span(bytes)), "unit.o");
  if (status != 0 || !object) throw std::runtime_error(line);
  return std::move(object).value();
}

const char* const source = R"(
struct S { int a, b, c, d; };
typedef struct { long x; } T;
static int helper(int x) { static int count; return count += x; }
int f(int n) {
  static int count = 1;
  count += n;
  { static long count = 5; count++; n += count; }
  if (n > 3) { static int other; n += other++; }
  return helper(n) + count;
}
static __thread int tl;
int g(struct S s, T t, const char* p, int (*cb)(struct S*, ...), const int k) {
  static const int table[] = {1, 2, 3, 4};
  static __thread int count = 3;
  return helper(s.a) + table[k] + p[0] + cb(0) + t.x + ++count + tl++;
}
unsigned long long h(unsigned char c, long double d, short v[4]) { return c; }
)";

// "SYMBOL=PATH" of all variables.
std::vector<std::string> named(const Object& object, const DebugInfo& info) {
  std::vector<std::string> all;
  for (const DebugVariable& v : info.variables)
    for (const Symbol& symbol : object.symbols())
      if ((symbol.type == SymbolType::object || symbol.type == SymbolType::tls) && symbol.section == v.section &&
          symbol.value == v.offset)
        all.push_back(std::string(symbol.name()) + "=" + v.path);
  return all;
}

std::vector<std::string> paths(const DebugInfo& info) {
  std::vector<std::string> all;
  for (const DebugVariable& v : info.variables) all.push_back(v.path);
  return all;
}

std::string signature(const DebugInfo& info, std::string_view name) {
  for (const DebugFunction& f : info.functions)
    if (f.name == name) return f.signature;
  return "";
}

TEST(DebugInfo, IsTheSameWhateverItsForm) {
  for (const char* compiler : {"gcc", "clang-22"})
    for (const char* level : {"-O0", "-O2"}) {
      std::vector<DebugInfo> all;
      for (const char* version : {"-gdwarf-4", "-gdwarf-5"})
        for (const char* packed : {"", " -gz=zlib"}) {
          const std::string command = std::string(compiler) + " -g " + level + " " + version + packed;
          SCOPED_TRACE(command);
          const Object object = compiled(command, source);
          std::optional<DebugInfo> info = read_debug_info(object);
          ASSERT_TRUE(info);
          EXPECT_FALSE(info->several_units);
          EXPECT_THAT(paths(*info), UnorderedElementsAre("helper::count", "f::count", "f::count", "f::other", "tl",
                                                         "g::table", "g::count"));
          EXPECT_EQ(signature(*info, "f"), "int (int)");
          EXPECT_EQ(signature(*info, "g"), "int (struct S{16}, struct T{8}, char const*, int (*)(struct S*, ...), int)");
          EXPECT_EQ(signature(*info, "h"), "unsigned long long (unsigned char, long double, short*)");
          all.push_back(std::move(*info));
        }
      for (const DebugInfo& info : all) {
        EXPECT_EQ(info.variables, all[0].variables);
        EXPECT_EQ(info.functions, all[0].functions);
      }
    }
}

TEST(DebugInfo, SaysWhichNumberedVariableIsWhich) {
  const Object object = compiled("clang-22 -g -O1 -fdata-sections", source);
  const std::optional<DebugInfo> info = read_debug_info(object);
  ASSERT_TRUE(info);
  EXPECT_THAT(named(object, *info), testing::IsSupersetOf({"f.count=f::count", "f.count.1=f::count", "f.other=f::other",
                                                           "helper.count=helper::count", "g.table=g::table"}));
  std::vector<std::string> places;
  for (const DebugVariable& v : info->variables) {
    EXPECT_EQ(v.alone, v.path != "f::count") << v.path;
    if (!v.alone) places.push_back(v.place);
  }
  EXPECT_THAT(places, UnorderedElementsAre("int#0", "long#0"));

  const Object by_gcc = compiled("gcc -g -O2", source);
  const std::optional<DebugInfo> gcc_info = read_debug_info(by_gcc);
  ASSERT_TRUE(gcc_info);
  places.clear();
  for (const DebugVariable& v : gcc_info->variables)
    if (!v.alone) places.push_back(v.place);
  EXPECT_THAT(places, UnorderedElementsAre("int#0", "{0}long#0"));
  EXPECT_THAT(paths(*gcc_info), Contains("helper::count")) << "inlined everywhere";
}

TEST(DebugInfo, PiecesOfAStructureAreToldApart) {
  const Object object = compiled(
      "clang-22 -g -O2", "int f(int k) { static struct { int a; long b; } pair; pair.a += k; pair.b -= k; return pair.a * "
                         "pair.b; }");
  const std::optional<DebugInfo> info = read_debug_info(object);
  ASSERT_TRUE(info);
  ASSERT_EQ(info->variables.size(), 2U);
  EXPECT_EQ(info->variables[0].path, "f::pair");
  EXPECT_EQ(info->variables[1].path, "f::pair");
  EXPECT_NE(info->variables[0].piece, info->variables[1].piece);
  EXPECT_EQ(info->variables[0].piece_size + info->variables[1].piece_size, 12U);
}

TEST(DebugInfo, Cxx) {
  const char* const text = R"(
namespace { int hidden; }
namespace ns { static long count; inline int f() { static int c; return ++c; } }
struct K { K(int a) { static int made; made += a; x = made; } int x; int m() { static int calls; return ++calls; } };
static int h(int a) { static int count; { static int count; a += ++count; } return a + ++count; }
static int h(long a) { static int count; return ++count + int(a); }
int g() {
  auto l = [](int q) { static int count; return count += q; };
  K z(4);
  return int(++ns::count) + ++hidden + l(3) + h(2) + h(2L) + z.m() + ns::f();
}
extern "C" int v(K& k, const K value, int (K::*p)(), int&& r, const volatile char* const* s) { return k.x; }
)";
  for (const char* command : {"g++ -g -O2", "clang++-22 -g -O2", "g++ -g -O0 -fdebug-types-section",
                              "clang++-22 -g -O0 -fdebug-types-section", "g++ -g -gdwarf-4 -fdebug-types-section"}) {
    SCOPED_TRACE(command);
    const Object object = compiled(command, text, ".cpp");
    const std::optional<DebugInfo> info = read_debug_info(object);
    ASSERT_TRUE(info);
    const std::vector<std::string> all = paths(*info);
    EXPECT_THAT(all, testing::IsSupersetOf({"(anonymous)::hidden", "ns::count", "_ZN2ns1fEv::c", "_ZN1K1mEv::calls"}));
    EXPECT_EQ(std::ranges::count(all, command[0] == 'g' ? "h(int)::count" : "_ZL1hi::count"), 2) << "not the other h's";
    EXPECT_EQ(signature(*info, "v"),
              "int (struct K&, struct K{4}, int (struct K*) K::*, int&&, char const volatile* const*)");
  }
}

TEST(DebugInfo, UnitsAreToldApart) {
  const Object object =
      compiled("join() { gcc -g \"$@\" && mv unit.o one.o && cp unit.c two.c && gcc -g -Df=f2 -Dg=g2 -Dh=h2 -c two.c "
               "-o two.o && ld -r one.o two.o -o unit.o; }; join",
               "struct S { long a; }; static int count; int f(struct S s) { static int here; return ++count + "
               "++here; }");
  const std::optional<DebugInfo> info = read_debug_info(object);
  ASSERT_TRUE(info);
  EXPECT_TRUE(info->several_units);
  EXPECT_THAT(paths(*info), UnorderedElementsAre("unit.c|count", "unit.c|f::here", "two.c|count", "two.c|f2::here"));
  EXPECT_EQ(signature(*info, "f"), "int (struct S{8})");
  EXPECT_EQ(signature(*info, "f2"), "int (struct S{8})");
}

TEST(DebugInfo, WhereThereIsLittleNothingIsMadeUp) {
  EXPECT_FALSE(has_debug_info(compiled("gcc -g0", source)));
  EXPECT_FALSE(read_debug_info(compiled("gcc -g0", source)));
  for (const char* command : {"gcc -g1 -O1", "clang-22 -g1 -O1", "clang-22 -g -gsplit-dwarf -O1"}) {
    SCOPED_TRACE(command);
    const std::optional<DebugInfo> info = read_debug_info(compiled(command, source));
    if (!info) continue;
    EXPECT_THAT(info->functions, IsEmpty());
    EXPECT_THAT(info->variables, IsEmpty());
  }
}

TEST(DebugInfo, SizesThatOneDoesNotKnowDoNotDiffer) {
  EXPECT_TRUE(same_signature("int (struct S{16}, int)", "int (struct S, int)"));
  EXPECT_TRUE(same_signature("int (struct S)", "int (struct S{1})"));
  EXPECT_FALSE(same_signature("int (struct S{16})", "int (struct S{17})"));
  EXPECT_FALSE(same_signature("int (struct S{16})", "int (struct T{16})"));
  EXPECT_FALSE(same_signature("int (int)", "int (int, int)"));
}

// Reads it, and holds what is read against what is promised.
void survive(const std::vector<std::byte>& bytes, std::size_t& read) {
  Result<Object> object = Object::borrow(bytes, nullptr, "broken.o");
  if (!object) return;
  const std::optional<DebugInfo> info = read_debug_info(*object);
  if (!info) return;
  ++read;
  for (std::size_t i = 0; i < info->variables.size(); ++i) {
    const DebugVariable& v = info->variables[i];
    ASSERT_LT(v.section, object->sections().size());
    ASSERT_LT(v.offset, object->sections()[v.section].size);
    if (i != 0) {
      ASSERT_LT(std::pair(info->variables[i - 1].section, info->variables[i - 1].offset), std::pair(v.section, v.offset));
    }
  }
}

TEST(DebugInfo, SectionsOfAnyLength) {
  for (const char* command : {"gcc -g -O2 -gdwarf-4", "clang-22 -g -O1", "gcc -g -gz=zlib"}) {
    SCOPED_TRACE(command);
    const Object object = compiled(command, source);
    const std::vector<std::byte> whole(object.bytes().begin(), object.bytes().end());
    elf::Header header;
    std::memcpy(&header, whole.data(), sizeof header);
    std::size_t read = 0, tried = 0;
    for (std::uint32_t i = 0; i < object.sections().size(); ++i) {
      if (object.sections()[i].kind != SectionKind::debug) continue;
      const std::uint64_t size = object.sections()[i].content.size();
      for (std::uint64_t length = 0; length < size; length += 1 + size / 199) {
        std::vector<std::byte> bytes = whole;
        std::memcpy(bytes.data() + header.shoff + i * sizeof(elf::SectionHeader) + offsetof(elf::SectionHeader, size),
                    &length, sizeof length);
        survive(bytes, read);
        ++tried;
      }
    }
    EXPECT_GT(tried, 500U);
    EXPECT_GT(read, 0U);
    EXPECT_LT(read, tried);
  }
}

TEST(DebugInfo, BytesThatWereChanged) {
  for (const char* command : {"gcc -g -O2", "clang-22 -g -O1"}) {
    SCOPED_TRACE(command);
    const Object object = compiled(command, source);
    std::mt19937 random(7);
    std::size_t read = 0;
    for (int round = 0; round < 3000; ++round) {
      std::vector<std::byte> bytes(object.bytes().begin(), object.bytes().end());
      for (unsigned change = 0, count = 1 + random() % 6; change < count;) {
        const Section& section = object.sections()[random() % object.sections().size()];
        if (section.kind != SectionKind::debug || section.content.empty()) continue;
        const std::size_t at =
            std::size_t(section.content.data() - object.bytes().data()) + random() % section.content.size();
        bytes[at] = std::byte(random());
        ++change;
      }
      survive(bytes, read);
    }
    EXPECT_GT(read, 100U);
  }
}

} // namespace
} // namespace tenon::object

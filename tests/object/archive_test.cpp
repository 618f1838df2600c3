// Archives: GNU, thin and BSD, with and without an index, sound and broken; and Debian's own, read to the last member.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "elf_builder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace tenon {
namespace {

using namespace test;

std::vector<std::byte> object_defining(const std::string& name) {
  ElfBuilder builder;
  const auto text = builder.text();
  builder.symbol("hidden_" + name, 0, elf::stt_func, text);
  builder.symbol(name, 1, elf::stt_func, text);
  builder.symbol("missing", 1, 0, 0);
  return builder.build();
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string padded(std::string text, std::size_t size) {
  text.resize(size, ' ');
  return text;
}
std::string header(const std::string& name, std::uint64_t size) {
  return padded(name, 16) + padded("0", 12) + padded("0", 6) + padded("0", 6) + padded("644", 8) +
         padded(std::to_string(size), 10) + "`\n";
}
std::string member(const std::string& name, const std::string& content) {
  return header(name, content.size()) + content + (content.size() % 2 ? "\n" : "");
}
std::string big_endian(std::uint64_t value, int width) {
  std::string out;
  for (int shift = (width - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}
// As borrow() would have it, but from a string.
Result<Archive> open(const std::string& text, Archive::Loader loader = {}) {
  return Archive::copy(to_bytes(text), "lib.a", std::move(loader));
}
void expect_error(const std::string& text, const std::string& part, ErrorCode code = ErrorCode::malformed) {
  const auto archive = open(text);
  ASSERT_FALSE(archive.ok()) << "accepted, but should say: " << part;
  EXPECT_EQ(archive.error().code, code);
  EXPECT_EQ(archive.error().message.find("lib.a: "), 0U) << archive.error().message;
  EXPECT_NE(archive.error().message.find(part), std::string::npos) << archive.error().message;
}

const std::string magic = "!<arch>\n";

// An index of f and g, long names, two members.
std::string sound(int width = 4) {
  const std::string f = text_of(object_defining("f")), g = text_of(object_defining("g"));
  const std::string names = member("//", "a_rather_long_name.o/\n");
  const std::size_t index_size = width * 3 + 4;
  const std::size_t first = magic.size() + 60 + index_size + names.size();
  const std::string f_member = member("/0", f);
  const std::string index = big_endian(2, width) + big_endian(first, width) + big_endian(first + f_member.size(), width) +
                            std::string("f\0g\0", 4);
  return magic + member(width == 4 ? "/" : "/SYM64/", index) + names + f_member + member("g.o/", g);
}

TEST(Archives, GnuWithIndexAndLongNames) {
  for (int width : {4, 8}) {
    const auto archive = open(sound(width));
    ASSERT_TRUE(archive.ok()) << archive.error().message;
    ASSERT_EQ(archive->size(), 2U);
    EXPECT_EQ(archive->member_name(0), "a_rather_long_name.o");
    EXPECT_EQ(archive->member_name(1), "g.o");
    EXPECT_EQ(archive->find("f").value(), 0U);
    EXPECT_EQ(archive->find("g").value(), 1U);
    EXPECT_EQ(archive->find("h").value(), std::nullopt);
    EXPECT_EQ(archive->find("").value(), std::nullopt);
    const auto object = archive->member(1);
    ASSERT_TRUE(object.ok()) << object.error().message;
    EXPECT_EQ(object->name(), "lib.a(g.o)");
    EXPECT_EQ(object->symbols()[2].name(), "g");
  }
}

TEST(Archives, AMemberOutlivesTheArchive) {
  std::optional<Object> object;
  {
    auto archive = open(sound());
    ASSERT_TRUE(archive.ok());
    object = archive->member(0).value();
  }
  EXPECT_EQ(object->symbols()[2].name(), "f");
}

TEST(Archives, WithoutIndexDefinitionsAreCollected) {
  const std::string both = text_of(object_defining("f"));
  const auto archive = open(magic + member("text/", "no object") + member("a.o/", both) +
                            member("b.o/", text_of(object_defining("g"))) + member("again.o/", both));
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      EXPECT_EQ(archive->find("f").value(), 1U);
      EXPECT_EQ(archive->find("g").value(), 2U);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(archive->find("hidden_f").value(), std::nullopt);
  EXPECT_EQ(archive->find("missing").value(), std::nullopt);
  const auto broken = archive->member(0);
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.error().message, "lib.a(text): is text, not an object file");
}

TEST(Archives, Bsd) {
  const std::string f = text_of(object_defining("f"));
  const auto le = [](std::uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); };
  const std::size_t first = magic.size() + 60 + 4 + 8 + 4 + 2;
  const std::string index = le(8) + le(0) + le(static_cast<std::uint32_t>(first)) + le(2) + std::string("f\0", 2);
  const std::string name("name with blank.o\0\0\0", 20);
  const auto archive = open(magic + member("__.SYMDEF", index) + member("#1/20", name + f));
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  ASSERT_EQ(archive->size(), 1U);
  EXPECT_EQ(archive->member_name(0), "name with blank.o");
  EXPECT_EQ(archive->find("f").value(), 0U);
  EXPECT_TRUE(archive->member(0).ok());
  expect_error(magic + member("#1/99", "abc"), "has its name (\"#1/99\") outside its 3 bytes");
  expect_error(magic + member("__.SYMDEF", le(800) + le(0)), "tables reach past its end");
  expect_error(magic + member("__.SYMDEF", le(8) + le(9) + le(0) + le(2) + "f"), "tables reach past its end");
  expect_error(magic + member("__.SYMDEF", le(8) + le(9) + le(0) + le(1) + "f"), "name outside its table");
}

TEST(Archives, EmptyOnes) {
  const auto archive = open(magic);
  ASSERT_TRUE(archive.ok());
  EXPECT_EQ(archive->size(), 0U);
  EXPECT_EQ(archive->find("f").value(), std::nullopt);
  EXPECT_TRUE(Archive::is_archive(to_bytes(magic)));
  EXPECT_TRUE(Archive::is_archive(to_bytes("!<thin>\n")));
  EXPECT_FALSE(Archive::is_archive(to_bytes("!<arch>")));
}

TEST(Archives, Faults) {
  expect_error("", "is empty, not an archive");
  expect_error("hello", "is not an archive");
  expect_error(magic + "short",
               "the archive member at offset 8 is truncated: a header is 60 bytes long, the file ends after 5");
  expect_error(magic + header("a.o/", 100) + "abc", "is truncated: it has 100 bytes, the file ends after 3");
  expect_error(magic + std::string(60, ' '), "has no valid header");
  std::string bad_size = member("a.o/", "abc");
  bad_size[50] = 'x';
  expect_error(magic + bad_size, "not a number");
  expect_error(magic + member("/7", "abc"), "outside the table of long names");
  expect_error(magic + member("/x", "abc"), "means nothing");
  expect_error(magic + member("//", "unterminated") + member("/0", "abc"), "unterminated in the table of long names");
  expect_error(magic + member("//", "a") + member("//", "b"), "second table of long names");
  expect_error(magic + member("/", big_endian(0, 4)) + member("/", "abcd"), "second symbol index");
  expect_error(magic + member("/", "ab"), "too short for its count");
  expect_error(magic + member("/", big_endian(1000, 4) + "ab"), "a symbol index of 1000 symbols in 6 bytes");
  expect_error(magic + member("/", big_endian(0xFFFFFFFF, 4) + "ab"), "a symbol index of 4294967295 symbols");
  expect_error(magic + member("/SYM64/", big_endian(~std::uint64_t(0), 8)), "a symbol index of 18446744073709551615");
  expect_error(magic + member("/", big_endian(1, 4) + big_endian(8, 4) + "ff"), "only 0 terminated names");
  expect_error(magic + member("/", big_endian(1, 4) + big_endian(9, 4) + std::string("f\0", 2)),
               "symbol index has f in a member at offset 9, where none begins");
}

TEST(Archives, EveryTruncation) {
  const std::string text = sound();
  for (std::size_t size = 0; size < text.size(); ++size) {
    const auto archive = open(text.substr(0, size));
    if (!archive) continue;
    for (std::size_t i = 0; i < archive->size(); ++i) EXPECT_FALSE(archive->find("h").value().has_value());
  }
}

// --- Thin archives ---

std::string thin() { return "!<thin>\n" + member("//", "sub/f.o/\ng.o/\n") + header("/0", 1) + header("/9", 1); }

TEST(ThinArchives, MembersComeThroughTheLoader) {
  std::vector<std::string> asked;
  const auto archive = open(thin(), [&](std::string_view path) -> Result<std::vector<std::byte>> {
    asked.emplace_back(path);
    if (path == "g.o") return Error{ErrorCode::system, "no such thing"};
    return object_defining("f");
  });
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  ASSERT_EQ(archive->size(), 2U);
  EXPECT_EQ(archive->member_name(0), "sub/f.o");
  EXPECT_TRUE(asked.empty());
  const auto bytes = archive->member_bytes(0);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(archive->member_bytes(0)->data(), bytes->data()); // loaded once
  EXPECT_EQ(asked, std::vector<std::string>{"sub/f.o"});
  EXPECT_EQ(archive->find("f").value(), 0U);
  EXPECT_EQ(archive->find("g").value(), std::nullopt);
  const auto failed = archive->member(1);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "lib.a(g.o): no such thing");
}

TEST(ThinArchives, WithoutLoader) {
  const auto archive = open(thin());
  ASSERT_TRUE(archive.ok());
  const auto bytes = archive->member_bytes(0);
  ASSERT_FALSE(bytes.ok());
  EXPECT_EQ(bytes.error().message, "lib.a(sub/f.o): is a member of a thin archive, which needs a loader");
  expect_error("!<thin>\n" + member("//", "x.a/\n") + header("/0:68", 1), "members of another archive",
               ErrorCode::unsupported);
}

TEST(ThinArchives, MadeByArAndReadFromAFolder) {
  if (std::system("ar --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no ar here";
  std::string folder = (std::filesystem::temp_directory_path() / "tenon-thin-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const auto write = [&](const std::string& name, const std::string& content) {
    std::ofstream(folder + "/" + name, std::ios::binary) << content;
  };
  write("f_with_a_long_file_name.o", text_of(object_defining("f")));
  write("g.o", text_of(object_defining("g")));
  ASSERT_EQ(std::system(("cd " + folder + " && ar rcsT lib.a f_with_a_long_file_name.o g.o").c_str()), 0);
  const auto archive = Archive::read_file(folder + "/lib.a");
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  EXPECT_EQ(archive->find("g").value(), 1U);
  const auto object = archive->member(0);
  ASSERT_TRUE(object.ok()) << object.error().message;
  EXPECT_EQ(object->symbols()[2].name(), "f");
  std::filesystem::remove(folder + "/g.o");
  const auto missing = archive->member(1);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("/g.o: cannot open: No such file"), std::string::npos) << missing.error().message;
  std::filesystem::remove_all(folder);
}

// --- Real ones ---

struct Totals {
  std::size_t members = 0, sections = 0, symbols = 0, relocations = 0;
};

Totals read_all(const Archive& archive) {
  Totals totals;
  for (std::size_t i = 0; i < archive.size(); ++i) {
    const auto object = archive.member(i);
    EXPECT_TRUE(object.ok()) << object.error().message;
    if (!object) continue;
    ++totals.members;
    totals.sections += object->sections().size();
    totals.symbols += object->symbols().size();
    for (std::uint32_t s = 0; s < object->sections().size(); ++s) {
      EXPECT_TRUE(object->check_relocations(s).ok());
      for (const Relocation& relocation : object->relocations(s)) EXPECT_LT(+relocation.offset, object->sections()[s].size);
      totals.relocations += object->relocations(s).size();
    }
    // Each global that a member defines leads back to a member that defines it.
    for (const Symbol& symbol : object->symbols())
      if (symbol.defined() && symbol.binding == Binding::global && symbol.visibility == Visibility::normal) {
        EXPECT_TRUE(archive.find(symbol.name()).value().has_value()) << symbol.name();
      }
  }
  return totals;
}

void expect_archive(const std::string& file, const char* symbol) {
  const std::string path = "/usr/lib/x86_64-linux-gnu/" + file;
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not installed";
  const auto archive = Archive::read_file(path);
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  const Totals totals = read_all(*archive);
  EXPECT_EQ(totals.members, archive->size());
  EXPECT_GT(totals.members, 0U);
  EXPECT_GT(totals.sections, totals.members * 5);
  EXPECT_GT(totals.symbols, totals.members);
  EXPECT_GT(totals.relocations, totals.members);
  const std::optional<std::size_t> found = archive->find(symbol).value();
  ASSERT_TRUE(found.has_value()) << symbol;
  bool defined = false;
  const Object object = archive->member(*found).value();
  for (const Symbol& one : object.symbols()) defined |= one.name() == symbol && one.defined();
  EXPECT_TRUE(defined);
}

TEST(RealArchives, Sqlite) { expect_archive("libsqlite3.a", "sqlite3_open"); }
TEST(RealArchives, Lua) { expect_archive("liblua5.4.a", "lua_pcallk"); }
TEST(RealArchives, Zstd) { expect_archive("libzstd.a", "ZSTD_compress"); }
TEST(RealArchives, Zlib) { expect_archive("libz.a", "inflate"); }
TEST(RealArchives, Libc) { expect_archive("libc.a", "memcpy"); } // IFUNC, TLS, init tables, common, large groups

} // namespace
} // namespace tenon

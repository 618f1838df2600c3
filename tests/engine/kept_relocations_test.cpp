// Linked sections are taken back to what the object had, and linked again at the same and at other addresses, from what a
// committed module keeps of its relocations (src/engine/kept_relocations.h, relink.h). The reference for other addresses is
// a link of the same objects at those addresses in the first place.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/relink.h"

#include <gtest/gtest.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <sstream>

namespace tenon::test {
namespace {

using engine::ModuleState;
using engine::Relink;
using engine::SectionMove;
using link::Synthetic;
using SectionBytes = std::vector<std::byte>;
using Image = std::map<std::pair<std::uint32_t, std::uint32_t>, SectionBytes>; // by module and section

// Low addresses, so that objects which are not PIC link too. Blocks keep their order and change their distances.
std::vector<Addr> addresses_for(std::span<const BlockRequest> requests, std::uint64_t base, std::uint64_t gap) {
  std::vector<Addr> addresses;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    base = (base + gap * (i % 3) + requests[i].alignment - 1) / requests[i].alignment * requests[i].alignment;
    addresses.push_back({base});
    base += requests[i].size;
  }
  return addresses;
}

constexpr std::uint64_t first_base = 0x10000000, other_base = 0x20000000;

// The client's memory at addresses_for(..., first_base, 0), which is kept mapped until the end.
struct Fixed : Memory {
  void* at = MAP_FAILED;
  std::uint64_t size = 0;
  std::optional<std::pair<std::size_t, std::uint64_t>> elsewhere; // block, address

  Granularity granularity() const noexcept override { return Granularity::function; }
  Result<void> place(std::span<const BlockRequest> requests, std::span<Placement> placements) override {
    std::vector<Addr> addresses = addresses_for(requests, first_base, 0);
    size = addresses.back().value + requests.back().size - first_base;
    at = mmap(reinterpret_cast<void*>(first_base), size, PROT_READ | PROT_WRITE | PROT_EXEC,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != reinterpret_cast<void*>(first_base)) return Error{ErrorCode::exhausted, "the address is taken"};
    for (std::size_t i = 0; i < requests.size(); ++i) placements[i] = {addresses[i], addresses[i].as<std::byte*>()};
    return {};
  }
  Result<void> publish(std::span<const Placement>) override { return {}; }
  void release(const Placement&) noexcept override {}
  ~Fixed() override {
    if (at != MAP_FAILED) munmap(at, size);
  }
};

struct KeptRelocations : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  std::size_t sections = 0, relocations = 0, differing = 0; // that were compared; whose bytes changed on the way
  std::size_t keeps = 0;                                    // bytes that the relocations take

  Draft draft(const std::vector<Object>& objects) {
    Change change = engine.change();
    for (const Object& object : objects) change.add(library, object);
    return expect(std::move(change).draft());
  }

  SectionBytes bytes_of(const ModuleState& state, std::uint32_t section) {
    const auto* at = reinterpret_cast<const std::byte*>(state.places()[section].address);
    return {at, at + state.places()[section].content_size()};
  }

  // (a) restored bytes are the object's, (b) bytes that are linked again where they are do not change.
  void expect_same_place(const ModuleState& state, const Object& object) {
    const Relink relink = expect(Relink::create(state, {}));
    for (std::uint32_t s = 1; s < state.places().size(); ++s) {
      if (!state.places()[s].kept || state.places()[s].content_size() == 0) continue;
      const SectionBytes linked = bytes_of(state, s);
      SectionBytes again = linked;
      expect(relink.section(s, again));
      EXPECT_TRUE(again == linked) << object.name() << " section " << s;
      if (s >= object.sections().size()) continue;
      SectionBytes restored = linked;
      state.relocations().restore(s, restored, state.places()[s].run == link::Run::code);
      EXPECT_TRUE(std::ranges::equal(restored, object.sections()[s].content)) << object.name() << " section " << s;
      ++sections;
      relocations += object.relocations(s).size();
      differing += restored != linked;
    }
    keeps += state.relocations().bytes();
  }

  // What a link at these addresses gives, of every section.
  Image link_at(const std::vector<Object>& objects, std::span<const BlockRequest> requests,
                const std::vector<Addr>& addresses) {
    Linked linked = expect(expect(draft(objects).place(Granularity::function, addresses)).link());
    std::vector<SectionBytes> blocks;
    for (const BlockRequest& request : requests) blocks.emplace_back(request.size);
    std::vector<std::span<std::byte>> buffers(blocks.begin(), blocks.end());
    expect(linked.copy_out(buffers));
    Image image;
    for (std::size_t i = 0; i < requests.size(); ++i)
      for (const BlockRequest::Part& part : requests[i].parts)
        image[{part.section.module.index, part.section.index}].assign(
            blocks[i].begin() + std::ptrdiff_t(part.offset), blocks[i].end()); // the rest of the block; cut when compared
    return image;
  }

  // GOT entries that no address decides: keys of thread-local blocks, of which each link has its own.
  static void blank_keys(const ModuleState& state, SectionBytes& got) {
    link::Bound bound;
    state.relocations().complete(bound);
    auto blank = [&](std::uint32_t at) {
      if (at != link::none) std::memset(got.data() + at, 0, 8);
    };
    for (const link::Entry& entry : bound.entries) blank(entry.tls_pair);
    blank(bound.tls_ld);
  }

  static std::vector<SectionMove> moves_of(std::span<const BlockRequest> requests, const std::vector<Addr>& addresses,
                                           std::uint32_t module) {
    std::vector<SectionMove> moves;
    for (std::size_t i = 0; i < requests.size(); ++i)
      for (const BlockRequest::Part& part : requests[i].parts)
        if (part.section.module.index == module) moves.push_back({part.section.index, addresses[i].value + part.offset});
    return moves;
  }

  void expect_image(const ModuleState& state, std::uint32_t section, SectionBytes bytes, const Image& image,
                    std::uint32_t module, const std::string& what) {
    const std::uint32_t own = std::uint32_t(state.places().size() - link::synthetic_sections);
    // What holds a pointer to its module, and what is chosen at commit.
    if (section == own + std::uint32_t(Synthetic::dso_handle) || section == own + std::uint32_t(Synthetic::slots)) return;
    SectionBytes expected = image.at({module, section});
    expected.resize(bytes.size());
    if (section == own + std::uint32_t(Synthetic::got)) blank_keys(state, bytes), blank_keys(state, expected);
    auto differs = std::mismatch(bytes.begin(), bytes.end(), expected.begin()).first;
    EXPECT_TRUE(differs == bytes.end()) << what << " of module " << module << ", section " << section << " of " << own
                                        << " at offset " << differs - bytes.begin();
  }

  // (c) everything is linked again for other addresses, and compared with a link there. Then one block after the other
  // moves alone, and the others' references follow it; `alone`: how many blocks that is done for.
  void expect_other_places(const std::vector<Object>& objects, std::size_t alone) {
    const std::vector<BlockRequest> requests = expect(draft(objects).blocks(Granularity::function));
    const std::vector<Addr> here = addresses_for(requests, first_base, 0);
    std::vector<std::vector<Addr>> places = {addresses_for(requests, other_base, 48)};
    const std::size_t step = std::max<std::size_t>(1, requests.size() / std::max<std::size_t>(alone, 1));
    for (std::size_t i = 0; i < requests.size() && alone != 0; i += step) {
      places.push_back(here);
      places.back()[i].value = other_base;
    }
    std::vector<Image> images;
    for (const std::vector<Addr>& addresses : places) images.push_back(link_at(objects, requests, addresses));

    Fixed memory;
    {
      Committed committed = expect(expect(expect(draft(objects).place(memory)).link()).commit(Initialize::skip));
      std::vector<const ModuleState*> states;
      for (const Module& module : committed.modules()) states.push_back(module.state().get());
      for (std::size_t p = 0; p < places.size(); ++p) {
        std::vector<Relink> relinks;
        for (std::uint32_t m = 0; m < states.size(); ++m)
          relinks.push_back(expect(Relink::create(*states[m], moves_of(requests, places[p], m))));
        for (Relink& relink : relinks)
          for (const Relink& other : relinks)
            if (&other != &relink) relink.follow(other);
        for (std::uint32_t m = 0; m < states.size(); ++m)
          for (std::uint32_t s = 1; s < states[m]->places().size(); ++s) {
            if (!states[m]->places()[s].kept || states[m]->places()[s].content_size() == 0) continue;
            SectionBytes bytes = bytes_of(*states[m], s), fields = bytes;
            expect(relinks[m].section(s, bytes));
            expect_image(*states[m], s, bytes, images[p], m, "all");
            expect(relinks[m].references(s, fields));
            EXPECT_TRUE(fields == bytes) << "references: module " << m << " section " << s << " place " << p;
          }
      }
      for (std::uint32_t m = 0; m < states.size(); ++m) expect_same_place(*states[m], objects[m]);
    }
    expect(try_remove(engine, expect(library.modules())));
  }

  void expect_in_engine(const std::vector<Object>& objects) {
    Change change = engine.change();
    for (const Object& object : objects) change.add(library, object);
    {
      Committed committed = expect(try_commit(std::move(change), Initialize::skip));
      for (std::size_t i = 0; i < objects.size(); ++i) expect_same_place(*committed.modules()[i].state(), objects[i]);
    }
    expect(try_remove(engine, expect(library.modules())));
  }
};

std::vector<Object> members(const std::string& archive) {
  Archive all = expect(Archive::read_file("/usr/lib/x86_64-linux-gnu/" + archive));
  std::vector<Object> objects;
  for (std::size_t i = 0; i < all.size(); ++i) objects.push_back(expect(all.member(i)));
  return objects;
}

struct OfArchives : KeptRelocations, testing::WithParamInterface<const char*> {};

} // namespace

TEST_P(OfArchives, AreTakenBackAndAppliedAgain) {
  const std::vector<Object> objects = members(GetParam());
  expect_in_engine(objects);
  EXPECT_GT(relocations, 100U);
  EXPECT_GT(differing, 10U);
  RecordProperty("bytes_per_relocation", std::to_string(double(keeps) / double(relocations)));
  // Entries of GOT and stubs and a few words for each section come on top of the 8 bytes.
  EXPECT_LT(double(keeps) / double(relocations), 16.0);
  expect_other_places(objects, 3);
}

INSTANTIATE_TEST_SUITE_P(Debian, OfArchives, testing::Values("libsqlite3.a", "liblua5.4.a", "libzstd.a", "libz.a"),
                         [](const auto& archive) {
                           return std::string(archive.param, std::strcspn(archive.param, ".0123456789"));
                         });

namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// What a test of a relocation defines on its command line, the first time.
std::vector<Absolute> definitions(const std::string& text, std::set<std::string>& names) {
  std::vector<Absolute> all;
  // A definition may be broken over two lines, behind "--define" or before it.
  static const std::regex line_end("\\\\\n# RUN: *"), definition("--define ([A-Za-z_0-9]+)=(0x[0-9a-f]+|[0-9]+)");
  const std::string flat = std::regex_replace(text, line_end, "");
  for (std::sregex_iterator match(flat.begin(), flat.end(), definition), end; match != end; ++match)
    if (auto [name, fresh] = names.insert((*match)[1]); fresh)
      all.push_back({*name, {std::stoull((*match)[2], nullptr, 0)}, false});
  return all;
}

} // namespace

// Every relocation type, in the objects that the tests of relocations are made of. Those that hold nothing but errors are
// left out by themselves.
TEST_F(KeptRelocations, OfEveryTypeAreTakenBackAndAppliedAgain) {
  std::set<std::uint32_t> types;
  std::string left_out;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(TENON_SOURCE_DIR "/tests/link/x86_64"))
    if (entry.path().extension() == ".s") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::size_t tried = 0;
  auto try_out = [&](const Object& object) {
    expect_other_places({object}, 100);
    for (std::uint32_t s = 1; s < object.sections().size(); ++s)
      if (object.sections()[s].allocated)
        for (const Relocation& r : object.relocations(s)) types.insert(r.type);
    ++tried;
  };
  for (const std::filesystem::path& path : paths) {
    SCOPED_TRACE(path.filename().string());
    const std::string text = text_of(path);
    library = expect(engine.library());
    std::set<std::string> names;
    const std::vector<Absolute> absolute = definitions(text, names);
    expect(library.define(absolute));
    try {
      try_out(assemble(text, path.filename().string()));
    } catch (const std::runtime_error& error) {
      left_out += path.filename().string() + ": " + error.what() + "\n";
    }
  }
  EXPECT_GE(tried, 20U) << left_out;
  // What those have at addresses of their own only, or for the host's variables.
  try_out(assemble(R"(
    .text
    .globl near
    movq tenon_test_host_variable@GOTTPOFF(%rip), %rax
    movl %fs:tenon_test_host_variable@TPOFF, %eax
    movabsq $tenon_test_host_variable@TPOFF, %rax
    leaq near(%rip), %rax
    .reloc ., R_X86_64_PC16, near
    .short 0
near:
    .reloc ., R_X86_64_PC8, near
    .byte 0
    .data
    .long near@SIZE, near - .
    .quad near@SIZE
    .size near, 3)"));
  std::string all;
  for (std::uint32_t type : types) all += std::to_string(type) + " ";
  // All of psABI table 4.10 that occur in relocatable files.
  EXPECT_EQ(all, "0 1 2 3 4 9 10 11 12 13 14 15 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 41 42 ")
      << left_out;
}

TEST_F(KeptRelocations, AreExactWhereFieldsHeldSomething) {
  Absolute absolute[] = {{"here", {0x1234}, false}, {"far", {0x10000000000}, false}};
  expect(library.define(absolute));
  const std::vector<Object> objects = {assemble(R"(
    .data
    .globl filled
filled:
    .reloc ., R_X86_64_64, here
    .quad 0x0102030405060708
    .reloc ., R_X86_64_32, here+4
    .long 0xffffffff
    .reloc ., R_X86_64_16, here
    .short 0xabcd
    .reloc ., R_X86_64_8, here-0x1200
    .byte 0x12
    .quad 0x7777777777777777
    # Two fields that overlap, and two of the same place.
    .reloc ., R_X86_64_32, here
    .reloc .+2, R_X86_64_32, here
    .byte 1, 2, 3, 4, 5, 6
    .reloc ., R_X86_64_32, here
    .reloc ., R_X86_64_32, here+1
    .long 0
    .text
    .globl odd
odd:
    # Looks like a relaxed load, and is none.
    .byte 0x48, 0x8d, 0x05
    .reloc ., R_X86_64_REX_GOTPCRELX, filled-4
    .long 0
    .byte 0x67, 0xe8
    .reloc ., R_X86_64_GOTPCRELX, odd-4
    .long 0x01010101
    .byte 0xe9, 0x05
    .reloc ., R_X86_64_GOTPCRELX, odd-4
    .long 0
    # Relaxed, with something in the field.
    .byte 0x48, 0x8b, 0x0d
    .reloc ., R_X86_64_REX_GOTPCRELX, filled-4
    .long 0x02020202
    .byte 0xff, 0x25
    .reloc ., R_X86_64_GOTPCRELX, odd-4
    .long 0x03030303
    .byte 0xff, 0x15
    .reloc ., R_X86_64_GOTPCRELX, odd-4
    .long 0
    # An opcode that a field before reaches into.
    .byte 0x48
    .reloc .-2, R_X86_64_32, here
    .byte 0x8b, 0x05
    .reloc ., R_X86_64_REX_GOTPCRELX, filled-4
    .long 0
    # A thunk's site, with something in its field.
    movq far(%rip), %r11
    .byte 0x4c, 0x8b, 0x1d
    .reloc ., R_X86_64_PC32, far-4
    .long 0x04040404
    leaq far+8(%rip), %rdx
    ret)")};
  expect_in_engine(objects);
  EXPECT_EQ(differing, 2U);
  expect_other_places(objects, 100);
}

// References between modules, thread-local variables, IFUNCs, exceptions, COMDAT groups, and sections that symbols bound.
TEST_F(KeptRelocations, OfProgramsAreTakenBackAndAppliedAgain) {
  const std::vector<Object> objects = {
      compile_cpp(R"(#include <string>
        extern thread_local int counter; extern int table[]; int* middle = &table[5]; int other(int);
        template <class T> T twice(T x) { return x + x; } static thread_local std::string text = "text";
        int (*pointer)(int) = other; int ends[3] = {1, 2, 3}; extern "C" void abort();
        int entry(int x) { try { if (x > 7) throw std::string("x"); counter += other(x) + *middle + twice(x); }
          catch (const std::string& s) { return int(s.size() + text.size()); } return counter + ends[x % 3]; })",
                  "-O1 -fPIC -ffunction-sections -fdata-sections", "one.o"),
      compile_cpp(R"(thread_local int counter = 3; int table[8] = {1, 2}; template <class T> T twice(T x) { return x + x; }
        int entry(int); static int a(int x) { return x; } extern "C" void* choose() { return (void*)a; }
        extern "C" int chosen(int) __attribute__((ifunc("choose"))); int (*chosen_at)(int) = chosen;
        int other(int x) { return x < 2 ? 1 : entry(x - 1) + twice(x) + chosen(x); })",
                  "-O1 -fPIC -ffunction-sections -fdata-sections", "two.o")};
  expect_in_engine(objects);
  expect_other_places(objects, 100);
}

TEST_F(KeptRelocations, SectionsThatSymbolsBoundMoveTogether) {
  const std::vector<Object> objects = {assemble(R"(
    .section words,"aw",@progbits
    .quad 1, 2, words_here
words_here: .quad __start_words
    .text
    leaq __start_words(%rip), %rax
    leaq __stop_words(%rip), %rax
    ret)")};
  expect_other_places(objects, 100);
  Committed committed = expect(try_commit(engine, library, objects));
  Object two = assemble(".section words,\"aw\",@progbits\n.quad 3\n.section others,\"aw\",@progbits\n.quad __start_words, "
                        "__start_others\n",
                        "two.o");
  const ModuleState& state = *commit(engine, library, two).state();
  std::vector<SectionMove> moves;
  for (std::uint32_t s = 1; s < two.sections().size(); ++s)
    if (state.places()[s].leads) moves.push_back({s, 0x1000 + 0x1000 * s});
  ASSERT_EQ(moves.size(), 2U);
  Result<Relink> refused = Relink::create(state, moves);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
}

// A module's section goes to where another's has been: what refers to both is told of each once. And a symbol at the end of
// a section goes with it.
TEST_F(KeptRelocations, WhatMovesIsFollowedOnce) {
  Committed committed =
      commit(engine, library,
             {assemble(".data\n.quad table, table_end, other\n"),
              assemble(".section .data.table,\"aw\"\n.globl table, table_end\ntable: .quad 1, 2, 3\ntable_end:\n"),
              assemble(".data\n.globl other\nother: .quad 3\n")});
  auto section_of = [&](std::size_t module, const char* symbol) {
    const ModuleState& state = *committed.modules()[module].state();
    std::uint32_t found = 0;
    for (std::uint32_t s = 1; s < state.places().size(); ++s)
      if (state.places()[s].size != 0 && state.places()[s].address == address_of(library, symbol).value) found = s;
    EXPECT_NE(found, 0U);
    return found;
  };
  const std::uint64_t there = address_of(library, "other").value;
  const SectionMove table[] = {{section_of(1, "table"), there}}, other[] = {{section_of(2, "other"), 0x7000}};
  Relink user = expect(Relink::create(*committed.modules()[0].state(), {}));
  user.follow(expect(Relink::create(*committed.modules()[1].state(), table)));
  user.follow(expect(Relink::create(*committed.modules()[2].state(), other)));
  const ModuleState& state = *committed.modules()[0].state();
  std::uint32_t data = 1;
  while (state.places()[data].run != link::Run::data || state.places()[data].size == 0) ++data;
  SectionBytes bytes = bytes_of(state, data);
  expect(user.section(data, bytes));
  std::array<std::uint64_t, 3> words{};
  ASSERT_EQ(bytes.size(), sizeof words);
  std::memcpy(words.data(), bytes.data(), sizeof words);
  EXPECT_EQ(words, (std::array<std::uint64_t, 3>{there, there + 24, 0x7000}));
}

TEST_F(KeptRelocations, OutOfReachIsAnError) {
  Object object = compile_c("int f(void); int g(void) { return 1 + f(); } int f(void) { return 2; }",
                            "-O0 -fPIC -ffunction-sections -fno-semantic-interposition");
  Module module = commit(engine, library, object);
  const ModuleState& state = *module.state();
  for (std::uint32_t s = 1; s < object.sections().size(); ++s) {
    if (object.sections()[s].name != ".text.g") continue;
    const SectionMove moves[] = {{s, 0x1000}};
    SectionBytes bytes = bytes_of(state, s);
    Result<void> refused = expect(Relink::create(state, moves)).section(s, bytes);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_range);
    EXPECT_NE(refused.error().message.find("symbol #"), std::string::npos) << refused.error().message;
    return;
  }
  FAIL() << "no section to move";
}

} // namespace tenon::test

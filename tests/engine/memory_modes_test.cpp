// The same program in every kind of memory: the engine's own in both mappings, a client's at three granularities, and plain
// addresses whose bytes the test maps itself.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <thread>

namespace tenon::test {
namespace {

using testing::HasSubstr;

constexpr const char* program = R"(
#include <stdexcept>
#include <string>
thread_local int mine = 5;
thread_local int mine_zero[10];
int started;
struct Start { Start() { started = 1; } ~Start() {} } start;
int table[2000];
extern "C" int chosen();
extern "C" {
int data = 7;
const char *const texts[] = {"none", "one", "two"};
int get() { return data + started + table[1999]; }
int bump(int by) { mine_zero[9] += by; return mine += by; }
int thrown(int value) { try { throw std::runtime_error(std::to_string(value)); }
  catch (const std::exception &e) { return std::stoi(e.what()); } }
const char *text(int which) { return texts[which]; }
int call_chosen() { return chosen(); }
}
)";
constexpr const char* second = R"(
static int fast() { return 42; }
extern "C" {
int thrown(int);
int (*choose())() { return fast; }
int chosen() __attribute__((ifunc("choose")));
int outer(int value) { try { throw thrown(value); } catch (int caught) { return caught + 1; } }
}
)";

Object first_object() { return compile_cpp(program, "-O1 -fPIC -ffunction-sections -fdata-sections -g", "program.o"); }
Object second_object() { return compile_cpp(second, "-O1 -fPIC -ffunction-sections", "second.o"); }

void run_all(const Library& library) {
  EXPECT_EQ(function<int()>(library, "get")(), 8);
  EXPECT_EQ(function<int(int)>(library, "thrown")(12), 12);
  EXPECT_EQ(function<int(int)>(library, "outer")(13), 14);
  EXPECT_STREQ(function<const char*(int)>(library, "text")(2), "two");
  EXPECT_EQ(function<int()>(library, "call_chosen")(), 42);
  int in_thread = 0;
  std::thread([&] { in_thread = function<int(int)>(library, "bump")(2); }).join();
  EXPECT_EQ(in_thread, 7);
  EXPECT_EQ(function<int(int)>(library, "bump")(3), 8);
}

// Lines of /proc/self/maps that are writable and executable at once.
std::vector<std::string> writable_code() {
  std::vector<std::string> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find(" rwx") != std::string::npos) found.push_back(line);
  return found;
}

struct Mappings : testing::TestWithParam<Mapping> {
  Engine engine = make_engine([] {
    Options options;
    options.mapping = GetParam();
    return options;
  }());
  Library library = expect(engine.library("main"));
};

TEST_P(Mappings, TheWholeProgram) {
  EngineUsage before = engine.usage();
  for (int round = 0; round < 3; ++round) {
    commit(engine, library, {first_object(), second_object()});
    run_all(library);
    ASSERT_TRUE(try_remove(engine, expect(library.modules())));
    EXPECT_EQ(engine.usage().live, before.live);
  }
}

TEST_P(Mappings, NothingIsEverWritableAndExecutable) {
  EXPECT_THAT(writable_code(), testing::IsEmpty());
  Change change = engine.change();
  change.add(library, first_object());
  change.add(library, second_object());
  Draft draft = expect(std::move(change).draft());
  Placed placed = expect(std::move(draft).place());
  EXPECT_THAT(writable_code(), testing::IsEmpty()) << "placed";
  Linked linked = expect(std::move(placed).link([](const Linked&) -> Result<void> {
    EXPECT_THAT(writable_code(), testing::IsEmpty()) << "inspected";
    return {};
  }));
  expect(std::move(linked).commit());
  EXPECT_THAT(writable_code(), testing::IsEmpty()) << "committed";
  run_all(library);
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  EXPECT_THAT(writable_code(), testing::IsEmpty()) << "removed";
}

TEST_P(Mappings, ADraftKnowsWhatTheModuleWillCost) {
  EngineUsage before = engine.usage();
  Change change = engine.change();
  ModuleId ids[] = {change.add(library, first_object()), change.add(library, second_object())};
  Draft draft = expect(std::move(change).draft());
  std::vector<ModuleLayout> layouts(draft.layouts().begin(), draft.layouts().end());
  ASSERT_EQ(layouts.size(), 2U);
  std::uint64_t section_sum = 0;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> sizes;
  for (const ModuleLayout& layout : layouts)
    for (const SectionLayout& section : layout.sections) {
      section_sum += section.kind == SectionKind::tls_zero ? 0 : section.size;
      sizes[{section.id.module.index, section.id.index}] = section.size;
    }
  Placed placed = expect(std::move(draft).place());
  EXPECT_EQ(placed.sections().size(), sizes.size());
  for (const PlacedSection& section : placed.sections())
    EXPECT_EQ((sizes[{section.id.module.index, section.id.index}]), section.size) << section.name;
  Committed committed = expect(expect(std::move(placed).link()).commit());
  std::uint64_t sum = 0;
  for (int m = 0; m < 2; ++m) {
    const ModuleLayout& layout = layouts[std::size_t(m)];
    Usage usage = committed.module(ids[m]).usage();
    EXPECT_EQ(layout.code, usage.code);
    EXPECT_EQ(layout.rodata, usage.rodata);
    EXPECT_EQ(layout.data, usage.data);
    EXPECT_EQ(layout.stubs, usage.stubs);
    EXPECT_EQ(layout.got, usage.got);
    EXPECT_EQ(layout.slots, usage.slots);
    EXPECT_EQ(layout.tls, usage.tls);
    EXPECT_EQ(layout.unwind, usage.unwind);
    sum += usage.total() - usage.bookkeeping;
  }
  EXPECT_EQ(sum, section_sum) << "each section is counted once";
  std::uint64_t live = engine.usage().live - before.live;
  EXPECT_GE(live, sum);
  if (GetParam() == Mapping::dual) {
    EXPECT_LE(live, sum + 2048) << "but for alignment";
  }
  EXPECT_GT(committed.module(ids[0]).usage().bookkeeping, 0U);
}

INSTANTIATE_TEST_SUITE_P(Both, Mappings, testing::Values(Mapping::dual, Mapping::single),
                         [](const auto& mapping) { return mapping.param == Mapping::dual ? "dual" : "single"; });

// A client's allocator: each block in pages of its own, near each other, written where it will run.
struct Pages : Memory {
  Granularity finest;
  std::uint64_t next = 0;
  std::map<std::uint64_t, std::uint64_t> live; // address and size
  std::vector<std::pair<std::uint64_t, Access>> accesses;
  int placed = 0, published = 0, released = 0, wrong_releases = 0;
  bool fail_place = false, fail_publish = false;

  explicit Pages(Granularity granularity) : finest(granularity) {
    void* arena = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    next = reinterpret_cast<std::uintptr_t>(arena);
  }
  static constexpr std::size_t arena_bytes = 64 << 20;

  Granularity granularity() const noexcept override { return finest; }
  Result<void> place(std::span<const BlockRequest> requests, std::span<Placement> placements) override {
    if (fail_place) return Error{ErrorCode::exhausted, "no pages left"};
    for (std::size_t i = 0; i < requests.size(); ++i) {
      next = (next + 4095) / 4096 * 4096;
      next = (next + requests[i].alignment - 1) / requests[i].alignment * requests[i].alignment;
      auto* at = reinterpret_cast<std::byte*>(next);
      mprotect(at, requests[i].size, PROT_READ | PROT_WRITE);
      placements[i] = {Addr::of(at), at};
      accesses.emplace_back(next, requests[i].access);
      live[next] = requests[i].size;
      next += requests[i].size;
      ++placed;
    }
    return {};
  }
  Result<void> publish(std::span<const Placement> placements) override {
    if (fail_publish) return Error{ErrorCode::system, "permissions refused"};
    for (const Placement& placement : placements)
      for (const auto& [address, access] : accesses)
        if (address == placement.address.value) {
          int protection =
              PROT_READ | (has(access, Access::write) ? PROT_WRITE : 0) | (has(access, Access::execute) ? PROT_EXEC : 0);
          mprotect(placement.address.as<void*>(), live[address], protection);
          ++published;
        }
    return {};
  }
  void release(const Placement& placement) noexcept override {
    auto found = live.find(placement.address.value);
    if (found == live.end()) {
      ++wrong_releases;
      return;
    }
    mprotect(placement.address.as<void*>(), found->second, PROT_NONE);
    live.erase(found);
    ++released;
  }
};

struct Client : testing::TestWithParam<Granularity> {
  Pages pages{GetParam()};
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));

  Draft draft() {
    Change change = engine.change();
    change.add(library, first_object());
    change.add(library, second_object());
    return expect(std::move(change).draft());
  }
  void expect_released() {
    EXPECT_EQ(pages.released, pages.placed);
    EXPECT_EQ(pages.wrong_releases, 0);
    EXPECT_TRUE(pages.live.empty());
  }
};

TEST_P(Client, TheWholeProgram) {
  Draft drafted = draft();
  std::vector<BlockRequest> blocks = expect(drafted.blocks(GetParam()));
  if (GetParam() == Granularity::whole) {
    EXPECT_EQ(blocks.size(), 2U);
  } else if (GetParam() == Granularity::section) {
    EXPECT_EQ(std::count_if(blocks.begin(), blocks.end(), [](const auto& b) { return b.name == "program.o:.text"; }), 0)
        << "an empty section needs no block";
    EXPECT_GT(blocks.size(), 6U);
  } else {
    auto of = [&](const char* name) {
      return std::count_if(blocks.begin(), blocks.end(), [&](const auto& b) { return b.name == name; });
    };
    EXPECT_EQ(of("program.o:.text.get"), 1);
    EXPECT_EQ(of("program.o:.text.thrown"), 1);
  }
  expect(expect(expect(std::move(drafted).place(pages)).link()).commit());
  EXPECT_EQ(pages.placed, int(blocks.size()));
  EXPECT_EQ(pages.published, pages.placed);
  EXPECT_EQ(pages.released, 0);
  run_all(library);
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  expect_released();
}

TEST_P(Client, EveryBlockIsReleasedOnceWhateverHappens) {
  {
    Placed dropped = expect(draft().place(pages));
  }
  expect_released();
  {
    Linked dropped = expect(expect(draft().place(pages)).link());
  }
  expect_released();
  Result<Linked> vetoed =
      expect(draft().place(pages)).link([](const Linked&) -> Result<void> { return Error{ErrorCode::vetoed, "no"}; });
  EXPECT_FALSE(vetoed);
  expect_released();
  pages.fail_publish = true;
  Result<Committed> unpublished = expect(expect(draft().place(pages)).link()).commit();
  ASSERT_FALSE(unpublished);
  EXPECT_THAT(unpublished.error().message, HasSubstr("permissions refused"));
  expect_released();
  pages.fail_publish = false;
  pages.fail_place = true;
  Result<Placed> unplaced = draft().place(pages);
  ASSERT_FALSE(unplaced);
  EXPECT_EQ(unplaced.error().code, ErrorCode::exhausted);
  expect_released();
  pages.fail_place = false;
  {
    Engine own = make_engine();
    Library inside = expect(own.library("inside"));
    Change change = own.change();
    change.add(inside, second_object());
    change.add(inside, first_object());
    expect(expect(expect(expect(std::move(change).draft()).place(pages)).link()).commit());
    run_all(inside);
  }
  expect_released();
  std::optional<Function<int()>> handle;
  expect(expect(expect(draft().place(pages)).link()).commit());
  handle = expect(library.function<int()>("get"));
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  EXPECT_NE(pages.released, pages.placed) << "a handle keeps a client's memory too";
  EXPECT_EQ((*handle)(), 8);
  handle.reset();
  expect_released();
  EXPECT_EQ(engine.usage().live, 0U);
}

INSTANTIATE_TEST_SUITE_P(Granularities, Client,
                         testing::Values(Granularity::whole, Granularity::section, Granularity::function),
                         [](const auto& granularity) {
                           return granularity.param == Granularity::whole     ? "whole"
                                  : granularity.param == Granularity::section ? "section"
                                                                              : "function";
                         });

struct PlainAddresses : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
};

TEST_F(PlainAddresses, BytesAreCopiedOutAndRunElsewhere) {
  // What an executor in another process would do, here in one place after another of this one. Far from the host on purpose.
  const char* text =
      "int counter = 3; int names(void); int twice(int x) { return x * 2; } int (*pointer)(int) = twice; static int "
      "zero[5000];"
      "extern int host(int); int run(int x) { counter += x; zero[4999]++; return pointer(counter) + host(x) + zero[4999]; }";
  Absolute host[] = {{"host", Addr::of(+[](int x) { return x * 1000; }), false}};
  expect(library.define(host));
  std::uint64_t base = 0x550000000000; // below all programs, where no sanitizer keeps its shadow
  for (Granularity granularity : {Granularity::whole, Granularity::section, Granularity::function}) {
    Change change = engine.change();
    change.add(library, compile_c(text, "-O1 -fPIC -ffunction-sections"));
    Draft draft = expect(std::move(change).draft());
    std::vector<BlockRequest> blocks = expect(draft.blocks(granularity));
    std::vector<Addr> addresses;
    for (const BlockRequest& block : blocks) {
      base = (base + 0x10000) & ~std::uint64_t(0xFFFF);
      addresses.push_back({base});
      base += block.size;
    }
    Linked linked = expect(expect(std::move(draft).place(granularity, addresses)).link());
    std::vector<std::vector<std::byte>> bytes;
    for (const BlockRequest& block : blocks) bytes.emplace_back(block.size);
    std::vector<std::span<std::byte>> buffers(bytes.begin(), bytes.end());
    expect(linked.copy_out(buffers));
    expect(linked.copy_out(buffers));
    std::optional<Addr> run;
    for (const PlacedSymbol& symbol : expect(linked.symbols()))
      if (symbol.name == "run") run = symbol.address;
    ASSERT_TRUE(run);
    EXPECT_FALSE(linked.copy_out(std::span(buffers).first(blocks.size() - 1)));
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      void* at = mmap(addresses[i].as<void*>(), blocks[i].size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      ASSERT_EQ(at, addresses[i].as<void*>());
      std::memcpy(at, bytes[i].data(), bytes[i].size());
      // One block for the whole object holds code and data together: the client's business.
      int protection = PROT_READ | (has(blocks[i].access, Access::write) ? PROT_WRITE : 0) |
                       (has(blocks[i].access, Access::execute) ? PROT_EXEC : 0);
      ASSERT_EQ(mprotect(at, blocks[i].size, protection), 0);
    }
    EXPECT_EQ(run->as<int (*)(int)>()(4), 14 + 4000 + 1);
    EXPECT_EQ(run->as<int (*)(int)>()(4), 22 + 4000 + 2);
    Result<Committed> committed = std::move(linked).commit();
    EXPECT_FALSE(committed) << "plain addresses can't be committed";
    EXPECT_FALSE(library.find("run"));
    for (std::size_t i = 0; i < blocks.size(); ++i) munmap(addresses[i].as<void*>(), blocks[i].size);
  }
}

TEST_F(PlainAddresses, AWholeObjectKeepsItsOffsetsWhereverItIs) {
  auto offsets = [&](std::uint64_t base) {
    Change change = engine.change();
    change.add(library, first_object());
    change.add(library, second_object());
    Draft draft = expect(std::move(change).draft());
    std::vector<BlockRequest> blocks = expect(draft.blocks(Granularity::whole));
    std::vector<Addr> addresses{{base}, {base + 0x100000}};
    Placed placed = expect(std::move(draft).place(Granularity::whole, addresses));
    std::vector<std::uint64_t> list;
    for (const PlacedSection& section : placed.sections()) {
      std::uint64_t offset = section.address - addresses[section.id.module.index];
      EXPECT_LE(offset + section.size, blocks[section.id.module.index].size) << section.name;
      list.push_back(offset);
    }
    return list;
  };
  EXPECT_EQ(offsets(0x400000), offsets(0x7f0000000000));
}

TEST_F(PlainAddresses, WrongAddressesAreErrors) {
  auto draft = [&] {
    Change change = engine.change();
    change.add(library, first_object());
    change.add(library, second_object());
    return expect(std::move(change).draft());
  };
  std::vector<Addr> misaligned{{0x400001}, {0x500000}}, few{{0x400000}}, wrapping{{~std::uint64_t(0) - 0xFFF}, {0x500000}};
  for (const std::vector<Addr>& addresses : {misaligned, few, wrapping}) {
    Result<Placed> placed = draft().place(Granularity::whole, addresses);
    ASSERT_FALSE(placed);
    EXPECT_EQ(placed.error().code, ErrorCode::invalid_argument);
  }
  std::vector<Addr> apart{{0x400000}, {0x7f0000000000}};
  Result<Linked> far = expect(draft().place(Granularity::whole, apart)).link();
  EXPECT_TRUE(far) << "modules may be anywhere: " << (far ? "" : describe(far.error()));
}

TEST_F(PlainAddresses, DebugSectionsAreRelocatedIfAskedFor) {
  for (bool wanted : {false, true}) {
    Change change = engine.change();
    ModuleOptions options;
    options.debug_sections = wanted;
    ModuleId id = change.add(library, first_object(), options);
    change.add(library, second_object());
    Linked linked = expect(expect(expect(std::move(change).draft()).place()).link());
    const Object& object = linked.object(id);
    std::uint32_t info = 0, strings = 0, table = 0;
    for (std::uint32_t i = 1; i < object.sections().size(); ++i) {
      if (object.sections()[i].name == ".debug_info") info = i;
      if (object.sections()[i].name == ".debug_addr") table = i;
      if (object.sections()[i].name == ".debug_str") strings = i;
    }
    ASSERT_NE(info, 0U);
    ASSERT_NE(table, 0U);
    Bytes bytes = linked.bytes({id, table});
    EXPECT_EQ(bytes.empty(), !wanted);
    EXPECT_EQ(linked.bytes({id, strings}).empty(), !wanted);
    if (!wanted) continue;
    std::uint64_t get = 0;
    for (const PlacedSymbol& symbol : expect(linked.symbols()))
      if (symbol.name == "get") get = symbol.address.value;
    bool found = false;
    for (std::size_t at = 8; at + 8 <= bytes.size(); at += 8) found |= std::memcmp(bytes.data() + at, &get, 8) == 0;
    EXPECT_TRUE(found) << "the address of get() in .debug_addr";
  }
}

} // namespace
} // namespace tenon::test

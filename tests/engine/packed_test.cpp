// What is kept of modules in packed form says what it was made of, at the borders of each field's width above all: places,
// bindings, relocations, records and tables of symbols.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_linking.h"
#include "engine/kept_relocations.h"
#include "engine/symbol_table.h"
#include "tests/object/elf_builder.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace tenon::engine {
namespace {

using test::ElfBuilder;

class Packed : public testing::Test {
protected:
  // A module of no relocations, to be given places and targets.
  static Object plain_object() {
    ElfBuilder builder;
    builder.text();
    Result<Object> object = Object::copy(builder.build(), "plain.o");
    EXPECT_TRUE(object.ok()) << object.error().message;
    return std::move(*object);
  }
  template <class List> auto one_of(const List& list) { return list[random_() % std::size(list)]; }
  std::uint64_t number() { return random_(); }

  std::mt19937_64 random_{20260};
};

// --- Places ---

std::uint64_t traits_of(const link::SectionPlace& place) {
  return std::uint64_t(place.alignment_power) | std::uint64_t(place.run) << 8 | std::uint64_t(place.kind) << 16 |
         std::uint64_t(place.kept) << 24 | std::uint64_t(place.has_content) << 25 | std::uint64_t(place.leads) << 26 |
         std::uint64_t(place.follows) << 27 | std::uint64_t(place.serves_all) << 28 | std::uint64_t(place.unwind) << 29 |
         std::uint64_t(place.overlies) << 30;
}

void expect_same(const KeptPlaces& kept, const link::Places& places) {
  ASSERT_EQ(kept.size(), places.size());
  for (std::size_t section = 0; section < places.size(); ++section) {
    const link::SectionPlace &was = places[section], is = kept[section];
    if (was.run == link::Run::none) {
      ASSERT_EQ(is.run, link::Run::none) << section;
      continue;
    }
    ASSERT_EQ(is.address, was.address) << section;
    ASSERT_EQ(is.size, was.size) << section;
    ASSERT_EQ(is.section, section);
    ASSERT_EQ(traits_of(is), traits_of(was)) << section;
  }
}

TEST_F(Packed, PlacesAreWhatTheyWere) {
  constexpr std::uint64_t base = 0x7F12'3456'7890;
  constexpr std::array<std::uint64_t, 9> distances = {
      0,  0x7FFF'FFFF,   0x8000'0000,           -std::uint64_t(1), -std::uint64_t(0x8000'0000), -std::uint64_t(0x8000'0001),
      16, 0x1'0000'0000, std::uint64_t(1) << 46};
  constexpr std::array<std::uint64_t, 8> sizes = {
      0, 1, (1U << 25) - 1, 1U << 25, 0x7FFF'FFFF, 0x8000'0000, std::uint64_t(1) << 40, (std::uint64_t(1) << 44) - 1};
  for (const std::size_t sections : {0, 1, 26, 33, 34, 73, 74, 75, 500, 3000})
    for (const unsigned kinds : {1U, 8U, 62U, 63U, 64U, 3000U}) {
      link::Module module(plain_object());
      link::Places& places = module.places;
      places.begin(sections, 4);
      std::vector<std::uint64_t> traits(kinds);
      for (std::uint64_t& one : traits) one = number();
      for (std::uint32_t section = 0; section < places.size(); ++section) {
        if (number() % 3 == 0) continue;
        const std::uint64_t its = one_of(traits);
        link::SectionPlace& place = places.add(section);
        place.alignment_power = std::uint8_t(its % 32);
        place.run = link::Run(its >> 8 & 3);
        place.kind = SectionKind((its >> 16) % 10);
        place.has_content = (its >> 25 & 1) != 0;
        place.leads = (its >> 26 & 1) != 0;
        place.follows = (its >> 27 & 1) != 0;
        place.serves_all = (its >> 28 & 1) != 0;
        place.unwind = (its >> 29 & 1) != 0;
        place.overlies = (its >> 30 & 1) != 0;
        place.kept = number() % 4 != 0;
        place.address = base + one_of(distances);
        place.size = number() % 2 != 0 ? one_of(sizes) : number() % 4096;
        if (number() % 16 == 0) place.run = link::Run::none;
      }
      KeptLinking kept = KeptLinking::of(module);
      ASSERT_NO_FATAL_FAILURE(expect_same(kept.places(), places)) << sections << " sections, " << kinds << " kinds";
      // Within the reservation, which the first place is in.
      for (link::SectionPlace& place : places.list()) {
        if (place.run == link::Run::none) continue;
        if (number() % 4 == 0) {
          kept.leave_out(place.section);
          place.kept = false;
        }
        const std::uint64_t distance = place.address - places.list().front().address;
        if (distance + 0x4000'0000 > 0x8000'0000) continue;
        kept.move(place.section, 48 - distance / 16 * 16);
        place.address += 48 - distance / 16 * 16;
      }
      ASSERT_NO_FATAL_FAILURE(expect_same(kept.places(), places))
          << sections << " sections that moved, " << kinds << " kinds";
    }
}

// --- Bindings ---

void expect_same(const link::Target& is, const link::Target& was) {
  const bool anothers = was.kind == link::TargetKind::module;
  EXPECT_EQ(is.address, was.address);
  EXPECT_EQ(is.kind, anothers ? link::TargetKind::fixed : was.kind);
  EXPECT_EQ(is.where, anothers ? 0 : was.where);
  EXPECT_EQ(is.flags, was.flags);
  EXPECT_EQ(is.entry != 0, was.entry != 0);
}

TEST_F(Packed, BindingsAreWhatTheyWere) {
  constexpr std::uint64_t base = 0x7F12'3456'7890;
  link::Module module(plain_object());
  link::Places& places = module.places;
  places.begin(300'000, 300);
  for (const std::uint32_t section : {0U, 3U, 40U, 41U, 200U, (1U << 18) - 1, 1U << 18, 299'999U}) {
    link::SectionPlace& place = places.add(section);
    place.run = link::Run::code;
    place.kept = section != 0;
    place.address = base + section * 16;
    place.size = 16;
  }
  constexpr std::array<std::uint32_t, 12> wheres = {
      0,         1, 3, 40, (1U << 18) - 1, 1U << 18, (1U << 18) + 1, 299'999, 300'000, link::bound_section, link::tls_block,
      link::none};
  constexpr std::array<std::uint64_t, 9> addresses = {0,
                                                      base,
                                                      base + 48 + 0x7FFF'FFFF,
                                                      base + 48 + 0x8000'0000,
                                                      base + 48 - 0x8000'0000,
                                                      base + 48 - 0x8000'0001,
                                                      ~std::uint64_t(0),
                                                      std::uint64_t(1) << 63,
                                                      std::uint64_t(1) << 48};
  for (const std::size_t symbols : {0, 1, 15, 16, 17, 31, 32, 33, 1000, 70'000}) {
    module.targets.assign(symbols, {});
    for (link::Target& target : module.targets) {
      if (number() % 5 == 0) continue; // of which nothing is said
      target.kind = link::TargetKind(number() % 8);
      target.where = one_of(wheres);
      target.flags = number() % 2 != 0 ? 0 : number() % 64;
      target.entry = number() % 3 != 0 ? 0 : std::uint32_t(number() % link::most_entries + 1);
      target.address = one_of(addresses);
      if (number() % 2 != 0 && target.where < places.size()) target.address = places[target.where].address;
    }
    const KeptLinking linking = KeptLinking::of(module);
    const KeptBindings kept = linking.bindings();
    ASSERT_EQ(kept.size(), symbols);
    auto next = kept.begin();
    for (std::size_t i = 0; i < symbols; ++i, ++next) {
      expect_same(kept[i], module.targets[i]);
      expect_same(*next, module.targets[i]);
      ASSERT_FALSE(HasFailure()) << "symbol " << i << " of " << symbols;
    }
  }
}

// --- Relocations ---

TEST_F(Packed, RelocationsAreTheObjects) {
  constexpr std::uint32_t symbols = 140'000;
  constexpr std::array<std::int64_t, 15> addends = {0,
                                                    -4,
                                                    4,
                                                    -5,
                                                    32767,
                                                    -32768,
                                                    32768,
                                                    -32769,
                                                    0x7FFF'FFFF,
                                                    -0x8000'0000LL,
                                                    0x8000'0000LL,
                                                    -0x8000'0001LL,
                                                    std::numeric_limits<std::int64_t>::min(),
                                                    std::numeric_limits<std::int64_t>::max(),
                                                    1};
  constexpr std::array<std::uint64_t, 10> steps = {0, 1, 255, 256, 65535, 65536, 0x1'0000'0000, -std::uint64_t(1), 8, 4};
  constexpr std::array<std::int64_t, 14> symbol_steps = {0,     1,      -1,     127,   128,   -128,   -129,
                                                         32767, -32768, -32769, 32768, 65536, -65536, 5};
  constexpr std::array<std::uint32_t, 12> types = {0, 1, 2, 4, 9, 11, 24, 42, 63, 64, 0xFFFF'FFFF, 3};
  ElfBuilder builder;
  for (std::uint32_t i = 1; i < symbols; ++i) builder.symbol("", test::elf::stb_local, test::elf::stt_notype, 0);
  std::vector<std::vector<ElfBuilder::Rela>> all;
  std::vector<std::uint32_t> sections;
  for (const std::size_t count : {1, 2, 0, 7, 100, 70'000, 3, 0, 9}) {
    sections.push_back(builder.text());
    std::vector<ElfBuilder::Rela> its;
    std::uint64_t offset = 0;
    std::int64_t symbol = 0;
    for (std::size_t i = 0; i < count; ++i) {
      offset += one_of(steps);
      symbol += one_of(symbol_steps);
      if (symbol < 0 || symbol >= symbols) symbol = std::int64_t(number() % symbols);
      its.push_back({offset, one_of(types), std::uint32_t(symbol), one_of(addends)});
    }
    if (count != 0) builder.relocations(sections.back(), its);
    all.push_back(std::move(its));
  }
  Result<Object> object = Object::copy(builder.build(), "packed.o");
  ASSERT_TRUE(object.ok()) << object.error().message;
  link::Module module(*object);
  module.places.begin(module.object_sections(), 4);
  for (const std::uint32_t section : sections) module.places.add(section).kept = true;

  const KeptLinking linking = KeptLinking::of(module);
  const KeptRelocations kept = linking.relocations();
  const auto expect_next = [](const Relocation& is, const ElfBuilder::Rela& was) {
    EXPECT_EQ(std::uint64_t(is.offset), was.offset);
    EXPECT_EQ(std::uint32_t(is.type), was.type);
    EXPECT_EQ(std::uint32_t(is.symbol), was.symbol);
    EXPECT_EQ(std::int64_t(is.addend), was.addend);
  };
  std::size_t total = 0;
  for (std::size_t s = 0; s < sections.size(); ++s) {
    std::size_t i = 0;
    kept.for_each_of(sections[s], [&](const Relocation& r) {
      if (i < all[s].size() && !HasFailure()) expect_next(r, all[s][i]);
      ++i;
    });
    ASSERT_FALSE(HasFailure()) << "section " << s;
    EXPECT_EQ(i, all[s].size());
    total += i;
  }
  EXPECT_EQ(kept.size(), total);
  std::size_t visited = 0;
  kept.for_each([&](std::uint32_t, const Relocation&) { ++visited; });
  EXPECT_EQ(visited, total);
}

// --- Records and tables ---

class Records {
public:
  SymbolRecord* make(const std::string& name) {
    auto bytes = std::make_unique<std::uint64_t[]>(SymbolRecord::bytes_for(name.size(), SymbolRecord::Form::narrow) / 8);
    SymbolRecord* record =
        SymbolRecord::make(reinterpret_cast<std::byte*>(bytes.get()), name, hash_name(name), SymbolRecord::Form::narrow);
    all_.push_back(std::move(bytes));
    return record;
  }

private:
  std::vector<std::unique_ptr<std::uint64_t[]>> all_;
};

TEST_F(Packed, ATableThatIsEmptiedAtOnceShrinks) {
  constexpr int count = 20'000;
  Records records;
  std::vector<SymbolRecord*> all;
  SymbolTable table;
  table.reserve(count);
  for (int i = 0; i < count; ++i) table.insert(all.emplace_back(records.make("symbol" + std::to_string(i))));
  for (SymbolRecord* record : all) table.erase(record);
  ASSERT_TRUE(table.is_sparse());
  table = table.packed();
  EXPECT_FALSE(table.is_sparse());
  EXPECT_NE(table.bytes(), 0U); // the engine takes it for one that was made
  EXPECT_LT(table.bytes(), 1024U);
  EXPECT_EQ(table.find("symbol7", hash_name("symbol7")), nullptr);
  table.reserve(1);
  table.insert(all[7]);
  EXPECT_EQ(table.find("symbol7", hash_name("symbol7")), all[7]);
}

} // namespace
} // namespace tenon::engine

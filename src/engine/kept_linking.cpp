// Packing and unpacking places and bindings.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_linking.h"

#include "base/check.h"

#include <algorithm>

namespace tenon::engine {

namespace {

// The second word of a place: bits 0..43 size | 44..49 alignment, a power | 50..52 run | 53..56 kind | flags.
namespace place_bit {
constexpr unsigned alignment = 44, run = 50, kind = 53;
constexpr std::uint64_t size_mask = (std::uint64_t(1) << alignment) - 1;
constexpr std::uint64_t kept = std::uint64_t(1) << 57, leads = kept << 1, follows = kept << 2, serves_all = kept << 3,
                        unwind = kept << 4, overlies = kept << 5, content = kept << 6;
} // namespace place_bit

std::uint64_t pack(const link::SectionPlace& place) {
  TENON_CHECK(place.size <= place_bit::size_mask, "a section larger than memory");
  const auto flag = [](bool is, std::uint64_t bit) { return is ? bit : 0; };
  return place.size | std::uint64_t(place.alignment_power) << place_bit::alignment |
         std::uint64_t(place.run) << place_bit::run | std::uint64_t(place.kind) << place_bit::kind |
         flag(place.kept, place_bit::kept) | flag(place.leads, place_bit::leads) | flag(place.follows, place_bit::follows) |
         flag(place.serves_all, place_bit::serves_all) | flag(place.unwind, place_bit::unwind) |
         flag(place.overlies, place_bit::overlies) | flag(place.has_content, place_bit::content);
}

// A binding: bits 61..62 say how it is packed.
//
//     near   0..31 distance from the first word, signed | 32..49 where
//     plain  0..47 address, where is 0
//     wide   0..31 index into the side table
//     near and plain   50..55 flags | 56..59 kind | 60 has an entry
namespace binding_bit {
constexpr unsigned where = 32, flags = 50, kind = 56, entry = 60, form = 61;
constexpr std::uint64_t where_mask = (1U << 18) - 1, flags_mask = (1U << 6) - 1, kind_mask = 15;
constexpr std::uint64_t address_mask = (std::uint64_t(1) << 48) - 1;
enum Form : std::uint64_t { near, plain, wide };
} // namespace binding_bit

bool is_near(std::uint64_t distance) noexcept { return std::uint64_t(std::int64_t(std::int32_t(distance))) == distance; }

std::uint64_t pack_near(const link::Target& target, std::uint64_t base) noexcept {
  return std::uint32_t(target.address - base) | std::uint64_t(target.where) << binding_bit::where;
}

// Of those that both forms have.
std::uint64_t pack_common(const link::Target& target) noexcept {
  return std::uint64_t(target.flags) << binding_bit::flags | std::uint64_t(target.kind) << binding_bit::kind |
         std::uint64_t(target.entry != 0 ? 1 : 0) << binding_bit::entry;
}

} // namespace

KeptPlaces::KeptPlaces(const link::Places& places) {
  const auto is_kept = [](const link::SectionPlace& place) { return place.run != link::Run::none; };
  const std::span<const link::SectionPlace> list = places.list();
  const std::size_t before = 1 + cells(places.size());
  words_.resize(before + 2 * std::size_t(std::count_if(list.begin(), list.end(), is_kept)));
  std::uint64_t* const words = words_.data();
  words[0] = places.size();
  std::uint64_t* cell = words; // the last that has been begun
  std::uint64_t* next = words + before;
  for (const link::SectionPlace& place : list) {
    if (!is_kept(place)) continue;
    std::uint64_t* const its_cell = words + 1 + place.section / in_cell;
    while (cell != its_cell) *++cell = std::uint64_t(next - words - before) / 2 << in_cell;
    *cell |= std::uint64_t(1) << (place.section % in_cell);
    *next++ = place.address;
    *next++ = pack(place);
  }
  while (cell != words + before - 1) *++cell = std::uint64_t(next - words - before) / 2 << in_cell;
}

std::size_t KeptPlaces::entry_of(std::size_t section) const noexcept {
  const std::uint64_t cell = words_[1 + section / in_cell], bit = std::uint64_t(1) << (section % in_cell);
  if ((cell & bit) == 0) return 0;
  return 1 + cells(size()) + 2 * ((cell >> in_cell) + std::size_t(std::popcount(cell & (bit - 1))));
}

link::SectionPlace KeptPlaces::operator[](std::size_t section) const noexcept {
  link::SectionPlace place;
  const std::size_t entry = entry_of(section);
  if (entry == 0) return place;
  const std::uint64_t packed = words_[entry + 1];
  place.address = words_[entry];
  place.size = packed & place_bit::size_mask;
  place.has_content = (packed & place_bit::content) != 0;
  place.alignment_power = packed >> place_bit::alignment & 63;
  place.run = link::Run(packed >> place_bit::run & 7);
  place.kind = SectionKind(packed >> place_bit::kind & 15);
  place.kept = (packed & place_bit::kept) != 0;
  place.leads = (packed & place_bit::leads) != 0;
  place.follows = (packed & place_bit::follows) != 0;
  place.serves_all = (packed & place_bit::serves_all) != 0;
  place.unwind = (packed & place_bit::unwind) != 0;
  place.overlies = (packed & place_bit::overlies) != 0;
  return place;
}

void KeptPlaces::leave_out(std::size_t section) noexcept { words_[entry_of(section) + 1] &= ~place_bit::kept; }

void KeptPlaces::move(std::size_t section, std::uint64_t distance) noexcept { words_[entry_of(section)] += distance; }

KeptBindings::KeptBindings(std::span<const link::Target> targets, const link::Places& places) {
  const std::span<const link::SectionPlace> list = places.list();
  const auto first = std::find_if(list.begin(), list.end(), [](const link::SectionPlace& place) { return place.kept; });
  const std::uint64_t base = first != list.end() ? first->address : 0;
  words_.reserve(targets.size() + 1);
  words_.push_back(base);
  for (link::Target target : targets) {
    if (target.kind == link::TargetKind::module) {
      target.kind = link::TargetKind::fixed;
      target.where = 0;
    }
    const bool common = target.thunk == 0 && target.flags <= binding_bit::flags_mask;
    if (common && target.kind == link::TargetKind::section && target.where <= binding_bit::where_mask &&
        is_near(target.address - base)) {
      words_.push_back(pack_near(target, base) | pack_common(target) | binding_bit::near << binding_bit::form);
    } else if (common && target.where == 0 && target.address <= binding_bit::address_mask) {
      words_.push_back(target.address | pack_common(target) | binding_bit::plain << binding_bit::form);
    } else {
      words_.push_back(wide_.size() | binding_bit::wide << binding_bit::form);
      wide_.push_back(target);
    }
  }
}

link::Target KeptBindings::operator[](std::size_t symbol) const noexcept {
  const std::uint64_t word = words_[symbol + 1];
  if (word >> binding_bit::form == binding_bit::wide) return wide_[std::uint32_t(word)];
  link::Target target;
  target.flags = std::uint8_t(word >> binding_bit::flags & binding_bit::flags_mask);
  target.kind = link::TargetKind(word >> binding_bit::kind & binding_bit::kind_mask);
  target.entry = std::uint32_t(word >> binding_bit::entry & 1);
  if (word >> binding_bit::form == binding_bit::plain) {
    target.address = word & binding_bit::address_mask;
  } else {
    target.address = words_[0] + std::uint64_t(std::int64_t(std::int32_t(word)));
    target.where = std::uint32_t(word >> binding_bit::where & binding_bit::where_mask);
  }
  return target;
}

void KeptBindings::move(std::size_t symbol, std::uint64_t distance) noexcept {
  std::uint64_t& word = words_[symbol + 1];
  switch (word >> binding_bit::form) {
  case binding_bit::wide: wide_[std::uint32_t(word)].address += distance; return;
  case binding_bit::plain:
    word = (word & ~binding_bit::address_mask) | ((word + distance) & binding_bit::address_mask);
    return;
  default: break;
  }
  const std::uint64_t now = std::uint64_t(std::int64_t(std::int32_t(word))) + distance;
  TENON_CHECK(is_near(now), "code was moved out of its reservation");
  word = (word >> binding_bit::where << binding_bit::where) | std::uint32_t(now);
}

} // namespace tenon::engine

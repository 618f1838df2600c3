// Packing and unpacking places and bindings.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_linking.h"

#include "base/check.h"
#include "base/room.h"

#include <algorithm>
#include <array>
#include <bit>

namespace tenon::engine {

namespace {

// What a place is, but for where and how large.
namespace trait {
constexpr unsigned run = 6, kind = 9, bits = 19; // below: its alignment, a power
constexpr std::uint32_t leads = 1U << 13, follows = leads << 1, serves_all = leads << 2, unwind = leads << 3,
                        overlies = leads << 4, content = leads << 5;
constexpr std::size_t in_word = 64 / bits;
constexpr unsigned count = bits * in_word; // above the first three
} // namespace trait

std::uint32_t traits_of(const link::SectionPlace& place) noexcept {
  const auto flag = [](bool is, std::uint32_t bit) { return is ? bit : 0; };
  return std::uint32_t(place.alignment_power) | std::uint32_t(place.run) << trait::run |
         std::uint32_t(place.kind) << trait::kind | flag(place.leads, trait::leads) | flag(place.follows, trait::follows) |
         flag(place.serves_all, trait::serves_all) | flag(place.unwind, trait::unwind) |
         flag(place.overlies, trait::overlies) | flag(place.has_content, trait::content);
}

void set_traits(link::SectionPlace& place, std::uint32_t traits) noexcept {
  place.alignment_power = traits & 63;
  place.run = link::Run(traits >> trait::run & 7);
  place.kind = SectionKind(traits >> trait::kind & 15);
  place.leads = (traits & trait::leads) != 0;
  place.follows = (traits & trait::follows) != 0;
  place.serves_all = (traits & trait::serves_all) != 0;
  place.unwind = (traits & trait::unwind) != 0;
  place.overlies = (traits & trait::overlies) != 0;
  place.has_content = (traits & trait::content) != 0;
}

// An entry: bits 0..5 which traits | 6 kept | 7..31 size | 32..63 distance from the base, signed. What does not fit has no
// traits there, and 32..63 say which of the pairs at the end it has: its address, and 0..43 size | 44..63 traits.
namespace entry_bit {
constexpr std::uint64_t traits_mask = 63, kept = 64;
constexpr unsigned size = 7, distance = 32, far_traits = 44;
constexpr std::uint64_t size_mask = (1U << 25) - 1, far_size_mask = (std::uint64_t(1) << far_traits) - 1;
constexpr std::uint64_t is_far = traits_mask;
} // namespace entry_bit

// Traits that occur in a module: few, and most sections have those of the one before.
class Traits {
public:
  // Its index, or is_far: there is no room.
  std::uint64_t find_or_add(std::uint32_t traits) noexcept {
    if (traits == last_) return at_;
    last_ = traits;
    for (at_ = 0; at_ < size_; ++at_)
      if (list_[at_] == traits) return at_;
    if (size_ < list_.size()) list_[size_++] = traits; // else at_ is is_far
    return at_;
  }
  // Three to a word, the first of which says how many; returns where they end.
  static constexpr std::size_t most_words = entry_bit::is_far / trait::in_word;
  static_assert(entry_bit::is_far % trait::in_word == 0);
  std::uint64_t* pack(std::uint64_t* to) const noexcept {
    std::uint64_t word = std::uint64_t(size_) << trait::count;
    for (std::size_t i = 0; i < size_;) {
      for (unsigned shift = 0; shift != trait::count && i < size_; shift += trait::bits)
        word |= std::uint64_t(list_[i++]) << shift;
      *to++ = word;
      word = 0;
    }
    return to;
  }

private:
  std::array<std::uint32_t, entry_bit::is_far> list_;
  std::size_t size_ = 0, at_ = 0;
  std::uint32_t last_ = ~std::uint32_t(0); // nobody's
};

bool takes_part(const link::SectionPlace& place) noexcept { return place.run != link::Run::none; }

bool is_near(std::uint64_t distance) noexcept { return std::uint64_t(std::int64_t(std::int32_t(distance))) == distance; }

// The first unit of a binding: bits 0..17 where | 18..23 flags | 24..27 kind | 28 has an entry | 29 odd: it stands in full
// where the second unit says. If it has two units, the second is the distance from the base, signed; if three, the others
// are its address.
namespace binding_bit {
constexpr unsigned flags = 18, kind = 24;
constexpr std::uint32_t where_mask = (1U << 18) - 1, kind_mask = 15;
constexpr std::uint32_t entry = 1U << 28, odd = 1U << 29;
} // namespace binding_bit

// The begin of a section of the module, and nothing else.
bool begins_section(const link::Target& target, const link::Places& places) noexcept {
  constexpr auto elsewhere = link::target_flag::identity | link::target_flag::ifunc | link::target_flag::tls;
  if (target.kind != link::TargetKind::section || (target.flags & elsewhere) != 0 || target.where >= places.size())
    return false;
  const link::SectionPlace& place = places[target.where];
  return place.run != link::Run::none && place.address == target.address;
}

// What is another module's is an address from now on.
bool is_anothers(const link::Target& target) noexcept { return target.kind == link::TargetKind::module; }

link::Target settled(link::Target target) noexcept {
  if (!is_anothers(target)) return target;
  target.kind = link::TargetKind::fixed;
  target.where = 0;
  return target;
}

bool is_odd(const link::Target& target) noexcept { return target.where > binding_bit::where_mask && !is_anothers(target); }

// Of a symbol that nothing is said of.
bool is_nothing(const link::Target& target) noexcept {
  return target.kind == link::TargetKind::missing && target.address == 0 && target.where == 0 && target.flags == 0 &&
         target.entry == 0;
}

// The units of one that is not odd; returns where they end.
constexpr std::size_t most_units = 3;
std::uint32_t* put(const link::Target& given, const link::Places& places, std::uint64_t base, std::uint32_t* at) noexcept {
  const link::Target target = settled(given);
  if (is_nothing(target)) return at;
  *at++ = target.where | std::uint32_t(target.flags) << binding_bit::flags |
          std::uint32_t(target.kind) << binding_bit::kind | (target.entry != 0 ? binding_bit::entry : 0);
  if (begins_section(target, places)) return at;
  const std::uint64_t distance = target.address - base;
  if (is_near(distance)) {
    *at++ = std::uint32_t(distance);
    return at;
  }
  *at++ = std::uint32_t(target.address);
  *at++ = std::uint32_t(target.address >> 32);
  return at;
}

} // namespace

KeptPlaces::KeptPlaces(const link::Places& places) {
  const std::span<const link::SectionPlace> list = places.list();
  const auto first = std::find_if(list.begin(), list.end(), takes_part);
  const std::uint64_t base = first != list.end() ? first->address : 0;
  const std::size_t before = head + cells(places.size());
  // All but those that do not fit their entries, which are few if any.
  base::Room<std::uint64_t, 64> room(before + list.size() + Traits::most_words);
  base::Vector<std::uint64_t> far;
  Traits traits;
  std::uint64_t* const words = room.begin();
  std::uint64_t* const entries = words + before;
  std::uint64_t* cell = words + head - 1; // the last that has been begun
  std::uint64_t* next = entries;
  const auto begin_cells = [&](const std::uint64_t* last) {
    while (cell != last) *++cell = std::uint64_t(next - entries) << in_cell;
  };
  for (const link::SectionPlace& place : list) {
    if (!takes_part(place)) continue;
    begin_cells(words + head + place.section / in_cell);
    *cell |= std::uint64_t(1) << (place.section % in_cell);
    const std::uint32_t its = traits_of(place);
    const std::uint64_t which = traits.find_or_add(its), distance = place.address - base;
    const std::uint64_t kept = place.kept ? entry_bit::kept : 0;
    if (which != entry_bit::is_far && place.size <= entry_bit::size_mask && is_near(distance)) {
      *next++ = which | kept | place.size << entry_bit::size | distance << entry_bit::distance;
      continue;
    }
    TENON_CHECK(place.size <= entry_bit::far_size_mask, "a section larger than memory");
    *next++ = entry_bit::is_far | kept | std::uint64_t(far.size() / 2) << entry_bit::distance;
    far.insert(far.end(), {place.address, place.size | std::uint64_t(its) << entry_bit::far_traits});
  }
  begin_cells(entries - 1);
  words[0] = places.size() | std::uint64_t(next - entries) << 32;
  words[1] = base;
  if (next != entries) next = traits.pack(next);
  if (far.empty()) {
    words_.assign(words, next);
    return;
  }
  words_.reserve(std::size_t(next - words) + far.size());
  words_.append(words, next);
  words_.append(far.begin(), far.end());
}

std::size_t KeptPlaces::entry_of(std::size_t section) const noexcept {
  const std::uint64_t cell = words_[head + section / in_cell], bit = std::uint64_t(1) << (section % in_cell);
  if ((cell & bit) == 0) return 0;
  return head + cells(size()) + (cell >> in_cell) + std::size_t(std::popcount(cell & (bit - 1)));
}

std::size_t KeptPlaces::far_of(std::uint64_t entry) const noexcept {
  const std::size_t traits = words_[traits_at()] >> trait::count;
  return traits_at() + (traits + trait::in_word - 1) / trait::in_word + 2 * (entry >> entry_bit::distance);
}

link::SectionPlace KeptPlaces::operator[](std::size_t section) const noexcept {
  link::SectionPlace place;
  place.section = std::uint32_t(section);
  const std::size_t at = entry_of(section);
  if (at == 0) return place;
  const std::uint64_t entry = words_[at], traits = entry & entry_bit::traits_mask;
  place.kept = (entry & entry_bit::kept) != 0;
  if (traits == entry_bit::is_far) {
    const std::size_t far = far_of(entry);
    place.address = words_[far];
    place.size = words_[far + 1] & entry_bit::far_size_mask;
    set_traits(place, std::uint32_t(words_[far + 1] >> entry_bit::far_traits));
    return place;
  }
  place.address = words_[1] + std::uint64_t(std::int64_t(entry) >> entry_bit::distance);
  place.size = entry >> entry_bit::size & entry_bit::size_mask;
  const std::uint64_t word = words_[traits_at() + traits / trait::in_word];
  set_traits(place, std::uint32_t(word >> (trait::bits * (traits % trait::in_word)) & ((1U << trait::bits) - 1)));
  return place;
}

void KeptPlaces::leave_out(std::size_t section) noexcept { words_[entry_of(section)] &= ~entry_bit::kept; }

void KeptPlaces::move(std::size_t section, std::uint64_t distance) noexcept {
  std::uint64_t& entry = words_[entry_of(section)];
  if ((entry & entry_bit::traits_mask) == entry_bit::is_far) {
    words_[far_of(entry)] += distance;
    return;
  }
  const std::uint64_t now = std::uint64_t(std::int64_t(entry) >> entry_bit::distance) + distance;
  TENON_CHECK(is_near(now), "code was moved out of its reservation");
  entry = std::uint32_t(entry) | now << entry_bit::distance;
}

KeptBindings::KeptBindings(std::span<const link::Target> targets, const link::Places& places) {
  const std::span<const link::SectionPlace> list = places.list();
  const auto first = std::find_if(list.begin(), list.end(), [](const link::SectionPlace& place) { return place.kept; });
  const std::uint64_t base = first != list.end() ? first->address : 0;
  const std::size_t data = head + 2 * cells(targets.size());
  base::Room<std::uint32_t, 256> room(data + most_units * targets.size());
  std::uint32_t* const units = room.begin();
  units[0] = std::uint32_t(targets.size());
  units[1] = std::uint32_t(base);
  units[2] = std::uint32_t(base >> 32);
  std::uint32_t* cell = units + head;
  std::uint32_t* next = units + data;
  for (std::size_t begin = 0; begin < targets.size(); begin += in_cell, cell += 2) {
    cell[0] = std::uint32_t(next - units - data);
    std::uint32_t counts = 0;
    unsigned shift = 0;
    for (const link::Target& target : targets.subspan(begin, std::min(in_cell, targets.size() - begin))) {
      const std::uint32_t* const its = next;
      next = is_odd(target) ? put_odd(target, next) : put(target, places, base, next);
      counts |= std::uint32_t(next - its) << shift;
      shift += 2;
    }
    cell[1] = counts;
  }
  units_.assign(units, next);
}

std::uint32_t* KeptBindings::put_odd(const link::Target& target, std::uint32_t* at) {
  *at++ = binding_bit::odd;
  *at++ = std::uint32_t(odd_.size());
  odd_.push_back(settled(target));
  return at;
}

KeptBindings::Found KeptBindings::find(std::size_t symbol) const noexcept {
  const std::uint32_t* cell = units_.data() + head + 2 * (symbol / in_cell);
  const unsigned shift = 2 * (symbol % in_cell);
  const std::uint32_t before = cell[1] & ((std::uint32_t(1) << shift) - 1);
  const auto units =
      std::size_t(std::popcount(before & 0x5555'5555U)) + 2 * std::size_t(std::popcount(before & 0xAAAA'AAAAU));
  return {head + 2 * cells(size()) + cell[0] + units, cell[1] >> shift & 3};
}

link::Target KeptBindings::at(std::size_t symbol, const KeptPlaces& places) const noexcept {
  link::Target target;
  const Found found = find(symbol);
  if (found.units == 0) return target;
  const std::uint32_t first = units_[found.at];
  if ((first & binding_bit::odd) != 0) return odd_[units_[found.at + 1]];
  target.where = first & binding_bit::where_mask;
  target.flags = first >> binding_bit::flags & 63;
  target.kind = link::TargetKind(first >> binding_bit::kind & binding_bit::kind_mask);
  target.entry = (first & binding_bit::entry) != 0 ? 1 : 0;
  if (found.units == 1)
    target.address = places[target.where].address;
  else if (found.units == 2)
    target.address = base() + std::uint64_t(std::int64_t(std::int32_t(units_[found.at + 1])));
  else
    target.address = units_[found.at + 1] | std::uint64_t(units_[found.at + 2]) << 32;
  return target;
}

void KeptBindings::move(std::size_t symbol, std::uint64_t distance) noexcept {
  const Found found = find(symbol);
  if (found.units <= 1) return; // it is where its section is
  if ((units_[found.at] & binding_bit::odd) != 0) {
    odd_[units_[found.at + 1]].address += distance;
    return;
  }
  std::uint32_t& low = units_[found.at + 1];
  if (found.units == 2) {
    const std::uint64_t now = std::uint64_t(std::int64_t(std::int32_t(low))) + distance;
    TENON_CHECK(is_near(now), "code was moved out of its reservation");
    low = std::uint32_t(now);
    return;
  }
  const std::uint64_t now = (low | std::uint64_t(units_[found.at + 2]) << 32) + distance;
  low = std::uint32_t(now);
  units_[found.at + 2] = std::uint32_t(now >> 32);
}

} // namespace tenon::engine

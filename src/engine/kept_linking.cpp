// Packing and unpacking places and bindings.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_linking.h"

#include "base/check.h"
#include "base/scratch.h"

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
  std::size_t size() const noexcept { return size_; }
  std::uint32_t operator[](std::size_t i) const noexcept { return list_[i]; }
  // Its index, or is_far: there is no room.
  std::uint64_t find_or_add(std::uint32_t traits) noexcept {
    if (last_ < size_ && list_[last_] == traits) return last_;
    last_ = std::size_t(std::find(list_.begin(), list_.begin() + size_, traits) - list_.begin());
    if (last_ == size_ && size_ < list_.size()) list_[size_++] = traits;
    return last_ < size_ ? last_ : entry_bit::is_far;
  }

private:
  std::array<std::uint32_t, entry_bit::is_far> list_;
  std::size_t size_ = 0, last_ = 0;
};

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

bool is_odd(const link::Target& target) noexcept { return target.where > binding_bit::where_mask; }

// Of a symbol that nothing is said of.
bool is_nothing(const link::Target& target) noexcept {
  return target.kind == link::TargetKind::missing && target.address == 0 && target.where == 0 && target.flags == 0 &&
         target.entry == 0;
}

} // namespace

KeptPlaces::KeptPlaces(const link::Places& places) {
  const auto is_kept = [](const link::SectionPlace& place) { return place.run != link::Run::none; };
  const std::span<const link::SectionPlace> list = places.list();
  const auto first = std::find_if(list.begin(), list.end(), is_kept);
  const std::uint64_t base = first != list.end() ? first->address : 0;
  const auto is_far = [&](const link::SectionPlace& place, std::uint64_t traits) {
    return traits == entry_bit::is_far || place.size > entry_bit::size_mask || !is_near(place.address - base);
  };
  Traits traits;
  std::size_t entries = 0, far = 0;
  for (const link::SectionPlace& place : list)
    if (is_kept(place)) {
      ++entries;
      far += is_far(place, traits.find_or_add(traits_of(place))) ? 1 : 0;
    }
  const std::size_t before = head + cells(places.size()), traits_at = before + entries;
  const std::size_t far_at = traits_at + (traits.size() + trait::in_word - 1) / trait::in_word;
  words_.resize(far_at + 2 * far);
  std::uint64_t* const words = words_.data();
  words[0] = places.size() | std::uint64_t(entries) << 32;
  words[1] = base;
  std::uint64_t* cell = words + head - 1; // the last that has been begun
  std::uint64_t* next = words + before;
  const auto begin_cells = [&](const std::uint64_t* last) {
    while (cell != last) *++cell = std::uint64_t(next - words - before) << in_cell;
  };
  for (const link::SectionPlace& place : list) {
    if (!is_kept(place)) continue;
    begin_cells(words + head + place.section / in_cell);
    *cell |= std::uint64_t(1) << (place.section % in_cell);
    const std::uint32_t its = traits_of(place);
    const std::uint64_t which = traits.find_or_add(its);
    if (!is_far(place, which)) {
      *next++ = which | (place.kept ? entry_bit::kept : 0) | place.size << entry_bit::size |
                (place.address - base) << entry_bit::distance;
      continue;
    }
    TENON_CHECK(place.size <= entry_bit::far_size_mask, "a section larger than memory");
    --far;
    words[far_at + 2 * far] = place.address;
    words[far_at + 2 * far + 1] = place.size | std::uint64_t(its) << entry_bit::far_traits;
    *next++ = entry_bit::is_far | (place.kept ? entry_bit::kept : 0) | far << entry_bit::distance;
  }
  begin_cells(words + before - 1);
  if (entries != 0) words[traits_at] = std::uint64_t(traits.size()) << trait::count;
  for (std::size_t i = 0; i < traits.size(); ++i)
    words[traits_at + i / trait::in_word] |= std::uint64_t(traits[i]) << (trait::bits * (i % trait::in_word));
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
  base::Vector<std::uint32_t> units;
  units.reserve(data + 2 * targets.size());
  units.resize(data);
  units[0] = std::uint32_t(targets.size());
  units[1] = std::uint32_t(base);
  units[2] = std::uint32_t(base >> 32);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    link::Target target = targets[i];
    if (target.kind == link::TargetKind::module) {
      target.kind = link::TargetKind::fixed;
      target.where = 0;
    }
    if (i % in_cell == 0) units[head + 2 * (i / in_cell)] = std::uint32_t(units.size() - data);
    if (is_nothing(target)) continue;
    const std::size_t its = units.size();
    const auto count = [&] {
      units[head + 2 * (i / in_cell) + 1] |= std::uint32_t(units.size() - its) << (2 * (i % in_cell));
    };
    if (is_odd(target)) {
      units.insert(units.end(), {binding_bit::odd, std::uint32_t(odd_.size())});
      odd_.push_back(target);
      count();
      continue;
    }
    units.push_back(target.where | std::uint32_t(target.flags) << binding_bit::flags |
                    std::uint32_t(target.kind) << binding_bit::kind | (target.entry != 0 ? binding_bit::entry : 0));
    if (!begins_section(target, places)) {
      const std::uint64_t distance = target.address - base;
      units.push_back(std::uint32_t(is_near(distance) ? distance : target.address));
      if (!is_near(distance)) units.push_back(std::uint32_t(target.address >> 32));
    }
    count();
  }
  units_.assign(units.begin(), units.end());
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

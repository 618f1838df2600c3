// Packing and unpacking places and bindings, and putting all of it into one piece.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_linking.h"

#include "base/check.h"
#include "base/pool.h"
#include "engine/kept_packing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <new>
#include <span>

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

// What is said of a binding: a byte, 0..2 form | 3..5 kind | 6 has an entry | 7 its flags follow; flags, unless there are
// none; then what its form has. `Where` stands as the distance to that of the one before in its cell, signed; it and a
// distance in the section take seven bits a byte, the last of which has its eighth clear.
enum class Form : std::uint8_t {
  nothing,      // and is nowhere
  begins,       // where: the section that begins there
  within,       // where, distance from the section's begin
  within_far,   // where, the same in eight bytes
  near,         // distance from the base in four bytes, signed; nowhere
  somewhere,    // where, the same
  far,          // address in eight bytes; nowhere
  far_somewhere // where, the same
};
namespace binding_bit {
constexpr unsigned kind = 3;
constexpr std::uint8_t form_mask = 7, kind_mask = 7, entry = 1U << 6, has_flags = 1U << 7;
} // namespace binding_bit
constexpr std::size_t most_binding_bytes = 2 + 5 + 8;

constexpr bool has_where(Form form) noexcept { return form != Form::nothing && form != Form::near && form != Form::far; }

// It is where a section of the module is, and goes with it.
bool lies_in_section(const link::Target& target) noexcept {
  constexpr auto elsewhere = link::target_flag::identity | link::target_flag::ifunc | link::target_flag::tls;
  return target.kind == link::TargetKind::section && (target.flags & elsewhere) == 0;
}

// What is another module's is an address from now on.
link::Target settled(link::Target target) noexcept {
  target.kind = link::TargetKind::fixed;
  target.where = 0;
  return target;
}

std::uint8_t* put_number(std::uint32_t number, std::uint8_t* at) noexcept {
  for (; number > 0x7F; number >>= 7) *at++ = std::uint8_t(number | 0x80);
  *at++ = std::uint8_t(number);
  return at;
}

std::uint32_t take_number(const std::uint8_t*& at) noexcept {
  std::uint32_t number = *at & 0x7F;
  for (unsigned shift = 7; (*at++ & 0x80) != 0; shift += 7) number |= std::uint32_t(*at & 0x7F) << shift;
  return number;
}

template <class Number> std::uint8_t* put_whole(Number number, std::uint8_t* at) noexcept {
  std::memcpy(at, &number, sizeof number);
  return at + sizeof number;
}

template <class Number> Number take_whole(const std::uint8_t*& at) noexcept {
  Number number;
  std::memcpy(&number, at, sizeof number);
  at += sizeof number;
  return number;
}

std::uint8_t* put_where(std::uint32_t now, std::uint32_t& where, std::uint8_t* at) noexcept {
  const auto by = std::int32_t(now - where);
  where = now;
  return put_number(std::uint32_t(by) << 1 ^ std::uint32_t(by >> 31), at);
}

// Returns where it ends. `where`: of the one before.
std::uint8_t* put(const link::Target& target, const link::Places& places, std::uint64_t base, std::uint32_t& where,
                  std::uint8_t* at) noexcept {
  std::uint8_t* const first = at++;
  const auto traits = std::uint32_t(target.kind) << binding_bit::kind | (target.entry != 0 ? binding_bit::entry : 0U) |
                      (target.flags != 0 ? binding_bit::has_flags : 0U);
  if (target.flags != 0) *at++ = std::uint8_t(target.flags);
  const auto put_form = [&](Form form) { *first = std::uint8_t(traits | std::uint32_t(form)); };
  if (lies_in_section(target) && target.where < places.size())
    if (const link::SectionPlace& place = places[target.where]; takes_part(place)) {
      const std::uint64_t distance = target.address - place.address;
      at = put_where(target.where, where, at);
      if (distance == 0) return put_form(Form::begins), at;
      if (distance <= std::uint32_t(-1)) return put_form(Form::within), put_number(std::uint32_t(distance), at);
      return put_form(Form::within_far), put_whole(distance, at);
    }
  if (target.address == 0 && target.where == 0) return put_form(Form::nothing), at;
  if (target.where != 0) at = put_where(target.where, where, at);
  const std::uint64_t distance = target.address - base;
  if (is_near(distance))
    return put_form(target.where == 0 ? Form::near : Form::somewhere), put_whole(std::uint32_t(distance), at);
  return put_form(target.where == 0 ? Form::far : Form::far_somewhere), put_whole(target.address, at);
}

// One binding, without looking for the section that it lies in.
struct Said {
  Form form = Form::nothing;
  link::Target target; // without its address
  std::uint64_t number = 0;
};

Said take(const std::uint8_t*& at, std::uint32_t& where) noexcept {
  Said said;
  const std::uint8_t bits = *at++;
  said.form = Form(bits & binding_bit::form_mask);
  said.target.kind = link::TargetKind(bits >> binding_bit::kind & binding_bit::kind_mask);
  said.target.entry = (bits & binding_bit::entry) != 0 ? 1 : 0;
  if ((bits & binding_bit::has_flags) != 0) said.target.flags = *at++ & 63;
  if (has_where(said.form)) {
    const std::uint32_t by = take_number(at);
    where += by >> 1 ^ (0 - (by & 1));
    said.target.where = where;
  }
  switch (said.form) {
  case Form::nothing:
  case Form::begins: break;
  case Form::within: said.number = take_number(at); break;
  case Form::near:
  case Form::somewhere: said.number = std::uint64_t(std::int64_t(take_whole<std::int32_t>(at))); break;
  default: said.number = take_whole<std::uint64_t>(at); break;
  }
  return said;
}

} // namespace

std::size_t KeptPlaces::most_words(const link::Places& places) noexcept {
  return head + cells(places.size()) + places.list().size() + Traits::most_words;
}

void KeptPlaces::pack(Packing& packing, const link::Places& places) {
  const std::span<const link::SectionPlace> list = places.list();
  const auto first = std::find_if(list.begin(), list.end(), takes_part);
  const std::uint64_t base = first != list.end() ? first->address : 0;
  if (list.size() >> (64 - in_cell) != 0) throw std::bad_alloc(); // their headers alone had 1 GiB
  base::Vector<std::uint64_t> far; // of those that do not fit their entries, which are few if any
  Traits traits;
  std::uint64_t* const words = packing.reserve(most_words(places));
  std::uint64_t* const entries = words + head + cells(places.size());
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
  packing.end_at(next);
  if (far.empty()) return;
  packing.end_at(std::copy(far.begin(), far.end(), packing.reserve(far.size())));
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

std::uint64_t KeptPlaces::address_of(std::size_t section) const noexcept {
  const std::size_t at = entry_of(section);
  if (at == 0) return 0;
  const std::uint64_t entry = words_[at];
  if ((entry & entry_bit::traits_mask) == entry_bit::is_far) return words_[far_of(entry)];
  return base() + std::uint64_t(std::int64_t(entry) >> entry_bit::distance);
}

std::size_t KeptBindings::most_words(std::size_t symbols) noexcept {
  return (offset_bytes * (1 + offsets(symbols)) + most_binding_bytes * symbols + 7) / 8;
}

void KeptBindings::pack(Packing& packing, const link::Module& module, std::uint64_t base) {
  const std::span<const link::Target> targets(module.targets);
  TENON_CHECK(targets.size() <= std::uint32_t(-1) / most_binding_bytes, "symbols of one module beyond 286 million");
  auto* const first = reinterpret_cast<std::uint8_t*>(packing.reserve(most_words(targets.size())));
  std::uint8_t* offset = put_whole(std::uint32_t(targets.size()), first);
  std::uint8_t* const data = offset + offset_bytes * offsets(targets.size());
  std::uint8_t* next = data;
  std::uint32_t where = 0;
  std::size_t left = in_cell;
  for (const link::Target& target : targets) {
    if (left-- == 0) {
      offset = put_whole(std::uint32_t(next - data), offset);
      where = 0;
      left = in_cell - 1;
    }
    next = put(target.kind != link::TargetKind::module ? target : settled(target), module.places, base, where, next);
  }
  packing.end_at(next);
}

std::size_t KeptBindings::size() const noexcept {
  const std::uint8_t* at = bytes_;
  return at != nullptr ? take_whole<std::uint32_t>(at) : 0;
}

const std::uint8_t* KeptBindings::data() const noexcept { return bytes_ + offset_bytes * (1 + offsets(size())); }

link::Target KeptBindings::operator[](std::size_t symbol) const noexcept {
  const std::size_t cell = symbol / in_cell;
  const std::uint8_t* at = data();
  if (cell != 0) {
    const std::uint8_t* offset = bytes_ + offset_bytes * cell; // the first cell has none
    at += take_whole<std::uint32_t>(offset);
  }
  Iterator found(places_, at, cell * in_cell);
  while (found.symbol_ != symbol) ++found;
  return *found;
}

link::Target KeptBindings::Iterator::operator*() const noexcept {
  const std::uint8_t* at = at_;
  std::uint32_t where = where_;
  Said said = take(at, where);
  switch (said.form) {
  case Form::nothing: break;
  case Form::begins:
  case Form::within:
  case Form::within_far: said.target.address = places_.address_of(where) + said.number; break;
  case Form::near:
  case Form::somewhere: said.target.address = places_.base() + said.number; break;
  case Form::far:
  case Form::far_somewhere: said.target.address = said.number; break;
  }
  return said.target;
}

KeptBindings::Iterator& KeptBindings::Iterator::operator++() noexcept {
  take(at_, where_);
  if (++symbol_ % in_cell == 0) where_ = 0;
  return *this;
}

namespace {
RareRelocations* make_rare(const RareRelocations& from) {
  void* const piece = base::pool::allocate(sizeof(RareRelocations));
  try {
    return new (piece) RareRelocations(from);
  } catch (...) {
    base::pool::deallocate(piece, sizeof(RareRelocations));
    throw;
  }
}
} // namespace

KeptLinking KeptLinking::of(const link::Module& module) {
  const bool is_rare = KeptRelocations::are_rare(module);
  Packing packing(2 + KeptPlaces::most_words(module.places) + KeptBindings::most_words(module.targets.size()) +
                  module.places.list().size() + 2 + module.relocation_count / 2);
  const std::size_t places_at = is_rare ? 2 : 1;
  packing.end_at(packing.begin() + places_at);
  KeptPlaces::pack(packing, module.places);
  const std::size_t bindings_at = packing.size();
  KeptBindings::pack(packing, module, KeptPlaces(packing.begin() + places_at).base());
  const std::size_t relocations_at = packing.size();
  KeptRelocations::pack(packing, module);
  TENON_CHECK(relocations_at <= offset_mask, "tables of one module beyond 16 GiB");
  packing.begin()[0] = bindings_at | std::uint64_t(relocations_at) << relocations_bit;
  KeptLinking kept;
  kept.words_.resize_for_overwrite(packing.size());
  std::memcpy(kept.words_.data(), packing.begin(), packing.size() * sizeof(std::uint64_t));
  if (!is_rare) return kept;
  kept.own(make_rare({}));
  kept.relocations().keep(*kept.rare(), module);
  return kept;
}

void KeptLinking::own(RareRelocations* rare) noexcept {
  words_[1] = reinterpret_cast<std::uint64_t>(rare);
  words_[0] |= has_rare;
}

void KeptLinking::give_up_rare() noexcept {
  RareRelocations* const mine = rare();
  mine->~RareRelocations();
  base::pool::deallocate(mine, sizeof *mine);
}

void KeptLinking::keep_places() noexcept {
  if (words_.empty()) return;
  if (rare() != nullptr) give_up_rare();
  const std::size_t first = places_at(), end = bindings_at();
  words_.erase(words_.begin() + 1, words_.begin() + std::ptrdiff_t(first));
  words_.resize(end - (first - 1));
  words_[0] = words_.size() | std::uint64_t(words_.size()) << relocations_bit;
}

KeptLinking KeptLinking::copy() const {
  KeptLinking made;
  made.words_ = words_;
  if (rare() == nullptr) return made;
  made.words_[0] &= ~has_rare; // it is this one's
  made.own(make_rare(*rare()));
  return made;
}

std::size_t KeptLinking::bytes() const noexcept { return words_.bytes() + (rare() != nullptr ? rare()->bytes() : 0); }

void KeptLinking::leave_out(std::size_t section) noexcept {
  words_[places_at() + places().entry_of(section)] &= ~entry_bit::kept;
}

void KeptLinking::move(std::size_t section, std::uint64_t distance) noexcept {
  std::uint64_t* const words = words_.data() + places_at();
  std::uint64_t& entry = words[places().entry_of(section)];
  if ((entry & entry_bit::traits_mask) == entry_bit::is_far) {
    words[places().far_of(entry)] += distance;
    return;
  }
  const std::uint64_t now = std::uint64_t(std::int64_t(entry) >> entry_bit::distance) + distance;
  TENON_CHECK(is_near(now), "code was moved out of its reservation");
  entry = std::uint32_t(entry) | now << entry_bit::distance;
}

} // namespace tenon::engine

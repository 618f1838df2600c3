// Packing a module's relocations for keeps, and taking them back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_relocations.h"

#include "base/check.h"
#include "base/room.h"
#include "link/arch/arch.h"

#include <cstring>
#include <utility>

namespace tenon::engine {

namespace {

// How a relocation is packed, by the bits of its head.
namespace head {
constexpr std::uint8_t type_mask = 7, other_type = 7, same_symbol = 32, forward = 64;
constexpr unsigned addend = 3;
constexpr std::uint8_t addend_follows = 3;
} // namespace head

constexpr std::array<std::uint32_t, 7> usual_types = {2, 4, 1, 9, 42, 11, 24}; // R_X86_64_PC32, PLT32, 64, GOTPCREL, ...
constexpr std::array<std::int64_t, 3> usual_addends = {-4, 0, -5};

// Where a type or an addend stands among the usual ones, without looking for it.
constexpr auto type_indices = [] {
  std::array<std::uint8_t, 64> indices;
  indices.fill(head::other_type);
  for (std::size_t i = 0; i < usual_types.size(); ++i) indices[usual_types[i]] = std::uint8_t(i);
  return indices;
}();
constexpr std::int64_t least_usual = -5;
constexpr auto addend_indices = [] {
  std::array<std::uint8_t, 1 - least_usual> indices;
  indices.fill(head::addend_follows);
  for (std::size_t i = 0; i < usual_addends.size(); ++i)
    indices[std::size_t(usual_addends[i] - least_usual)] = std::uint8_t(i);
  return indices;
}();

class Writer {
public:
  // Head, type, offset, symbol and addend.
  static constexpr std::size_t most = 1 + 5 + 10 + 5 + 10;

  // `expected`: how many relocations; there may be others.
  explicit Writer(std::size_t expected) : room_(expected * usual + most), at_(room_.begin()) {}
  std::size_t size() noexcept { return std::size_t(at_ - room_.begin()); }
  const std::uint8_t* bytes() noexcept { return room_.begin(); }

  void add_section(std::span<const Relocation> relocations) {
    std::uint64_t offset = 0;
    std::uint32_t symbol = 0;
    for (const Relocation& r : relocations) {
      if (std::size_t(room_.end() - at_) < most) [[unlikely]]
        grow();
      const std::uint8_t type = r.type < type_indices.size() ? type_indices[r.type] : head::other_type;
      const std::uint64_t above = std::uint64_t(r.addend) - std::uint64_t(least_usual);
      const std::uint8_t addend = above < addend_indices.size() ? addend_indices[above] : head::addend_follows;
      const bool same = r.symbol == symbol, forward = r.offset >= offset;
      *at_++ = std::uint8_t(type | addend << head::addend | (same ? head::same_symbol : 0) | (forward ? head::forward : 0));
      if (type == head::other_type) number(r.type);
      number(forward ? r.offset - offset : offset - r.offset);
      if (!same) distance(std::int64_t(r.symbol) - std::int64_t(symbol));
      if (addend == head::addend_follows) distance(r.addend);
      offset = r.offset;
      symbol = r.symbol;
    }
  }

private:
  static constexpr std::size_t usual = 6;
  __attribute__((noinline)) void grow() {
    const std::size_t used = size();
    room_.grow(used);
    at_ = room_.begin() + used;
  }
  void number(std::uint64_t n) noexcept {
    for (; n >= 128; n >>= 7) *at_++ = std::uint8_t(n | 128);
    *at_++ = std::uint8_t(n);
  }
  void distance(std::int64_t n) noexcept { number(std::uint64_t(n) << 1 ^ std::uint64_t(n >> 63)); }

  base::Room<std::uint8_t, 512> room_;
  std::uint8_t* at_;
};

} // namespace

std::uint64_t KeptRelocations::Reader::number() noexcept {
  std::uint64_t n = 0;
  for (unsigned shift = 0;; shift += 7) {
    const std::uint8_t byte = *at_++;
    n |= std::uint64_t(byte & 127) << shift;
    if (byte < 128) return n;
  }
}

Relocation KeptRelocations::Reader::next() noexcept {
  const std::uint8_t bits = *at_++;
  const std::uint8_t type = bits & head::type_mask, addend = bits >> head::addend & 3;
  Relocation r;
  r.type = type == head::other_type ? std::uint32_t(number()) : usual_types[type];
  const std::uint64_t by = number();
  r.offset = offset_ = (bits & head::forward) != 0 ? offset_ + by : offset_ - by;
  if ((bits & head::same_symbol) == 0) symbol_ += std::uint32_t(distance());
  r.symbol = symbol_;
  r.addend = addend == head::addend_follows ? distance() : usual_addends[addend];
  return r;
}

KeptRelocations KeptRelocations::of(const link::Module& module) {
  KeptRelocations kept;
  const std::span<const link::SectionPlace> places = module.places.of_object();
  base::Room<std::uint64_t, 32> ranges(places.size() + 2);
  std::uint64_t* next = ranges.begin() + 1;
  std::size_t relocations = 0;
  Writer writer(module.relocation_count); // sections may have been left out since the survey
  for (const link::SectionPlace& place : places) {
    if (!place.kept) continue;
    const std::span<const Relocation> its = module.relocations(place.section);
    if (its.empty()) continue;
    relocations += its.size();
    *next++ = writer.size() | std::uint64_t(place.section) << 32;
    writer.add_section(its);
  }
  if (relocations != 0) {
    const std::size_t size = writer.size();
    TENON_CHECK(size <= std::uint32_t(-1), "relocations of one module beyond 4 GiB");
    *ranges.begin() = std::size_t(next - ranges.begin() - 1) | std::uint64_t(relocations) << 32;
    *next++ = size;
    const auto words = std::size_t(next - ranges.begin());
    kept.words_.resize_for_overwrite(words + (size + 7) / 8);
    std::memcpy(kept.words_.data(), ranges.begin(), words * sizeof *next);
    kept.words_.back() = 0; // where the last bytes leave some of it
    std::memcpy(kept.words_.data() + words, writer.bytes(), size);
  }
  const bool any = !module.entries.empty() || !module.thunks.empty() || !module.tls_bindings.empty() ||
                   module.tls_ld != link::none || !module.rewritten.empty();
  if (!any) return kept;
  Rare& rare = kept.rare_.emplace_back();
  rare.entries.assign(module.entries.begin(), module.entries.end());
  rare.thunks.assign(module.thunks.begin(), module.thunks.end());
  rare.tls_bindings.assign(module.tls_bindings.begin(), module.tls_bindings.end());
  for (link::TlsBinding& binding : rare.tls_bindings) binding.owner = {};
  rare.tls_ld = module.tls_ld;
  if (!module.rewritten.empty()) {
    link::Module::List<std::uint32_t> rewritten = module.rewritten;
    std::sort(rewritten.begin(), rewritten.end());
    rewritten.erase(std::unique(rewritten.begin(), rewritten.end()), rewritten.end());
    for (std::uint32_t section : rewritten) kept.keep_replaced(module, section);
    if (rare.replaced.empty()) rare.replaced = {}; // the room, too
  }
  return kept;
}

// Whatever of the section the relocations alone do not bring back.
void KeptRelocations::keep_replaced(const link::Module& module, std::uint32_t section) {
  const Bytes original = module.sections()[section].content;
  const std::byte* linked = module.places[section].local;
  std::vector<std::byte> bytes(linked, linked + original.size());
  restore(section, bytes, module.section_kind(section) == SectionKind::code);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    at = std::size_t(
        std::mismatch(bytes.begin() + std::ptrdiff_t(at), bytes.end(), original.begin() + std::ptrdiff_t(at)).first -
        bytes.begin());
    if (at == bytes.size()) return;
    Replaced piece{at, section, 0, {}};
    // Up to the last byte that differs.
    for (std::size_t i = 0; i < piece.bytes.size() && at + i < bytes.size(); ++i)
      if (bytes[at + i] != original[at + i]) piece.size = std::uint8_t(i + 1);
    std::copy_n(original.begin() + std::ptrdiff_t(at), piece.size, piece.bytes.begin());
    rare_[0].replaced.push_back(piece);
    at += piece.size - 1U;
  }
}

void KeptRelocations::restore(std::uint32_t section, std::span<std::byte> bytes, bool code) const noexcept {
  for_each_of(section, [&](const Relocation& r) { link::arch::restore(bytes.data(), r, code); });
  put_back(section, bytes, 0, bytes.size());
}

void KeptRelocations::restore(std::uint32_t section, std::span<std::byte> bytes, bool code,
                              const Relocation& relocation) const noexcept {
  auto [begin, end] = link::arch::restore(bytes.data(), relocation, code);
  put_back(section, bytes, begin, end);
}

bool KeptRelocations::keeps_bytes_of(std::uint32_t section) const noexcept {
  const std::span<const Replaced> all = replaced();
  auto piece = std::partition_point(all.begin(), all.end(), [&](const Replaced& p) { return p.section < section; });
  return piece != all.end() && piece->section == section;
}

void KeptRelocations::put_back(std::uint32_t section, std::span<std::byte> bytes, std::uint64_t begin,
                               std::uint64_t end) const noexcept {
  // One that begins before may reach into the range.
  const std::uint64_t first = begin - std::min<std::uint64_t>(begin, sizeof(Replaced::bytes) - 1);
  auto key = [](const Replaced& piece) { return std::pair(piece.section, piece.offset); };
  const std::span<const Replaced> all = replaced();
  auto piece =
      std::partition_point(all.begin(), all.end(), [&](const Replaced& p) { return key(p) < std::pair(section, first); });
  for (; piece != all.end() && key(*piece) < std::pair(section, end); ++piece)
    for (std::uint64_t i = 0; i < piece->size; ++i)
      if (std::uint64_t at = piece->offset + i; at >= begin && at < end) bytes[at] = piece->bytes[i];
}

void KeptRelocations::complete(link::Bound& bound) const noexcept {
  if (rare_.empty()) return;
  bound.entries = rare_[0].entries;
  bound.thunks = rare_[0].thunks;
  bound.tls_bindings = rare_[0].tls_bindings;
  bound.tls_ld = rare_[0].tls_ld;
}

} // namespace tenon::engine

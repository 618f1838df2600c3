// Packing a module's relocations for keeps, and taking them back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_relocations.h"

#include "base/check.h"
#include "base/room.h"
#include "engine/kept_packing.h"
#include "link/arch/arch.h"

#include <cstring>
#include <utility>

namespace tenon::engine {

namespace {

// How a relocation is packed, by the bits of its head.
namespace head {
constexpr std::uint8_t type_mask = 7, in_full = 7;
constexpr unsigned addend = 3, offset = 5, symbol = 6;
} // namespace head

constexpr std::array<std::uint32_t, 7> usual_types = {2, 4, 1, 9, 42, 11, 24}; // R_X86_64_PC32, PLT32, 64, GOTPCREL, ...
// Where a type stands among the usual ones, without looking for it.
constexpr auto type_indices = [] {
  std::array<std::uint8_t, 64> indices;
  indices.fill(head::in_full);
  for (std::size_t i = 0; i < usual_types.size(); ++i) indices[usual_types[i]] = std::uint8_t(i);
  return indices;
}();
constexpr unsigned minus_four = 0, zero = 1, of_16_bits = 2; // one more: of 32
constexpr std::array<std::uint8_t, 4> addend_bytes = {0, 0, 2, 4}, symbol_bytes = {0, 1, 2, 4};

template <class Small> bool fits(std::int64_t number) noexcept { return number == Small(number); }

class Writer {
public:
  // `expected`: how many relocations; there may be others.
  explicit Writer(std::size_t expected) : room_(expected * usual + most), at_(room_.begin()) {}
  std::size_t size() noexcept { return std::size_t(at_ - room_.begin()); }
  const std::uint8_t* bytes() noexcept { return room_.begin(); }

  void add_section(std::span<const Relocation> relocations) {
    std::uint64_t offset = 0;
    std::uint32_t symbol = 0;
    // Beside the members: bytes that are written could be these, to the compiler.
    std::uint8_t *at = at_, *last = room_.end() - most;
    for (const Relocation& r : relocations) {
      if (at > last) [[unlikely]] {
        at = grow(at);
        last = room_.end() - most;
      }
      const std::uint64_t by = r.offset - offset;
      const auto symbols = std::int32_t(r.symbol - symbol); // modulo 2^32, as it is added again
      const unsigned type = r.type < type_indices.size() ? type_indices[r.type] : head::in_full;
      const std::int64_t addend = r.addend;
      offset = r.offset;
      symbol = r.symbol;
      if (type == head::in_full || by > 0xFFFF || !fits<std::int32_t>(addend)) [[unlikely]] {
        at = add_in_full(at, r);
        continue;
      }
      // How many bits a signed number takes is seen from the one without a sign whose upper bits are all zero.
      const unsigned long_offset = by > 0xFF;
      const std::uint32_t of_sign = 2 * std::uint32_t(symbols) ^ std::uint32_t(symbols >> 31);
      const unsigned of_symbol = unsigned(of_sign != 0) + unsigned(of_sign > 0xFF) + unsigned(of_sign > 0xFFFF);
      const unsigned of_other = unsigned(zero) + unsigned(addend != 0) + unsigned(!fits<std::int16_t>(addend));
      static_assert(minus_four == 0 && of_16_bits == zero + 1);
      const unsigned of_addend = of_other & (0U - unsigned(addend != -4));
      const std::size_t after_offset = 2 + long_offset, after_symbol = after_offset + symbol_bytes[of_symbol];
      at[0] = std::uint8_t(type | of_addend << head::addend | long_offset << head::offset | of_symbol << head::symbol);
      put<std::uint16_t>(at + 1, by);
      put<std::int32_t>(at + after_offset, symbols);
      put<std::int32_t>(at + after_symbol, addend);
      at += after_symbol + addend_bytes[of_addend];
    }
    at_ = at;
  }

private:
  // The longest: in full.
  static constexpr std::size_t most = 1 + 8 + 4 + 4 + 8, usual = 6;
  __attribute__((noinline)) std::uint8_t* grow(std::uint8_t* at) {
    const auto used = std::size_t(at - room_.begin());
    room_.grow(used);
    return room_.begin() + used;
  }
  // More may be written than is kept: what comes next is written over it.
  template <class Number> static void put(std::uint8_t* at, auto number) noexcept {
    const auto bytes = Number(number);
    std::memcpy(at, &bytes, sizeof bytes);
  }
  __attribute__((noinline)) static std::uint8_t* add_in_full(std::uint8_t* at, const Relocation& r) noexcept {
    *at = head::in_full;
    put<std::uint64_t>(at + 1, r.offset);
    put<std::uint32_t>(at + 9, r.type);
    put<std::uint32_t>(at + 13, r.symbol);
    put<std::int64_t>(at + 17, r.addend);
    return at + most;
  }

  base::Room<std::uint8_t, 512> room_;
  std::uint8_t* at_;
};

template <class Number> Number take(const std::uint8_t*& at) noexcept {
  Number number;
  std::memcpy(&number, at, sizeof number);
  at += sizeof number;
  return number;
}

// Signed, of as many bytes as the head says.
std::int32_t take_signed(const std::uint8_t*& at, unsigned bytes) noexcept {
  switch (bytes) {
  case 0: return 0;
  case 1: return take<std::int8_t>(at);
  case 2: return take<std::int16_t>(at);
  default: return take<std::int32_t>(at);
  }
}

// From `at` on; the size of both if there is none. Nearly all is equal.
std::size_t first_difference(std::span<const std::byte> a, std::span<const std::byte> b, std::size_t at) noexcept {
  constexpr std::size_t much = 256;
  while (a.size() - at >= much && std::memcmp(a.data() + at, b.data() + at, much) == 0) at += much;
  while (at < a.size() && a[at] == b[at]) ++at;
  return at;
}

} // namespace

Relocation KeptRelocations::Reader::next() noexcept {
  const std::uint8_t bits = *at_++;
  Relocation r;
  if ((bits & head::type_mask) == head::in_full) {
    r.offset = offset_ = take<std::uint64_t>(at_);
    r.type = take<std::uint32_t>(at_);
    r.symbol = symbol_ = take<std::uint32_t>(at_);
    r.addend = take<std::int64_t>(at_);
    return r;
  }
  r.type = usual_types[bits & head::type_mask];
  offset_ += (bits >> head::offset & 1) != 0 ? take<std::uint16_t>(at_) : take<std::uint8_t>(at_);
  symbol_ += std::uint32_t(take_signed(at_, symbol_bytes[bits >> head::symbol]));
  r.offset = offset_;
  r.symbol = symbol_;
  const unsigned addend = bits >> head::addend & 3;
  r.addend = addend == minus_four ? -4 : take_signed(at_, addend_bytes[addend]);
  return r;
}

void KeptRelocations::pack(Packing& packing, const link::Module& module) {
  const std::span<const link::SectionPlace> places = module.places.of_object();
  std::uint64_t* const first = packing.reserve(places.size() + 2);
  std::uint64_t* next = first + 1;
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
  if (relocations == 0) return;
  const std::size_t size = writer.size();
  TENON_CHECK(size <= std::uint32_t(-1), "relocations of one module beyond 4 GiB");
  *first = std::size_t(next - first - 1) | std::uint64_t(relocations) << 32;
  *next++ = size;
  packing.end_at(next);
  auto* const bytes = reinterpret_cast<std::uint8_t*>(packing.reserve((size + 7) / 8));
  std::memcpy(bytes, writer.bytes(), size);
  packing.end_at(bytes + size);
}

bool KeptRelocations::are_rare(const link::Module& module) noexcept {
  return !module.entries.empty() || !module.thunks.empty() || !module.tls_bindings.empty() || module.tls_ld != link::none ||
         !module.rewritten.empty();
}

void KeptRelocations::keep(RareRelocations& rare, const link::Module& module) const {
  rare.entries.assign(module.entries.begin(), module.entries.end());
  rare.thunks.assign(module.thunks.begin(), module.thunks.end());
  rare.tls_bindings.assign(module.tls_bindings.begin(), module.tls_bindings.end());
  for (link::TlsBinding& binding : rare.tls_bindings) binding.owner = {};
  rare.tls_ld = module.tls_ld;
  if (module.rewritten.empty()) return;
  link::Module::List<std::uint32_t> rewritten = module.rewritten;
  std::sort(rewritten.begin(), rewritten.end());
  rewritten.erase(std::unique(rewritten.begin(), rewritten.end()), rewritten.end());
  for (std::uint32_t section : rewritten) keep_replaced(rare, module, section);
  if (rare.replaced.empty()) rare.replaced = {}; // the room, too
}

// Whatever of the section the relocations alone do not bring back.
void KeptRelocations::keep_replaced(RareRelocations& rare, const link::Module& module, std::uint32_t section) const {
  const Bytes original = module.sections()[section].content;
  const std::byte* linked = module.places[section].local;
  std::vector<std::byte> bytes(linked, linked + original.size());
  restore(section, bytes, module.section_kind(section) == SectionKind::code);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    at = first_difference(bytes, original, at);
    if (at == bytes.size()) return;
    Replaced piece{at, section, 0, {}};
    // Up to the last byte that differs.
    for (std::size_t i = 0; i < piece.bytes.size() && at + i < bytes.size(); ++i)
      if (bytes[at + i] != original[at + i]) piece.size = std::uint8_t(i + 1);
    std::copy_n(original.begin() + std::ptrdiff_t(at), piece.size, piece.bytes.begin());
    rare.replaced.push_back(piece);
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
  if (rare_ == nullptr) return;
  bound.entries = rare_->entries;
  bound.thunks = rare_->thunks;
  bound.tls_bindings = rare_->tls_bindings;
  bound.tls_ld = rare_->tls_ld;
}

} // namespace tenon::engine

// Packing a module's relocations for keeps, and taking them back.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/kept_relocations.h"

#include "link/arch/arch.h"

#include <cstring>
#include <utility>

namespace tenon::engine {

KeptRelocations KeptRelocations::of(const link::Module& module) {
  KeptRelocations kept;
  std::vector<Relocation> wide;
  std::size_t sections = 0, relocations = 0; // sections may have been left out since the survey
  for (std::uint32_t i : module.kept) {
    sections += module.relocations(i).empty() ? 0 : 1;
    relocations += module.relocations(i).size();
  }
  kept.sections_.reserve(sections);
  kept.words_.resize(relocations);
  std::uint64_t* word = kept.words_.data();
  for (std::uint32_t i : module.kept) {
    if (module.relocations(i).empty()) continue;
    kept.sections_.push_back({i, std::uint32_t(word - kept.words_.data()), std::uint32_t(wide.size())});
    for (const Relocation& r : module.relocations(i)) {
      const bool narrow = fits(r);
      *word++ = narrow ? pack(r) : std::uint64_t(escape) << 48;
      if (!narrow) wide.push_back(r);
    }
  }
  const bool any = !wide.empty() || !module.entries.empty() || !module.thunks.empty() || !module.tls_bindings.empty() ||
                   module.tls_ld != link::none || !module.rewritten.empty();
  if (!any) return kept;
  Rare& rare = kept.rare_.emplace_back();
  rare.wide.assign(wide.begin(), wide.end());
  rare.entries.assign(module.entries.begin(), module.entries.end());
  rare.thunks.assign(module.thunks.begin(), module.thunks.end());
  rare.tls_bindings.assign(module.tls_bindings.begin(), module.tls_bindings.end());
  for (link::TlsBinding& binding : rare.tls_bindings) binding.owner = {};
  rare.tls_ld = module.tls_ld;
  if (!module.rewritten.empty()) {
    base::Vector<std::uint32_t> rewritten = module.rewritten;
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

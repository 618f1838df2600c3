// Joins and relocates an object's debug sections. See debug_image.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_image.h"

#include "base/bytes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

namespace tenon::object {

namespace {

// In the order of DebugSection.
constexpr std::array<std::string_view, debug_sections> wanted = {"info",     "types",       "abbrev", "str",
                                                                 "line_str", "str_offsets", "addr"};
constexpr std::size_t info = 0, abbrev = 2;
constexpr std::size_t unwanted = wanted.size();

// One object has no more; a reader's time is bounded by it.
constexpr std::uint64_t largest = std::uint64_t(1) << 28;

// psABI x86-64, "Relocation Types".
constexpr std::uint32_t r_64 = 1, r_32 = 10, r_dtpoff64 = 17, r_dtpoff32 = 21;

std::size_t which(const Section& section) noexcept {
  std::string_view name = section.name;
  if (section.allocated) return unwanted;
  for (std::string_view prefix : {".debug_", ".zdebug_"})
    if (name.starts_with(prefix))
      return std::size_t(std::find(wanted.begin(), wanted.end(), name.substr(prefix.size())) - wanted.begin());
  return unwanted;
}

class Maker {
public:
  explicit Maker(const Object& object) : object_(object) {}

  std::optional<DebugImage> make() {
    if (!choose_addresses() || !join()) return std::nullopt;
    if (joined_[info].empty() || joined_[abbrev].empty()) return std::nullopt;
    for (std::uint32_t i = 0; i < object_.sections().size(); ++i) relocate(i);
    return std::move(image_);
  }

private:
  // Below 4 GiB, because debug information may hold addresses (offsets of thread-local variables) of 4 bytes; with a gap
  // behind each section, so that its end is not the beginning of the next.
  bool choose_addresses() {
    std::uint64_t next = 4096;
    for (const Section& section : object_.sections()) {
      image_.bases.push_back(next);
      if (!section.allocated) continue;
      if (section.size > std::numeric_limits<std::uint32_t>::max() - next - 32) return false;
      next += section.size + 16;
      if (next > std::numeric_limits<std::uint32_t>::max() - 32) return false;
    }
    return true;
  }

  bool join() {
    const std::span<const Section> sections = object_.sections();
    offsets_.resize(sections.size());
    std::uint64_t total = 0;
    for (std::uint32_t i = 0; i < sections.size(); ++i) {
      const std::size_t kind = which(sections[i]);
      if (kind == unwanted) continue;
      if (sections[i].size > largest || (total += sections[i].size) > largest) return false;
      std::vector<std::byte>& joined = joined_[kind];
      offsets_[i] = joined.size();
      if (!sections[i].compressed) {
        joined.insert(joined.end(), sections[i].content.begin(), sections[i].content.end());
        continue;
      }
      Result<std::vector<std::byte>> bytes = object_.uncompressed(i, largest);
      if (!bytes) return false;
      joined.insert(joined.end(), bytes->begin(), bytes->end());
    }
    return true;
  }

  // The symbol's offset in the joined section, or its made-up address; 0 where there is nothing to tell.
  std::uint64_t value_of(const Symbol& symbol) const noexcept {
    if (symbol.section == section_absolute) return symbol.value;
    if (symbol.section == section_undefined || symbol.section >= object_.sections().size()) return 0;
    const Section& section = object_.sections()[symbol.section];
    if (symbol.value > section.size) return 0;
    if (section.allocated) return image_.bases[symbol.section] + symbol.value;
    return offsets_[symbol.section] + symbol.value;
  }

  void relocate(std::uint32_t index) {
    const std::size_t kind = which(object_.sections()[index]);
    if (kind == unwanted) return;
    const std::uint64_t size = object_.sections()[index].size;
    std::byte* bytes = joined_[kind].data() + offsets_[index];
    for (const Relocation& r : object_.relocations(index)) {
      const bool wide = r.type == r_64 || r.type == r_dtpoff64;
      if (!wide && r.type != r_32 && r.type != r_dtpoff32) continue;
      if (!base::range_fits(r.offset, wide ? 8 : 4, size)) continue;
      const std::uint64_t value = value_of(object_.symbols()[r.symbol]) + std::uint64_t(r.addend);
      if (wide)
        base::store_le<std::uint64_t>(bytes + r.offset, value);
      else
        base::store_le<std::uint32_t>(bytes + r.offset, std::uint32_t(value));
    }
  }

  const Object& object_;
  DebugImage image_;
  std::array<std::vector<std::byte>, debug_sections>& joined_ = image_.sections;
  std::vector<std::uint64_t> offsets_; // of each section of the object, in its joined one
};

} // namespace

std::optional<DebugImage::Place> DebugImage::place_of(std::uint64_t address) const noexcept {
  const auto after = std::upper_bound(bases.begin(), bases.end(), address);
  if (after == bases.begin()) return std::nullopt;
  const auto at = std::prev(after);
  return Place{std::uint32_t(at - bases.begin()), address - *at};
}

std::optional<DebugImage> make_debug_image(const Object& object) {
  if (object.machine() != Machine::x86_64) return std::nullopt;
  return Maker(object).make();
}

} // namespace tenon::object

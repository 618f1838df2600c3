// Choosing addresses. Blocks come one for each section (Granularity::function), so every section can have its own place.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "place.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace tenon::cli {

namespace {

constexpr std::uint64_t default_base = 0x10000000;
constexpr std::uint64_t page = 4096;

struct Block {
  std::string_view module, section;
  Segment segment = Segment::text;
  int rule = -1; // of its own, not its segment's
};

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

Error invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

std::optional<Segment> segment_named(std::string_view name) {
  for (std::size_t i = 0; i < segment_count; ++i)
    if (name == to_string(Segment(i))) return Segment(i);
  return std::nullopt;
}

// FILE:SECTION goes before SECTION, whatever their order.
int rule_for(const Block& block, std::span<const AtRule> rules) {
  int found = -1;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const std::string& what = rules[i].what;
    if (segment_named(what)) continue;
    std::size_t colon = what.rfind(':');
    std::string_view file = colon == std::string::npos ? std::string_view{} : std::string_view(what).substr(0, colon);
    if (colon != std::string::npos && what.substr(colon + 1) == block.section &&
        (file == block.module || file == base_name(block.module)))
      return static_cast<int>(i);
    if (what == block.section) found = static_cast<int>(i);
  }
  return found;
}

std::vector<Block> describe_blocks(std::span<const BlockRequest> requests, std::span<const ModuleLayout> layouts,
                                   std::span<const AtRule> rules) {
  std::vector<Block> blocks(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    for (const ModuleLayout& layout : layouts) {
      if (layout.id != requests[i].module) continue;
      blocks[i].module = layout.name;
      for (const SectionLayout& section : layout.sections)
        if (!requests[i].parts.empty() && section.id == requests[i].parts.front().section) {
          blocks[i].section = section.name;
          blocks[i].segment = segment_of(section.name, section.kind);
        }
    }
    blocks[i].rule = rule_for(blocks[i], rules);
  }
  return blocks;
}

// Addresses that are taken: of what was named by --at. The rest is laid out around it.
struct Taken {
  std::uint64_t begin = 0, end = 0;
};

// Lays blocks out one after another.
class Cursor {
public:
  Cursor(std::uint64_t address, std::span<const Taken> avoid) : address_(address), avoid_(avoid) {}

  // False at the end of the address space.
  bool put(const BlockRequest& request, Addr& at) {
    for (bool moved = true; moved;) {
      std::uint64_t aligned = (address_ + request.alignment - 1) & ~(request.alignment - 1);
      if (aligned < address_ || aligned + request.size < aligned) return false;
      address_ = aligned;
      moved = false;
      for (const Taken& taken : avoid_)
        if (address_ < taken.end && taken.begin < address_ + request.size) {
          address_ = taken.end;
          moved = true;
        }
    }
    at = {address_};
    address_ += request.size;
    return true;
  }
  void next_page() { address_ = (address_ + page - 1) & ~(page - 1); }
  std::uint64_t address() const { return address_; }

private:
  std::uint64_t address_;
  std::span<const Taken> avoid_;
};

Result<void> place_rule(std::size_t rule, std::span<const AtRule> rules, std::span<const BlockRequest> requests,
                        std::span<const Block> blocks, std::vector<Addr>& addresses) {
  Cursor cursor(rules[rule].address.value, {});
  bool first = true;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].rule != static_cast<int>(rule)) continue;
    if (first && rules[rule].address.value % requests[i].alignment != 0)
      return invalid(rules[rule].text + ": section " + std::string(blocks[i].section) + " of " +
                     std::string(blocks[i].module) + " must be aligned to " + std::to_string(requests[i].alignment));
    if (!cursor.put(requests[i], addresses[i])) return invalid(rules[rule].text + ": beyond the end of the address space");
    first = false;
  }
  if (first)
    return invalid(rules[rule].text + ": no module has a section " + rules[rule].what +
                   " (hint: segments are text, stubs, rodata, unwind, got, slots, data, tls, bss; --map shows sections)");
  return {};
}

Result<void> check_overlap(std::span<const BlockRequest> requests, std::span<const Block> blocks,
                           std::span<const Addr> addresses) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < requests.size(); ++i)
    if (requests[i].size != 0) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return addresses[a] < addresses[b]; });
  for (std::size_t n = 1; n < order.size(); ++n) {
    std::size_t a = order[n - 1], b = order[n];
    if (addresses[b] - addresses[a] >= requests[a].size) continue;
    auto named = [&](std::size_t i) {
      return std::string(blocks[i].section) + " of " + std::string(blocks[i].module) + " at " + hex(addresses[i].value);
    };
    return invalid(named(b) + " overlaps " + named(a) + ", which takes " + hex(requests[a].size) +
                   " bytes (hint: move one of them with --at)");
  }
  return {};
}

} // namespace

const char* to_string(Segment segment) {
  static constexpr const char* names[segment_count] = {"text",  "stubs", "rodata", "unwind", "got",
                                                       "slots", "data",  "tls",    "bss"};
  return names[static_cast<std::size_t>(segment)];
}

Segment segment_of(std::string_view section, SectionKind kind) {
  if (section == ".tenon.stubs") return Segment::stubs;
  if (section == ".tenon.got") return Segment::got;
  if (section == ".tenon.slots") return Segment::slots;
  switch (kind) {
  case SectionKind::code: return Segment::text;
  case SectionKind::rodata: return Segment::rodata;
  case SectionKind::unwind: return Segment::unwind;
  case SectionKind::zero: return Segment::bss;
  case SectionKind::tls_data:
  case SectionKind::tls_zero: return Segment::tls;
  default: return Segment::data;
  }
}

Result<AtRule> parse_assignment(const std::string& text, const std::string& option) {
  std::size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
    return invalid(option + " " + text + ": NAME=ADDR is expected");
  std::string number = text.substr(equals + 1);
  char* end = nullptr;
  errno = 0;
  std::uint64_t value = std::strtoull(number.c_str(), &end, 0);
  bool digit_first = number[0] >= '0' && number[0] <= '9';
  if (!digit_first || *end != '\0') return invalid(option + " " + text + ": '" + number + "' is no address");
  if (errno == ERANGE) return invalid(option + " " + text + ": " + number + " has more than 64 bits");
  return AtRule{text.substr(0, equals), {value}, option + " " + text};
}

std::string_view base_name(std::string_view module) {
  std::size_t member = module.ends_with(')') ? module.find('(') : std::string_view::npos;
  std::size_t slash = module.substr(0, member).rfind('/');
  return slash == std::string_view::npos ? module : module.substr(slash + 1);
}

Result<std::vector<Addr>> choose_addresses(std::span<const BlockRequest> requests, std::span<const ModuleLayout> layouts,
                                           std::span<const AtRule> rules) {
  std::vector<Block> blocks = describe_blocks(requests, layouts, rules);
  std::vector<Addr> addresses(requests.size());
  std::optional<std::uint64_t> base[segment_count];
  std::optional<Cursor> end[segment_count];
  std::vector<Taken> taken;
  auto place_segment = [&](std::size_t segment, Cursor cursor) -> Result<void> {
    for (std::size_t i = 0; i < requests.size(); ++i)
      if (blocks[i].rule < 0 && blocks[i].segment == Segment(segment) && !cursor.put(requests[i], addresses[i]))
        return invalid("segment " + std::string(to_string(Segment(segment))) +
                       " reaches beyond the end of the address space (hint: --at " + to_string(Segment(segment)) +
                       "=ADDR moves it)");
    end[segment].emplace(cursor);
    return {};
  };

  // What was named comes first, exactly there; the others find their places around it.
  for (std::size_t i = 0; i < rules.size(); ++i) {
    std::optional<Segment> segment = segment_named(rules[i].what);
    if (segment) base[static_cast<std::size_t>(*segment)] = rules[i].address.value;
    if (Result<void> placed = segment ? Result<void>() : place_rule(i, rules, requests, blocks, addresses); !placed)
      return Error(placed.error());
  }
  for (std::size_t s = 0; s < segment_count; ++s)
    if (base[s])
      if (Result<void> placed = place_segment(s, Cursor(*base[s], {})); !placed) return Error(placed.error());
  for (std::size_t i = 0; i < requests.size(); ++i)
    if (blocks[i].rule >= 0 || base[static_cast<std::size_t>(blocks[i].segment)])
      if (requests[i].size != 0) taken.push_back({addresses[i].value, addresses[i].value + requests[i].size});
  for (std::size_t s = 0; s < segment_count; ++s) {
    if (base[s]) continue;
    Cursor cursor(s == 0 ? default_base : end[s - 1]->address(), taken);
    cursor.next_page();
    if (Result<void> placed = place_segment(s, cursor); !placed) return Error(placed.error());
  }
  if (Result<void> apart = check_overlap(requests, blocks, addresses); !apart) return Error(apart.error());
  return addresses;
}

} // namespace tenon::cli

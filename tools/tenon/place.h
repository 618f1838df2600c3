// Addresses for `tenon link`: which block goes where.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/change.h>
#include <tenon/result.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::cli {

// In the order in which they follow each other where no address is given.
enum class Segment : unsigned char { text, stubs, rodata, unwind, got, slots, data, tls, bss };
inline constexpr std::size_t segment_count = 9;
const char* to_string(Segment segment);
Segment segment_of(std::string_view section, SectionKind kind);

// --at WHAT=ADDR: a segment, a section's exact name, or FILE:SECTION.
struct AtRule {
  std::string what;
  Addr address;
  std::string text; // as it was given, for messages
};

// The address that stands in "NAME=ADDR" behind the last '='; decimal, 0x or 0. Errors: invalid_argument.
Result<AtRule> parse_assignment(const std::string& text, const std::string& option);

// "a.o" of "/x/a.o", "lib.a(b.o)" of "/x/lib.a(b.o)": what rules and checks call a module.
std::string_view base_name(std::string_view module);

// One address for each block. A segment without a rule follows the one before it on a new page; the first one begins at
// 0x10000000. Sections with a rule of their own leave their segment. Errors: invalid_argument (nothing of that name,
// alignment, overlap).
Result<std::vector<Addr>> choose_addresses(std::span<const BlockRequest> blocks, std::span<const ModuleLayout> layouts,
                                           std::span<const AtRule> rules);

} // namespace tenon::cli

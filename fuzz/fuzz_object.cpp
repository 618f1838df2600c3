// Arbitrary bytes as an object and as an archive: every view of what is accepted is touched, down to uncompressed sections
// and debug information.
// What counts is that nothing crashes, hangs, or takes memory out of proportion (run it with sanitizers).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_info.h"

#include <cstdlib>

namespace {

using namespace tenon;

volatile std::uint64_t sink; // reads must not be optimized away

constexpr std::uint64_t uncompressed_limit = 1 << 20;

void require(bool condition) {
  if (!condition) std::abort(); // the reader's promise is broken
}

void touch(const Object& object) {
  std::uint64_t sum = 0;
  const auto sections = object.sections();
  const auto symbols = object.symbols();
  require(!sections.empty() && !symbols.empty());
  for (std::uint32_t index = 0; index < sections.size(); ++index) {
    const Section& section = sections[index];
    require(section.alignment != 0 && (section.alignment & (section.alignment - 1)) == 0);
    require(section.group < static_cast<std::int64_t>(object.groups().size()));
    require(section.link_order < sections.size());
    require(section.compressed || section.content.empty() || section.content.size() == section.size);
    if (!section.content.empty())
      sum += std::to_integer<unsigned>(section.content.front()) + std::to_integer<unsigned>(section.content.back());
    sum += section.name.size();
    for (const Relocation& relocation : object.relocations(index)) {
      require(relocation.symbol < symbols.size());
      sum += relocation.offset + relocation.type + static_cast<std::uint64_t>(relocation.addend);
    }
    if (section.compressed) {
      if (const auto bytes = object.uncompressed(index, uncompressed_limit)) {
        require(bytes->size() == section.size);
        sum += bytes->size();
      }
    }
  }
  for (const Symbol& symbol : symbols) {
    require(symbol.section < sections.size() || symbol.section == section_absolute || symbol.section == section_common);
    sum += *symbol.name_begin == '\0' ? 0 : 1; // whole names would be quadratic in hostile files
  }
  require(symbols[0].name().empty() && symbols.back().name().size() <= object.bytes().size());
  for (const Group& group : object.groups()) {
    sum += group.signature.size();
    for (std::uint32_t member : group.sections) require(member < sections.size() && sections[member].group >= 0);
  }
  if (const auto info = object::read_debug_info(object)) sum += info->variables.size() + info->functions.size();
  sink = sum;
}

void touch(const Archive& archive) {
  for (std::size_t index = 0; index < archive.size(); ++index) {
    sink = archive.member_name(index).size();
    if (const auto object = archive.member(index)) touch(*object);
  }
  for (const char* symbol : {"main", "f", "", "nothing defines this"})
    if (const auto found = archive.find(symbol); found && *found) require(**found < archive.size());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const tenon::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  if (const auto object = tenon::Object::borrow(bytes, nullptr, "fuzzed.o"))
    touch(*object);
  else
    require(object.error().message.starts_with("fuzzed.o: "));
  const auto loader = [&](std::string_view) -> tenon::Result<std::vector<std::byte>> {
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  if (const auto archive = tenon::Archive::borrow(bytes, nullptr, "fuzzed.a", loader)) touch(*archive);
  return 0;
}

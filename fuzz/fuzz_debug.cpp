// Arbitrary bytes as debug sections: what an object's relocations would put in them is in the input, so that no mutation is
// lost to them. What counts is that nothing crashes, hangs, or takes memory out of proportion.
//
// The input: for each of the sections below 4 bytes of size, then as many of content; a size that is too large means the
// rest. The program that they speak of has code at 0x1000, data at 0x2010 and zeroes at 0x3020, 4096 bytes each.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_info.h"
#include "object/elf_format.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

using namespace tenon;
namespace elf = object::elf;

constexpr std::array<std::string_view, 7> names = {".debug_info",     ".debug_types",       ".debug_abbrev", ".debug_str",
                                                   ".debug_line_str", ".debug_str_offsets", ".debug_addr"};
constexpr std::uint64_t program_bytes = 4096;
constexpr std::size_t fixed = 6;         // nothing, names, symbols, code, data, zeroes
constexpr std::uint32_t type_nobits = 8; // SHT_NOBITS
constexpr std::size_t symbol_bytes = 24;

volatile std::uint64_t sink; // reads must not be optimized away

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

class Maker {
public:
  std::vector<std::byte> make(Bytes input) {
    elf::Header header{};
    append(&header, sizeof header);
    const std::vector<std::byte> nothing(program_bytes);
    const std::array<std::byte, symbol_bytes> symbols{};
    add("", {}, 0, 0);
    add(".shstrtab", {}, elf::sht_strtab, 0); // its content comes last
    add(".symtab", symbols, elf::sht_symtab, 0);
    sections_.back().link = 1;
    sections_.back().info = 1;
    sections_.back().entsize = symbol_bytes;
    add(".text", nothing, elf::sht_progbits, elf::shf_alloc | elf::shf_execinstr);
    add(".data", nothing, elf::sht_progbits, elf::shf_alloc | elf::shf_write);
    add(".bss", {}, type_nobits, elf::shf_alloc | elf::shf_write);
    sections_.back().size = program_bytes;
    for (std::string_view name : names) add(name, take(input), elf::sht_progbits, 0);
    sections_[1].size = names_.size();
    sections_[1].offset = append(names_.data(), names_.size());
    const unsigned char ident[] = {0x7F, 'E', 'L', 'F', elf::class_64, elf::data_little, elf::version_current};
    std::copy(std::begin(ident), std::end(ident), header.ident);
    header.type = elf::et_rel;
    header.machine = elf::em_x86_64;
    header.version = elf::version_current;
    header.shoff = append(sections_.data(), sections_.size() * sizeof(elf::SectionHeader));
    header.ehsize = sizeof header;
    header.shentsize = sizeof(elf::SectionHeader);
    header.shnum = std::uint16_t(sections_.size());
    header.shstrndx = 1;
    std::memcpy(file_.data(), &header, sizeof header);
    return std::move(file_);
  }

private:
  static Bytes take(Bytes& input) {
    std::uint32_t size = 0;
    if (input.size() < sizeof size) return {};
    std::memcpy(&size, input.data(), sizeof size);
    input = input.subspan(sizeof size);
    const Bytes taken = input.first(std::min<std::size_t>(size, input.size()));
    input = input.subspan(taken.size());
    return taken;
  }
  std::uint64_t append(const void* bytes, std::size_t size) {
    file_.resize((file_.size() + 7) / 8 * 8);
    const std::uint64_t at = file_.size();
    file_.resize(at + size);
    if (size != 0) std::memcpy(file_.data() + at, bytes, size);
    return at;
  }
  void add(std::string_view name, Bytes content, std::uint32_t type, std::uint64_t flags) {
    elf::SectionHeader& section = sections_.emplace_back();
    section.name = std::uint32_t(names_.size());
    names_.append(name).push_back('\0');
    section.type = type;
    section.flags = flags;
    section.addralign = type == 0 ? 0 : 1;
    if (type == 0) return;
    section.size = content.size();
    section.offset = append(content.data(), content.size());
  }

  std::vector<std::byte> file_;
  std::vector<elf::SectionHeader> sections_;
  std::string names_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> file = Maker().make({reinterpret_cast<const std::byte*>(data), size});
  const auto object = Object::borrow(file, nullptr, "debug.o");
  require(object.ok(), "the fuzzer's own object is one");
  const std::optional<object::DebugInfo> info = object::read_debug_info(*object);
  if (!info) return 0;
  std::uint64_t sum = 0;
  for (const object::DebugVariable& variable : info->variables) {
    require(variable.section >= 3 && variable.section < fixed && variable.offset <= program_bytes + 16,
            "a variable lies in the program");
    sum += variable.path.size() + variable.place.size();
  }
  for (std::size_t i = 1; i < info->functions.size(); ++i)
    require(info->functions[i - 1].name < info->functions[i].name, "functions are in order, each once");
  for (const object::DebugFunction& function : info->functions)
    require(object::same_signature(function.signature, function.signature), "a signature is like itself");
  sink = sum;
  return 0;
}

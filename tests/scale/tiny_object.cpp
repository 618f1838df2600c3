// Writes ELF64 by <elf.h>: .text, .eh_frame, their relocations and the three tables.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tiny_object.h"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace scale {
namespace {

enum Index : std::uint16_t { null, text, text_rela, frame, frame_rela, symbols, strings, names, sections };

constexpr char section_names[] = "\0.text\0.rela.text\0.eh_frame\0.rela.eh_frame\0.symtab\0.strtab\0.shstrtab";
constexpr std::uint32_t name_at[sections] = {0, 1, 7, 18, 28, 43, 51, 59};

class Bytes {
public:
  template <class T> void put(const T& value) { append(&value, sizeof value); }
  void append(const void* from, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(from);
    bytes.insert(bytes.end(), begin, begin + size);
  }
  void align(std::size_t to) { bytes.resize((bytes.size() + to - 1) / to * to); }

  std::vector<std::byte> bytes;
};

constexpr std::uint32_t call_size = 5, function_size = 16, section_symbol = 1, first_function = 2;

std::uint32_t first_size(Shape shape) {
  return (shape.calls * call_size + 1 + function_size - 1) / function_size * function_size;
}

std::uint32_t place_of(unsigned function, Shape shape) {
  return function == 0 ? 0 : first_size(shape) + (function - 1) * function_size;
}

// `call callee` as often as wanted, and ret; the others are ret alone.
Bytes code(Shape shape) {
  Bytes out;
  out.bytes.resize(place_of(shape.functions, shape), std::byte{0xCC});
  for (unsigned i = 0; i < shape.calls; ++i) { // relocated fields hold zero, as assemblers leave them
    std::fill_n(out.bytes.begin() + i * call_size, call_size, std::byte{0});
    out.bytes[i * call_size] = std::byte{0xE8};
  }
  out.bytes[shape.calls * call_size] = std::byte{0xC3};
  for (unsigned i = 1; i < shape.functions; ++i) out.bytes[place_of(i, shape)] = std::byte{0xC3};
  return out;
}

Bytes code_relocations(Shape shape) {
  Bytes out;
  for (unsigned i = 0; i < shape.calls; ++i)
    out.put(Elf64_Rela{i * call_size + 1, ELF64_R_INFO(Elf64_Xword(first_function + shape.functions), R_X86_64_PLT32), -4});
  return out;
}

// A CIE ("zR", addresses relative to their place, the return address at CFA - 8) and an FDE for each function.
constexpr unsigned char cie[24] = {0x14, 0,    0,    0, 0,    0,    0, 0, 1,    'z', 'R', 0,
                                   1,    0x78, 0x10, 1, 0x1B, 0x0C, 7, 8, 0x90, 1,   0,   0};
constexpr std::uint32_t fde_size = 24;

Bytes frames(Shape shape) {
  Bytes out;
  out.append(cie, sizeof cie);
  for (unsigned i = 0; i < shape.functions; ++i) {
    out.put(fde_size - 4);
    out.put(static_cast<std::uint32_t>(out.bytes.size())); // the distance to the CIE, which lies at 0
    out.put(std::uint32_t{0});                             // where the function begins, relocated
    out.put(place_of(i + 1, shape) - place_of(i, shape));
    out.put(std::uint64_t{0}); // no augmentation data, and seven nops
  }
  return out;
}

Bytes frame_relocations(Shape shape) {
  Bytes out;
  for (unsigned i = 0; i < shape.functions; ++i)
    out.put(Elf64_Rela{sizeof cie + i * fde_size + 8, ELF64_R_INFO(Elf64_Xword(section_symbol), R_X86_64_PC32),
                       static_cast<Elf64_Sxword>(place_of(i, shape))});
  return out;
}

void make_symbols(const std::string& name, const std::string& callee, Shape shape, Bytes& table, Bytes& texts) {
  auto put_name = [&](const std::string& one) {
    auto at = static_cast<Elf64_Word>(texts.bytes.size());
    texts.append(one.c_str(), one.size() + 1);
    return at;
  };
  texts.put('\0');
  table.put(Elf64_Sym{});
  table.put(Elf64_Sym{0, ELF64_ST_INFO(STB_LOCAL, STT_SECTION), STV_DEFAULT, text, 0, 0});
  for (unsigned i = 0; i < shape.functions; ++i)
    table.put(Elf64_Sym{put_name(i == 0 ? name : name + "." + std::to_string(i)), ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
                        STV_DEFAULT, text, place_of(i, shape), place_of(i + 1, shape) - place_of(i, shape)});
  if (shape.calls != 0)
    table.put(Elf64_Sym{put_name(callee), ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE), STV_DEFAULT, SHN_UNDEF, 0, 0});
}

} // namespace

std::vector<std::byte> tiny_object(const std::string& name, const std::string& callee, Shape shape) {
  Bytes content[sections];
  content[text] = code(shape);
  content[text_rela] = code_relocations(shape);
  content[frame] = frames(shape);
  content[frame_rela] = frame_relocations(shape);
  make_symbols(name, callee, shape, content[symbols], content[strings]);
  content[names].append(section_names, sizeof section_names);

  Elf64_Shdr headers[sections] = {};
  auto describe = [&](Index index, Elf64_Word type, Elf64_Xword flags, Elf64_Word link, Elf64_Word info, Elf64_Xword align,
                      Elf64_Xword entry) {
    headers[index] = {name_at[index], type, flags, 0, 0, content[index].bytes.size(), link, info, align, entry};
  };
  describe(text, SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, 0, 0, 16, 0);
  describe(text_rela, SHT_RELA, SHF_INFO_LINK, symbols, text, 8, sizeof(Elf64_Rela));
  describe(frame, SHT_PROGBITS, SHF_ALLOC, 0, 0, 8, 0);
  describe(frame_rela, SHT_RELA, SHF_INFO_LINK, symbols, frame, 8, sizeof(Elf64_Rela));
  describe(symbols, SHT_SYMTAB, 0, strings, first_function, 8, sizeof(Elf64_Sym));
  describe(strings, SHT_STRTAB, 0, 0, 0, 1, 0);
  describe(names, SHT_STRTAB, 0, 0, 0, 1, 0);

  Bytes file;
  file.bytes.resize(sizeof(Elf64_Ehdr));
  for (unsigned i = 1; i < sections; ++i) {
    file.align(16);
    headers[i].sh_offset = file.bytes.size();
    file.append(content[i].bytes.data(), content[i].bytes.size());
  }
  file.align(16);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_REL;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_shoff = file.bytes.size();
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = sections;
  header.e_shstrndx = names;
  std::memcpy(file.bytes.data(), &header, sizeof header);
  file.append(headers, sizeof headers);
  return std::move(file.bytes);
}

} // namespace scale

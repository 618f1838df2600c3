// The records and numbers of ELF64 that a relocatable file is made of, written down here instead of taken from <elf.h>: no
// macros, the same on every host, and the newer numbers are always there.
//
// System V gABI (https://gabi.xinuos.com): chapters "ELF Header", "Sections", "Symbol Table", "Relocation".
// psABI x86-64 (https://gitlab.com/x86-psABIs/x86-64-ABI): SHT_X86_64_UNWIND, SHF_X86_64_LARGE, SHN_X86_64_LCOMMON.
// GNU gABI extensions (https://sourceware.org/gnu-gabi): STB_GNU_UNIQUE, STT_GNU_IFUNC, SHF_GNU_RETAIN.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>

namespace tenon::object::elf {

// --- ELF header ---
inline constexpr unsigned char class_32 = 1, class_64 = 2;    // EI_CLASS, ident[4]
inline constexpr unsigned char data_little = 1, data_big = 2; // EI_DATA, ident[5]
inline constexpr unsigned char version_current = 1;           // EI_VERSION, ident[6]

inline constexpr std::uint16_t et_rel = 1, et_exec = 2, et_dyn = 3, et_core = 4;
inline constexpr std::uint16_t em_386 = 3, em_ppc64 = 21, em_s390 = 22, em_arm = 40, em_x86_64 = 62, em_aarch64 = 183,
                               em_riscv = 243, em_bpf = 247, em_loongarch = 258;

struct Header { // Elf64_Ehdr
  unsigned char ident[16];
  std::uint16_t type;
  std::uint16_t machine;
  std::uint32_t version;
  std::uint64_t entry;
  std::uint64_t phoff;
  std::uint64_t shoff;
  std::uint32_t flags;
  std::uint16_t ehsize;
  std::uint16_t phentsize;
  std::uint16_t phnum;
  std::uint16_t shentsize;
  std::uint16_t shnum;
  std::uint16_t shstrndx;
};
static_assert(sizeof(Header) == 64);

// --- Sections ---
struct SectionHeader { // Elf64_Shdr
  std::uint32_t name;
  std::uint32_t type;
  std::uint64_t flags;
  std::uint64_t addr;
  std::uint64_t offset;
  std::uint64_t size;
  std::uint32_t link;
  std::uint32_t info;
  std::uint64_t addralign;
  std::uint64_t entsize;
};
static_assert(sizeof(SectionHeader) == 64);

inline constexpr std::uint32_t sht_null = 0, sht_progbits = 1, sht_symtab = 2, sht_strtab = 3, sht_rela = 4, sht_note = 7,
                               sht_nobits = 8, sht_rel = 9, sht_dynsym = 11, sht_init_array = 14, sht_fini_array = 15,
                               sht_preinit_array = 16, sht_group = 17, sht_symtab_shndx = 18, sht_relr = 19;
inline constexpr std::uint32_t sht_crel = 0x40000014; // LLVM: compact relocations
inline constexpr std::uint32_t sht_android_rel = 0x60000001, sht_android_rela = 0x60000002;
inline constexpr std::uint32_t sht_x86_64_unwind = 0x70000001;

inline constexpr std::uint64_t shf_write = 0x1, shf_alloc = 0x2, shf_execinstr = 0x4, shf_merge = 0x10, shf_strings = 0x20,
                               shf_link_order = 0x80, shf_tls = 0x400, shf_compressed = 0x800, shf_gnu_retain = 0x200000,
                               shf_x86_64_large = 0x10000000, shf_exclude = 0x80000000;

inline constexpr std::uint32_t shn_undef = 0, shn_loreserve = 0xFF00, shn_x86_64_lcommon = 0xFF02, shn_abs = 0xFFF1,
                               shn_common = 0xFFF2, shn_xindex = 0xFFFF;

inline constexpr std::uint32_t grp_comdat = 1;

struct CompressionHeader { // Elf64_Chdr
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t size;
  std::uint64_t addralign;
};
static_assert(sizeof(CompressionHeader) == 24);
inline constexpr std::uint32_t elfcompress_zlib = 1, elfcompress_zstd = 2;

// --- Symbols ---
struct Symbol { // Elf64_Sym
  std::uint32_t name;
  unsigned char info;  // binding in the high four bits, type in the low ones
  unsigned char other; // visibility in the low two bits
  std::uint16_t shndx;
  std::uint64_t value;
  std::uint64_t size;
};
static_assert(sizeof(Symbol) == 24);

inline constexpr unsigned stb_local = 0, stb_global = 1, stb_weak = 2, stb_gnu_unique = 10;
inline constexpr unsigned stt_notype = 0, stt_object = 1, stt_func = 2, stt_section = 3, stt_file = 4, stt_common = 5,
                          stt_tls = 6, stt_gnu_ifunc = 10;

// --- Relocations --- Elf64_Rela is tenon::Relocation itself: offset, type (low half of r_info), symbol (high half), addend.
inline constexpr std::uint64_t rela_size = 24;

} // namespace tenon::object::elf

// Relocation types by number: System V ABI, AMD64 Architecture Processor Supplement 1.0, table 4.9, with the APX additions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "relocation_names.h"

#include <iterator>

namespace tenon::cli {

namespace {

// 39 and 40 were used by MPX (PC32_BND, PLT32_BND) and are retired.
constexpr const char* x86_64_names[] = {
    "NONE",
    "64",
    "PC32",
    "GOT32",
    "PLT32",
    "COPY",
    "GLOB_DAT",
    "JUMP_SLOT",
    "RELATIVE",
    "GOTPCREL",
    "32",
    "32S",
    "16",
    "PC16",
    "8",
    "PC8",
    "DTPMOD64",
    "DTPOFF64",
    "TPOFF64",
    "TLSGD",
    "TLSLD",
    "DTPOFF32",
    "GOTTPOFF",
    "TPOFF32",
    "PC64",
    "GOTOFF64",
    "GOTPC32",
    "GOT64",
    "GOTPCREL64",
    "GOTPC64",
    "GOTPLT64",
    "PLTOFF64",
    "SIZE32",
    "SIZE64",
    "GOTPC32_TLSDESC",
    "TLSDESC_CALL",
    "TLSDESC",
    "IRELATIVE",
    "RELATIVE64",
    "PC32_BND",
    "PLT32_BND",
    "GOTPCRELX",
    "REX_GOTPCRELX",
    "CODE_4_GOTPCRELX",
    "CODE_4_GOTTPOFF",
    "CODE_4_GOTPC32_TLSDESC",
    "CODE_5_GOTPCRELX",
    "CODE_5_GOTTPOFF",
    "CODE_5_GOTPC32_TLSDESC",
    "CODE_6_GOTPCRELX",
    "CODE_6_GOTTPOFF",
    "CODE_6_GOTPC32_TLSDESC",
};

} // namespace

std::string relocation_name(Machine machine, std::uint32_t type) {
  if (machine == Machine::x86_64 && type < std::size(x86_64_names)) return std::string("R_X86_64_") + x86_64_names[type];
  return "type " + std::to_string(type);
}

} // namespace tenon::cli

// Reads an ELF64 little-endian relocatable file into Object::File. See elf_reader.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/object_file.h"

namespace tenon::object {

// Fills machine, sections, symbols and groups of `file` from its bytes, which begin with the ELF magic.
Result<void> read_elf(Object::File& file);

// Checks the symbol indices of section `index`'s relocations, as reading does for allocated sections.
Result<void> check_relocations(const Object::File& file, std::uint32_t index);
bool relocations_in_range(std::span<const Relocation> relocations, std::size_t symbol_count) noexcept;

} // namespace tenon::object

// Reads an ELF64 little-endian relocatable file into Object::File. See elf_reader.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/object_file.h"

namespace tenon::object {

// `bytes` begin with the ELF magic. The arguments are what Object::borrow() has.
Result<std::shared_ptr<const Object::File>> read_elf(Bytes bytes, std::shared_ptr<const void> owner, std::string name);

// Checks the symbol indices of section `index`'s relocations, as reading does for allocated sections.
Result<void> check_relocations(const Object::File& file, std::uint32_t index);
inline bool relocations_in_range(std::span<const Relocation> relocations, std::size_t symbol_count) noexcept {
  const auto bound = static_cast<std::uint32_t>(symbol_count); // below 2^32 - 16
  std::size_t in_range = 0;                                    // counted without a jump: two instructions for each
#pragma GCC unroll 4
  for (const Relocation& relocation : relocations) in_range += relocation.symbol < bound ? 1U : 0U;
  return in_range == relocations.size();
}

} // namespace tenon::object

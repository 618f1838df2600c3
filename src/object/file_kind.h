// Says what a file is that is not an ELF object, so that the message helps.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

namespace tenon::object {

bool has_elf_magic(Bytes bytes) noexcept;
// For bytes without the ELF magic: what they are instead, and what to do about it.
Error not_an_object(Bytes bytes, std::string_view name);

} // namespace tenon::object

// A section's bytes out of their compressed form. See compressed.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/object_file.h"

namespace tenon::object {

Result<std::vector<std::byte>> uncompressed(const Object::File& file, std::uint32_t index, std::uint64_t limit);

} // namespace tenon::object

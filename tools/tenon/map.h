// The link map, and the linked bytes as files.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "check.h"

#include <tenon/change.h>

#include <span>
#include <string>

namespace tenon::cli {

// Readable by people, and by programs: each table has its columns separated by blanks, names last, a blank line behind it.
// Errors: out_of_memory.
Result<std::string> format_map(const Linked& linked, std::span<const ModuleLayout> layouts,
                               std::span<const Definition> definitions);

// Writes `text`; "-" is standard output. Errors: system.
Result<void> write_text(const std::string& path, const std::string& text);

// Writes the bytes from the lowest to the highest address, gaps and zero-filled sections as zeroes. A "%s" in the path
// stands for the segment's name and gives a file for each. Errors: system, invalid_argument (sections too far apart for one
// file).
Result<void> write_image(const std::string& path, const Linked& linked);

} // namespace tenon::cli

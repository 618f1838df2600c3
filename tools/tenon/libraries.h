// Libraries by name: what -lNAME means, as ld and clang have it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>
#include <tenon/result.h>

#include <span>
#include <string>
#include <vector>

namespace tenon::cli {

// Shared objects are opened for the whole process (RTLD_GLOBAL), as if the program had been linked with them, and for good.
struct FoundLibrary {
  std::vector<void*> handles;
  std::vector<Archive> archives;
};

// A shared object, or a linker script that names some (libc.so, libm.so). Errors: system, malformed.
Result<FoundLibrary> open_library_file(const std::string& path);

// libNAME.so, else libNAME.a, in the first directory that has either: the given ones, then the system's. A NAME that begins
// with
// ':' is a whole file name. Where only the runtime package is installed, libNAME.so.N serves. Errors: system.
Result<FoundLibrary> find_library(const std::string& name, std::span<const std::string> directories);

} // namespace tenon::cli

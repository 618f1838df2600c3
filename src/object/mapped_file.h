// A file's bytes in memory, with whatever keeps them there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

namespace tenon::object {

struct MappedFile {
  Bytes bytes;
  std::shared_ptr<const void> owner;
};

// Maps a regular file privately and read-only (so that unused parts, debug sections above all, are never read from disk)
// and reads anything else, a pipe for one, to its end. As with every mapping, a file cut short meanwhile means SIGBUS:
// whoever can't rule that out reads the file and uses Object::copy.
Result<MappedFile> map_file(const std::string& path);

} // namespace tenon::object

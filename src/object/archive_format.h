// The records of `ar` archives, GNU and BSD. There is no standard; what is written down here is what binutils
// (bfd/archive.c), LLVM (llvm/lib/Object/Archive.cpp) and the FreeBSD manual page ar(5) agree on.
//
//   "!<arch>\n" or, for a thin one, "!<thin>\n"; then members, each at an even offset: a 60-byte header, then its bytes.
//   "/"        GNU symbol index: a count, as many header offsets (big-endian, 32 bits), as many NUL-terminated names
//   "/SYM64/"  the same with 64 bits
//   "//"       GNU long names, each ended by "/\n" (in thin archives paths, which contain slashes themselves)
//   "name/"    a member with a short name; "/123" one whose name begins at offset 123 of "//"
//   "#1/20"    BSD: the first 20 bytes of the member are its name; "__.SYMDEF" and its like are BSD symbol indexes
// In a thin archive only the index and the long names have bytes; other members are files beside the archive.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <string_view>

namespace tenon::object::ar {

inline constexpr std::string_view magic = "!<arch>\n", thin_magic = "!<thin>\n";

struct Header {
  char name[16];
  char date[12];
  char uid[6];
  char gid[6];
  char mode[8];
  char size[10]; // decimal, padded with blanks
  char end[2];   // "`\n"
};
static_assert(sizeof(Header) == 60 && alignof(Header) == 1);

} // namespace tenon::object::ar

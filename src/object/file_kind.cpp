// Telling foreign files apart by their magic numbers. Only for messages: nothing here is parsed further.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/file_kind.h"

#include <algorithm>

namespace tenon::object {

namespace {

struct Magic {
  std::string_view begin;
  const char* text;
};

using namespace std::string_view_literals;

// What the file "is". Those with a NUL need the sv literal.
constexpr Magic magics[] = {
    {"!<arch>\n"sv, "is an archive, not an object: its members are objects"},
    {"!<thin>\n"sv, "is a thin archive, not an object: its members are objects"},
    {"BC\xC0\xDE"sv, "is LLVM bitcode: it must be compiled first (tenon-llvm does)"},
    {"\xDE\xC0\x17\x0B"sv, "is LLVM bitcode: it must be compiled first (tenon-llvm does)"},
    {"\xCF\xFA\xED\xFE"sv, "is a Mach-O file; only ELF is read"},
    {"\xCE\xFA\xED\xFE"sv, "is a Mach-O file; only ELF is read"},
    {"\xFE\xED\xFA\xCF"sv, "is a Mach-O file; only ELF is read"},
    {"\xFE\xED\xFA\xCE"sv, "is a Mach-O file; only ELF is read"},
    {"\xCA\xFE\xBA\xBE"sv, "is a Mach-O universal file or a Java class; only ELF is read"},
    {"MZ"sv, "is a PE executable; only ELF is read"},
    {"\x64\x86"sv, "is a COFF object; only ELF is read"},
    {"\x4C\x01"sv, "is a COFF object; only ELF is read"},
    {"\0\0\xFF\xFF"sv, "is a COFF object; only ELF is read"},
    {"\0asm"sv, "is a WebAssembly module; only ELF is read"},
};

bool is_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 ? byte != 0x7F : (byte >= '\t' && byte <= '\r');
  });
}

} // namespace

bool has_elf_magic(Bytes bytes) noexcept {
  return bytes.size() >= 4 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "\x7F"
                                                                                                  "ELF";
}

Error not_an_object(Bytes bytes, std::string_view name) {
  std::string message(name);
  if (bytes.empty()) return {ErrorCode::malformed, message + ": is empty, not an object file"};
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 512));
  for (const Magic& magic : magics)
    if (begin.starts_with(magic.begin)) return {ErrorCode::unsupported, message + ": " + magic.text};
  if (begin.size() < 4 && std::string_view("\x7F"
                                           "ELF")
                              .starts_with(begin))
    return {ErrorCode::malformed,
            message + ": is truncated: an ELF header is 64 bytes long, the file " + std::to_string(bytes.size())};
  if (is_text(begin)) {
    const bool ir = begin.starts_with("; ModuleID") || begin.starts_with("source_filename") || begin.starts_with("target ");
    return {ErrorCode::malformed, message + (ir ? ": is textual LLVM IR: it must be compiled first (tenon-llvm does)"
                                                : ": is text, not an object file")};
  }
  return {ErrorCode::malformed, message + ": is not an object file of any known format"};
}

} // namespace tenon::object

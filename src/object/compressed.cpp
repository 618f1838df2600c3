// Compressed sections: SHF_COMPRESSED with an Elf64_Chdr in front (gABI, "Section Compression": zlib, zstd), and the older
// GNU form, .zdebug_* sections that begin with "ZLIB" and the size as a big-endian number.
//
// The size is the header's claim. It is held against the limit, and against what the method can reach at best, before
// memory is asked for: so a small file can't ask for much of it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/compressed.h"

#include "base/bytes.h"
#include "base/printable.h"
#include "object/elf_format.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <limits>

namespace tenon::object {

namespace {

// deflate: 258 bytes from 2 bits at best. zstd: a block of 128 KiB from 4 bytes (RFC 8878, RLE blocks).
constexpr std::uint64_t zlib_best = 1032, zstd_best = 32768;

// Both return what went wrong, or null.
const char* inflate_zlib(Bytes from, std::vector<std::byte>& to) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return "zlib can't be started";
  struct End {
    z_stream* stream;
    ~End() { inflateEnd(stream); }
  } end{&stream};
  // zlib counts in 32 bits: feed and drain it piece by piece.
  constexpr std::uint64_t piece = std::numeric_limits<uInt>::max();
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
  stream.next_out = reinterpret_cast<Bytef*>(to.data());
  std::uint64_t in_left = from.size(), out_left = to.size();
  std::byte none; // zlib refuses a null output pointer, even for no output
  if (to.empty()) stream.next_out = reinterpret_cast<Bytef*>(&none);
  for (;;) {
    const auto in = static_cast<uInt>(std::min(in_left, piece));
    const auto out = static_cast<uInt>(std::min(out_left, piece));
    stream.avail_in = in;
    stream.avail_out = out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    in_left -= in - stream.avail_in;
    out_left -= out - stream.avail_out;
    if (status == Z_STREAM_END) return out_left == 0 ? nullptr : "the data is shorter than its header says";
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status != Z_OK) // Z_BUF_ERROR: no progress, for want of input or room
      return status == Z_BUF_ERROR && out_left == 0 ? "the data is longer than its header says" : "the zlib data is damaged";
  }
}

const char* inflate_zstd(Bytes from, std::vector<std::byte>& to) {
  const std::size_t size = ZSTD_decompress(to.data(), to.size(), from.data(), from.size());
  if (ZSTD_isError(size)) return "the zstd data is damaged or longer than its header says";
  return size == to.size() ? nullptr : "the data is shorter than its header says";
}

} // namespace

Result<std::vector<std::byte>> uncompressed(const Object::File& file, std::uint32_t index, std::uint64_t limit) {
  const Section& section = file.sections[index];
  const auto failure = [&](ErrorCode code, const std::string& what) -> Error {
    return {code, file.name + ": section [" + std::to_string(index) + "] " + base::printable(section.name) + ": " + what};
  };
  if (section.size > limit)
    return failure(ErrorCode::unsupported, "has " + std::to_string(section.size) +
                                               " bytes uncompressed, above the limit of " + std::to_string(limit));
  if (!section.compressed) {
    std::vector<std::byte> bytes(section.content.begin(), section.content.end());
    if (section.kind == SectionKind::zero || section.kind == SectionKind::tls_zero) bytes.resize(section.size);
    return bytes;
  }
  const bool old_form = std::memcmp(section.content.data(), "ZLIB", 4) == 0 && section.name.starts_with(".zdebug");
  const Bytes data = section.content.subspan(old_form ? 12 : sizeof(elf::CompressionHeader));
  const std::uint32_t method = old_form ? elf::elfcompress_zlib : base::load_le<std::uint32_t>(section.content.data());
  if (method != elf::elfcompress_zlib && method != elf::elfcompress_zstd)
    return failure(ErrorCode::unsupported, "is compressed by the unknown method " + std::to_string(method));
  const std::uint64_t best = method == elf::elfcompress_zlib ? zlib_best : zstd_best;
  if (section.size != 0 && (section.size - 1) / best >= data.size())
    return failure(ErrorCode::malformed, "can't have " + std::to_string(section.size) + " bytes uncompressed, being " +
                                             std::to_string(data.size()) + " bytes long");
  std::vector<std::byte> bytes(section.size);
  if (const char* what = method == elf::elfcompress_zlib ? inflate_zlib(data, bytes) : inflate_zstd(data, bytes))
    return failure(ErrorCode::malformed, what);
  return bytes;
}

} // namespace tenon::object

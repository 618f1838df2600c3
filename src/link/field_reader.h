// Reads the fields of unwind information one after another (DWARF 5, section 7.6 for those of variable length). What lies
// outside reads as zero, and is remembered.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tenon::link {

class FieldReader {
public:
  explicit FieldReader(Bytes bytes = {}, std::size_t at = 0) : bytes_(bytes), at_(std::min(at, bytes.size())) {}

  std::uint64_t fixed(std::size_t size) noexcept {
    if (size > bytes_.size() - at_) return fail();
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) value |= std::to_integer<std::uint64_t>(bytes_[at_++]) << (8 * i);
    return value;
  }
  std::uint64_t uleb() noexcept { return leb(false); }
  std::int64_t sleb() noexcept { return std::int64_t(leb(true)); }
  Bytes block(std::uint64_t size) noexcept {
    if (size > bytes_.size() - at_) size = fail();
    Bytes block = bytes_.subspan(at_, size);
    at_ += size;
    return block;
  }
  void skip(std::uint64_t size) noexcept { block(size); }

  bool sound() const noexcept { return sound_; }
  bool at_end() const noexcept { return at_ == bytes_.size(); }
  std::size_t position() const noexcept { return at_; }
  Bytes rest() const noexcept { return bytes_.subspan(at_); }

private:
  // Far below 64 bits, so that products with a factor do not overflow: no frame has 2^40 bytes.
  std::uint64_t leb(bool is_signed) noexcept {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 42;) {
      std::uint64_t byte = fixed(1);
      value |= (byte & 0x7F) << shift;
      shift += 7;
      if ((byte & 0x80) == 0) return is_signed && (byte & 0x40) != 0 ? value | ~std::uint64_t(0) << shift : value;
    }
    return fail();
  }
  std::uint64_t fail() noexcept {
    sound_ = false;
    at_ = bytes_.size();
    return 0;
  }

  Bytes bytes_;
  std::size_t at_;
  bool sound_ = true;
};

} // namespace tenon::link

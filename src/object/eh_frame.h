// Walks the records of an .eh_frame section as it stands in an object file, before relocation.
//
// Only what holds before relocation is looked at: lengths, and the distance from an FDE to its CIE, which assemblers resolve
// themselves because it never leaves the section. Everything else in a record may still be zeros that a relocation will
// fill. Format: Linux Standard Base 5.0, Core, 10.6.1. With an extended (64-bit) length the CIE pointer still has 4 bytes,
// so that such an FDE's pc_begin lies at 16; no known tool writes those, and libgcc does not read them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/bytes.h"

#include <tenon/object.h>
#include <tenon/result.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace tenon::object {

struct EhRecord {
  std::uint32_t offset = 0; // in the section, of the length field
  std::uint32_t size = 0;   // with the length field
  bool is_cie = false;
  std::uint32_t pc_begin_offset = 0; // FDE: in the section, of its pc_begin field; at least 4 bytes of the record follow
  std::uint32_t cie_offset = 0;      // FDE: in the section, of its CIE; a CIE: its own offset
};

// Which CIEs there were. Nearly always the one asked for is the last one seen; compilers write a handful, `ld -r` thousands.
class CieOffsets {
public:
  void push(std::uint32_t offset) {
    if (count_ == few_.size())
      many_.push_back(offset);
    else
      few_[count_++] = offset;
    last_ = offset;
  }
  bool contains(std::uint32_t offset) const noexcept {
    return offset == last_ || std::find(few_.begin(), few_.begin() + count_, offset) != few_.begin() + count_ ||
           std::binary_search(many_.begin(), many_.end(), offset);
  }

private:
  std::array<std::uint32_t, 6> few_{};
  std::uint32_t count_ = 0;
  std::uint32_t last_ = std::numeric_limits<std::uint32_t>::max(); // no record begins there
  std::vector<std::uint32_t> many_;
};

// "unwind information: WHAT at offset N"
Error eh_frame_error(const char* what, std::uint64_t offset);

// Calls visit(const EhRecord&) for each record in order, up to the end or to a zero length; what stands behind that is not
// looked at. `visit` returns nothing, or a Result<void> whose error ends the walk. Errors: malformed, naming the offset of
// the record; those visited before were in order. FDEs come after their CIE.
template <class F> Result<void> walk_eh_frame(Bytes content, F&& visit) {
  if (content.size() > std::numeric_limits<std::uint32_t>::max())
    return eh_frame_error("a section of 4 GiB or more, and a record", 0);
  const std::byte* const data = content.data();
  const auto total = static_cast<std::uint32_t>(content.size());
  CieOffsets cies;
  EhRecord record;
  for (std::uint32_t at = 0; at != total; at += record.size) {
    // Lengths are compared with what is left, never added to a position first: they come from the file.
    const std::uint32_t left = total - at;
    if (left < 4) return eh_frame_error("truncated length", at);
    std::uint64_t length = base::load_le<std::uint32_t>(data + at);
    std::uint32_t length_size = 4;
    if (length == 0) return {};
    if (length == 0xFFFFFFFF) {
      if (left < 12) return eh_frame_error("truncated extended length", at);
      length = base::load_le<std::uint64_t>(data + at + 4);
      length_size = 12;
    }
    if (length > left - length_size) return eh_frame_error("a record that is longer than the section", at);
    if (length < 8) return eh_frame_error("a record that is too short", at);

    const std::uint32_t id_at = at + length_size;
    const auto id = base::load_le<std::uint32_t>(data + id_at);
    record.offset = at;
    record.size = length_size + static_cast<std::uint32_t>(length);
    record.is_cie = id == 0;
    if (id == 0) {
      cies.push(at);
      record.pc_begin_offset = 0;
      record.cie_offset = at;
    } else {
      if (id > id_at || !cies.contains(id_at - id))
        return eh_frame_error("a frame description whose CIE pointer names no CIE", at);
      record.pc_begin_offset = id_at + 4;
      record.cie_offset = id_at - id;
    }
    if constexpr (std::is_void_v<std::invoke_result_t<F&, const EhRecord&>>) {
      visit(std::as_const(record));
    } else {
      if (Result<void> visited = visit(std::as_const(record)); !visited) return visited;
    }
  }
  return {};
}

} // namespace tenon::object

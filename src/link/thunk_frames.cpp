// Unwind information for thunks. A thunk runs in the frame of the function that jumped to it, as that frame is at the
// instruction that it stands in for: the function's own description is run up to there, and the row that comes out is the
// thunk's. Thunks next to each other with the same row share a description.
//
// Where nothing describes the function, or in a way that FrameProgram does not know, the thunk has no description: unwinding
// stops there instead of going astray.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/arch.h"
#include "link/field_reader.h"
#include "link/frame_rows.h"
#include "link/frames.h"
#include "link/passes.h"

#include <algorithm>
#include <optional>
#include <tuple>

namespace tenon::link {

namespace {

// What is needed of a CIE.
struct Common {
  std::uint64_t code_factor = 1;
  std::int64_t data_factor = 1;
  std::size_t address_bytes = 8; // of an FDE's first two fields
  bool has_augmentation = false;
  Bytes instructions;
};

// The function that a description is for.
struct Described {
  std::uint32_t section = 0;
  std::uint64_t begin = 0;
  std::uint32_t unwind_section = 0;
  object::EhRecord record;
};

// Bytes of an encoded pointer (LSB 5.0, 10.5.1); 0: one that has no fixed size.
std::size_t encoded_bytes(std::uint64_t encoding) {
  switch (encoding & 0x0F) {
  case 0x00:
  case 0x04:
  case 0x0C: return 8;
  case 0x02:
  case 0x0A: return 2;
  case 0x03:
  case 0x0B: return 4;
  default: return 0;
  }
}

// Many descriptions may have one CIE, which is read for each: compilers' take some dozen bytes, longer ones are not known.
constexpr std::size_t longest_augmentation = 8, most_instructions = 256;

// `content` ends with the record.
std::optional<Common> read_cie(Bytes content, std::uint32_t offset) {
  Common common;
  FieldReader fields(content, offset);
  if (fields.fixed(4) == 0xFFFFFFFF) return std::nullopt;
  fields.skip(4);
  std::uint64_t version = fields.fixed(1);
  if (version != 1 && version != 3) return std::nullopt;
  std::string augmentation;
  while (char c = char(fields.fixed(1))) {
    if (augmentation.size() == longest_augmentation) return std::nullopt;
    augmentation.push_back(c);
  }
  common.code_factor = fields.uleb();
  common.data_factor = fields.sleb();
  if ((version == 1 ? fields.fixed(1) : fields.uleb()) != arch::return_address_column) return std::nullopt;
  common.has_augmentation = !augmentation.empty();
  if (common.has_augmentation) {
    if (augmentation[0] != 'z') return std::nullopt;
    std::uint64_t size = fields.uleb();
    std::size_t instructions = fields.position() + std::min<std::uint64_t>(size, content.size());
    for (char c : augmentation.substr(1)) {
      if (c == 'R')
        common.address_bytes = encoded_bytes(fields.fixed(1));
      else if (c == 'L')
        fields.skip(1);
      else if (c == 'P')
        fields.skip(encoded_bytes(fields.fixed(1)));
      else
        return std::nullopt; // 'S' among them: the frame of a signal handler's caller
    }
    if (instructions < fields.position() || instructions > content.size()) return std::nullopt;
    fields.skip(instructions - fields.position());
  }
  common.instructions = fields.rest();
  constexpr std::int64_t largest_factor = 1 << 10; // real ones are 1 and -8
  if (!fields.sound() || common.instructions.size() > most_instructions || common.address_bytes < 4 ||
      common.code_factor > largest_factor || common.data_factor > largest_factor || common.data_factor < -largest_factor)
    return std::nullopt;
  return common;
}

// Answers for thunks in ascending order.
class Describer {
public:
  explicit Describer(const Module& module) : module_(module) {}

  Result<void> read() {
    std::span<const Section> sections = module_.sections();
    for (const SectionPlace& place : module_.places.of_object()) {
      if (!place.kept || !place.unwind) continue;
      const std::uint32_t i = place.section;
      for (const Relocation& r : module_.relocations(i)) {
        const std::uint64_t offset = r.offset; // a packed field has no address to pass on
        relocated_.emplace_back(i, offset);
      }
      Result<void> walked = for_each_frame(module_, i, [&](const Relocation& start, const object::EhRecord& record) {
        if (frame_is_live(module_, start))
          described_.push_back({module_.targets[start.symbol].where, frame_offset(module_, start), i, record});
      });
      if (!walked) return std::move(walked).error().within(sections[i].name);
    }
    std::sort(relocated_.begin(), relocated_.end());
    std::sort(described_.begin(), described_.end(), [](const Described& a, const Described& b) { return key(a) < key(b); });
    return {};
  }

  const FrameRow* row_at(std::uint32_t section, std::uint64_t offset) {
    std::tuple wanted(section, offset, ~std::uint32_t(0), ~std::uint32_t(0));
    auto after =
        std::partition_point(described_.begin(), described_.end(), [&](const Described& d) { return key(d) <= wanted; });
    if (after == described_.begin() || std::prev(after)->section != section) return nullptr;
    const Described& described = *std::prev(after);
    if (current_ != &described) begin(described);
    return program_ && offset - described.begin < size_ ? program_->at(offset - described.begin) : nullptr;
  }

private:
  static std::tuple<std::uint32_t, std::uint64_t, std::uint32_t, std::uint32_t> key(const Described& d) {
    return {d.section, d.begin, d.unwind_section, d.record.offset};
  }

  // Nothing that is copied elsewhere may be for a relocation to fill.
  bool is_relocated(std::uint32_t section, std::uint64_t begin, std::uint64_t end) const {
    auto first = std::lower_bound(relocated_.begin(), relocated_.end(), std::pair(section, begin));
    return first != relocated_.end() && first->first == section && first->second < end;
  }

  void begin(const Described& described) {
    current_ = &described;
    program_.reset();
    Bytes content = module_.sections()[described.unwind_section].content;
    FieldReader cie_length(content, described.record.cie_offset);
    std::uint64_t cie_end = described.record.cie_offset + 4 + cie_length.fixed(4);
    std::optional<Common> common =
        read_cie(content.first(std::min<std::uint64_t>(cie_end, content.size())), described.record.cie_offset);
    if (!common) return;
    std::uint64_t end = std::uint64_t(described.record.offset) + described.record.size;
    FieldReader fields(content.first(end), described.record.pc_begin_offset + common->address_bytes);
    size_ = fields.fixed(common->address_bytes);
    if (common->has_augmentation) fields.skip(fields.uleb());
    if (!fields.sound() || is_relocated(described.unwind_section, fields.position(), end) ||
        is_relocated(described.unwind_section, cie_end - common->instructions.size(), cie_end))
      return;
    program_.emplace(common->instructions, fields.rest(), common->code_factor, common->data_factor);
  }

  const Module& module_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> relocated_; // section, offset; sorted
  std::vector<Described> described_;                               // sorted
  const Described* current_ = nullptr;
  std::optional<FrameProgram> program_; // of `current_`, if its frames are known
  std::uint64_t size_ = 0;
};

} // namespace

Result<void> describe_thunks(Module& module) {
  module.thunk_frames.clear();
  module.thunk_frame_bytes.clear();
  if (module.thunks.empty() || !module.unwinding) return {};
  Describer describer(module);
  if (Result<void> read = describer.read(); !read) return read;
  const std::uint64_t head = arch::frame_head_bytes + (module.plain_stub_size != 0 ? arch::stub_frame_bytes : 0);
  std::vector<std::byte> bytes;
  for (std::size_t i = 0, end; i < module.thunks.size(); i = end) {
    const FrameRow* row = describer.row_at(module.thunks[i].section, module.thunks[i].offset);
    std::optional<FrameRow> shared;
    if (row != nullptr) shared = *row;
    for (end = i + 1; end < module.thunks.size(); ++end) {
      const FrameRow* next = describer.row_at(module.thunks[end].section, module.thunks[end].offset);
      if ((next != nullptr) != shared.has_value() || (next != nullptr && *next != *shared)) break;
    }
    if (!shared) continue;
    auto size = std::uint32_t((end - i) * arch::thunk_bytes);
    std::uint64_t at = head + bytes.size();
    if (arch::append_thunk_frame(bytes, std::uint32_t(at), size, *shared))
      module.thunk_frames.push_back({module.thunks[i].stub, size, std::uint32_t(at)});
  }
  module.thunk_frame_bytes.assign(bytes.begin(), bytes.end());
  return {};
}

} // namespace tenon::link

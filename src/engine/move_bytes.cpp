// Moved code is made from the bytes that run, each field shifted by how far it and what it leads to go; what goes with it
// (jump tables, call frame information) is made from the old copies that lie where they always lay.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/move_plan.h"

#include "base/bytes.h"
#include "base/hex.h"
#include "base/stable_sort.h"

#include <algorithm>
#include <limits>

namespace tenon::engine {

namespace {

using link::Synthetic;
using To = MoveSnapshot::Reference::To;

constexpr std::byte padding{0x90}; // nop, as between functions that were linked

class Mover {
public:
  Mover(const MoveSnapshot& snapshot, const MovePlan& plan, std::uint64_t code, std::uint64_t data)
      : s_(snapshot), plan_(plan), code_(code), data_(data) {
    bytes_.distance.resize(s_.places.size());
    for (const MovePlan::Section& section : plan_.sections)
      bytes_.distance[section.index] = std::int64_t(code_ + section.offset - s_.places[section.index].address);
    bytes_.code.assign(plan_.code_size, padding);
    bytes_.data.resize(plan_.data_size);
  }

  Result<MovedBytes> run() {
    for (const MovePlan::Section& section : plan_.sections) {
      std::copy_n(s_.bytes_of(section.index), s_.places[section.index].size, bytes_.code.data() + section.offset);
      section.index == s_.own(Synthetic::stubs) ? move_stubs(section) : move_code(section);
    }
    move_tables();
    move_frames();
    if (out_of_range_ != nullptr)
      return Error{ErrorCode::out_of_range, "module " + s_.name + " can't be moved to " + base::hex(code_) + ": " +
                                                out_of_range_ + " out of reach there"};
    std::sort(bytes_.frames.begin(), bytes_.frames.end(),
              [](const notify::Frame& a, const notify::Frame& b) { return a.pc < b.pc; });
    return std::move(bytes_);
  }

private:
  void shift(std::byte* local, const link::arch::LinkedField& field, std::int64_t by) {
    if (!link::arch::shift_field(local, field, by)) out_of_range_ = "what a branch or instruction refers to is";
  }

  void move_code(const MovePlan::Section& section) {
    std::byte* local = bytes_.code.data() + section.offset;
    const std::int64_t own = bytes_.distance[section.index];
    s_.relocations.for_each_of(section.index, [&](const Relocation& r) {
      const MoveSnapshot::Reference found = s_.reference(section.index, r);
      if (found.field.width == 0 || found.to == To::site) return;
      std::int64_t by = found.field.relative ? -own : 0;
      if (found.to == To::code) by += bytes_.distance[found.section];
      if (found.to == To::stubs) by += bytes_.distance[s_.own(Synthetic::stubs)];
      // Where the table has its copy now does not matter: the new one is for this code alone.
      if (const MovePlan::Copy* table = found.to == To::table ? plan_.table_at(found.section, found.offset) : nullptr)
        by += std::int64_t(s_.binding(r.symbol).address + distance_of(*table) - found.field.symbol);
      shift(local, found.field, by);
    });
    move_resolved(section.index, local);
  }

  // Addresses of the module's own functions that an assembler had worked out, and the linker has led to their stubs.
  void move_resolved(std::uint32_t section, std::byte* local) {
    const link::SectionPlace& place = s_.places[section];
    for (const link::arch::AddressLoad& load : link::arch::find_address_loads({s_.bytes_of(section), place.size})) {
      if (!s_.bodies.contains(place.address + std::uint64_t(load.target))) continue;
      bool relocated = false;
      s_.relocations.for_each_of(section, [&](const Relocation& r) { relocated |= r.offset == load.offset; });
      link::arch::LinkedField field;
      field.offset = load.offset;
      field.width = 4;
      if (!relocated) shift(local, field, -bytes_.distance[section]);
    }
  }

  // From where the copied stretch lies in the module's own data.
  std::uint64_t distance_of(const MovePlan::Copy& copy) const noexcept {
    return data_ + copy.offset - (s_.places[copy.section].address + copy.begin);
  }

  void move_stubs(const MovePlan::Section& section) {
    link::Bound bound;
    s_.relocations.complete(bound);
    for (const link::Entry& entry : bound.entries)
      if (entry.stub != link::none &&
          !link::arch::shift_stub(bytes_.code.data() + section.offset + entry.stub, -bytes_.distance[section.index]))
        out_of_range_ = "a stub's cell is";
  }

  // Every entry is the distance to a place in code, from a place in the table.
  void move_tables() {
    std::uint32_t last = link::none;
    for (const MovePlan::Copy& any : plan_.tables) {
      if (std::exchange(last, any.section) == any.section) continue;
      s_.relocations.for_each_of(any.section, [&](const Relocation& r) {
        const MovePlan::Copy* table = plan_.table_at(any.section, r.offset);
        if (table == nullptr) return;
        const link::Target& target = s_.binding(r.symbol);
        const std::uint64_t at = table->offset + (r.offset - table->begin);
        put(at, target.address + std::uint64_t(bytes_.distance[target.where]) + std::uint64_t(r.addend) - (data_ + at), 4);
      });
    }
  }

  void put(std::uint64_t at, std::uint64_t value, std::uint8_t width) {
    if (width == 8) return base::store_le(bytes_.data.data() + at, value);
    if (std::int64_t(value) != std::int32_t(value)) out_of_range_ = "read-only data is";
    base::store_le(bytes_.data.data() + at, std::uint32_t(value));
  }

  void move_frames() {
    for (const MovePlan::Copy& cie : plan_.cies) copy_record(cie, std::numeric_limits<std::uint64_t>::max());
    for (const MovePlan::Frame& frame : plan_.frames) {
      copy_record(frame.copy, frame.pc_begin_field);
      const MovePlan::Copy& cie = plan_.cies[frame.cie];
      const bool extended = base::load_le<std::uint32_t>(bytes_.data.data() + frame.copy.offset) == 0xFFFFFFFF;
      const std::uint64_t to_cie = frame.copy.offset + (extended ? 12 : 4);
      base::store_le(bytes_.data.data() + to_cie, std::uint32_t(to_cie - cie.offset));
      const std::uint64_t pc = frame.address + std::uint64_t(bytes_.distance[frame.section]);
      const link::arch::LinkedField& field = begin_field_;
      const std::uint64_t at = frame.copy.offset + (frame.pc_begin_field - frame.copy.begin);
      put(at, pc - (field.relative ? data_ + at : 0), field.width);
      bytes_.frames.push_back({{pc}, {data_ + frame.copy.offset}});
    }
    if (!plan_.stubs || plan_.stub_frames == 0) return;
    const std::uint64_t description = plan_.stub_frames + link::arch::frame_head_bytes;
    const std::uint32_t stubs = s_.own(Synthetic::stubs);
    const std::uint64_t pc = s_.places[stubs].address + std::uint64_t(bytes_.distance[stubs]);
    link::arch::write_frame_head(bytes_.data.data() + plan_.stub_frames);
    link::arch::write_stub_frame(bytes_.data.data() + description, s_.places[stubs].size);
    if (!link::arch::set_frame_address(bytes_.data.data() + description, data_ + description, pc))
      out_of_range_ = "call frame information is";
    bytes_.frames.push_back({{pc}, {data_ + description}});
  }

  // What it refers to beside the code that it describes does not move.
  void copy_record(const MovePlan::Copy& copy, std::uint64_t pc_begin_field) {
    const std::byte* from = s_.bytes_of(copy.section);
    std::byte* to = bytes_.data.data() + copy.offset;
    std::copy(from + copy.begin, from + copy.end, to);
    const std::vector<Relocation>& relocations = relocations_of(copy.section);
    auto r = std::lower_bound(relocations.begin(), relocations.end(), copy.begin,
                              [](const Relocation& one, std::uint64_t offset) { return one.offset < offset; });
    for (; r != relocations.end() && r->offset < copy.end; ++r) {
      link::arch::LinkedField field = s_.reference(copy.section, *r).field;
      if (r->offset == pc_begin_field) begin_field_ = field;
      if (field.width == 0 || r->offset == pc_begin_field || !field.relative) continue;
      field.offset = r->offset - copy.begin;
      shift(to, field, -std::int64_t(distance_of(copy)));
    }
  }

  const std::vector<Relocation>& relocations_of(std::uint32_t section) {
    if (std::exchange(sorted_, section) == section) return sorted_relocations_;
    sorted_relocations_.clear();
    s_.relocations.for_each_of(section, [&](const Relocation& r) { sorted_relocations_.push_back(r); });
    base::stable_sort_by(sorted_relocations_, [](const Relocation& r) { return std::uint64_t(r.offset); });
    return sorted_relocations_;
  }

  const MoveSnapshot& s_;
  const MovePlan& plan_;
  std::uint64_t code_, data_;
  MovedBytes bytes_;
  const char* out_of_range_ = nullptr;
  link::arch::LinkedField begin_field_;
  std::uint32_t sorted_ = link::none;
  std::vector<Relocation> sorted_relocations_; // of the section `sorted_`
};

} // namespace

Result<MovedBytes> move_bytes(const MoveSnapshot& snapshot, const MovePlan& plan, std::uint64_t code, std::uint64_t data) {
  return Mover(snapshot, plan, code, data).run();
}

} // namespace tenon::engine

// Everything that leads into a version's code is looked at: what ties sections together, what pins them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/move_plan.h"

#include "base/align.h"
#include "base/stable_sort.h"
#include "memory/free_space.h"
#include "object/eh_frame.h"

#include <algorithm>
#include <numeric>

namespace tenon::engine {

namespace {

using link::Run;
using link::Synthetic;
using link::TargetKind;
using link::arch::FieldUse;
using To = MoveSnapshot::Reference::To;

constexpr const char* by_data = "data holds the address of a place in it that is no function";
constexpr const char* by_code = "an instruction takes the address of a place in it that is no function";
constexpr const char* by_symbol = "a symbol in it is no function, and may be known anywhere";
constexpr const char* by_table = "a table of places in it can't be told from other constants";
constexpr const char* by_bounds = "__start_ and __stop_ symbols bound it";
constexpr const char* by_thunk = "an instruction in it is led through a thunk";
constexpr const char* by_overlap = "relocations in it overlap";
constexpr const char* by_frames = "call frame information refers to it in other ways than as what it describes";
constexpr const char* by_stub = "addresses of its stubs may be known anywhere";

// A place in read-only data that is the distance to a place in code.
struct TableEntry {
  std::uint32_t section = 0;
  std::uint64_t offset = 0;
  std::uint32_t target = 0; // section
};

// Something refers to read-only data.
struct DataReference {
  std::uint32_t section = 0;
  std::uint64_t offset = 0;
  std::uint32_t from = link::none; // code
  bool begins_table = false;       // an instruction that takes the address
  bool direct = false;             // and will be led to the copy
};

class Survey {
public:
  Survey(const MoveSnapshot& snapshot, bool unwinding) : s_(snapshot), unwinding_(unwinding) {
    parents_.resize(s_.places.size());
    std::iota(parents_.begin(), parents_.end(), 0U);
    pins_.resize(s_.places.size());
    uses_stubs_.resize(s_.places.size());
    stubs_ = s_.own(Synthetic::stubs);
  }

  Result<MovePlan> run(std::span<const std::uint32_t> seeds) {
    look_at_places();
    look_at_linker_entries();
    if (Result<void> looked = look_at_frames(); !looked) return std::move(looked).error();
    look_at_data();
    look_at_code();
    make_tables();
    return choose(seeds);
  }

private:
  std::uint32_t group(std::uint32_t section) noexcept {
    while (parents_[section] != section) section = parents_[section] = parents_[parents_[section]];
    return section;
  }
  void tie(std::uint32_t a, std::uint32_t b) noexcept {
    a = group(a);
    b = group(b);
    if (a == b) return;
    parents_[b] = a;
    if (pins_[a] == nullptr) pins_[a] = pins_[b];
  }
  void pin(std::uint32_t section, const char* why) noexcept {
    section = group(section);
    if (pins_[section] == nullptr) pins_[section] = why;
  }
  bool is_code_target(const link::Target& target) const noexcept {
    return s_.is_section(target) && s_.is_code(target.where) && (target.flags & link::target_flag::ifunc) == 0;
  }

  void look_at_places() noexcept {
    for (std::uint32_t i = 0; i < s_.places.size(); ++i) {
      const link::SectionPlace& place = s_.places[i];
      if (!s_.is_code(i)) continue;
      if (place.leads || place.follows) bounded_ = true;
      auto symbol = std::lower_bound(s_.exported.begin(), s_.exported.end(), place.address);
      if (symbol != s_.exported.end() && *symbol <= place.address + place.size) pin(i, by_symbol);
    }
    // Other modules' sections may lie in this one's memory then, or this one's in theirs.
    for (std::uint32_t i = 0; bounded_ && i < s_.places.size(); ++i)
      if (s_.is_code(i)) pin(i, by_bounds);
  }

  void look_at_linker_entries() noexcept {
    link::Bound bound;
    s_.relocations.complete(bound);
    for (const link::Thunk& thunk : bound.thunks) {
      pin(thunk.section, by_thunk);
      pin(stubs_, by_thunk);
    }
    for (const link::Entry& entry : bound.entries) {
      const link::Target& target = s_.binding(entry.symbol);
      const bool plain = target.kind == TargetKind::fixed && entry.address_cell == link::none;
      if (entry.stub != link::none && (!plain || entry.slot != link::none)) pin(stubs_, by_stub);
      if (entry.got == link::none || !s_.is_section(target) || s_.has_stub(target)) continue;
      if (s_.is_code(target.where)) pin(target.where, by_data);
      refer_to_data(target, 0, link::none);
    }
  }

  Result<void> look_at_frames() {
    for (std::uint32_t i = 0; i < s_.places.size(); ++i) {
      if (!s_.places[i].kept || !s_.places[i].unwind || s_.is_own(i)) continue;
      std::vector<object::EhRecord> records;
      Result<void> walked = object::walk_eh_frame({s_.bytes_of(i), s_.places[i].size},
                                                  [&](const object::EhRecord& record) { records.push_back(record); });
      if (!walked) return std::move(walked).error().within(s_.name);
      std::size_t at = 0;
      std::vector<Relocation> relocations;
      s_.relocations.for_each_of(i, [&](const Relocation& r) { relocations.push_back(r); });
      base::stable_sort_by(relocations, [](const Relocation& r) { return std::uint64_t(r.offset); });
      for (const Relocation& r : relocations) {
        while (at < records.size() && records[at].offset + records[at].size <= r.offset) ++at;
        look_at_frame(i, r, at < records.size() ? &records[at] : nullptr);
      }
    }
    return {};
  }

  void look_at_frame(std::uint32_t section, const Relocation& r, const object::EhRecord* record) {
    const link::Target& target = s_.binding(r.symbol);
    if (is_code_target(target)) {
      const bool begins = record != nullptr && !record->is_cie && record->pc_begin_offset == r.offset;
      const link::arch::LinkedField field = s_.reference(section, r).field;
      if (!begins || field.odd) return pin(target.where, by_frames);
      const std::uint64_t begin = s_.code_address(target) + std::uint64_t(r.addend);
      frames_.push_back({section, *record, target.where, begin});
      return;
    }
    if (s_.reference(section, r).to == To::stubs) pin(stubs_, by_stub);
  }

  void look_at_data() {
    s_.relocations.for_each([&](std::uint32_t section, const Relocation& r) {
      const link::SectionPlace& place = s_.places[section];
      if (!place.kept || s_.is_code(section) || place.unwind) return;
      const link::Target& target = s_.binding(r.symbol);
      const link::arch::LinkedField shape = link::arch::field_shape(r);
      if (target.entry != 0 && target.kind == TargetKind::fixed && (shape.relative || shape.width != 8))
        pin(stubs_, by_stub);
      if ((shape.width == 0 && !shape.odd) || shape.to_got) return;
      if (!s_.is_section(target)) return;
      if (!is_code_target(target)) return refer_to_data(target, std::uint64_t(r.addend), link::none);
      look_at_pointer(section, place, r, target, shape);
    });
    std::sort(entries_.begin(), entries_.end(), [](const TableEntry& a, const TableEntry& b) {
      return std::pair(a.section, a.offset) < std::pair(b.section, b.offset);
    });
  }

  // In data, to the module's own code. As bind_callees() has bound it.
  void look_at_pointer(std::uint32_t section, const link::SectionPlace& place, const Relocation& r,
                       const link::Target& target, const link::arch::LinkedField& shape) {
    const bool identity = (target.flags & link::target_flag::identity) != 0;
    if (identity && (shape.relative || r.addend == 0)) return; // the stub
    if (std::binary_search(s_.stub_distances.begin(), s_.stub_distances.end(), std::pair(section, std::uint64_t(r.offset))))
      return;
    const std::uint64_t offset = s_.code_address(target) + std::uint64_t(r.addend) - s_.places[target.where].address;
    if (!identity && !shape.relative && s_.begins_function(target.where, offset)) return;
    if (!identity && shape.relative && shape.width == 4 && place.run == Run::rodata && !place.serves_all)
      entries_.push_back({section, r.offset, target.where});
    else
      pin(target.where, by_data);
  }

  void refer_to_data(const link::Target& target, std::uint64_t addend, std::uint32_t from) {
    if (s_.places[target.where].run != Run::rodata) return;
    data_references_.push_back({target.where, target.address - s_.places[target.where].address + addend, from});
  }

  void look_at_code() {
    std::uint32_t last = link::none;
    fields_.clear();
    s_.relocations.for_each([&](std::uint32_t section, const Relocation& r) {
      if (!s_.is_code(section)) return;
      if (std::exchange(last, section) != section) check_overlaps(section);
      const MoveSnapshot::Reference found = s_.reference(section, r);
      if (found.field.odd) return pin(section, by_overlap);
      if (found.field.width == 0) return;
      if (found.to == To::code) look_at_branch(section, found);
      if (found.to == To::stubs) {
        uses_stubs_[section] = 1;
        if (found.field.use != FieldUse::branch) pin(stubs_, by_stub);
      }
      if (found.to == To::table)
        data_references_.push_back({found.section, found.offset, section, found.field.use == FieldUse::address,
                                    found.field.relative && found.field.width == 4});
    });
  }

  void look_at_branch(std::uint32_t section, const MoveSnapshot::Reference& found) noexcept {
    const bool follows = found.field.relative && (found.field.use == FieldUse::branch || found.field.use == FieldUse::load);
    if (!follows) return pin(found.section, by_code);
    if (found.section != section) tie(section, found.section);
  }

  // A field is shifted once.
  void check_overlaps(std::uint32_t section) {
    fields_.clear();
    s_.relocations.for_each_of(section, [&](const Relocation& r) {
      const link::arch::LinkedField field = link::arch::field_shape(r);
      if (field.width != 0) fields_.emplace_back(r.offset, r.offset + field.width);
    });
    if (!std::is_sorted(fields_.begin(), fields_.end())) std::sort(fields_.begin(), fields_.end());
    for (std::size_t i = 1; i < fields_.size(); ++i)
      if (fields_[i].first < fields_[i - 1].second) pin(section, by_overlap);
  }

  struct Table {
    std::uint32_t section = 0;
    std::uint64_t begin = 0, end = 0;
    std::uint32_t target = 0; // a section of its group
    bool begun = false;       // an instruction takes its address
  };

  // Entries that lie next to each other, divided where instructions take an address.
  void make_tables() {
    std::sort(data_references_.begin(), data_references_.end(), [](const DataReference& a, const DataReference& b) {
      return std::pair(a.section, a.offset) < std::pair(b.section, b.offset);
    });
    std::uint64_t run = 0; // where the row of entries began
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const TableEntry& entry = entries_[i];
      const bool adjacent = i != 0 && entries_[i - 1].section == entry.section && entries_[i - 1].offset + 4 == entry.offset;
      if (!adjacent) run = entry.offset;
      if (!adjacent || is_begun(entry.section, entry.offset))
        tables_.push_back({entry.section, entry.offset, 0, entry.target, is_begun(entry.section, entry.offset)});
      Table& table = tables_.back();
      table.end = entry.offset + 4;
      tie(table.target, entry.target);
      // Where other constants end, a pointer to their end looks the same.
      if (!table.begun || (run == table.begin && run != 0)) pin(table.target, by_table);
    }
    for (const DataReference& reference : data_references_) {
      const Table* table = table_of(reference.section, reference.offset);
      if (table == nullptr) continue;
      if (reference.from == link::none || !reference.direct)
        pin(table->target, by_table);
      else
        tie(table->target, reference.from);
    }
    for (const Table& table : tables_) {
      const std::uint64_t begin = s_.places[table.section].address + table.begin;
      auto symbol = std::lower_bound(s_.exported.begin(), s_.exported.end(), begin);
      if (symbol != s_.exported.end() && *symbol < begin + (table.end - table.begin)) pin(table.target, by_table);
    }
  }

  bool is_begun(std::uint32_t section, std::uint64_t offset) const noexcept {
    auto found =
        std::lower_bound(data_references_.begin(), data_references_.end(), std::pair(section, offset),
                         [](const DataReference& r, const auto& key) { return std::pair(r.section, r.offset) < key; });
    for (; found != data_references_.end() && std::pair(found->section, found->offset) == std::pair(section, offset);
         ++found)
      if (found->begins_table) return true;
    return false;
  }
  const Table* table_of(std::uint32_t section, std::uint64_t offset) const noexcept {
    auto after = std::upper_bound(tables_.begin(), tables_.end(), std::pair(section, offset),
                                  [](const auto& key, const Table& t) { return key < std::pair(t.section, t.begin); });
    if (after == tables_.begin()) return nullptr;
    const Table& table = *std::prev(after);
    return table.section == section && offset < table.end ? &table : nullptr;
  }

  Result<MovePlan> choose(std::span<const std::uint32_t> seeds) {
    std::vector<std::uint8_t> wanted(s_.places.size()), moved(s_.places.size());
    MovePlan plan;
    bool stubs_wanted = false;
    for (std::uint32_t seed : seeds) {
      if (seed == stubs_)
        stubs_wanted = true;
      else
        wanted[group(seed)] = 1;
    }
    for (std::uint32_t i = 0; i < s_.places.size(); ++i) {
      if (!s_.is_code(i) || i == stubs_ || wanted[group(i)] == 0) continue;
      if (const char* why = pins_[group(i)]; why != nullptr) {
        if (plan.stayed++ == 0) plan.why = why;
        continue;
      }
      moved[i] = 1;
    }
    choose_stubs(stubs_wanted, moved, plan);
    for (std::uint32_t i = 0; i < s_.places.size(); ++i)
      if (moved[i] != 0) plan.sections.push_back({i, 0});
    lay_out_code(plan);
    lay_out_data(moved, plan);
    for (const MoveSnapshot::Function& function : s_.functions)
      plan.functions += function.section != link::none && moved[function.section] != 0 ? 1 : 0;
    return plan;
  }

  // Stubs go along with the last section that branches to them.
  void choose_stubs(bool wanted, std::vector<std::uint8_t>& moved, MovePlan& plan) noexcept {
    if (!s_.is_code(stubs_) || !wanted) return;
    bool all = pins_[group(stubs_)] == nullptr;
    for (std::uint32_t i = 0; i < s_.places.size(); ++i) all &= uses_stubs_[i] == 0 || moved[i] != 0;
    plan.stubs = all;
    moved[stubs_] = all ? 1 : 0;
  }

  // Each section keeps its place within 16 bytes, and within its alignment: branches that could be changed by one store
  // still can.
  void lay_out_code(MovePlan& plan) const {
    std::sort(plan.sections.begin(), plan.sections.end(), [&](const MovePlan::Section& a, const MovePlan::Section& b) {
      return std::pair(s_.places[a.index].address, s_.places[a.index].size) <
             std::pair(s_.places[b.index].address, s_.places[b.index].size);
    });
    plan.lowest = plan.sections.empty() ? 0 : s_.places[plan.sections.front().index].address;
    std::uint64_t at = 0;
    for (MovePlan::Section& section : plan.sections) {
      const link::SectionPlace& place = s_.places[section.index];
      const std::uint64_t alignment = std::max<std::uint64_t>(memory::granule, place.alignment());
      const std::uint64_t within = place.address & (alignment - 1);
      section.offset = base::align_up(at - std::min(at, within), alignment) + within;
      at = section.offset + place.size;
      plan.code_alignment = std::max(plan.code_alignment, alignment);
      plan.bytes += place.size;
    }
    plan.code_size = at;
  }

  void lay_out_data(const std::vector<std::uint8_t>& moved, MovePlan& plan) const {
    std::uint64_t at = 0;
    auto put = [&](MovePlan::Copy copy, std::uint64_t alignment) {
      copy.offset = base::align_up(at, alignment);
      at = copy.offset + (copy.end - copy.begin);
      return copy;
    };
    for (const Table& table : tables_)
      if (moved[table.target] != 0) plan.tables.push_back(put({table.section, table.begin, table.end, 0}, 4));
    for (const Description& d : frames_) {
      if (!unwinding_ || moved[d.code] == 0) continue;
      auto cie = std::find_if(plan.cies.rbegin(), plan.cies.rend(), [&](const MovePlan::Copy& c) {
        return c.section == d.section && c.begin == d.record.cie_offset;
      });
      std::size_t index = std::size_t(plan.cies.rend() - cie) - 1;
      if (cie == plan.cies.rend()) {
        index = plan.cies.size();
        plan.cies.push_back(put({d.section, d.record.cie_offset, d.record.cie_offset + size_of_record(d), 0}, 8));
      }
      plan.frames.push_back({put({d.section, d.record.offset, d.record.offset + d.record.size, 0}, 8), std::uint32_t(index),
                             d.code, d.address, d.record.pc_begin_offset});
    }
    if (plan.stubs && unwinding_) {
      plan.stub_frames = base::align_up(at, 8);
      at = plan.stub_frames + link::arch::frame_head_bytes + link::arch::stub_frame_bytes;
    }
    plan.data_size = at;
  }

  struct Description {
    std::uint32_t section = 0;
    object::EhRecord record;
    std::uint32_t code = 0; // section
    std::uint64_t address = 0;
  };

  // Of the description's CIE.
  std::uint64_t size_of_record(const Description& d) const noexcept {
    const std::byte* at = s_.bytes_of(d.section) + d.record.cie_offset;
    const auto length = base::load_le<std::uint32_t>(at);
    return length == 0xFFFFFFFF ? 12 + base::load_le<std::uint64_t>(at + 4) : 4 + length;
  }

  const MoveSnapshot& s_;
  bool unwinding_;
  bool bounded_ = false;
  std::uint32_t stubs_ = 0;
  std::vector<std::uint32_t> parents_; // of groups of sections that move together
  std::vector<const char*> pins_;      // of each group: why it can't move
  std::vector<std::uint8_t> uses_stubs_;
  std::vector<TableEntry> entries_;
  std::vector<DataReference> data_references_;
  std::vector<Table> tables_;
  std::vector<Description> frames_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> fields_;
};

} // namespace

bool MovePlan::moves(std::uint32_t section) const noexcept {
  return std::any_of(sections.begin(), sections.end(), [&](const Section& s) { return s.index == section; });
}

const MovePlan::Copy* MovePlan::table_at(std::uint32_t section, std::uint64_t offset) const noexcept {
  auto after = std::upper_bound(tables.begin(), tables.end(), std::pair(section, offset),
                                [](const auto& key, const Copy& t) { return key < std::pair(t.section, t.begin); });
  if (after == tables.begin()) return nullptr;
  const Copy& table = *std::prev(after);
  return table.section == section && offset < table.end ? &table : nullptr;
}

Result<MovePlan> plan_move(const MoveSnapshot& snapshot, std::span<const std::uint32_t> seeds, bool unwinding) {
  return Survey(snapshot, unwinding).run(seeds);
}

} // namespace tenon::engine

// Units, abbreviations, entries and values. See dwarf_reader.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/dwarf_reader.h"

#include "base/bytes.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tenon::object::dwarf {

namespace {

constexpr unsigned most_attributes = 64; // of one abbreviation: compilers use some twenty

std::string_view text_at(Bytes section, std::uint64_t offset) noexcept {
  if (offset >= section.size()) return {};
  const char* text = reinterpret_cast<const char*>(section.data()) + offset;
  const std::size_t most = std::min<std::uint64_t>(section.size() - offset, longest_name);
  return {text, strnlen(text, most)};
}

// The number at index in a list that begins at `base`; nothing if that is outside.
std::optional<std::uint64_t> listed(Bytes section, std::uint64_t base, std::uint64_t index, std::size_t size) noexcept {
  if (base > section.size() || index >= (section.size() - base) / size) return std::nullopt;
  return Cursor(section, base + index * size).fixed(size);
}

// Of a value, where neither the value nor the unit says it.
std::optional<unsigned> size_of(std::uint64_t form) noexcept {
  switch (form) {
  case form::flag_present:
  case form::implicit_const: return 0;
  case form::data1:
  case form::flag:
  case form::ref1:
  case form::strx1:
  case form::addrx1: return 1;
  case form::data2:
  case form::ref2:
  case form::strx2:
  case form::addrx2: return 2;
  case form::strx3:
  case form::addrx3: return 3;
  case form::data4:
  case form::ref4:
  case form::ref_sup4:
  case form::strx4:
  case form::addrx4: return 4;
  case form::addr:
  case form::data8:
  case form::ref8:
  case form::ref_sig8:
  case form::ref_sup8: return 8;
  case form::data16: return 16;
  default: return std::nullopt;
  }
}

} // namespace

std::uint64_t Cursor::fail() noexcept {
  sound_ = false;
  at_ = bytes_.size();
  return 0;
}

// 1, 2, 3, 4 or 8 bytes.
std::uint64_t Cursor::fixed(std::size_t size) noexcept {
  if (size > bytes_.size() - at_) return fail();
  const std::byte* at = bytes_.data() + at_;
  at_ += size;
  switch (size) {
  case 1: return base::load_le<std::uint8_t>(at);
  case 2: return base::load_le<std::uint16_t>(at);
  case 3: return base::load_le<std::uint16_t>(at) | std::to_integer<std::uint64_t>(at[2]) << 16;
  case 4: return base::load_le<std::uint32_t>(at);
  default: return base::load_le<std::uint64_t>(at);
  }
}

std::uint64_t Cursor::leb(bool is_signed) noexcept {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    const std::uint64_t byte = fixed(1);
    value |= (byte & 0x7F) << std::min(shift, 63U);
    if ((byte & 0x80) != 0) continue;
    return is_signed && (byte & 0x40) != 0 && shift + 7 < 64 ? value | ~std::uint64_t(0) << (shift + 7) : value;
  }
  return fail();
}

Bytes Cursor::block(std::uint64_t size) noexcept {
  if (size > bytes_.size() - at_) {
    fail();
    return {};
  }
  const Bytes block = bytes_.subspan(at_, size);
  at_ += size;
  return block;
}

std::string_view Cursor::text() noexcept {
  if (at_end()) {
    fail();
    return {};
  }
  const char* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
  const void* zero = std::memchr(begin, 0, bytes_.size() - at_);
  if (zero == nullptr) {
    fail();
    return {};
  }
  const std::string_view text(begin, std::size_t(static_cast<const char*>(zero) - begin));
  at_ += text.size() + 1;
  return text;
}

File::File(DebugImage image) noexcept : image_(std::move(image)) { left_ = bytes(DebugSection::info).size() * 64 + 100'000; }

std::unique_ptr<File> File::open(DebugImage image) {
  std::unique_ptr<File> file(new File(std::move(image)));
  if (!file->read_units(DebugSection::info)) return nullptr;
  file->info_units_ = file->units_.size();
  if (!file->read_units(DebugSection::types)) return nullptr;
  return file;
}

bool File::read_units(DebugSection section) {
  for (Cursor at(bytes(section), 0); !at.at_end();) {
    auto unit = std::make_unique<Unit>();
    unit->file = this;
    unit->in_types = section == DebugSection::types;
    if (!spend(64) || !read_header(at, *unit)) return false;
    const std::uint64_t abbreviations = unit->first; // see read_header()
    unit->first = at.position();
    unit->abbreviations = abbreviations_at(abbreviations);
    if (unit->abbreviations == nullptr) return false;
    find_bases(*unit);
    if (unit->type == unit::type || unit->type == unit::split_type) types_.emplace(unit->signature, unit.get());
    at.skip(unit->end - at.position());
    units_.push_back(std::move(unit));
  }
  return true;
}

// Up to the first entry; Unit::first is where the abbreviations are.
bool File::read_header(Cursor& at, Unit& unit) noexcept {
  constexpr std::uint64_t wide = 0xFFFF'FFFF, reserved = 0xFFFF'FFF0;
  unit.begin = at.position();
  std::uint64_t length = at.fixed(4);
  if (length == wide) {
    length = at.fixed(8);
    unit.offset_size = 8;
  } else if (length >= reserved) {
    return false;
  }
  if (!base::range_fits(at.position(), length, bytes(unit).size())) return false;
  unit.end = at.position() + length;
  unit.version = std::uint8_t(std::min<std::uint64_t>(at.fixed(2), 0xFF));
  if (unit.version < 2 || unit.version > 5) return false;
  if (unit.version == 5) unit.type = std::uint8_t(at.fixed(1));
  if (unit.version < 5) unit.first = at.fixed(unit.offset_size);
  if (at.fixed(1) != 8) return false; // the size of an address
  if (unit.version == 5)
    unit.first = at.fixed(unit.offset_size);
  else
    unit.type = unit.in_types ? unit::type : unit::compile;
  if (unit.type == unit::type || unit.type == unit::split_type) {
    unit.signature = at.fixed(8);
    unit.type_offset = at.fixed(unit.offset_size);
  } else if (unit.type == unit::skeleton || unit.type == unit::split_compile) {
    at.skip(8);
  }
  return at.sound() && at.position() <= unit.end;
}

// All of a table is read, so that what an entry of it may cost is known. Null: broken, or too much.
const Abbreviations* File::abbreviations_at(std::uint64_t offset) {
  std::unique_ptr<Abbreviations>& table = tables_[offset];
  if (table != nullptr) return table.get();
  auto made = std::make_unique<Abbreviations>();
  Cursor at(bytes(DebugSection::abbrev), offset);
  while (!at.at_end()) {
    const std::uint64_t begin = at.position();
    Abbreviation one;
    one.code = at.uleb();
    if (one.code == 0) break;
    const std::uint64_t tag = at.uleb();
    if (tag > std::numeric_limits<std::uint16_t>::max()) return nullptr;
    one.tag = std::uint16_t(tag);
    one.has_children = at.fixed(1) != 0;
    one.specification = std::uint32_t(at.position());
    unsigned size = 0; // at most most_attributes of 16 bytes
    bool fixed = true;
    for (unsigned count = 0;; ++count) {
      const std::uint64_t name = at.uleb(), form = at.uleb();
      if (name == 0 && form == 0) break;
      if (form == form::implicit_const) at.sleb();
      if (count == most_attributes) return nullptr;
      one.tells_sibling |= name == attribute::sibling;
      const std::optional<unsigned> bytes = size_of(form);
      fixed &= bytes.has_value();
      size += bytes.value_or(0);
    }
    if (fixed) one.bytes = std::uint16_t(size);
    if (!at.sound() || !spend((at.position() - begin) * 8)) return nullptr;
    made->push_back(one);
  }
  if (!at.sound()) return nullptr;
  const auto before = [](const Abbreviation& a, const Abbreviation& b) { return a.code < b.code; };
  if (!std::is_sorted(made->begin(), made->end(), before)) std::sort(made->begin(), made->end(), before);
  table = std::move(made);
  return table.get();
}

// Names and addresses of the unit may stand in lists, of which its first entry says where they begin.
void File::find_bases(Unit& unit) noexcept {
  const std::uint64_t header = unit.version < 5 ? 0 : unit.offset_size == 8 ? 16 : 8;
  unit.str_offsets_base = unit.addr_base = header;
  const std::optional<Die> top = entry(unit, unit.first);
  if (!top) return;
  Attributes all(*top);
  for (Attribute one; all.next(one);)
    if (one.name == attribute::str_offsets_base)
      unit.str_offsets_base = number_of(one).value_or(header);
    else if (one.name == attribute::addr_base || one.name == attribute::gnu_addr_base)
      unit.addr_base = number_of(one).value_or(header);
}

const Unit* File::unit_at(std::uint64_t offset) const noexcept {
  const auto last = units_.begin() + std::ptrdiff_t(info_units_);
  const auto after = std::upper_bound(units_.begin(), last, offset,
                                      [](std::uint64_t at, const std::unique_ptr<Unit>& unit) { return at < unit->begin; });
  return after == units_.begin() ? nullptr : std::prev(after)->get();
}

const Unit* File::type_unit(std::uint64_t signature) const noexcept {
  const auto found = types_.find(signature);
  return found != types_.end() ? found->second : nullptr;
}

Step File::read_entry(const Unit& unit, std::uint64_t offset, Die& found) const noexcept {
  if (offset >= unit.end) return Step::end;
  Cursor at(bytes(unit).first(unit.end), offset);
  const std::uint64_t code = at.uleb();
  if (!at.sound()) return Step::broken;
  if (code == 0) return Step::end;
  const Abbreviations& all = *unit.abbreviations;
  auto wanted = all.end();
  if (code <= all.size() && all[code - 1].code == code) // as compilers number them
    wanted = all.begin() + std::ptrdiff_t(code - 1);
  else
    wanted =
        std::lower_bound(all.begin(), all.end(), code, [](const Abbreviation& a, std::uint64_t c) { return a.code < c; });
  if (wanted == all.end() || wanted->code != code) return Step::broken;
  found = {&unit, &*wanted, offset, at.position()};
  return Step::found;
}

std::optional<Die> File::entry(const Unit& unit, std::uint64_t offset) const noexcept {
  Die found;
  if (offset < unit.first || read_entry(unit, offset, found) != Step::found) return std::nullopt;
  return found;
}

// `sibling`: where the entry says that its next one is, or 0.
std::optional<std::uint64_t> File::end_of_attributes(const Die& die, std::uint64_t* sibling) const noexcept {
  *sibling = 0;
  if (const Abbreviation& known = *die.abbreviation; known.bytes != no_size && !known.tells_sibling) {
    if (known.bytes > die.unit->end - die.values) return std::nullopt;
    return die.values + known.bytes;
  }
  Attributes all(die);
  for (Attribute one; all.next(one);)
    if (one.name == attribute::sibling)
      if (const std::optional<Die> next = target_of(one); next && next->unit == die.unit) *sibling = next->offset;
  if (!all.sound()) return std::nullopt;
  if (*sibling < all.end()) *sibling = 0; // forward, or it would never end
  return all.end();
}

Step File::child(const Die& parent, Die& found) const noexcept {
  std::uint64_t sibling = 0;
  const std::optional<std::uint64_t> end = end_of_attributes(parent, &sibling);
  if (!end) return Step::broken;
  return parent.abbreviation->has_children ? read_entry(*parent.unit, *end, found) : Step::end;
}

Step File::sibling(const Die& die, Die& found) const noexcept {
  const Unit& unit = *die.unit;
  Die at = die;
  for (std::uint64_t depth = 0;;) {
    std::uint64_t sibling = 0;
    const std::optional<std::uint64_t> end = end_of_attributes(at, &sibling);
    if (!end || !spend(1)) return Step::broken;
    std::uint64_t next = *end;
    if (at.abbreviation->has_children && sibling != 0)
      next = sibling;
    else if (at.abbreviation->has_children)
      ++depth;
    Step step = read_entry(unit, next, at);
    while (step == Step::end && depth != 0 && next < unit.end) { // the end of a list of children
      --depth;
      step = read_entry(unit, ++next, at);
    }
    if (step == Step::found && depth != 0) continue;
    if (step == Step::found) found = at;
    return step;
  }
}

Attributes::Attributes(const Die& die) noexcept
    : unit_(*die.unit), specifications_(unit_.file->bytes(DebugSection::abbrev), die.abbreviation->specification),
      values_(unit_.file->bytes(unit_).first(unit_.end), die.values) {}

bool Attributes::next(Attribute& attribute) noexcept {
  attribute.unit = &unit_;
  attribute.name = specifications_.uleb();
  attribute.form = specifications_.uleb();
  attribute.constant = attribute.form == form::implicit_const ? specifications_.sleb() : 0;
  if ((attribute.name == 0 && attribute.form == 0) || !sound()) return false;
  if (attribute.form == form::indirect) {
    attribute.form = values_.uleb();
    if (attribute.form == form::indirect || attribute.form == form::implicit_const) values_.fail();
  }
  attribute.value = values_.position();
  skip(attribute.form);
  return sound();
}

void Attributes::skip(std::uint64_t form) noexcept {
  if (const std::optional<unsigned> size = size_of(form)) return values_.skip(*size);
  switch (form) {
  case form::ref_addr: return values_.skip(unit_.version == 2 ? 8 : unit_.offset_size);
  case form::strp:
  case form::line_strp:
  case form::strp_sup:
  case form::sec_offset:
  case form::gnu_ref_alt:
  case form::gnu_strp_alt: return values_.skip(unit_.offset_size);
  case form::sdata:
  case form::udata:
  case form::ref_udata:
  case form::strx:
  case form::addrx:
  case form::loclistx:
  case form::rnglistx:
  case form::gnu_addr_index:
  case form::gnu_str_index: values_.uleb(); return;
  case form::block1: return values_.skip(values_.fixed(1));
  case form::block2: return values_.skip(values_.fixed(2));
  case form::block4: return values_.skip(values_.fixed(4));
  case form::block:
  case form::exprloc: return values_.skip(values_.uleb());
  case form::string: unit_.file->spend(values_.text().size() / 64); return;
  default: values_.fail(); return;
  }
}

namespace {

Cursor value_of(const Attribute& attribute) noexcept {
  return {attribute.unit->file->bytes(*attribute.unit), attribute.value};
}

std::string_view listed_text(const Unit& unit, std::uint64_t index) noexcept {
  const std::optional<std::uint64_t> offset =
      listed(unit.file->bytes(DebugSection::str_offsets), unit.str_offsets_base, index, unit.offset_size);
  return offset ? text_at(unit.file->bytes(DebugSection::str), *offset) : std::string_view();
}

} // namespace

std::string_view text_of(const Attribute& attribute) noexcept {
  const Unit& unit = *attribute.unit;
  Cursor at = value_of(attribute);
  switch (attribute.form) {
  case form::string: return at.text().substr(0, longest_name);
  case form::strp: return text_at(unit.file->bytes(DebugSection::str), at.fixed(unit.offset_size));
  case form::line_strp: return text_at(unit.file->bytes(DebugSection::line_str), at.fixed(unit.offset_size));
  case form::strx:
  case form::gnu_str_index: return listed_text(unit, at.uleb());
  case form::strx1: return listed_text(unit, at.fixed(1));
  case form::strx2: return listed_text(unit, at.fixed(2));
  case form::strx3: return listed_text(unit, at.fixed(3));
  case form::strx4: return listed_text(unit, at.fixed(4));
  default: return {};
  }
}

std::optional<std::uint64_t> number_of(const Attribute& attribute) noexcept {
  Cursor at = value_of(attribute);
  switch (attribute.form) {
  case form::data1: return at.fixed(1);
  case form::data2: return at.fixed(2);
  case form::data4: return at.fixed(4);
  case form::data8: return at.fixed(8);
  case form::udata: return at.uleb();
  case form::sdata: return at.sleb();
  case form::implicit_const: return attribute.constant;
  case form::sec_offset: return at.fixed(attribute.unit->offset_size);
  default: return std::nullopt;
  }
}

std::optional<Die> target_of(const Attribute& attribute) noexcept {
  const Unit* unit = attribute.unit;
  Cursor at = value_of(attribute);
  std::uint64_t offset = 0;
  switch (attribute.form) {
  case form::ref1: offset = at.fixed(1); break;
  case form::ref2: offset = at.fixed(2); break;
  case form::ref4: offset = at.fixed(4); break;
  case form::ref8: offset = at.fixed(8); break;
  case form::ref_udata: offset = at.uleb(); break;
  case form::ref_addr:
    offset = at.fixed(unit->version == 2 ? 8 : unit->offset_size);
    unit = unit->file->unit_at(offset);
    return unit != nullptr ? unit->file->entry(*unit, offset) : std::nullopt;
  case form::ref_sig8:
    unit = unit->file->type_unit(at.fixed(8));
    if (unit == nullptr) return std::nullopt;
    offset = unit->type_offset;
    break;
  default: return std::nullopt;
  }
  if (offset >= unit->end - unit->begin) return std::nullopt;
  return unit->file->entry(*unit, unit->begin + offset);
}

std::optional<Bytes> block_of(const Attribute& attribute) noexcept {
  Cursor at = value_of(attribute);
  switch (attribute.form) {
  case form::block1: return at.block(at.fixed(1));
  case form::block2: return at.block(at.fixed(2));
  case form::block4: return at.block(at.fixed(4));
  case form::block:
  case form::exprloc: return at.block(at.uleb());
  default: return std::nullopt;
  }
}

std::uint64_t listed_address(const Unit& unit, std::uint64_t index) noexcept {
  return listed(unit.file->bytes(DebugSection::addr), unit.addr_base, index, 8).value_or(0);
}

} // namespace tenon::object::dwarf

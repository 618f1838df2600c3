// Entries of DWARF 2 to 5 and their attributes, read in place. Of our own because readers of finished programs end the
// process, or read through null, when there is no memory, and debug information is untrusted: here each offset is checked,
// std::bad_alloc is thrown, and work is counted, so that hostile input ends.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/debug_image.h"
#include "object/dwarf_format.h"

#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tenon::object::dwarf {

// Names are cut off there: they may be as long as the file, and be used in each entry.
inline constexpr std::size_t longest_name = 2000;

// A place in a section, moved on by reading. What lies outside reads as zero, and is remembered.
class Cursor {
public:
  Cursor(Bytes bytes, std::uint64_t at) noexcept : bytes_(bytes), at_(at), sound_(at <= bytes.size()) {
    if (!sound_) at_ = bytes_.size();
  }

  std::uint64_t fixed(std::size_t size) noexcept;
  std::uint64_t uleb() noexcept {
    if (at_ < bytes_.size() && bytes_[at_] < std::byte(0x80))
      return std::to_integer<std::uint64_t>(bytes_[at_++]); // nearly all
    return leb(false);
  }
  std::uint64_t sleb() noexcept { return leb(true); }
  Bytes block(std::uint64_t size) noexcept;
  void skip(std::uint64_t size) noexcept {
    if (size <= bytes_.size() - at_)
      at_ += size;
    else
      fail();
  }
  std::string_view text() noexcept; // up to a zero, which must be there
  std::uint64_t fail() noexcept;    // nothing can be read any more

  bool sound() const noexcept { return sound_; }
  bool at_end() const noexcept { return at_ == bytes_.size(); }
  std::uint64_t position() const noexcept { return at_; }

private:
  std::uint64_t leb(bool is_signed) noexcept;

  Bytes bytes_;
  std::uint64_t at_;
  bool sound_;
};

inline constexpr std::uint16_t no_size = 0xFFFF;

struct Abbreviation {
  std::uint64_t code = 0;
  std::uint32_t specification = 0; // in .debug_abbrev: of the first attribute
  std::uint16_t tag = 0;
  bool has_children = false;
  bool tells_sibling = false;
  std::uint16_t bytes = no_size; // all values, where that is the same in each entry
};

using Abbreviations = std::vector<Abbreviation>; // by code

class File;

struct Unit {
  const File* file = nullptr;
  bool in_types = false; // in .debug_types
  std::uint8_t type = 0, version = 0, offset_size = 4;
  std::uint64_t begin = 0, end = 0, first = 0; // header, behind all, entry
  std::uint64_t signature = 0, type_offset = 0;
  std::uint64_t str_offsets_base = 0, addr_base = 0;
  const Abbreviations* abbreviations = nullptr;
};

struct Die {
  const Unit* unit = nullptr;
  const Abbreviation* abbreviation = nullptr;
  std::uint64_t offset = 0; // in its section
  std::uint64_t values = 0;

  unsigned tag() const noexcept { return abbreviation->tag; }
};

struct Attribute {
  const Unit* unit = nullptr;
  std::uint64_t name = 0, form = 0;
  std::uint64_t value = 0;    // its offset in the unit's section
  std::uint64_t constant = 0; // of implicit_const
};

// The attributes of an entry, one after another.
class Attributes {
public:
  explicit Attributes(const Die& die) noexcept;

  // False: no more, or broken.
  bool next(Attribute& attribute) noexcept;
  bool sound() const noexcept { return specifications_.sound() && values_.sound(); }
  std::uint64_t end() const noexcept { return values_.position(); } // once next() has said false

private:
  void skip(std::uint64_t form) noexcept;

  const Unit& unit_;
  Cursor specifications_, values_;
};

enum class Step { found, end, broken };

class File {
public:
  // Null if it is broken, or too much.
  static std::unique_ptr<File> open(DebugImage image);

  const DebugImage& image() const noexcept { return image_; }
  Bytes bytes(DebugSection section) const noexcept { return image_.sections[std::size_t(section)]; }
  Bytes bytes(const Unit& unit) const noexcept { return bytes(unit.in_types ? DebugSection::types : DebugSection::info); }

  // Those of .debug_info in their order, then those of .debug_types.
  const std::vector<std::unique_ptr<Unit>>& units() const noexcept { return units_; }
  std::optional<Die> entry(const Unit& unit, std::uint64_t offset) const noexcept;
  Step child(const Die& parent, Die& found) const noexcept;
  Step sibling(const Die& die, Die& found) const noexcept;
  // Of the unit with this offset in it, or the type with this signature.
  const Unit* unit_at(std::uint64_t offset) const noexcept;
  const Unit* type_unit(std::uint64_t signature) const noexcept;

  // False: it has been too much; nothing more is to be looked at.
  bool spend(std::uint64_t work) const noexcept { return work <= left_ ? (left_ -= work, true) : (left_ = 0, false); }
  bool exhausted() const noexcept { return left_ == 0; }

private:
  explicit File(DebugImage image) noexcept;
  bool read_units(DebugSection section);
  bool read_header(Cursor& at, Unit& unit) noexcept;
  const Abbreviations* abbreviations_at(std::uint64_t offset);
  void find_bases(Unit& unit) noexcept;
  Step read_entry(const Unit& unit, std::uint64_t offset, Die& found) const noexcept;
  std::optional<std::uint64_t> end_of_attributes(const Die& die, std::uint64_t* sibling) const noexcept;

  DebugImage image_;
  std::vector<std::unique_ptr<Unit>> units_; // entries point to them
  std::size_t info_units_ = 0;
  std::unordered_map<std::uint64_t, const Unit*> types_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Abbreviations>> tables_;
  mutable std::uint64_t left_ = 0; // reading is work, and changes nothing else
};

// What an attribute says; nothing if it is of another class, or broken.
std::string_view text_of(const Attribute& attribute) noexcept; // at most longest_name
std::optional<std::uint64_t> number_of(const Attribute& attribute) noexcept;
std::optional<Die> target_of(const Attribute& attribute) noexcept;
std::optional<Bytes> block_of(const Attribute& attribute) noexcept;
// The address with this number in the unit's list; 0 if there is none.
std::uint64_t listed_address(const Unit& unit, std::uint64_t index) noexcept;

} // namespace tenon::object::dwarf

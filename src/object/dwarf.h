// libdw, wrapped: attributes as values, and work that is counted, so that hostile input ends.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "object/debug_image.h"

#include <dwarf.h>
#include <elfutils/libdw.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tenon::object::dwarf {

// Deeper than any compiler nests what is looked at.
inline constexpr int deepest = 64;

// Names are cut off there: they may be as long as the file, and be used in each entry.
inline constexpr std::size_t longest_name = 2000;

// The data of a file, whose entries live as long as this does.
class File {
public:
  // Null if there is nothing to read.
  static std::unique_ptr<File> open(DebugImage image);
  ~File();

  Dwarf* handle() const noexcept { return dwarf_; }
  const DebugImage& image() const noexcept { return image_; }

  // False: it has been too much; nothing more is to be looked at.
  bool spend(std::uint64_t work) noexcept { return work <= left_ ? (left_ -= work, true) : (left_ = 0, false); }
  bool exhausted() const noexcept { return left_ == 0; }

private:
  explicit File(DebugImage image) noexcept;
  DebugImage image_;
  Elf* elf_ = nullptr;
  Dwarf* dwarf_ = nullptr;
  std::uint64_t left_ = 0;
};

// What reads is not noexcept: libdw takes memory now and then, and std::bad_alloc is thrown if there is none.

// Of this entry itself.
std::string_view own_text(Dwarf_Die& die, unsigned attribute);
bool has(Dwarf_Die& die, unsigned attribute);
std::optional<std::uint64_t> own_number(Dwarf_Die& die, unsigned attribute);
std::optional<Dwarf_Die> own_reference(Dwarf_Die& die, unsigned attribute);

// What the entry stands for: the abstract instance of an inlined function or variable, or the declaration of a member.
std::optional<Dwarf_Die> origin_of(Dwarf_Die& die);
// Of the entry, or else of what it stands for.
std::string_view text(Dwarf_Die die, unsigned attribute);
std::optional<Dwarf_Die> reference(Dwarf_Die die, unsigned attribute);

// One piece of storage of a variable; size 0: all of it.
struct Stored {
  std::uint64_t address = 0, at = 0, size = 0;
};

// A variable's entry, read in one go: there are very many.
struct VariableEntry {
  Dwarf_Die die;
  Dwarf_Off offset = 0;
  Dwarf_Off stands_for = 0; // another entry, see origin_of
  std::string_view name;
  bool declaration = false;
  bool elsewhere = false; // in a register or frame
  std::vector<Stored> storage;
};
VariableEntry read_variable(Dwarf_Die die);

// Types as text. Keeps what it has made.
class Types {
public:
  explicit Types(File& file) : file_(file) {}

  // `type`: nothing stands for void.
  std::string name(const std::optional<Dwarf_Die>& type, int depth = 0);
  // "int (char const*, struct S{16})"
  std::string signature(Dwarf_Die function, int depth = 0);

private:
  std::string make(Dwarf_Die type, int depth);
  std::string compound(Dwarf_Die type, const char* keyword, bool sized, std::string_view alias);
  std::string pointer(Dwarf_Die type, const char* mark, int depth);
  std::string array(Dwarf_Die type, int depth);

  File& file_;
  std::unordered_map<const void*, std::string> known_;
};

} // namespace tenon::object::dwarf

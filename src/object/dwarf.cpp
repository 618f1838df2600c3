// Attributes and storage of entries. See dwarf.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/dwarf.h"

namespace tenon::object::dwarf {

namespace {

constexpr int longest_chain = 8; // of origins

// The first of this name.
bool find(const Die& die, unsigned name, Attribute& found) {
  Attributes all(die);
  while (all.next(found))
    if (found.name == name) return true;
  return false;
}

} // namespace

std::string_view own_text(const Die& die, unsigned name) {
  Attribute found;
  return find(die, name, found) ? text_of(found) : std::string_view();
}

bool has(const Die& die, unsigned name) {
  Attribute found;
  return find(die, name, found);
}

std::optional<std::uint64_t> own_number(const Die& die, unsigned name) {
  Attribute found;
  return find(die, name, found) ? number_of(found) : std::nullopt;
}

std::optional<Die> own_reference(const Die& die, unsigned name) {
  Attribute found;
  return find(die, name, found) ? target_of(found) : std::nullopt;
}

std::optional<Die> origin_of(const Die& die) {
  if (std::optional<Die> abstract = own_reference(die, attribute::abstract_origin)) return abstract;
  return own_reference(die, attribute::specification);
}

std::string_view text(Die die, unsigned name) {
  for (int i = 0; i < longest_chain; ++i) {
    if (std::string_view found = own_text(die, name); !found.empty()) return found;
    std::optional<Die> origin = origin_of(die);
    if (!origin) break;
    die = *origin;
  }
  return {};
}

std::optional<Die> reference(Die die, unsigned name) {
  for (int i = 0; i < longest_chain; ++i) {
    if (std::optional<Die> found = own_reference(die, name)) return found;
    std::optional<Die> origin = origin_of(die);
    if (!origin) break;
    die = *origin;
  }
  return std::nullopt;
}

namespace {

// What an operation gives: an address of the program, or a thread-local variable's offset.
struct Operand {
  std::uint64_t address = 0; // 0, where nothing lies: not known
  bool is_offset = false;    // which is to be followed by an operation that says so
};

// Nothing for other operations: computed, in a register or frame.
std::optional<Operand> operand(unsigned op, const Unit& unit, Cursor& at) {
  switch (op) {
  case op::addr: return Operand{at.fixed(8), false};
  case op::const4u: return Operand{at.fixed(4), true};
  case op::const8u: return Operand{at.fixed(8), true};
  case op::addrx:
  case op::gnu_addr_index: return Operand{listed_address(unit, at.uleb()), false};
  case op::constx:
  case op::gnu_const_index: return Operand{listed_address(unit, at.uleb()), true};
  default: return std::nullopt;
  }
}

bool is_tls_address(unsigned op) noexcept { return op == op::gnu_push_tls_address || op == op::form_tls_address; }

std::vector<Stored> storage_of(const Attribute& location) {
  const std::optional<Bytes> block = block_of(location);
  if (!block) return {};
  std::vector<Stored> pieces;
  std::uint64_t address = 0, offset = 0;
  Cursor at(*block, 0);
  while (!at.at_end()) {
    const auto op = unsigned(at.fixed(1));
    if (op == op::piece) {
      const std::uint64_t size = at.uleb();
      if (!at.sound()) return {};
      if (address != 0) pieces.push_back({address, offset, size});
      address = 0;
      offset += size;
      continue;
    }
    const std::optional<Operand> found = operand(op, *location.unit, at);
    if (!found || found->address == 0 || !at.sound()) return {};
    const bool threaded = !at.at_end() && is_tls_address(std::to_integer<unsigned>((*block)[at.position()]));
    if (threaded)
      at.skip(1);
    else if (found->is_offset)
      return {};
    address = found->address;
  }
  if (address != 0) {
    if (!pieces.empty()) return {};
    pieces.push_back({address, 0, 0});
  }
  return pieces;
}

} // namespace

VariableEntry read_variable(const Die& die) {
  VariableEntry entry;
  entry.die = die;
  entry.offset = die.offset;
  Attributes all(die);
  for (Attribute one; all.next(one);) switch (one.name) {
    case attribute::name: entry.name = text_of(one); break;
    case attribute::declaration: entry.declaration = true; break;
    case attribute::abstract_origin:
    case attribute::specification:
      if (const std::optional<Die> target = target_of(one)) entry.stands_for = target->offset;
      break;
    case attribute::location:
      entry.storage = storage_of(one);
      entry.elsewhere = entry.storage.empty();
      break;
    default: break;
    }
  return entry;
}

} // namespace tenon::object::dwarf

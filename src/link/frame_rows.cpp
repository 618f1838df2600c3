// Call frame instructions, read and written (DWARF 5, sections 6.4.2 and 7.24; GNU extensions as in the LSB 5.0, 10.6).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/frame_rows.h"

#include "link/arch/arch.h"

#include <algorithm>

namespace tenon::link {

namespace {

using Kind = FrameRule::Kind;

enum Opcode : std::uint8_t {
  nop = 0x00,
  advance_loc1 = 0x02,
  advance_loc2 = 0x03,
  advance_loc4 = 0x04,
  offset_extended = 0x05,
  restore_extended = 0x06,
  undefined = 0x07,
  same_value = 0x08,
  register_ = 0x09,
  remember_state = 0x0a,
  restore_state = 0x0b,
  def_cfa = 0x0c,
  def_cfa_register = 0x0d,
  def_cfa_offset = 0x0e,
  def_cfa_expression = 0x0f,
  expression = 0x10,
  offset_extended_sf = 0x11,
  def_cfa_sf = 0x12,
  def_cfa_offset_sf = 0x13,
  val_offset = 0x14,
  val_offset_sf = 0x15,
  val_expression = 0x16,
  gnu_args_size = 0x2e,
  // In the upper two bits, with an operand in the others.
  advance_loc = 0x40,
  offset_short = 0x80,
  restore_short = 0xc0,
};

// Compilers nest one deep, and their rows take some dozen bytes; objects are not to be believed.
constexpr std::size_t most_remembered = 64, longest_row = 256;

void put_uleb(std::vector<std::byte>& to, std::uint64_t value) {
  do {
    to.push_back(std::byte((value & 0x7F) | (value > 0x7F ? 0x80 : 0)));
    value >>= 7;
  } while (value != 0);
}

void put_sleb(std::vector<std::byte>& to, std::int64_t value) {
  for (bool more = true; more;) {
    std::uint8_t low = value & 0x7F;
    value >>= 7;
    more = value != ((low & 0x40) != 0 ? -1 : 0);
    to.push_back(std::byte(low | (more ? 0x80 : 0)));
  }
}

bool put_block(std::vector<std::byte>& to, Bytes bytes) {
  if (bytes.size() > longest_row) return false;
  put_uleb(to, bytes.size());
  to.insert(to.end(), bytes.begin(), bytes.end());
  return true;
}

bool put_rule(std::vector<std::byte>& to, std::uint64_t reg, const FrameRule& rule, std::int64_t data_factor) {
  auto begin = [&](Opcode opcode) {
    to.push_back(std::byte{opcode});
    put_uleb(to, reg);
  };
  switch (rule.kind) {
  case Kind::unspecified: return true;
  case Kind::undefined: begin(undefined); return true;
  case Kind::same: begin(same_value); return true;
  case Kind::reg:
    begin(register_);
    put_uleb(to, std::uint64_t(rule.value));
    return true;
  case Kind::offset:
  case Kind::val_offset:
    begin(rule.kind == Kind::offset ? offset_extended_sf : val_offset_sf);
    put_sleb(to, rule.value / data_factor);
    return rule.value % data_factor == 0;
  case Kind::expression:
  case Kind::val_expression:
    begin(rule.kind == Kind::expression ? expression : val_expression);
    return put_block(to, rule.expression);
  }
  return false;
}

// Whether an expression (DWARF 5, section 2.5) says the same wherever the code lies. What is not certain to is not taken:
// jumps among its operations too, which may lead into an operand.
bool holds_anywhere(Bytes expression) {
  constexpr std::uint8_t deref = 0x06, const1u = 0x08, constu = 0x10, consts = 0x11, dup = 0x12, pick = 0x15, rot = 0x17,
                         abs = 0x19, plus_uconst = 0x23, bra = 0x28, ne = 0x2e, lit0 = 0x30, reg0 = 0x50, breg0 = 0x70,
                         deref_size = 0x94, no_operation = 0x96;
  FieldReader operations(expression);
  while (operations.sound() && !operations.at_end()) {
    const auto operation = std::uint8_t(operations.fixed(1));
    if (operation >= const1u && operation < constu)
      operations.skip(std::uint64_t(1) << (operation - const1u) / 2);
    else if (operation == constu || operation == plus_uconst)
      operations.uleb();
    else if (operation == consts)
      operations.sleb();
    else if (operation == pick || operation == deref_size)
      operations.skip(1);
    else if (operation >= breg0 && operation < breg0 + 32 && operation != breg0 + arch::return_address_column)
      operations.sleb();
    else if (operation != deref && (operation < dup || operation > rot) && operation != no_operation &&
             (operation < abs || operation > ne || operation == bra) && (operation < lit0 || operation >= reg0))
      return false;
  }
  return operations.sound();
}

bool holds_anywhere(const FrameRule& rule) {
  switch (rule.kind) {
  case Kind::reg: return rule.value != std::int64_t(arch::return_address_column);
  case Kind::expression:
  case Kind::val_expression: return holds_anywhere(rule.expression);
  default: return true;
  }
}

bool holds_anywhere(const FrameRow& row) {
  const FrameRule& return_address = row.registers[arch::return_address_column];
  return return_address.kind == Kind::offset && return_address.value == arch::return_address_offset &&
         holds_anywhere(row.cfa) &&
         std::all_of(row.registers.begin(), row.registers.end(), [](const FrameRule& rule) { return holds_anywhere(rule); });
}

} // namespace

bool operator==(const FrameRule& a, const FrameRule& b) noexcept {
  return a.kind == b.kind && a.value == b.value && std::ranges::equal(a.expression, b.expression);
}

FrameProgram::FrameProgram(Bytes common, Bytes own, std::uint64_t code_factor, std::int64_t data_factor)
    : program_(common), code_factor_(code_factor), data_factor_(data_factor) {
  run(0);
  initial_ = row_;
  known_ &= program_.sound() && program_.at_end(); // it advances nowhere
  program_ = FieldReader(own);
}

const FrameRow* FrameProgram::at(std::uint64_t offset) {
  run(offset);
  return known_ && program_.sound() && holds_anywhere(row_) ? &row_ : nullptr;
}

void FrameProgram::run(std::uint64_t until) {
  while (known_ && program_.sound() && location_ <= until && !program_.at_end()) step();
}

void FrameProgram::step() {
  auto opcode = std::uint8_t(program_.fixed(1));
  auto advance = [&](std::uint64_t delta) {
    known_ &= !__builtin_mul_overflow(delta, code_factor_, &delta) && !__builtin_add_overflow(location_, delta, &location_);
  };
  switch (opcode & 0xC0) {
  case advance_loc: return advance(opcode & 0x3F);
  case offset_short: return set(opcode & 0x3F, Kind::offset, std::int64_t(program_.uleb()) * data_factor_);
  case restore_short: return restore_rule(opcode & 0x3F);
  default: break;
  }
  switch (opcode) {
  case nop: return;
  case advance_loc1: return advance(program_.fixed(1));
  case advance_loc2: return advance(program_.fixed(2));
  case advance_loc4: return advance(program_.fixed(4));
  case restore_extended: return restore_rule(program_.uleb());
  case remember_state:
    known_ &= remembered_.size() < most_remembered;
    if (known_) remembered_.push_back(row_);
    return;
  case restore_state:
    known_ &= !remembered_.empty();
    if (!known_) return;
    row_ = remembered_.back();
    remembered_.pop_back();
    return;
  case gnu_args_size: program_.uleb(); return; // of use to landing pads only
  case def_cfa:
  case def_cfa_sf:
    row_.cfa = {Kind::reg, std::int64_t(program_.uleb()), {}};
    row_.cfa_offset = opcode == def_cfa ? std::int64_t(program_.uleb()) : program_.sleb() * data_factor_;
    return;
  case def_cfa_register:
    known_ &= row_.cfa.kind == Kind::reg;
    row_.cfa.value = std::int64_t(program_.uleb());
    return;
  case def_cfa_offset:
  case def_cfa_offset_sf:
    known_ &= row_.cfa.kind == Kind::reg;
    row_.cfa_offset = opcode == def_cfa_offset ? std::int64_t(program_.uleb()) : program_.sleb() * data_factor_;
    return;
  case def_cfa_expression:
    row_.cfa = {Kind::expression, 0, block()};
    row_.cfa_offset = 0;
    return;
  default: return step_extended(opcode);
  }
}

// Rules whose register is an operand.
void FrameProgram::step_extended(std::uint8_t opcode) {
  std::uint64_t reg = program_.uleb();
  switch (opcode) {
  case undefined: return set(reg, Kind::undefined);
  case same_value: return set(reg, Kind::same);
  case register_: return set(reg, Kind::reg, std::int64_t(program_.uleb()));
  case offset_extended: return set(reg, Kind::offset, std::int64_t(program_.uleb()) * data_factor_);
  case offset_extended_sf: return set(reg, Kind::offset, program_.sleb() * data_factor_);
  case val_offset: return set(reg, Kind::val_offset, std::int64_t(program_.uleb()) * data_factor_);
  case val_offset_sf: return set(reg, Kind::val_offset, program_.sleb() * data_factor_);
  case expression: return set(reg, Kind::expression, 0, block());
  case val_expression: return set(reg, Kind::val_expression, 0, block());
  default: known_ = false; // DW_CFA_set_loc too: its operand is for a relocation to fill
  }
}

void FrameProgram::set(std::uint64_t reg, Kind kind, std::int64_t value, Bytes bytes) {
  if (reg >= FrameRow::register_count)
    known_ = false;
  else
    row_.registers[reg] = {kind, value, bytes};
}

void FrameProgram::restore_rule(std::uint64_t reg) {
  if (reg >= FrameRow::register_count)
    known_ = false;
  else
    row_.registers[reg] = initial_.registers[reg];
}

Bytes FrameProgram::block() {
  std::uint64_t size = program_.uleb();
  known_ &= size <= longest_row;
  return known_ ? program_.block(size) : Bytes{};
}

bool append_row(std::vector<std::byte>& to, const FrameRow& row, std::int64_t data_factor) {
  const std::size_t begin = to.size();
  if (row.cfa.kind == Kind::reg && row.cfa_offset >= 0) {
    to.push_back(std::byte{def_cfa});
    put_uleb(to, std::uint64_t(row.cfa.value));
    put_uleb(to, std::uint64_t(row.cfa_offset));
  } else if (row.cfa.kind == Kind::expression) {
    to.push_back(std::byte{def_cfa_expression});
    if (!put_block(to, row.cfa.expression)) return false;
  } else {
    return false;
  }
  for (std::size_t reg = 0; reg < row.registers.size(); ++reg)
    if (!put_rule(to, reg, row.registers[reg], data_factor) || to.size() - begin > longest_row) return false;
  return true;
}

} // namespace tenon::link

// The frame of a function at one of its instructions: a row of the table that a program of call frame instructions stands
// for (DWARF 5, section 6.4), and such a row said again in instructions.
//
// Only what a compiler writes is understood; of anything else the answer is "not known", never a wrong row. Nor is a row
// given that would be wrong for code at another address: one that looks at the instruction pointer, or finds the return
// address elsewhere than where a call puts it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include "link/field_reader.h"

#include <array>
#include <cstdint>
#include <vector>

namespace tenon::link {

struct FrameRule {
  enum class Kind : std::uint8_t { unspecified, undefined, same, offset, val_offset, reg, expression, val_expression };
  Kind kind = Kind::unspecified;
  std::int64_t value = 0; // offset from the CFA, or a register
  Bytes expression;       // in the program
};
bool operator==(const FrameRule& a, const FrameRule& b) noexcept;

struct FrameRow {
  // Of x86-64, whose numbers are the highest known here: 16 general ones, the return address, 16 vector registers.
  static constexpr std::size_t register_count = 33;

  FrameRule cfa; // reg with `offset`, or an expression
  std::int64_t cfa_offset = 0;
  std::array<FrameRule, register_count> registers;
  friend bool operator==(const FrameRow&, const FrameRow&) = default;
};

// One function's program. Rows are asked for in ascending order of offsets, so that the program is run once.
class FrameProgram {
public:
  // `common`: the instructions of the CIE; both spans must outlive this and its rows' expressions.
  FrameProgram(Bytes common, Bytes own, std::uint64_t code_factor, std::int64_t data_factor);
  // The row that holds `offset` bytes into the function; null: not known.
  const FrameRow* at(std::uint64_t offset);

private:
  void run(std::uint64_t until);
  void step();
  void step_extended(std::uint8_t opcode);
  void set(std::uint64_t reg, FrameRule::Kind kind, std::int64_t value = 0, Bytes expression = {});
  void restore_rule(std::uint64_t reg);
  Bytes block();

  FieldReader program_;
  std::uint64_t location_ = 0; // that the next instructions are for
  std::uint64_t code_factor_;
  std::int64_t data_factor_;
  bool known_ = true;
  FrameRow row_, initial_;
  std::vector<FrameRow> remembered_;
};

// Instructions that bring the row about, whatever was before, given the data alignment factor of their CIE. False: there are
// none; `to` may have grown then.
bool append_row(std::vector<std::byte>& to, const FrameRow& row, std::int64_t data_factor);

} // namespace tenon::link

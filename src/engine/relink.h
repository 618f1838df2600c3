// Links sections of a committed module again from what was kept of its relocations: for another address, or because what
// they refer to has moved. The object is not needed.
//
// To move a section: copy its bytes, section() on the copy, then references() on every other section of the module; for
// another module that refers to it, follow() and references() on its sections. Everything here computes bytes and nothing
// else: when they become visible, and what the program has pointers to, is the caller's matter.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"
#include "link/bound.h"

#include <span>
#include <vector>

namespace tenon::engine {

// Where a section is to lie: an index as in ModuleState::places, the linker's own among them.
struct SectionMove {
  std::uint32_t section = 0;
  std::uint64_t address = 0;
};

class Relink {
public:
  // `state` must outlive this. Errors: unsupported (sections that __start_ and __stop_ symbols bound move together, by the
  // same distance, or not at all). May throw std::bad_alloc, as may follow().
  static Result<Relink> create(const ModuleState& state, std::span<const SectionMove> moves);

  // What this module refers to in `other`, another module, is where `other` will have it. An address at which a section of
  // one module ends and another module's begins is the latter's, if both are followed.
  void follow(const Relink& other);

  // `bytes` of the section as it is linked now become those for where it will lie. In place; after an error they are of no
  // use. Errors: out_of_range.
  Result<void> section(std::uint32_t section, std::span<std::byte> bytes) const;
  // The same where only fields change whose symbols have moved.
  Result<void> references(std::uint32_t section, std::span<std::byte> bytes) const;

private:
  explicit Relink(const ModuleState& state);
  link::Bound bound() const;
  std::uint32_t own(link::Synthetic which) const noexcept;
  std::uint64_t address(link::Synthetic which) const noexcept { return addresses_[own(which)]; }
  bool moves(link::Synthetic which) const noexcept;
  bool has_thunk(std::uint32_t section) const noexcept;
  Result<void> move_bounds();
  Result<void> object_section(const link::Bound& bound, std::uint32_t section, std::span<std::byte> bytes) const;
  Result<void> stubs(const link::Bound& bound, std::span<std::byte> bytes) const;
  Result<void> frames(std::span<std::byte> bytes) const;

  const ModuleState* state_;
  std::vector<std::uint64_t> addresses_; // of each section
  std::vector<link::Target> targets_;
};

} // namespace tenon::engine

// Which code sections of a version refer to each other other than by calling functions: parts that a compiler has split off,
// labels. With it, what a version no longer needs is found when single functions of it are replaced: the function's own
// section, and those that only it leads to.
//
// Made once for a version, from the kept relocations and the bytes as they are linked. References to functions don't count:
// they follow the function to wherever it is. Tables of distances (jump tables) don't either: nobody but their function uses
// them. An address inside of a function that data holds (computed goto) pins its section for good.
//
// Owner: VersionExtra::graph. Lock: EngineState::commit_mutex.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"

#include <cstdint>
#include <span>
#include <vector>

namespace tenon::engine {

class CodeGraph {
public:
  struct Section {
    std::uint64_t begin = 0, end = 0; // addresses
    std::uint32_t place = 0;          // index into Version::places
    std::uint32_t live = 0;           // functions of it that are current
    bool pinned = false;
    bool stale = false;
  };

  // `holder`: the module or a fragment; `module`: the module. May throw std::bad_alloc.
  CodeGraph(const ModuleState& holder, const ModuleState& module);

  // Indices of sections that are stale once the functions at these addresses are not current any more. May throw
  // std::bad_alloc.
  std::vector<std::uint32_t> find_stale(std::span<const std::uint64_t> bodies) const;
  // That they are not.
  void supersede(std::span<const std::uint64_t> bodies, std::span<const std::uint32_t> stale) noexcept;

  const Section& section(std::uint32_t index) const noexcept { return sections_[index]; }
  // What can be freed of a section: whole granules that no other section has a part in.
  Stretch freeable(std::uint32_t index) const noexcept;

private:
  struct Edge {
    std::uint32_t from = 0, to = 0;
  };

  std::uint32_t at(std::uint64_t address) const noexcept; // link::none: in no code section
  void follow_code(const ModuleState& holder, std::uint32_t place, const Relocation& relocation);
  void follow_data(const ModuleState& holder, std::uint32_t place, const Relocation& relocation);

  std::vector<Section> sections_;    // by address
  std::vector<Edge> out_, in_;       // sorted by `from`; by `to`
  std::vector<std::uint64_t> sites_; // fields that follow functions, sorted; while it is made
};

} // namespace tenon::engine

// What can be moved of a version's code, and what goes with it.
//
// Code can move if nothing but the engine knows where it is. In a replaceable library that holds for functions: the program
// has their stubs, branches to them are sites. What else leads into code decides over the rest:
//
//     branches to parts of functions (.cold, .isra.0)  tie the two sections: they move together
//     jump tables, call frame information              are copied, and the copies relocated for the new place
//     anything else (computed gotos, labels that other modules see, an instruction that takes the address of a place that
//     is no function)                                  pins the section: the address may be anywhere
//
// A jump table is told by what it is: distances to places in code, in read-only data, whose beginning an instruction takes.
// Its old copy stays with the constants around it, for frames in the old code.
//
// All of it works on a snapshot that is taken under commit_mutex, so that the work itself is done without.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/module_state.h"
#include "link/arch/arch.h"

#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tenon::engine {

struct MoveSnapshot {
  struct Function {
    std::uint64_t address = 0, stub = 0;
    std::uint32_t section = link::none;
  };
  // Of what lies in code, and where it leads to.
  struct Reference {
    enum class To : std::uint8_t { elsewhere, code, stubs, table, site };
    link::arch::LinkedField field;
    To to = To::elsewhere;
    std::uint32_t section = link::none; // of code and tables
    std::uint64_t offset = 0;           // in the table's section
  };

  std::string name;
  KeptLinking linking;
  KeptPlaces places; // views of it
  KeptBindings bindings;
  KeptRelocations relocations;
  std::vector<Function> functions;                         // beside Version::functions
  std::unordered_map<std::uint64_t, std::uint64_t> bodies; // of functions, by their stubs
  std::vector<std::uint64_t> sites;                        // sorted
  // Fields of read-only data, by section, that are distances to stubs though they name their functions by the section.
  std::vector<std::pair<std::uint32_t, std::uint64_t>> stub_distances; // sorted
  std::vector<std::uint64_t> exported; // addresses that other modules and the program can find, sorted
  std::vector<std::byte> bytes;        // of code and call frame information
  std::vector<std::size_t> at;         // where a section's begin
  std::uint64_t version = 0, moves = 0;

  // Under commit_mutex. `module`: whose version `holder` has. May throw std::bad_alloc.
  static MoveSnapshot of(const ModuleState& module, const ModuleState& holder);

  std::uint32_t own(link::Synthetic which) const noexcept {
    return std::uint32_t(places.size() - link::synthetic_sections) + std::uint32_t(which);
  }
  bool is_own(std::uint32_t section) const noexcept { return section >= own(link::Synthetic(0)); }
  bool is_code(std::uint32_t section) const noexcept {
    return places[section].kept && places[section].run == link::Run::code;
  }
  const std::byte* bytes_of(std::uint32_t section) const noexcept { return bytes.data() + at[section]; }
  // The symbol lies in a section of the module's own.
  link::Target binding(std::size_t symbol) const noexcept { return bindings[symbol]; }
  bool is_section(const link::Target& target) const noexcept {
    return target.kind == link::TargetKind::section && (target.flags & link::target_flag::tls) == 0 &&
           target.where < places.size();
  }
  static bool has_stub(const link::Target& target) noexcept {
    return (target.flags & (link::target_flag::identity | link::target_flag::ifunc)) != 0;
  }
  bool begins_function(std::uint32_t section, std::uint64_t offset) const noexcept;
  // The function's own address rather than its stub's.
  std::uint64_t code_address(const link::Target& target) const noexcept;
  Reference reference(std::uint32_t section, const Relocation& relocation) const noexcept;
};

struct MovePlan {
  struct Section {
    std::uint32_t index = 0;
    std::uint64_t offset = 0; // in the new block
  };
  // A stretch of read-only data of which the new code has a copy.
  struct Copy {
    std::uint32_t section = 0;
    std::uint64_t begin = 0, end = 0; // in the section
    std::uint64_t offset = 0;         // in the new block
  };
  struct Frame {
    Copy copy;
    std::uint32_t cie = 0;            // index into `cies`
    std::uint32_t section = 0;        // of the code that it describes
    std::uint64_t address = 0;        // where that begins now
    std::uint64_t pc_begin_field = 0; // in the section of the description
  };

  std::vector<Section> sections; // in the order of addresses
  std::vector<Copy> tables;      // sorted by section and offset
  std::vector<Copy> cies;
  std::vector<Frame> frames;
  std::uint64_t stub_frames = 0; // offset of the description of stubs, if they move
  bool stubs = false;            // they move
  std::uint64_t code_size = 0, code_alignment = 16, data_size = 0, lowest = 0, bytes = 0;
  std::size_t functions = 0;
  std::size_t stayed = 0; // sections that were asked for and can't move
  std::string why;        // they stay: of the first

  bool moves(std::uint32_t section) const noexcept;
  std::uint32_t frame_entries() const noexcept { return std::uint32_t(frames.size() + (stubs ? 1 : 0)); }
  const Copy* table_at(std::uint32_t section, std::uint64_t offset) const noexcept;
};

// `seeds`: the sections to move; what they are tied to goes along. `unwinding`: the engine registers frames. May throw
// std::bad_alloc. Errors: malformed (call frame information).
Result<MovePlan> plan_move(const MoveSnapshot& snapshot, std::span<const std::uint32_t> seeds, bool unwinding);

// The bytes for these addresses of the two blocks. Sites lead where they led when the snapshot was taken, from the old
// place: they are stored when the code is exchanged. Errors: out_of_range.
struct MovedBytes {
  std::vector<std::byte> code, data;
  std::vector<std::int64_t> distance; // of each section; 0: stays
  std::vector<notify::Frame> frames;  // sorted
};
Result<MovedBytes> move_bytes(const MoveSnapshot& snapshot, const MovePlan& plan, std::uint64_t code, std::uint64_t data);

} // namespace tenon::engine

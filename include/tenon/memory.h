// The client's own memory: how it is told what is needed, and how it answers.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/object.h>
#include <tenon/result.h>

#include <span>
#include <string>
#include <vector>

namespace tenon {

// A module of one change: an index into what the change links, valid until the change is committed.
struct ModuleId {
  std::uint32_t index = 0;
  friend bool operator==(ModuleId, ModuleId) = default;
};

// A section of a module: the object's section index, or one of the linker's own sections behind them (stubs, GOT).
struct SectionId {
  ModuleId module;
  std::uint32_t index = 0;
  friend bool operator==(SectionId, SectionId) = default;
};

struct SectionLayout {
  SectionId id;
  std::string_view name; // ".text.f"; the linker's own are ".tenon.stubs", ".tenon.got", ".tenon.common", ...
  SectionKind kind = SectionKind::other;
  std::uint64_t size = 0;
  std::uint64_t alignment = 1;
  std::uint64_t content_size = 0; // bytes that are not zero fill: 0 or size
  bool synthetic = false;         // made by the linker
};

// One module's needs, in the order in which the linker lays its sections out.
struct ModuleLayout {
  ModuleId id;
  std::string_view name;
  std::span<const SectionLayout> sections; // those that take part; dropped COMDAT copies do not
  std::uint64_t code = 0, rodata = 0, data = 0, unwind = 0, stubs = 0, got = 0, slots = 0, tls = 0; // bytes, exact
  bool large_model = false; // has absolute calls of the large code model: it links, but its calls can't be retargeted
};

// How finely a client wants to place a module.
enum class Granularity : unsigned char {
  whole,    // one block for the whole object: fixed offsets between its parts
  section,  // one block for each named section: .text.* and .text together, .rodata.*, .data.*, .bss.*, ...
  function, // one block for each section of the object: one function each, when compiled with function sections
};

enum class Access : unsigned char { read = 1, write = 2, execute = 4 };
constexpr Access operator|(Access a, Access b) noexcept {
  return Access(static_cast<unsigned char>(a) | static_cast<unsigned char>(b));
}
constexpr bool has(Access set, Access bit) noexcept {
  return (static_cast<unsigned char>(set) & static_cast<unsigned char>(bit)) != 0;
}

// One piece of memory that a module needs.
struct BlockRequest {
  struct Part {
    SectionId section;
    std::uint64_t offset = 0; // in the block
  };
  ModuleId module;
  std::string name;       // module and section, for messages
  std::uint64_t size = 0; // an upper bound: stubs are counted for the farthest addresses
  std::uint64_t alignment = 1;
  Access access = Access::read; // what its sections need, all together
  std::vector<Part> parts;
};

// What a client gives for one request.
struct Placement {
  Addr address;               // where it will be executed or read
  std::byte* local = nullptr; // where the linker writes the bytes; null: the linker keeps them, and copy_out delivers them
};

// A client's allocator. Called from the thread that drives the change, with no lock of the engine's held.
class Memory {
public:
  virtual ~Memory() = default;
  virtual Granularity granularity() const noexcept { return Granularity::section; }
  // All blocks of a change at once, before anything is written. `placements` has the size of `requests`. On an error nothing
  // may be kept: release() is not called for this change then.
  virtual Result<void> place(std::span<const BlockRequest> requests, std::span<Placement> placements) = 0;
  // All bytes are final: the client sets permissions now, before symbols become visible. After an error the change is
  // dropped.
  virtual Result<void> publish(std::span<const Placement> placements) = 0;
  // The block of a change that was dropped, or of a module that was removed.
  virtual void release(const Placement& placement) noexcept = 0;
};

} // namespace tenon

// What the generic passes ask of an architecture. x86_64.cpp and its like implement it; relocation formulas in the psABI's
// letters stand only there, machine code that the linker writes in x86_64_stubs.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/bound.h"

#include <string>
#include <utility>
#include <vector>

namespace tenon::link {
struct FrameRow;
}

namespace tenon::link::arch {

// Notes what the relocations of the section at `place` need, and adds thunks. Offsets are checked here.
Result<void> survey_section(Module& module, const SectionPlace& place, std::span<const Relocation> relocations,
                            const Reach& reach);

// Applies the relocations of a section of `module` to its local bytes.
Result<void> fix_section(Module& module, const Bound& bound, const SectionBytes& bytes);

// Marks the module's own functions that branches of a code section may need a veneer for.
void want_veneers(Module& module, std::uint32_t section);
void write_veneers(Module& module); // and lists their sites

// After fix_section(): leads direct branches to functions that may be replaced to their bodies, and lists them.
void bind_callees(Module& module, const SectionBytes& bytes);

// The direct branches of a code section that has been fixed up: where each has its displacement, and to which symbol.
struct BranchAt {
  std::uint64_t offset = 0;
  std::uint32_t symbol = 0;
  bool retargetable = false;
};
std::vector<BranchAt> list_branches(const Module& module, const SectionBytes& bytes);
// Where the direct branches of a function lead that the assembler has resolved itself: offsets in the function's section.
std::vector<std::uint64_t> resolved_branches(const Module& module, std::uint32_t section, std::uint64_t begin,
                                             std::uint64_t end);

// What may be instructions that take an address relative to their own, by their bytes; `target` counts from where `code`
// begins.
struct AddressLoad {
  std::uint64_t offset = 0; // of the 4-byte displacement
  std::int64_t target = 0;
};
std::vector<AddressLoad> find_address_loads(Bytes code);

// What linked bytes are taken back and linked again with, one relocation at a time. restore() makes of a relocated field
// what the object had there, for all sections but those in Module::rewritten: some of their bytes must be had from
// elsewhere. It answers which bytes, from the first to before the second offset, are the relocation's to replace.
// relocate() is for a field as the object has it; not for thunked ones.
std::pair<std::uint64_t, std::uint64_t> restore(std::byte* local, const Relocation& relocation, bool code);
Result<void> relocate(const Bound& bound, const SectionBytes& bytes, const Relocation& relocation);

// A field that has been linked, for moving what it lies in, or leads to, without asking how it was bound.
enum class FieldUse : std::uint8_t { branch, address, load, other };
struct LinkedField {
  std::uint64_t symbol = 0; // what stands in for the symbol's address: that itself, a stub's, a GOT cell's
  std::uint64_t offset = 0; // in its section: a relaxed jump has its displacement one byte before its relocation
  std::uint8_t width = 0;   // 4 or 8; 0: nothing in it depends on addresses
  bool relative = false;    // to where it lies
  bool to_got = false;      // leads to a cell of the GOT, unless an instruction in code was relaxed
  bool unsigned_32 = false;
  bool odd = false; // too narrow to say what it leads to
  FieldUse use = FieldUse::other;
};
// Without what stands in it.
LinkedField field_shape(const Relocation& relocation);
// `local`, `address`: of its section.
LinkedField linked_field(const std::byte* local, std::uint64_t address, std::uint64_t got, const Relocation& relocation,
                         bool code);
// False: there is no room for the sum.
[[nodiscard]] bool shift_field(std::byte* local, const LinkedField& field, std::int64_t by);
// The same of a stub that write_stub() has made, when it moves and its cell does not.
[[nodiscard]] bool shift_stub(std::byte* stub, std::int64_t by);

// Sizes of what the linker adds.
inline constexpr std::uint64_t stub_bytes = 8;      // jmp *cell(%rip)
inline constexpr std::uint64_t dso_stub_bytes = 16; // lea __dso_handle(%rip), %reg; jmp *cell(%rip)
inline constexpr std::uint64_t veneer_bytes = 8;    // jmp body, its displacement within an aligned word
inline constexpr std::uint64_t thunk_bytes = 24;
inline constexpr std::uint64_t frame_head_bytes = 24;   // what all descriptions of stubs and thunks begin with
inline constexpr std::uint64_t stub_frame_bytes = 24;   // the description of stubs
inline constexpr std::uint64_t frame_address_field = 8; // where a description has the address that it is for

// False: what they refer to is out of reach, which only a client's addresses can bring about.
[[nodiscard]] bool write_stub(std::byte* at, std::uint64_t address, std::uint64_t cell);
[[nodiscard]] bool write_dso_stub(std::byte* at, std::uint64_t address, std::uint64_t cell, std::uint64_t dso_handle,
                                  unsigned argument);

// Finds the instructions that thunks stand for, and leads those whose data is too far through them. Errors: out_of_range.
Result<void> write_thunks(Module& module, const Bound& bound);
// Of one thunk, when its instruction is known. Whether the data is out of the instruction's reach; the thunk itself; the
// jump to it, to the bytes of its section.
bool thunk_is_used(const Bound& bound, const Thunk& thunk, std::uint64_t section) noexcept;
Result<void> write_thunk(const Bound& bound, const Thunk& thunk, std::uint64_t section, std::byte* code);
Result<void> write_thunk_site(const Bound& bound, const Thunk& thunk, std::uint64_t section, std::byte* bytes);

// Call frame information: the head, then descriptions. Addresses are put in once they are known: `to` of what is described,
// `at` of the description. False: out of reach.
void write_frame_head(std::byte* at);
void write_stub_frame(std::byte* at, std::uint64_t size);
[[nodiscard]] bool set_frame_address(std::byte* description, std::uint64_t at, std::uint64_t to);
// The description of `size` bytes of thunks that run in the frame `row`, to lie `offset` bytes after where the head begins.
// False, and nothing appended: there is no way to say it.
bool append_thunk_frame(std::vector<std::byte>& to, std::uint32_t offset, std::uint32_t size, const FrameRow& row);
inline constexpr std::uint64_t return_address_column = 16; // what CIEs call it
inline constexpr std::int64_t return_address_offset = -8;  // where a call puts it, from the CFA

// While a set of functions is exchanged: leads to chooser, with the content of the cell at `choices` pushed on the stack.
inline constexpr std::uint64_t switch_bytes = 16;
[[nodiscard]] bool write_switch(std::byte* at, std::uint64_t address, std::uint64_t choices, std::uint64_t chooser);
inline constexpr std::uint64_t switch_frame_bytes = 32; // their description, for any number of them
void write_switch_frame(std::byte* at, std::uint64_t size);

// What stands in for a function that is made again when it is called: calls what the cell holds, with its own address pushed
// as a return address, so that whoever looks at the stack sees that it is in use. `entry` lies recall_entry bytes after
// that.
inline constexpr std::uint64_t recall_bytes = 16;
inline constexpr std::uint64_t recall_entry = 2;
[[nodiscard]] bool write_recall(std::byte* at, std::uint64_t address, std::uint64_t cell, const void* entry);

// What stands in for a function that is not there yet: calls report(name), the name following the code.
inline constexpr std::uint64_t trap_bytes = 19;
void write_trap(std::byte* at, std::uint64_t report, std::string_view name);

// psABI name of a relocation type, for messages.
std::string relocation_name(std::uint32_t type);

// Entry points that TLS sequences are bound to.
struct TlsEntryPoints {
  std::uint64_t get_addr = 0;   // called instead of __tls_get_addr
  std::uint64_t descriptor = 0; // first word of a TLS descriptor whose second points to a TlsIndex
};
extern TlsEntryPoints tls_entry_points;

} // namespace tenon::link::arch

// The last pass: bytes are copied to where the program will see them, and relocated there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"
#include "link/arch/arch.h"
#include "link/passes.h"
#include "memory/system.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace tenon::link {

namespace {

void put_word(std::byte* at, std::uint64_t value) { std::memcpy(at, &value, sizeof value); }

// What lies between functions. Not traps: processors were seen to take 22 % longer for calls to ten thousand functions with
// INT3 between them than with anything else.
constexpr int padding = 0x90; // nop
constexpr std::uint64_t padded_to = 16;

// In the engine's own memory, whose blocks are of whole granules. A section's padding may be the next one's place, which is
// copied after it; sections of a NamedRun lie next to those of other modules, and have none.
void pad(const SectionPlace& place) {
  if (place.run != Run::code || place.leads || place.follows) return;
  const std::uint64_t end = place.offset + place.size;
  if (end % padded_to != 0) std::memset(place.local + place.size, padding, padded_to - end % padded_to);
}

// Fresh memory is zero, but reused memory is not; large pieces go back to the kernel instead of being touched.
void zero_fill(std::byte* at, std::uint64_t size, bool private_memory) {
  constexpr std::uint64_t page = 4096, worth_a_call = 64 * 1024;
  if (size >= worth_a_call && private_memory) {
    auto begin = (reinterpret_cast<std::uintptr_t>(at) + page - 1) & ~(page - 1);
    auto end = (reinterpret_cast<std::uintptr_t>(at) + size) & ~(page - 1);
    if (memory::system::discard(reinterpret_cast<void*>(begin), end - begin)) {
      std::memset(at, 0, begin - reinterpret_cast<std::uintptr_t>(at));
      std::memset(reinterpret_cast<void*>(end), 0, reinterpret_cast<std::uintptr_t>(at) + size - end);
      return;
    }
  }
  std::memset(at, 0, size);
}

// Every object has an empty .data and .bss: a call that writes nothing costs hundreds of cycles where no page is present, by
// AVX-512's masked store.
void zero(const SectionPlace& place, bool private_memory) {
  if (place.run == Run::data && place.size != 0 && place.local != nullptr)
    zero_fill(place.local, place.size, private_memory);
}

std::uint64_t cell_content(const Target& target) { return target.kind == TargetKind::null ? 0 : target.address; }

TlsIndex tls_index(const Module& module, std::span<const std::unique_ptr<Module>> modules, std::uint32_t symbol) {
  const Target& target = module.targets[symbol];
  switch (target.kind) {
  case TargetKind::section: return {module.tls_key, target.address};
  case TargetKind::module: return {modules[target.where]->tls_key, target.address};
  case TargetKind::fixed: break;
  default: return {};
  }
  auto binding = std::lower_bound(module.tls_bindings.begin(), module.tls_bindings.end(), symbol,
                                  [](const TlsBinding& b, std::uint32_t s) { return b.symbol < s; });
  TENON_CHECK(binding != module.tls_bindings.end() && binding->symbol == symbol, "a TLS target without a key");
  return {binding->key, target.address};
}

std::int64_t tls_offset(const Module& module, std::uint32_t symbol) {
  auto binding = std::lower_bound(module.tls_bindings.begin(), module.tls_bindings.end(), symbol,
                                  [](const TlsBinding& b, std::uint32_t s) { return b.symbol < s; });
  return binding != module.tls_bindings.end() && binding->symbol == symbol ? binding->static_offset : 0;
}

void write_got(Module& module, const Bound& bound, std::span<const std::unique_ptr<Module>> modules) {
  const SectionPlace& got = module.place(Synthetic::got);
  if (!got.kept) return;
  std::memset(got.local, 0, got.size);
  write_address_cells(bound, got.local);
  for (const Entry& entry : module.entries) {
    if (entry.tls_pair != none) {
      TlsIndex index = tls_index(module, modules, entry.symbol);
      put_word(got.local + entry.tls_pair, index.module);
      put_word(got.local + entry.tls_pair + 8, index.offset);
    }
    if (entry.tls_descriptor != none) put_word(got.local + entry.tls_descriptor, arch::tls_entry_points.descriptor);
    if (entry.tls_offset != none) put_word(got.local + entry.tls_offset, std::uint64_t(tls_offset(module, entry.symbol)));
  }
  if (module.tls_ld != none) put_word(got.local + module.tls_ld, module.tls_key);
}

// Where the client chooses addresses, stubs and what they jump through may lie too far from each other.
Error far_stub(const Module* module, std::uint32_t symbol) {
  return {ErrorCode::out_of_range,
          "the stub of '" +
              (module != nullptr ? std::string(module->symbols()[symbol].name()) : "symbol #" + std::to_string(symbol)) +
              "' is too far from the cell that it jumps through: .tenon.stubs, .tenon.got and "
              ".tenon.slots must lie within 2 GiB"};
}

Result<void> write_all_stubs(Module& module, const Bound& bound) {
  const SectionPlace& stubs = module.place(Synthetic::stubs);
  if (!stubs.kept) return {};
  std::memset(stubs.local, 0xCC, stubs.size);
  return write_stubs(bound, stubs.local);
}

// Of stubs and thunks.
Result<void> write_frames(Module& module) {
  const SectionPlace& frames = module.place(Synthetic::stub_frames);
  if (!frames.kept) return {};
  const std::uint64_t stubs = module.place(Synthetic::stubs).address;
  arch::write_frame_head(frames.local);
  bool near = true;
  auto set = [&](std::uint64_t at, std::uint64_t stub) {
    near &= arch::set_frame_address(frames.local + at, frames.address + at, stubs + stub);
    module.frames.push_back({stubs + stub, frames.address + at});
  };
  std::uint64_t at = arch::frame_head_bytes;
  if (module.plain_stub_size != 0) {
    arch::write_stub_frame(frames.local + at, module.plain_stub_size);
    set(at, 0);
    at += arch::stub_frame_bytes;
  }
  if (!module.thunk_frame_bytes.empty())
    std::memcpy(frames.local + at, module.thunk_frame_bytes.data(), module.thunk_frame_bytes.size());
  for (const ThunkFrame& frame : module.thunk_frames) set(frame.at, frame.stub);
  if (near) return {};
  return Error{ErrorCode::out_of_range,
               "stubs are too far from their frame description: .tenon.stubs and .tenon.eh_frame must lie within 2 GiB"};
}

void sort_frames(Module& module) {
  const auto by_pc = [](const FrameEntry& a, const FrameEntry& b) { return a.pc < b.pc; };
  if (!std::is_sorted(module.frames.begin(), module.frames.end(), by_pc)) // compilers write them in order
    std::sort(module.frames.begin(), module.frames.end(), by_pc);
}

void collect_frames(Module& module) {
  const std::size_t before = module.frames.size();
  module.frames.resize(before + module.frame_spots.size());
  FrameEntry* to = module.frames.begin() + before;
  for (const FrameSpot& spot : module.frame_spots)
    *to++ = {module.places[spot.section].address + spot.offset, module.places[spot.unwind].address + spot.at};
  sort_frames(module);
}

// Calls visit(part, its module) for each section of code that lies in this module's memory and is another's.
template <class Visit>
void for_each_foreign_code(const Module& module, std::span<const std::unique_ptr<Module>> modules, Visit&& visit) {
  for (const NamedRun& named : module.named_runs)
    for (const NamedRun::Part& part : named.parts)
      if (Module& owner = *modules[part.module]; &owner != &module && owner.places[part.section].run == Run::code)
        visit(part, owner);
}

// Of one module, uncompressed: compressed data can claim a thousand times its size.
constexpr std::uint64_t most_debug_bytes = std::uint64_t(1) << 30;

// Debug sections are kept beside the program, uncompressed, with section addresses of zero among themselves.
Result<void> fix_debug_sections(Module& module, const Bound& bound) {
  std::span<const Section> sections = module.sections();
  module.debug_bytes.resize(sections.size());
  std::uint64_t left = most_debug_bytes;
  for (std::uint32_t i = 1; i < sections.size(); ++i) {
    if (sections[i].kind != SectionKind::debug) continue;
    Result<std::vector<std::byte>> bytes = module.object.uncompressed(i, left);
    if (!bytes) return std::move(bytes).error();
    left -= bytes->size();
    module.debug_bytes[i] = std::move(*bytes);
    SectionPlace& place = module.places.at(i);
    place.local = module.debug_bytes[i].data();
    place.size = module.debug_bytes[i].size();
    place.has_content = true;
    const SectionBytes site{i, place.address, place.local, {place.local, place.size}, false, true};
    if (Result<void> done = arch::fix_section(module, bound, site); !done)
      return std::move(done).error().within(sections[i].name);
  }
  return {};
}

} // namespace

void write_address_cells(const Bound& bound, std::byte* got) {
  for (const Entry& entry : bound.entries) {
    if (entry.got != none) put_word(got + entry.got, cell_content(bound.targets[entry.symbol]));
    if (entry.address_cell != none) put_word(got + entry.address_cell, bound.stubs + entry.stub);
    if (entry.tls_descriptor != none) put_word(got + entry.tls_descriptor + 8, bound.got + entry.tls_pair);
  }
}

Result<void> write_stubs(const Bound& bound, std::byte* stubs) {
  for (const Entry& entry : bound.entries) {
    if (entry.stub == none) continue;
    const Target& target = bound.targets[entry.symbol];
    std::uint64_t at = bound.stubs + entry.stub;
    std::uint64_t cell = entry.slot != none                ? bound.slots + entry.slot
                         : target.kind == TargetKind::slot ? target.address
                                                           : bound.got + entry.got;
    bool near = target.kind == TargetKind::thunk
                    ? arch::write_dso_stub(stubs + entry.stub, at, cell, bound.dso_handle, target.where)
                    : arch::write_stub(stubs + entry.stub, at, cell);
    if (!near) return far_stub(bound.module, entry.symbol);
  }
  return {};
}

void hand_over_frames(std::span<const std::unique_ptr<Module>> modules) {
  for (const std::unique_ptr<Module>& module : modules) {
    std::size_t own = module->frames.size();
    for_each_foreign_code(*module, modules, [&](const NamedRun::Part& part, Module& owner) {
      const SectionPlace& place = owner.places[part.section];
      auto is_there = [&](const FrameEntry& frame) { return frame.pc - place.address < place.size; };
      std::copy_if(owner.frames.begin(), owner.frames.end(), std::back_inserter(module->frames), is_there);
      base::erase_if(owner.frames, is_there);
    });
    if (module->frames.size() != own) sort_frames(*module);
  }
}

std::uint32_t foreign_frames(const Module& module, std::span<const std::unique_ptr<Module>> modules) {
  std::uint32_t frames = 0;
  const Module* last = nullptr;
  for_each_foreign_code(module, modules, [&](const NamedRun::Part&, Module& owner) {
    frames += &owner != last ? owner.frame_count : 0;
    last = &owner;
  });
  return frames;
}

namespace {

// What the linker adds.
Result<void> write_synthetic(Module& module, const Bound& bound, std::span<const std::unique_ptr<Module>> modules,
                             const FixUpOptions& options) {
  if (const SectionPlace& common = module.place(Synthetic::common); common.kept) zero(common, options.private_memory);
  if (const SectionPlace& dso = module.place(Synthetic::dso_handle); dso.kept) {
    put_word(dso.local, options.dso_handle_content[0]);
    put_word(dso.local + 8, options.dso_handle_content[1]);
  }
  if (const SectionPlace& slots = module.place(Synthetic::slots); slots.kept)
    for (std::uint64_t at = 0; at < slots.size; at += 8) put_word(slots.local + at, options.unresolved_slot);
  write_got(module, bound, modules);
  if (Result<void> written = write_all_stubs(module, bound); !written) return written;
  arch::write_veneers(module);
  return write_frames(module);
}

// Copied and relocated at once, while it is in the cache.
Result<void> fix_place(Module& module, const Bound& bound, const SectionPlace& place, bool private_memory) {
  if (place.content_size() == 0) {
    zero(place, private_memory);
    return {};
  }
  const Bytes content = module.sections()[place.section].content;
  std::memcpy(place.local, content.data(), place.size);
  if (private_memory) pad(place);
  const SectionBytes bytes{place.section, place.address, place.local, content, place.kind == SectionKind::code, false};
  if (!module.relocations(place.section).empty())
    if (Result<void> done = arch::fix_section(module, bound, bytes); !done) return done;
  if (!module.callees.empty()) arch::bind_callees(module, bytes);
  return {};
}

} // namespace

Result<void> fix_up(Module& module, std::span<const std::unique_ptr<Module>> modules, const FixUpOptions& options) {
  module.frames.clear();
  module.slot_pointers.clear();
  module.rewritten.clear();
  module.sites.clear();
  module.branches_through_stubs = 0;
  module.frames.reserve(module.frame_count);
  const Bound bound(module, options.low_2gib);
  if (module.places.has_synthetic())
    if (Result<void> written = write_synthetic(module, bound, modules, options); !written) return written;
  for (const SectionPlace& place : module.places.of_object())
    if (place.kept)
      if (Result<void> done = fix_place(module, bound, place, options.private_memory); !done)
        return std::move(done).error().within(module.sections()[place.section].name);
  if (!module.thunks.empty())
    if (Result<void> thunks = arch::write_thunks(module, bound); !thunks) return thunks;
  collect_frames(module);
  return module.debug_sections ? fix_debug_sections(module, bound) : Result<void>();
}

} // namespace tenon::link

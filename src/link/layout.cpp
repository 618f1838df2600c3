// Which sections take part, and where each lies in its run.
//
// A run is a contiguous piece of one memory area: code (then stubs), read-only data (then unwind information, the TLS image,
// the GOT), writable data (then zero fill), slots. `.data.rel.ro` goes to read-only data: the linker relocates through its
// own view, so nothing need ever be writable to the program. TLS sections follow psABI section 3.4.6 in being one contiguous
// image.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "base/check.h"
#include "link/arch/arch.h"
#include "link/passes.h"

#include <algorithm>

namespace tenon::link {

namespace {

// More than any reservation can hold, and far from overflow when sizes are added up.
constexpr std::uint64_t largest_module = std::uint64_t(1) << 40;
// Every thread that touches the module's variables has a block of that size.
constexpr std::uint64_t largest_tls = std::uint64_t(1) << 31;

Run run_of(const Section& section) {
  switch (section.kind) {
  case SectionKind::code: return Run::code;
  case SectionKind::rodata:
  case SectionKind::unwind:
  case SectionKind::init:
  case SectionKind::tls_data:
  case SectionKind::tls_zero: return Run::rodata;
  case SectionKind::data: return section.name.starts_with(".data.rel.ro") ? Run::rodata : Run::data;
  case SectionKind::zero: return Run::data;
  case SectionKind::debug:
  case SectionKind::other: break;
  }
  return Run::none;
}

// Places a section behind what a run has already.
template <class Place> void put(RunSize& run, Place& place, std::uint64_t alignment) {
  place.offset = base::align_up(run.size, alignment);
  run.size = place.offset + place.size;
  run.alignment = std::max(run.alignment, alignment);
}

bool is_tls(SectionKind kind) { return kind == SectionKind::tls_data || kind == SectionKind::tls_zero; }

void put_synthetic(Module& module, Synthetic which, std::uint64_t size, std::uint32_t alignment, Run run) {
  if (size == 0) return;
  SectionPlace& place = module.places.add(module.synthetic_index(which));
  place.kind = synthetic_kind(which);
  place.kept = true;
  place.has_content = which != Synthetic::common;
  place.serves_all = true;
  place.size = size;
  place.set_alignment(alignment);
  place.run = run;
}

void size_synthetic(Module& module) {
  module.places.remove_synthetic();
  std::uint64_t frames = module.thunk_frame_bytes.size();
  if (module.plain_stub_size != 0 && module.unwinding) frames += arch::stub_frame_bytes;
  if (frames != 0) frames += arch::frame_head_bytes;
  put_synthetic(module, Synthetic::stubs, module.stub_size, 16, Run::code);
  put_synthetic(module, Synthetic::stub_frames, frames, 8, Run::rodata);
  put_synthetic(module, Synthetic::got, module.got_size, 16, Run::rodata);
  put_synthetic(module, Synthetic::common, module.common_size, module.common_alignment, Run::data);
  put_synthetic(module, Synthetic::dso_handle, module.wants_dso_handle ? 16 : 0, 16, Run::rodata);
  put_synthetic(module, Synthetic::slots, module.slot_size, 8, Run::slots);
}

// Thread-local sections form one block: initialized ones first, so that the image needs no bytes for the rest.
void lay_out_tls(Module& module) {
  std::uint64_t size = 0;
  std::uint32_t alignment = 1;
  for (SectionKind kind : {SectionKind::tls_data, SectionKind::tls_zero}) {
    for (SectionPlace& place : module.places.list()) {
      if (place.kind != kind || !place.kept) continue;
      size = base::align_up(size, place.alignment());
      place.offset = size;
      size += place.size;
      alignment = std::max(alignment, place.alignment());
    }
    if (kind == SectionKind::tls_data) module.tls_image_size = size;
  }
  module.tls_size = size;
  module.tls_alignment = alignment;
}

// Right behind the first section of a name, those that __start_ and __stop_ symbols bound together with it.
void put_followers(Module& module, std::uint32_t first, RunSize& run) {
  std::vector<NamedRun::Part>& parts = module.named_run(first).parts;
  for (std::size_t i = 1; i < parts.size(); ++i) put(run, parts[i], parts[i].alignment);
}

} // namespace

const char* synthetic_name(Synthetic section) noexcept {
  switch (section) {
  case Synthetic::stubs: return ".tenon.stubs";
  case Synthetic::stub_frames: return ".tenon.eh_frame";
  case Synthetic::got: return ".tenon.got";
  case Synthetic::common: return ".tenon.common";
  case Synthetic::dso_handle: return ".tenon.dso_handle";
  case Synthetic::slots: return ".tenon.slots";
  case Synthetic::count: break;
  }
  return "";
}

SectionKind synthetic_kind(Synthetic section) noexcept {
  switch (section) {
  case Synthetic::stubs: return SectionKind::code;
  case Synthetic::stub_frames: return SectionKind::unwind;
  case Synthetic::common: return SectionKind::zero;
  case Synthetic::got:
  case Synthetic::dso_handle: return SectionKind::rodata;
  case Synthetic::slots: return SectionKind::data;
  case Synthetic::count: break;
  }
  return SectionKind::other;
}

namespace {

Error compressed(const Section& section) {
  return {ErrorCode::unsupported, "section " + std::string(section.name) + " is compressed but takes part in the program"};
}

Error too_large(const Section& section, std::uint64_t total) {
  return {ErrorCode::exhausted, "sections up to " + std::string(section.name) + " need " + std::to_string(total) +
                                    " bytes: more than any reservation holds"};
}

SectionPlace& add_place(Module& module, std::uint32_t index, const Section& section) {
  SectionPlace& place = module.places.add(index);
  place.run = run_of(section);
  place.kind = section.kind;
  place.kept = place.run != Run::none;
  place.size = section.size;
  place.has_content = section.kind != SectionKind::zero && section.kind != SectionKind::tls_zero;
  place.set_alignment(section.alignment);
  place.unwind = section.kind == SectionKind::unwind;
  place.serves_all = place.unwind || is_tls(section.kind);
  place.overlies = section.kind == SectionKind::tls_zero;
  return place;
}

} // namespace

Result<void> select_sections(Module& module, std::span<const std::uint8_t> dropped) {
  std::span<const Section> sections = module.sections();
  module.places.begin(sections.size(), sections.size() / 2);
  std::uint64_t total = 0;
  bool has_tls = false;
  for (const std::uint32_t i : module.object.file().contents) {
    const Section& section = sections[i];
    if (!section.allocated) {
      if (module.debug_sections && section.kind == SectionKind::debug) module.places.add(i).kind = section.kind;
      continue;
    }
    if (!dropped.empty() &&
        (dropped[i] || (section.link_order != 0 && section.link_order < sections.size() && dropped[section.link_order])))
      continue;
    if (!add_place(module, i, section).kept) continue;
    has_tls |= is_tls(section.kind);
    if (section.compressed) return compressed(section);
    total += section.size;
    if (total > largest_module) return too_large(section, total);
  }
  if (has_tls) lay_out_tls(module);
  if (module.tls_size > largest_tls)
    return Error{ErrorCode::exhausted,
                 "thread-local sections need " + std::to_string(module.tls_size) + " bytes: more than a thread can have"};
  return {};
}

Result<void> lay_out(Module& module) {
  if (module.common_size > largest_module)
    return Error{ErrorCode::exhausted,
                 "common symbols need " + std::to_string(module.common_size) + " bytes: more than any reservation holds"};
  size_synthetic(module);
  std::array<RunSize, runs>& run_sizes = module.run_sizes;
  run_sizes = {};
  // TLS data has its offset in the image already; the image as a whole is placed in the read-only run first.
  if (module.tls_image_size != 0) {
    RunSize& run = run_sizes[std::size_t(Run::rodata)];
    run.size = module.tls_image_size;
    run.alignment = std::max<std::uint64_t>(run.alignment, module.tls_alignment);
  }
  auto place_it = [&](SectionPlace& place) {
    RunSize& run = run_sizes[std::size_t(place.run)];
    put(run, place, place.alignment());
    if (place.leads) put_followers(module, place.section, run);
  };
  // What has no content comes last in its run.
  bool any_zero = false;
  for (SectionPlace& place : module.places.list()) {
    if (!place.kept || place.follows || is_tls(place.kind)) continue;
    if (place.content_size() != 0)
      place_it(place);
    else
      any_zero = true;
  }
  if (any_zero)
    for (SectionPlace& place : module.places.list())
      if (place.kept && !place.follows && !is_tls(place.kind) && place.content_size() == 0) place_it(place);
  for (const RunSize& run : run_sizes)
    if (run.size > largest_module)
      return Error{ErrorCode::exhausted, "the module needs " + std::to_string(run.size) + " bytes of one kind"};
  return {};
}

void set_runs(Module& module, std::span<const std::unique_ptr<Module>> modules, std::span<const RunPlace, runs> run_places) {
  auto set = [&](SectionPlace& place) {
    const RunPlace& run = run_places[std::size_t(place.run)];
    place.address = run.address + place.offset;
    place.local = run.local + place.offset;
  };
  for (SectionPlace& place : module.places.list())
    if (place.kept && !place.follows) set(place);
  for (const NamedRun& named : module.named_runs)
    for (std::size_t i = 1; i < named.parts.size(); ++i) {
      SectionPlace& place = modules[named.parts[i].module]->places.at(named.parts[i].section);
      place.offset = named.parts[i].offset;
      set(place);
    }
}

void set_section(Module& module, std::uint32_t section, std::uint64_t address, std::byte* local) {
  SectionPlace& place = module.places.at(section);
  place.address = address;
  place.local = local;
}

} // namespace tenon::link

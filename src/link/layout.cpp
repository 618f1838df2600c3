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

// Places sections one after another in a run.
class Cursor {
public:
  explicit Cursor(RunSize& run) : run_(run) {}

  template <class Place> void put(Place& place) {
    run_.size = base::align_up(run_.size, place.alignment);
    place.offset = run_.size;
    run_.size += place.size;
    run_.alignment = std::max<std::uint64_t>(run_.alignment, place.alignment);
  }

private:
  RunSize& run_;
};

bool is_tls(SectionKind kind) { return kind == SectionKind::tls_data || kind == SectionKind::tls_zero; }

void put_synthetic(Module& module, Synthetic which, std::uint64_t size, std::uint64_t content, std::uint32_t alignment,
                   Run run) {
  SectionPlace& place = module.place(which);
  place = {};
  place.kind = synthetic_kind(which);
  place.kept = size != 0;
  place.serves_all = true;
  place.size = size;
  place.content_size = content;
  place.alignment = alignment;
  place.run = size != 0 ? run : Run::none;
}

void size_synthetic(Module& module) {
  std::uint64_t frames = module.thunk_frame_bytes.size();
  if (module.plain_stub_size != 0 && module.unwinding) frames += arch::stub_frame_bytes;
  if (frames != 0) frames += arch::frame_head_bytes;
  put_synthetic(module, Synthetic::stubs, module.stub_size, module.stub_size, 16, Run::code);
  put_synthetic(module, Synthetic::stub_frames, frames, frames, 8, Run::rodata);
  put_synthetic(module, Synthetic::got, module.got_size, module.got_size, 16, Run::rodata);
  put_synthetic(module, Synthetic::common, module.common_size, 0, module.common_alignment, Run::data);
  put_synthetic(module, Synthetic::dso_handle, module.wants_dso_handle ? 16 : 0, 16, 16, Run::rodata);
  put_synthetic(module, Synthetic::slots, module.slot_size, module.slot_size, 8, Run::slots);
}

// Thread-local sections form one block: initialized ones first, so that the image needs no bytes for the rest.
void lay_out_tls(Module& module) {
  std::span<const Section> sections = module.sections();
  std::uint64_t size = 0;
  std::uint32_t alignment = 1;
  for (SectionKind kind : {SectionKind::tls_data, SectionKind::tls_zero}) {
    for (std::uint32_t i : module.kept) {
      SectionPlace& place = module.places[i];
      if (sections[i].kind != kind) continue;
      size = base::align_up(size, place.alignment);
      place.offset = size;
      size += place.size;
      alignment = std::max(alignment, place.alignment);
    }
    if (kind == SectionKind::tls_data) module.tls_image_size = size;
  }
  module.tls_size = size;
  module.tls_alignment = alignment;
}

// Right behind the first section of a name, those that __start_ and __stop_ symbols bound together with it.
void put_followers(Module& module, std::uint32_t first, Cursor& cursor) {
  std::vector<NamedRun::Part>& parts = module.named_run(first).parts;
  for (std::size_t i = 1; i < parts.size(); ++i) cursor.put(parts[i]);
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

Result<void> select_sections(Module& module, std::span<const std::uint8_t> dropped) {
  std::span<const Section> sections = module.sections();
  module.places.assign(sections.size() + synthetic_sections, {});
  module.kept.clear();
  module.kept.reserve(sections.size() / 2);
  std::uint64_t total = 0;
  bool has_tls = false;
  for (std::uint32_t i = 1; i < sections.size(); ++i) {
    const Section& section = sections[i];
    if (!section.allocated || (!dropped.empty() && dropped[i])) continue;
    if (section.link_order != 0 && section.link_order < sections.size() && !dropped.empty() && dropped[section.link_order])
      continue;
    SectionPlace& place = module.places[i];
    place.run = run_of(section);
    place.kind = section.kind;
    place.kept = place.run != Run::none;
    place.size = section.size;
    bool zero = section.kind == SectionKind::zero || section.kind == SectionKind::tls_zero;
    place.content_size = zero ? 0 : section.size;
    place.alignment = section.alignment;
    place.unwind = section.kind == SectionKind::unwind;
    place.serves_all = place.unwind || is_tls(section.kind);
    place.overlies = section.kind == SectionKind::tls_zero;
    if (!place.kept) continue;
    module.kept.push_back(i);
    has_tls |= is_tls(section.kind);
    if (section.compressed)
      return Error{ErrorCode::unsupported,
                   "section " + std::string(section.name) + " is compressed but takes part in the program"};
    total += section.size;
    if (total > largest_module)
      return Error{ErrorCode::exhausted, "sections up to " + std::string(section.name) + " need " + std::to_string(total) +
                                             " bytes: more than any reservation holds"};
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
  module.run_sizes = {};
  Cursor cursors[runs] = {Cursor(module.run_sizes[0]), Cursor(module.run_sizes[1]), Cursor(module.run_sizes[2]),
                          Cursor(module.run_sizes[3])};
  // TLS data has its offset in the image already; the image as a whole is placed in the read-only run first.
  if (module.tls_image_size != 0) {
    RunSize& run = module.run_sizes[std::size_t(Run::rodata)];
    run.size = module.tls_image_size;
    run.alignment = std::max<std::uint64_t>(run.alignment, module.tls_alignment);
  }
  for (bool zero : {false, true}) {
    module.for_each_kept([&](std::uint32_t i) {
      SectionPlace& place = module.places[i];
      if ((place.content_size == 0) != zero) return;
      if (place.follows || is_tls(place.kind)) return;
      cursors[std::size_t(place.run)].put(place);
      if (place.leads) put_followers(module, i, cursors[std::size_t(place.run)]);
    });
  }
  for (const RunSize& run : module.run_sizes)
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
  module.for_each_kept([&](std::uint32_t i) {
    if (!module.places[i].follows) set(module.places[i]);
  });
  for (const NamedRun& named : module.named_runs)
    for (std::size_t i = 1; i < named.parts.size(); ++i) {
      SectionPlace& place = modules[named.parts[i].module]->places[named.parts[i].section];
      place.offset = named.parts[i].offset;
      set(place);
    }
}

void set_section(Module& module, std::uint32_t section, std::uint64_t address, std::byte* local) {
  module.places[section].address = address;
  module.places[section].local = local;
}

} // namespace tenon::link

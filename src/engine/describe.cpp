// The lists of sections that a Draft, a Placed and a Linked show are made when a client first asks for them, which few do.
// Asking can't fail: the memory is there from the stage on that the list is of, and costs next to nothing while nobody
// writes to it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

namespace tenon::engine {

namespace {

void describe_layout(ChangeState& change, std::uint32_t m) noexcept {
  const link::Module& module = *change.modules[m];
  const std::size_t first = change.section_layouts.size();
  ModuleLayout layout;
  layout.id = {m};
  layout.name = module.name;
  layout.large_model = module.large_model;
  layout.stubs = module.stub_size;
  layout.got = module.got_size;
  layout.slots = module.slot_size;
  module.for_each_kept([&](std::uint32_t i) {
    const link::SectionPlace& place = module.places[i];
    bool synthetic = module.is_synthetic(i);
    auto which = link::Synthetic(i - module.object_sections());
    SectionKind kind = module.section_kind(i);
    change.section_layouts.push_back(
        {{{m}, i}, module.section_name(i), kind, place.size, place.alignment(), place.content_size(), synthetic});
    if (kind == SectionKind::tls_zero) return; // in no memory of the module's: every thread has its own
    if (kind == SectionKind::tls_data)
      layout.tls += place.size;
    else if (kind == SectionKind::unwind)
      layout.unwind += place.size;
    else if (synthetic && which != link::Synthetic::common && which != link::Synthetic::dso_handle)
      return; // counted above
    else if (place.run == link::Run::code)
      layout.code += place.size;
    else if (place.run == link::Run::rodata)
      layout.rodata += place.size;
    else
      layout.data += place.size;
  });
  layout.sections = std::span(change.section_layouts).subspan(first);
  change.layouts.push_back(layout);
}

} // namespace

void reserve_layouts(ChangeState& change) {
  change.layouts.clear();
  change.section_layouts.clear();
  change.layouts.reserve(change.modules.size());
  change.section_layouts.reserve(change.shown_sections);
}

void describe_layouts(ChangeState& change) noexcept {
  if (!change.layouts.empty()) return;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) describe_layout(change, m);
}

void reserve_places(ChangeState& change) {
  change.placed_sections.clear();
  change.placed_sections.reserve(change.shown_sections);
}

void describe_places(ChangeState& change) noexcept {
  if (!change.placed_sections.empty()) return;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    module.for_each_kept([&](std::uint32_t i) {
      const link::SectionPlace& place = module.places[i];
      change.placed_sections.push_back({{{m}, i},
                                        module.section_name(i),
                                        module.section_kind(i),
                                        {place.address},
                                        place.size,
                                        place.alignment(),
                                        module.is_synthetic(i)});
    });
  }
}

} // namespace tenon::engine

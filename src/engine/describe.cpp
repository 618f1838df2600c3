// The lists of sections that a Draft, a Placed and a Linked show are made when a client first asks for them, which few do.
// Asking can't fail: the memory is there from the stage on that the list is of, and costs next to nothing while nobody
// writes to it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include <utility>

namespace tenon::engine {

namespace {

void describe_layout(ChangeState& change, std::uint32_t m) noexcept {
  const link::Module& module = *change.modules[m];
  const std::size_t first = change.shown.section_count();
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
    change.shown.add(SectionLayout{
        {{m}, i}, module.section_name(i), kind, place.size, place.alignment(), place.content_size(), synthetic});
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
  layout.sections = change.shown.last_sections(change.shown.section_count() - first);
  change.shown.add(layout);
}

} // namespace

void ShownLists::reserve(std::size_t modules, std::size_t sections) {
  static_assert(alignof(ModuleLayout) == 8 && alignof(SectionLayout) == 8 && alignof(PlacedSection) == 8);
  clear();
  const std::size_t bytes = modules * sizeof(ModuleLayout) + sections * (sizeof(SectionLayout) + sizeof(PlacedSection));
  if (bytes == 0) return;
  auto* at = static_cast<std::byte*>(base::scratch::allocate(bytes, 8));
  bytes_ = bytes;
  layouts_ = reinterpret_cast<ModuleLayout*>(at);
  sections_ = reinterpret_cast<SectionLayout*>(at += modules * sizeof(ModuleLayout));
  places_ = reinterpret_cast<PlacedSection*>(at + sections * sizeof(SectionLayout));
}

void ShownLists::clear() noexcept {
  layout_count_ = section_count_ = place_count_ = 0;
  if (bytes_ != 0) base::scratch::deallocate(layouts_, std::exchange(bytes_, 0), 8);
}

void reserve_lists(ChangeState& change, std::size_t sections) { change.shown.reserve(change.modules.size(), sections); }

void describe_layouts(ChangeState& change) noexcept {
  if (!change.shown.layouts().empty()) return;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) describe_layout(change, m);
}

void describe_places(ChangeState& change) noexcept {
  if (!change.shown.places().empty()) return;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    module.for_each_kept([&](std::uint32_t i) {
      const link::SectionPlace& place = module.places[i];
      change.shown.add(PlacedSection{{{m}, i},
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

// Symbols get their final addresses, once every section of the change has one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "link/arch/arch.h"
#include "link/passes.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tenon::link {

Result<SharedTls> share_tls(std::span<const std::unique_ptr<Module>> modules) {
  SharedTls shared;
  for (const std::unique_ptr<Module>& module : modules) {
    module->tls_base = 0;
    shared.wanted |= module->wants_shared_tls;
  }
  if (!shared.wanted) return shared;
  // What has no initial content comes last, so that the image is no longer than it must be.
  for (bool zero : {false, true})
    for (const std::unique_ptr<Module>& module : modules) {
      if (module->tls_size == 0 || (module->tls_image_size == 0) != zero) continue;
      module->tls_base = base::align_up(shared.size, module->tls_alignment);
      shared.size = module->tls_base + module->tls_size;
      shared.alignment = std::max(shared.alignment, module->tls_alignment);
      if (!zero) shared.image_size = module->tls_base + module->tls_image_size;
      // Offsets are signed 32-bit fields, and each module's size was limited before.
      if (shared.size > std::uint64_t(std::numeric_limits<std::int32_t>::max()))
        return Error{ErrorCode::exhausted, "the thread-local variables that the modules of one change share need " +
                                               std::to_string(shared.size) + " bytes: more than a thread can have"};
    }
  return shared;
}

void copy_shared_image(std::span<const std::unique_ptr<Module>> modules, std::span<std::byte> image) {
  for (const std::unique_ptr<Module>& module : modules)
    for (const SectionPlace& place : module->places.of_object())
      if (place.kept && place.kind == SectionKind::tls_data && place.content_size() != 0)
        std::memcpy(image.data() + module->tls_base + place.offset, place.local, place.content_size());
}

namespace {

std::uint64_t bound_address(const SectionBound& bound, std::span<const std::unique_ptr<Module>> modules) {
  const std::vector<NamedRun::Part>& parts = modules[bound.module]->named_runs[bound.run].parts;
  const NamedRun::Part& edge = bound.stop ? parts.back() : parts.front();
  const SectionPlace& place = modules[edge.module]->places[edge.section];
  return place.address + (bound.stop ? place.size : 0);
}

} // namespace

void settle_own(Module& module, std::span<const std::unique_ptr<Module>> modules) {
  for (Target& target : module.targets) {
    if (target.kind != TargetKind::section) continue;
    if (target.where >= tls_block) [[unlikely]] {
      target.address = target.where == bound_section ? bound_address(module.bounds[target.address], modules) : 0;
      continue;
    }
    const SectionPlace& place = module.places[target.where];
    // The engine has left the offset in the section there.
    target.address += (target.flags & target_flag::tls) != 0 ? module.tls_base + place.offset : place.address;
  }
  if (module.ifuncs.empty()) return;
  // An IFUNC's address is that of its stub, wherever the resolver's answer lies.
  const std::uint64_t stubs = module.place(Synthetic::stubs).address;
  for (std::uint32_t symbol : module.ifuncs) {
    Target& target = module.targets[symbol];
    if (target.kind == TargetKind::section && target.entry != 0)
      target.address = stubs + module.entries[target.entry - 1].stub;
  }
}

void settle_references(Module& module, std::span<const std::unique_ptr<Module>> modules) {
  for (Target& target : module.targets)
    if (target.kind == TargetKind::module) target.address = modules[target.where]->targets[target.address].address;
}

} // namespace tenon::link

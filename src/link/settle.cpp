// Symbols get their final addresses, once every section of the change has one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/arch.h"
#include "link/passes.h"

namespace tenon::link {

void settle_own(Module& module) {
  std::span<const Symbol> symbols = module.symbols();
  std::uint64_t stubs = module.place(Synthetic::stubs).address;
  for (std::uint32_t i = 1; i < symbols.size(); ++i) {
    Target& target = module.targets[i];
    if (target.kind != TargetKind::section)
      continue;
    if (target.where == bound_section) {
      const SectionBound& bound = module.bounds[target.address];
      const SectionPlace& edge = module.places[bound.stop ? bound.last : bound.first];
      target.address = edge.address + (bound.stop ? edge.size : 0);
      continue;
    }
    const SectionPlace& place = module.places[target.where];
    if (target.flags & target_flag::tls)
      target.address = place.offset + symbols[i].value;
    else if (target.where >= module.object_sections())
      target.address += place.address; // the linker's own sections: the engine has left the offset there
    else
      target.address = place.address + symbols[i].value;
  }
  // An IFUNC's address is that of its stub, wherever the resolver's answer lies.
  for (std::uint32_t symbol : module.ifuncs) {
    Target& target = module.targets[symbol];
    if (target.kind == TargetKind::section && target.entry != 0)
      target.address = stubs + module.entries[target.entry - 1].stub;
  }
}

void settle_references(Module& module, std::span<const std::unique_ptr<Module>> modules) {
  for (Target& target : module.targets)
    if (target.kind == TargetKind::module)
      target.address = modules[target.where]->targets[target.address].address;
}

} // namespace tenon::link

// What an object's distances count from is found by trying.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/distances.h"

#include "link/arch/arch.h"

#include <algorithm>

namespace tenon::link {

const OwnFunction* find_function(std::span<const OwnFunction> functions, std::uint32_t section,
                                 std::uint64_t offset) noexcept {
  const std::pair key(section, offset);
  auto found = std::lower_bound(functions.begin(), functions.end(), key,
                                [](const OwnFunction& f, const auto& k) { return std::pair(f.section, f.offset) < k; });
  return found != functions.end() && std::pair(found->section, found->offset) == key ? &*found : nullptr;
}

const OwnFunction* Distances::function(std::uint32_t section, const Relocation& r) {
  auto after = std::upper_bound(
      module_.data_objects.begin(), module_.data_objects.end(), std::pair(section, std::uint64_t(r.offset)),
      [](const auto& key, const DataObject& object) { return key < std::pair(object.section, object.begin); });
  if (after == module_.data_objects.begin()) return nullptr;
  const DataObject& object = *std::prev(after);
  if (object.section != section || r.offset >= object.end) return nullptr;
  if (last_ != &object) {
    last_ = &object;
    from_ = look(object);
  }
  if (from_ == From::none) return nullptr;
  return find(r, from_ == From::itself ? r.offset : object.begin);
}

// `from`: what the distance counts from, in the section that it lies in.
const OwnFunction* Distances::find(const Relocation& r, std::uint64_t from) const {
  const std::uint64_t target = std::uint64_t(r.addend) - (r.offset - from);
  const Symbol& symbol = module_.symbols()[r.symbol];
  if (symbol.type == SymbolType::section) return find_function(module_.own_functions, symbol.section, target);
  return target == 0 ? find_function(module_.own_functions, symbol.section, symbol.value) : nullptr;
}

Distances::From Distances::look(const DataObject& object) const {
  bool itself = true, from_begin = true;
  for (const Relocation& r : module_.relocations(object.section)) {
    if (r.offset < object.begin || r.offset >= object.end) continue;
    const std::uint32_t section = module_.symbols()[r.symbol].section;
    const arch::LinkedField field = arch::field_shape(r);
    const bool to_code = module_.targets[r.symbol].kind == TargetKind::section && section < module_.object_sections() &&
                         module_.places[section].run == Run::code;
    if (!to_code || !field.relative || field.to_got) continue;
    itself = itself && find(r, r.offset) != nullptr;
    from_begin = from_begin && find(r, object.begin) != nullptr;
  }
  return itself ? From::itself : from_begin ? From::object : From::none;
}

} // namespace tenon::link

// How a module is cut into blocks for a client's memory.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "link/passes.h"

#include <algorithm>

namespace tenon::link {

namespace {

SectionKind kind_of(const Module& module, std::uint32_t section) {
  return section < module.object_sections() ? module.sections()[section].kind
                                            : synthetic_kind(Synthetic(section - module.object_sections()));
}

std::string_view name_of(const Module& module, std::uint32_t section) {
  return section < module.object_sections() ? module.sections()[section].name
                                            : std::string_view(synthetic_name(Synthetic(section - module.object_sections())));
}

bool is_tls(SectionKind kind) { return kind == SectionKind::tls_data || kind == SectionKind::tls_zero; }

Access access_of(const Module& module, std::uint32_t section) {
  switch (module.places[section].run) {
  case Run::code: return Access::read | Access::execute;
  case Run::data: return Access::read | Access::write;
  // Slots are written while the program runs, by whoever can write there: the client's memory has no second view.
  case Run::slots: return Access::read | Access::write;
  default: return Access::read;
  }
}

// ".text.f" goes with ".text", as an ordinary linker puts them together; names of their own stay on their own.
std::string_view output_name(std::string_view name) {
  for (std::string_view stem : {".text", ".data.rel.ro", ".rodata", ".data", ".bss", ".gcc_except_table", ".init_array", ".fini_array"})
    if (name == stem || (name.starts_with(stem) && name[stem.size()] == '.'))
      return stem;
  return name;
}

// Sections in one block share a key.
std::string key_of(const Module& module, std::uint32_t section, Granularity granularity) {
  SectionKind kind = kind_of(module, section);
  if (granularity == Granularity::whole)
    return {};
  if (is_tls(kind))
    return ".tdata"; // one image
  if (granularity == Granularity::section)
    return std::string(output_name(name_of(module, section)));
  bool bounded = std::any_of(module.bounds.begin(), module.bounds.end(), [&](const SectionBound& b) {
    return name_of(module, section) == name_of(module, b.first);
  });
  return bounded ? std::string(name_of(module, section)) : "#" + std::to_string(section);
}

// Unwind information that a client's block holds ends in a zero length, for registration with the unwinder.
std::uint64_t tail_of(SectionKind kind) { return kind == SectionKind::unwind ? 4 : 0; }

class Blocks {
public:
  Blocks(const Module& module, ModuleId id, Granularity granularity) : module_(module), id_(id), granularity_(granularity) {}

  void add(std::uint32_t section) {
    const SectionPlace& place = module_.places[section];
    SectionKind kind = kind_of(module_, section);
    BlockRequest& block = block_for(key_of(module_, section, granularity_), section);
    std::uint64_t offset;
    if (is_tls(kind)) {
      offset = tls_base(block) + place.offset;
      if (kind == SectionKind::tls_data)
        block.size = std::max(block.size, offset + place.size);
      block.alignment = std::max<std::uint64_t>(block.alignment, module_.tls_alignment);
    } else {
      offset = base::align_up(block.size, place.alignment);
      block.size = offset + place.size + tail_of(kind);
      block.alignment = std::max<std::uint64_t>(block.alignment, place.alignment);
    }
    block.access = block.access | access_of(module_, section);
    block.parts.push_back({{id_, section}, offset});
  }

  std::vector<BlockRequest> take() && { return std::move(blocks_); }

private:
  BlockRequest& block_for(std::string key, std::uint32_t section) {
    auto found = std::find(keys_.begin(), keys_.end(), key);
    if (found != keys_.end())
      return blocks_[std::size_t(found - keys_.begin())];
    keys_.push_back(std::move(key));
    BlockRequest& block = blocks_.emplace_back();
    block.module = id_;
    block.name = module_.name;
    if (granularity_ != Granularity::whole)
      block.name += ":" + std::string(name_of(module_, section));
    return block;
  }

  // The image of thread-local data begins at one place in its block.
  std::uint64_t tls_base(const BlockRequest& block) {
    if (!tls_base_)
      tls_base_ = base::align_up(block.size, module_.tls_alignment);
    return *tls_base_;
  }

  const Module& module_;
  ModuleId id_;
  Granularity granularity_;
  std::vector<std::string> keys_;
  std::vector<BlockRequest> blocks_;
  std::optional<std::uint64_t> tls_base_;
};

} // namespace

Result<std::vector<BlockRequest>> client_blocks(const Module& module, ModuleId id, Granularity granularity) {
  Blocks blocks(module, id, granularity);
  // By run, zero fill last, so that a whole object has its code, read-only and writable parts next to their like.
  for (Run run : {Run::code, Run::rodata, Run::data, Run::slots})
    for (bool zero : {false, true})
      for (std::uint32_t i = 1; i < module.places.size(); ++i)
        if (module.places[i].kept && module.places[i].run == run && (module.places[i].content_size == 0) == zero)
          blocks.add(i);
  return std::move(blocks).take();
}

} // namespace tenon::link

// How a module is cut into blocks for a client's memory.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "link/passes.h"

#include <algorithm>
#include <functional>
#include <map>
#include <unordered_map>

namespace tenon::link {

namespace {

SectionKind kind_of(const Module& module, std::uint32_t section) {
  return section < module.object_sections() ? module.sections()[section].kind
                                            : synthetic_kind(Synthetic(section - module.object_sections()));
}

std::string_view name_of(const Module& module, std::uint32_t section) {
  return section < module.object_sections()
             ? module.sections()[section].name
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
  for (std::string_view stem :
       {".text", ".data.rel.ro", ".rodata", ".data", ".bss", ".gcc_except_table", ".init_array", ".fini_array"})
    if (name == stem || (name.starts_with(stem) && name[stem.size()] == '.')) return stem;
  return name;
}

// Sections in one block share a key: a name, or a section's own number; neither for the image of thread-local data, and for
// everything if nothing is cut.
struct Key {
  std::string_view name;
  std::uint32_t section = 0;
  friend bool operator==(const Key&, const Key&) = default;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const noexcept {
    return std::hash<std::string_view>()(key.name) + key.section * std::size_t(0x9E3779B97F4A7C15);
  }
};

Key key_of(const Module& module, std::uint32_t section, Granularity granularity) {
  if (granularity == Granularity::whole || is_tls(kind_of(module, section))) return {};
  if (granularity == Granularity::section) return {output_name(name_of(module, section)), none};
  return {{}, section};
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
      block.alignment = std::max<std::uint64_t>(block.alignment, module_.tls_alignment);
    } else {
      offset = base::align_up(block.size, place.alignment());
      block.size = offset + place.size + tail_of(kind);
      block.alignment = std::max<std::uint64_t>(block.alignment, place.alignment());
    }
    block.access = block.access | access_of(module_, section);
    block.parts.push_back({{id_, section}, offset});
    if (place.leads) add_followers(block, section);
  }

  // No client is asked for nothing: empty sections stand at the beginning of another block of their kind.
  std::vector<BlockRequest> take() && {
    BlockRequest* first = nullptr;
    std::map<Access, BlockRequest*> first_of; // of each access
    for (BlockRequest& block : blocks_)
      if (block.size != 0) {
        first = first != nullptr ? first : &block;
        first_of.try_emplace(block.access, &block);
      }
    for (BlockRequest& empty : blocks_) {
      if (empty.size != 0 || first == nullptr) continue;
      auto like = first_of.find(empty.access);
      BlockRequest* host = like != first_of.end() ? like->second : first;
      host->alignment = std::max(host->alignment, empty.alignment);
      for (const BlockRequest::Part& part : empty.parts) host->parts.push_back({part.section, 0});
    }
    std::erase_if(blocks_, [](const BlockRequest& block) { return block.size == 0; });
    return std::move(blocks_);
  }

private:
  // Sections of the same name, other modules' too, lie right behind.
  void add_followers(BlockRequest& block, std::uint32_t first) {
    const std::vector<NamedRun::Part>& parts = module_.named_run(first).parts;
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const NamedRun::Part& part = parts[i];
      std::uint64_t offset = base::align_up(block.size, part.alignment);
      block.size = offset + part.size;
      block.alignment = std::max<std::uint64_t>(block.alignment, part.alignment);
      block.parts.push_back({{{part.module}, part.section}, offset});
    }
  }

  BlockRequest& block_for(const Key& key, std::uint32_t section) {
    auto [found, added] = index_.try_emplace(key, blocks_.size());
    if (!added) return blocks_[found->second];
    BlockRequest& block = blocks_.emplace_back();
    block.module = id_;
    block.name = module_.name;
    if (granularity_ != Granularity::whole) block.name += ":" + std::string(name_of(module_, section));
    return block;
  }

  // The image of thread-local data lies in one piece in its block.
  std::uint64_t tls_base(BlockRequest& block) {
    if (!tls_base_) {
      tls_base_ = base::align_up(block.size, module_.tls_alignment);
      if (module_.tls_image_size != 0) block.size = *tls_base_ + module_.tls_image_size;
    }
    return *tls_base_;
  }

  const Module& module_;
  ModuleId id_;
  Granularity granularity_;
  std::unordered_map<Key, std::size_t, KeyHash> index_; // into blocks_
  std::vector<BlockRequest> blocks_;
  std::optional<std::uint64_t> tls_base_;
};

} // namespace

Result<std::vector<BlockRequest>> client_blocks(const Module& module, ModuleId id, Granularity granularity) {
  Blocks blocks(module, id, granularity);
  // By run, zero fill last, so that a whole object has its code, read-only and writable parts next to their like, and what
  // has no content comes at the very end.
  for (Run run : {Run::code, Run::rodata, Run::slots, Run::data})
    for (bool zero : {false, true})
      for (std::uint32_t i = 1; i < module.places.size(); ++i)
        if (module.places[i].kept && !module.places[i].follows && module.places[i].run == run &&
            (module.places[i].content_size() == 0) == zero)
          blocks.add(i);
  return std::move(blocks).take();
}

} // namespace tenon::link

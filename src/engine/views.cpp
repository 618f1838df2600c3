// What clients see of a change's stages: symbols and linker entries at their addresses, blocks, bytes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/change_state.h"

#include "base/align.h"
#include "link/arch/arch.h"

#include <algorithm>

namespace tenon::engine {

std::vector<PlacedSymbol> placed_symbols(const ChangeState& change) {
  std::vector<PlacedSymbol> symbols;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    std::span<const Symbol> all = module.symbols();
    for (std::uint32_t i = 1; i < all.size(); ++i) {
      const Symbol& symbol = all[i];
      const link::Target& target = definition_of(change, m, i);
      bool absolute = symbol.section == section_absolute && target.kind == link::TargetKind::fixed;
      if (!symbol.defined() || symbol.type == SymbolType::section || symbol.type == SymbolType::file ||
          (target.kind != link::TargetKind::section && !absolute) || symbol.name().empty())
        continue;
      std::uint32_t section = absolute ? section_absolute : target.where;
      if (!absolute && section < module.places.size() && !module.places[section].kept) continue;
      symbols.push_back({symbol.name(), {target.address}, symbol.size, {m}, section, symbol.binding, symbol.type});
    }
  }
  return symbols;
}

std::vector<LinkerEntry> linker_entries(const ChangeState& change) {
  std::vector<LinkerEntry> entries;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    std::uint64_t got = module.place(link::Synthetic::got).address, stubs = module.place(link::Synthetic::stubs).address;
    std::uint64_t slots = module.place(link::Synthetic::slots).address;
    for (const link::Entry& entry : module.entries) {
      const link::Target& target = module.targets[entry.symbol];
      const Symbol& symbol = module.symbols()[entry.symbol];
      std::string_view name = symbol.name();
      if (symbol.type == SymbolType::section && symbol.section < module.object_sections())
        name = module.sections()[symbol.section].name;
      Addr to{target.kind == link::TargetKind::slot || entry.slot != link::none ? 0 : target.address};
      auto add = [&](LinkerEntry::Kind kind, std::uint64_t base, std::uint32_t offset) {
        if (offset != link::none) entries.push_back({kind, name, {m}, {base + offset}, to});
      };
      add(LinkerEntry::Kind::got, got, entry.got);
      add(LinkerEntry::Kind::got, got, entry.address_cell);
      add(LinkerEntry::Kind::stub, stubs, entry.stub);
      add(LinkerEntry::Kind::slot, slots, entry.slot);
      add(LinkerEntry::Kind::tls, got, entry.tls_pair);
      add(LinkerEntry::Kind::tls, got, entry.tls_descriptor);
      add(LinkerEntry::Kind::tls, got, entry.tls_offset);
    }
  }
  return entries;
}

std::vector<Branch> direct_branches(const ChangeState& change) {
  std::vector<Branch> branches;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    const link::Module& module = *change.modules[m];
    for (std::uint32_t i : module.kept()) {
      const link::SectionPlace& place = module.places[i];
      if (module.section_kind(i) != SectionKind::code || place.local == nullptr || place.content_size() == 0) continue;
      const link::SectionBytes bytes{i, place.address, place.local, module.sections()[i].content, true, false};
      for (const link::arch::BranchAt& branch : link::arch::list_branches(module, bytes)) {
        const Symbol& symbol = module.symbols()[branch.symbol];
        const bool named = symbol.type != SymbolType::section || symbol.section >= module.object_sections();
        branches.push_back(
            {{{m}, i}, branch.offset, named ? symbol.name() : module.sections()[symbol.section].name, branch.retargetable});
      }
    }
  }
  return branches;
}

Result<std::vector<BlockRequest>> client_requests(const ChangeState& change, Granularity granularity) {
  // The draft itself is surveyed for the engine's memory; a copy is surveyed for the farthest addresses.
  std::vector<BlockRequest> requests;
  for (std::uint32_t m = 0; m < change.modules.size(); ++m) {
    link::Module copy = *change.modules[m];
    Result<void> done = link::survey(copy, link::Reach{});
    if (done) done = link::lay_out(copy);
    if (!done) return std::move(done).error().within(module_context(change, m));
    Result<std::vector<BlockRequest>> blocks = link::client_blocks(copy, {m}, granularity);
    if (!blocks) return std::move(blocks).error().within(module_context(change, m));
    std::move(blocks->begin(), blocks->end(), std::back_inserter(requests));
  }
  return requests;
}

Result<std::unique_ptr<ChangeState>> edit(const ChangeState& change, std::vector<Edit> edits) {
  auto edited = std::make_unique<ChangeState>(change.engine);
  edited->libraries = change.libraries;
  edited->additions = change.additions;
  edited->removals = change.removals;
  edited->quiet = change.quiet;
  for (const Unload& unload : change.unloads) edited->unloads.push_back({unload.module, unload.recall, nullptr, {}});
  edited->leads = change.leads;
  edited->edits = change.edits;
  edited->edited_modules = change.edited_modules;
  for (Edit& edit : edits) {
    if (edit.module.index >= change.modules.size())
      return Error{ErrorCode::invalid_argument,
                   "an edit of '" + edit.symbol + "' names a module that the change does not have"};
    edited->edited_modules.push_back(change.modules[edit.module.index]->name);
    edited->edits.push_back(std::move(edit));
  }
  if (Result<void> drafted = draft(*edited); !drafted) return std::move(drafted).error();
  return edited;
}

Result<void> copy_out(const ChangeState& change, std::span<const std::span<std::byte>> buffers) {
  if (change.mode == PlaceMode::engine)
    return Error{ErrorCode::invalid_argument,
                 "copy_out() is for changes that were placed in the client's memory or at its addresses"};
  if (buffers.size() != change.requests.size())
    return Error{ErrorCode::invalid_argument, "copy_out() got " + std::to_string(buffers.size()) + " buffers for " +
                                                  std::to_string(change.requests.size()) + " blocks"};
  for (std::size_t i = 0; i < buffers.size(); ++i)
    if (buffers[i].size() < change.requests[i].size)
      return Error{ErrorCode::invalid_argument, "the buffer for " + change.requests[i].name + " has " +
                                                    std::to_string(buffers[i].size()) + " bytes of the " +
                                                    std::to_string(change.requests[i].size) + " that are needed"};
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    std::uint64_t size = change.requests[i].size;
    if (const std::byte* local = change.placements[i].local; local != nullptr) {
      std::copy_n(local, size, buffers[i].begin());
      continue;
    }
    const std::vector<std::byte>& content = change.buffers[i];
    std::copy(content.begin(), content.end(), buffers[i].begin());
    std::fill_n(buffers[i].begin() + std::ptrdiff_t(content.size()), size - content.size(), std::byte{0});
  }
  return {};
}

} // namespace tenon::engine

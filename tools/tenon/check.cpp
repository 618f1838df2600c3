// Rules are evaluated by LLVM's RuntimeDyldChecker, so that tests written for llvm-jitlink hold here, too. It computes with
// the addresses that the code was linked for and reads the bytes where the linker keeps them.
//
// Containers are called by the base name of their file, as by llvm-jitlink. stub_addr takes a third argument, the kind of
// entry: stub (the default), got, slot or tls.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.h"

#include "place.h"

#include <llvm/ADT/StringRef.h>
#include <llvm/ExecutionEngine/RuntimeDyldChecker.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/TargetParser/Host.h>

#include <cstdio>
#include <optional>
#include <unordered_map>

namespace tenon::cli {

namespace {

using Region = llvm::RuntimeDyldChecker::MemoryRegionInfo;

std::string_view view(llvm::StringRef text) { return {text.data(), text.size()}; }

template <class... Parts> llvm::Error failure(Parts... parts) {
  std::string text;
  ((text += std::string_view(parts)), ...);
  return llvm::make_error<llvm::StringError>(text, llvm::inconvertibleErrorCode());
}

// "file.o/.text", as the older rules have it, names the file.
bool names_module(std::string_view container, std::string_view module) {
  return container == module || container == base_name(module) ||
         container.substr(0, container.find('/')) == base_name(module);
}

class Image {
public:
  Image(const Linked& linked, std::span<const Definition> definitions) : linked_(linked), entries_(linked.entries()) {
    for (const Definition& definition : definitions)
      symbols_.emplace(definition.name, PlacedSymbol{definition.name, definition.address, 0, {}, section_absolute});
    for (const PlacedSymbol& symbol : linked.symbols()) {
      auto [place, added] = symbols_.emplace(symbol.name, symbol);
      // Of several local symbols with one name the first counts, but a global one counts more.
      if (!added && place->second.binding == Binding::local && symbol.binding != Binding::local) place->second = symbol;
    }
  }

  bool has_symbol(std::string_view name) const { return symbols_.find(std::string(name)) != symbols_.end(); }

  llvm::Expected<Region> symbol(std::string_view name) const {
    auto found = symbols_.find(std::string(name));
    if (found == symbols_.end()) return failure("no symbol ", name);
    const PlacedSymbol& symbol = found->second;
    if (symbol.section == section_absolute) return Region(symbol.size, symbol.address.value);
    return region({symbol.module, symbol.section}, symbol.address);
  }

  llvm::Expected<Region> section(std::string_view container, std::string_view name) const {
    for (const PlacedSection& section : linked_.sections())
      if (section.name == name && names_module(container, linked_.module_name(section.id.module)))
        return region(section.id, section.address);
    return failure("no section ", name, " in ", container);
  }

  llvm::Expected<Region> entry(std::string_view container, std::string_view name, LinkerEntry::Kind kind) const {
    for (const LinkerEntry& entry : entries_)
      if (entry.kind == kind && entry.symbol == name && names_module(container, linked_.module_name(entry.module)))
        return region({entry.module, section_absolute}, entry.address);
    return failure(kind == LinkerEntry::Kind::stub ? "no stub for " : "no entry for ", name, " in ", container);
  }

private:
  // From `address` to the end of the section that holds it: the named one, else whichever of the module's it lies in.
  llvm::Expected<Region> region(SectionId id, Addr address) const {
    const PlacedSection* holder = nullptr;
    for (const PlacedSection& section : linked_.sections()) {
      bool inside = address >= section.address && address - section.address <= section.size;
      if (section.id == id && inside) {
        holder = &section;
        break;
      }
      if (section.id.module == id.module && inside && address - section.address < section.size) holder = &section;
    }
    if (!holder) return Region(0, address.value);
    std::uint64_t offset = address - holder->address;
    Bytes bytes = linked_.bytes(holder->id);
    if (bytes.size() < offset || bytes.empty()) return Region(holder->size - offset, address.value);
    return Region(llvm::ArrayRef<char>(reinterpret_cast<const char*>(bytes.data()) + offset, bytes.size() - offset),
                  address.value, 0);
  }

  const Linked& linked_;
  std::vector<LinkerEntry> entries_;
  std::unordered_map<std::string, PlacedSymbol> symbols_;
};

std::optional<LinkerEntry::Kind> entry_kind(std::string_view filter) {
  if (filter.empty() || filter == "stub") return LinkerEntry::Kind::stub;
  if (filter == "got") return LinkerEntry::Kind::got;
  if (filter == "slot") return LinkerEntry::Kind::slot;
  if (filter == "tls") return LinkerEntry::Kind::tls;
  return std::nullopt;
}

bool has_rule(std::string_view text, std::string_view prefix) {
  for (std::size_t at = 0; (at = text.find(prefix, at)) != std::string_view::npos; ++at) {
    std::size_t line = text.rfind('\n', at);
    std::string_view before = text.substr(line + 1, at - line - 1); // npos + 1 is 0
    if (before.find_first_not_of(" \t") == std::string_view::npos) return true;
  }
  return false;
}

} // namespace

Result<void> check_rules(const Linked& linked, std::span<const Definition> definitions, const std::string& file,
                         const std::string& prefix) {
  llvm::ErrorOr<std::unique_ptr<llvm::MemoryBuffer>> buffer = llvm::MemoryBuffer::getFileOrSTDIN(file);
  if (!buffer) return Error{ErrorCode::system, file + ": " + buffer.getError().message()};
  if (!has_rule(view((*buffer)->getBuffer()), prefix))
    return Error{ErrorCode::invalid_argument, file + ": no line begins with '" + prefix + "' (hint: see --check-prefix)"};

  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86Disassembler();
  Image image(linked, definitions);
  std::string complaints;
  llvm::raw_string_ostream stream(complaints);
  llvm::RuntimeDyldChecker checker(
      [&](llvm::StringRef name) { return image.has_symbol(view(name)); },
      [&](llvm::StringRef name) { return image.symbol(view(name)); },
      [&](llvm::StringRef container, llvm::StringRef name) { return image.section(view(container), view(name)); },
      [&](llvm::StringRef container, llvm::StringRef name, llvm::StringRef filter) -> llvm::Expected<Region> {
        std::optional<LinkerEntry::Kind> kind = entry_kind(view(filter));
        if (!kind) return failure("no kind of stub is called ", view(filter));
        return image.entry(view(container), view(name), *kind);
      },
      [&](llvm::StringRef container, llvm::StringRef name) {
        return image.entry(view(container), view(name), LinkerEntry::Kind::got);
      },
      llvm::endianness::little, llvm::Triple("x86_64-unknown-linux-gnu"), "", llvm::SubtargetFeatures(), stream);
  bool passed = checker.checkAllRulesInBuffer(prefix, buffer->get());
  std::fputs(complaints.c_str(), stderr);
  if (!passed)
    return Error{ErrorCode::invalid_argument, file + ": a check does not hold (hint: it stands above, with its values)"};
  return {};
}

} // namespace tenon::cli

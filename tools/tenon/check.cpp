// Rules are evaluated by LLVM's RuntimeDyldChecker, so that tests written for llvm-jitlink hold here, too. It computes with
// the addresses that the code was linked for and reads the bytes where the linker keeps them.
//
// The checker reads at the linker's own copy, and so can't follow an address that it has loaded or computed. Where the
// code's addresses are free here, the bytes are mapped there: then both addresses are one, and everything can be followed.
// Elsewhere, and for an address outside of the image, such a rule is an error, caught as the fault that it is.
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

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <sys/mman.h>
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

// The linked bytes at the addresses that they were linked for, if all of these are free.
class Mirror {
public:
  explicit Mirror(const Linked& linked) {
    for (const PlacedSection& section : linked.sections())
      if (section.size != 0 && section.kind != SectionKind::debug && !map(section)) {
        unmap();
        return;
      }
    for (const PlacedSection& section : linked.sections()) {
      Bytes bytes = linked.bytes(section.id);
      if (section.kind != SectionKind::debug && !bytes.empty())
        std::memcpy(section.address.as<void*>(), bytes.data(), bytes.size());
    }
    complete_ = true;
  }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;
  ~Mirror() { unmap(); }

  bool complete() const { return complete_; }

private:
  // Page by page: sections share pages with their neighbours, and an image that is checked is small.
  bool map(const PlacedSection& section) {
    constexpr std::uint64_t page = 4096, limit = 1 << 14;
    std::uint64_t end = section.address.value + section.size;
    for (std::uint64_t at = section.address.value & ~(page - 1); at < end && at + page != 0; at += page) {
      if (pages_.contains(at)) continue;
      void* wanted = reinterpret_cast<void*>(at);
      void* got = pages_.size() < limit
                      ? mmap(wanted, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
                      : MAP_FAILED;
      if (got == MAP_FAILED) return false;
      if (got != wanted) {
        munmap(got, page); // a kernel that does not know the flag takes the address as a wish
        return false;
      }
      pages_.insert(at);
    }
    return end >= section.address.value;
  }
  void unmap() {
    for (std::uint64_t at : pages_) munmap(reinterpret_cast<void*>(at), 4096);
    pages_.clear();
  }

  std::set<std::uint64_t> pages_;
  bool complete_ = false;
};

sigjmp_buf after_fault;

// Calls `check`; false if it faulted. What it held then is lost, which a tool that is about to report an error can bear.
template <class Check> bool survives(Check check) {
  struct sigaction action{}, old_segv{}, old_bus{};
  action.sa_handler = [](int) { siglongjmp(after_fault, 1); };
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);
  bool survived = sigsetjmp(after_fault, 1) == 0;
  if (survived) check();
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  return survived;
}

class Image {
public:
  Image(const Linked& linked, std::span<const PlacedSymbol> symbols, std::vector<LinkerEntry> entries,
        std::span<const Definition> definitions)
      : linked_(linked), mirror_(linked), entries_(std::move(entries)) {
    for (const Definition& definition : definitions)
      symbols_.emplace(definition.name, PlacedSymbol{definition.name, definition.address, 0, {}, section_absolute});
    for (const PlacedSymbol& symbol : symbols) {
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
    const char* content =
        mirror_.complete() ? address.as<const char*>() : reinterpret_cast<const char*>(bytes.data()) + offset;
    return Region(llvm::ArrayRef<char>(content, bytes.size() - offset), address.value, 0);
  }

  const Linked& linked_;
  Mirror mirror_;
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

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '$' || c == '@'; }

// LLVM's parser stops at a blank behind a number ("4 - x"), where it takes one everywhere else: such blanks are left out.
std::string without_blanks_after_numbers(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    bool number = std::isdigit(static_cast<unsigned char>(text[i])) && (i == 0 || !is_name(text[i - 1]));
    if (!number) {
      out += text[i++];
      continue;
    }
    while (i < text.size() && is_name(text[i])) out += text[i++];
    while (i < text.size() && text[i] == ' ') ++i;
  }
  return out;
}

// The lines that begin with the prefix, made fit for LLVM.
std::string extract_rules(std::string_view text, std::string_view prefix) {
  std::string rules;
  while (!text.empty()) {
    std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    std::size_t start = line.find_first_not_of(" \t");
    std::size_t last = line.find_last_not_of(" \t\r");
    if (start == std::string_view::npos || !line.substr(start).starts_with(prefix)) continue;
    std::string_view body = line.substr(0, last + 1).substr(std::min(start + prefix.size(), last + 1));
    rules += std::string(prefix) + without_blanks_after_numbers(body) + "\n";
  }
  return rules;
}

} // namespace

Result<void> check_rules(const Linked& linked, std::span<const Definition> definitions, const std::string& file,
                         const std::string& prefix) {
  llvm::ErrorOr<std::unique_ptr<llvm::MemoryBuffer>> buffer = llvm::MemoryBuffer::getFileOrSTDIN(file);
  if (!buffer) return Error{ErrorCode::system, file + ": " + buffer.getError().message()};
  std::string rules = extract_rules(view((*buffer)->getBuffer()), prefix);
  if (rules.empty())
    return Error{ErrorCode::invalid_argument, file + ": no line begins with '" + prefix + "' (hint: see --check-prefix)"};
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86Disassembler();
  Result<std::vector<PlacedSymbol>> symbols = linked.symbols();
  if (!symbols) return std::move(symbols).error();
  Result<std::vector<LinkerEntry>> entries = linked.entries();
  if (!entries) return std::move(entries).error();
  Image image(linked, *symbols, std::move(*entries), definitions);
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
  bool passed = false;
  bool survived =
      survives([&] { passed = checker.checkAllRulesInBuffer(prefix, llvm::MemoryBuffer::getMemBuffer(rules).get()); });
  std::fputs(complaints.c_str(), stderr);
  if (!survived)
    return Error{ErrorCode::invalid_argument,
                 file + ": a check loads from an address outside of the image (hint: '*{8}a - *{8}b' "
                        "is '*{8}(a - *{8}b)'; write '(*{8}a) - (*{8}b)')"};
  if (!passed)
    return Error{ErrorCode::invalid_argument, file + ": a check does not hold (hint: it stands above, with its values)"};
  return {};
}

} // namespace tenon::cli

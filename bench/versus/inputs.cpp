// Makes the sets ready: which members take part, who defines what, what the host gives, and the plan of the floors.
//
// Reads ELF64 by <elf.h> without distrust: the files are the distribution's own.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "inputs.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>

#include <cstring>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace versus {
namespace {

constexpr std::size_t page_size = 4096;

// One member's tables, as they lie in its bytes.
struct View {
  explicit View(InputObject& object) : base(reinterpret_cast<char*>(object.bytes.data())) {
    auto* header = reinterpret_cast<Elf64_Ehdr*>(base);
    sections = reinterpret_cast<Elf64_Shdr*>(base + header->e_shoff);
    section_count = header->e_shnum != 0 ? header->e_shnum : sections[0].sh_size;
    for (std::size_t i = 1; i < section_count; ++i) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      symbols = reinterpret_cast<Elf64_Sym*>(base + sections[i].sh_offset);
      symbol_count = sections[i].sh_size / sizeof(Elf64_Sym);
      strings = base + sections[sections[i].sh_link].sh_offset;
    }
  }
  const char* name(const Elf64_Sym& symbol) const { return strings + symbol.st_name; }

  char* base;
  Elf64_Shdr* sections = nullptr;
  std::size_t section_count = 0;
  Elf64_Sym* symbols = nullptr;
  std::size_t symbol_count = 0;
  char* strings = nullptr;
};

bool has_thread_local(const View& view) {
  for (std::size_t i = 0; i < view.section_count; ++i)
    if (view.sections[i].sh_flags & SHF_TLS) return true;
  for (std::size_t i = 0; i < view.symbol_count; ++i)
    if (ELF64_ST_TYPE(view.symbols[i].st_info) == STT_TLS) return true;
  return false;
}

std::size_t internal_to_hidden(const View& view) {
  std::size_t patched = 0;
  for (std::size_t i = 0; i < view.symbol_count; ++i) {
    unsigned char& other = view.symbols[i].st_other;
    if (ELF64_ST_VISIBILITY(other) != STV_INTERNAL) continue;
    other = static_cast<unsigned char>((other & ~3) | STV_HIDDEN);
    ++patched;
  }
  return patched;
}

struct Definition {
  std::size_t object;
  bool weak;
  bool exported; // and so may be looked up; a GNU_UNIQUE one may be the host's
};

// Who defines and who needs what in the whole set.
struct SymbolTable {
  std::unordered_map<std::string_view, Definition> defined;
  std::set<std::string_view> needed; // ordered, so that every run is the same
};

SymbolTable collect_symbols(const std::vector<View>& views) {
  SymbolTable table;
  for (std::size_t object = 0; object < views.size(); ++object) {
    const View& view = views[object];
    for (std::size_t i = 1; i < view.symbol_count; ++i) {
      const Elf64_Sym& symbol = view.symbols[i];
      unsigned binding = ELF64_ST_BIND(symbol.st_info);
      if (binding == STB_LOCAL) continue;
      if (symbol.st_shndx == SHN_UNDEF) {
        table.needed.insert(view.name(symbol));
        continue;
      }
      Definition mine{object, binding == STB_WEAK || binding == STB_GNU_UNIQUE || symbol.st_shndx == SHN_COMMON,
                      ELF64_ST_VISIBILITY(symbol.st_other) == STV_DEFAULT && binding != STB_GNU_UNIQUE};
      auto [place, first] = table.defined.try_emplace(view.name(symbol), mine);
      if (!first && place->second.weak && !mine.weak) place->second = mine;
    }
  }
  return table;
}

// A page of `ret` near the host's libraries: whatever nobody defines is given this address.
std::uint64_t stub_address() {
  static const std::uint64_t address = [] {
    void* page = mmap(nullptr, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return std::uint64_t{0};
    std::memset(page, 0xC3, page_size);
    mprotect(page, page_size, PROT_READ | PROT_EXEC);
    return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(page));
  }();
  return address;
}

void find_absolutes(const SymbolTable& table, InputSet& set) {
  for (std::string_view name : table.needed) {
    if (table.defined.contains(name) || name == "__dso_handle" || name == "_GLOBAL_OFFSET_TABLE_") continue;
    std::string copy(name);
    if (dlsym(RTLD_DEFAULT, copy.c_str()) != nullptr)
      ++set.counts.from_host;
    else
      set.absolutes.push_back({std::move(copy), stub_address()});
  }
}

// The names to look up: the wanted ones, then one of every object, then evenly from the rest up to the limit.
void choose_names(const SymbolTable& table, const std::vector<View>& views, const std::vector<std::string>& wanted,
                  std::size_t limit, InputSet& set) {
  std::unordered_set<std::string_view> taken;
  for (const std::string& name : wanted)
    if (taken.insert(name).second) set.names.push_back(name);
  std::vector<std::string_view> rest;
  for (std::size_t object = 0; object < views.size(); ++object) {
    const View& view = views[object];
    std::string_view hidden;
    bool covered = false;
    for (std::size_t i = 1; i < view.symbol_count; ++i) {
      std::string_view name = view.name(view.symbols[i]);
      auto place = table.defined.find(name);
      if (ELF64_ST_BIND(view.symbols[i].st_info) == STB_LOCAL || view.symbols[i].st_shndx == SHN_UNDEF) continue;
      if (place == table.defined.end() || place->second.object != object) continue;
      if (!place->second.exported)
        hidden = name;
      else if (covered)
        rest.push_back(name);
      else if (covered = true; taken.insert(name).second)
        set.names.emplace_back(name);
    }
    if (!covered && !hidden.empty()) set.hidden_roots.emplace_back(hidden);
  }
  if (set.names.size() >= limit || rest.empty()) return;
  std::size_t room = limit - set.names.size();
  double step = rest.size() > room ? static_cast<double>(rest.size()) / static_cast<double>(room) : 1.0;
  for (double at = 0; at < static_cast<double>(rest.size()) && set.names.size() < limit; at += step) {
    std::string_view name = rest[static_cast<std::size_t>(at)];
    if (taken.insert(name).second) set.names.emplace_back(name);
  }
}

// Marks the sections of COMDAT groups that an earlier object has provided.
std::vector<bool> losing_sections(const View& view, std::unordered_set<std::string_view>& signatures) {
  std::vector<bool> loses(view.section_count, false);
  for (std::size_t i = 1; i < view.section_count; ++i) {
    const Elf64_Shdr& group = view.sections[i];
    if (group.sh_type != SHT_GROUP) continue;
    auto* words = reinterpret_cast<const Elf64_Word*>(view.base + group.sh_offset);
    if ((words[0] & GRP_COMDAT) == 0) continue;
    if (signatures.insert(view.name(view.symbols[group.sh_info])).second) continue;
    for (std::size_t k = 1; k < group.sh_size / sizeof(Elf64_Word); ++k) loses[words[k]] = true;
  }
  return loses;
}

FloorPlan::Segment segment_of(const Elf64_Shdr& section) {
  if (section.sh_flags & SHF_EXECINSTR) return FloorPlan::code;
  return section.sh_flags & SHF_WRITE ? FloorPlan::data : FloorPlan::rodata;
}

bool is_wide(std::uint64_t type) {
  switch (type) {
  case R_X86_64_64:
  case R_X86_64_PC64:
  case R_X86_64_GOTOFF64:
  case R_X86_64_GOT64:
  case R_X86_64_GOTPCREL64:
  case R_X86_64_GOTPC64:
  case R_X86_64_PLTOFF64:
  case R_X86_64_SIZE64: return true;
  default: return false;
  }
}

// Where each section that takes part goes: packed by segment, in order, .bss after the rest of the data.
struct Placed {
  std::size_t object;
  std::size_t section;
  FloorPlan::Segment segment;
  std::size_t offset; // in the segment
};

void count_lost(const Elf64_Shdr& section, Counts& counts) {
  ++counts.lost_sections;
  if (section.sh_type != SHT_NOBITS) counts.lost_content += section.sh_size;
}

std::vector<Placed> place_sections(const std::vector<View>& views, InputSet& set,
                                   std::vector<std::vector<std::size_t>>& placed_at) {
  std::vector<Placed> placed;
  std::vector<std::pair<std::size_t, std::size_t>> zero;
  std::unordered_set<std::string_view> signatures;
  auto put = [&](std::size_t object, std::size_t index) {
    const Elf64_Shdr& section = views[object].sections[index];
    FloorPlan::Segment segment = segment_of(section);
    std::size_t align = section.sh_addralign != 0 ? section.sh_addralign : 1;
    std::size_t offset = (set.plan.size[segment] + align - 1) & ~(align - 1);
    set.plan.size[segment] = offset + section.sh_size;
    placed_at[object][index] = placed.size() + 1;
    placed.push_back({object, index, segment, offset});
    ++set.counts.sections;
  };
  for (std::size_t object = 0; object < views.size(); ++object) {
    const View& view = views[object];
    std::vector<bool> loses = losing_sections(view, signatures);
    placed_at.emplace_back(view.section_count, 0);
    for (std::size_t i = 1; i < view.section_count; ++i) {
      const Elf64_Shdr& section = view.sections[i];
      if ((section.sh_flags & SHF_ALLOC) == 0 || section.sh_size == 0) continue;
      if (loses[i])
        count_lost(section, set.counts);
      else if (section.sh_type == SHT_NOBITS)
        zero.emplace_back(object, i);
      else
        put(object, i);
    }
  }
  for (auto [object, index] : zero) put(object, index);
  return placed;
}

void make_plan(const std::vector<View>& views, InputSet& set) {
  FloorPlan& plan = set.plan;
  std::vector<std::vector<std::size_t>> placed_at;
  std::vector<Placed> placed = place_sections(views, set, placed_at);
  for (std::size_t segment = 0; segment < FloorPlan::segment_count; ++segment) {
    plan.start[segment] = plan.total;
    plan.total = (plan.total + plan.size[segment] + page_size - 1) & ~(page_size - 1);
  }
  for (const Placed& place : placed) {
    const View& view = views[place.object];
    const Elf64_Shdr& section = view.sections[place.section];
    if (section.sh_type == SHT_NOBITS) {
      set.counts.zero += section.sh_size;
      continue;
    }
    set.counts.content += section.sh_size;
    auto* from = reinterpret_cast<const std::byte*>(view.base + section.sh_offset);
    plan.copies.push_back({from, plan.start[place.segment] + place.offset, section.sh_size});
  }
  for (std::size_t object = 0; object < views.size(); ++object) {
    const View& view = views[object];
    for (std::size_t i = 1; i < view.section_count; ++i) {
      const Elf64_Shdr& table = view.sections[i];
      if (table.sh_type != SHT_RELA) continue;
      if (placed_at[object][table.sh_info] == 0) {
        bool lost = (view.sections[table.sh_info].sh_flags & SHF_ALLOC) != 0;
        set.counts.lost_relocations += lost ? table.sh_size / sizeof(Elf64_Rela) : 0;
        continue;
      }
      const Placed& place = placed[placed_at[object][table.sh_info] - 1];
      auto* entries = reinterpret_cast<const Elf64_Rela*>(view.base + table.sh_offset);
      for (std::size_t k = 0; k < table.sh_size / sizeof(Elf64_Rela); ++k) {
        std::uint64_t type = ELF64_R_TYPE(entries[k].r_info);
        if (type == R_X86_64_NONE) continue;
        std::size_t offset = plan.start[place.segment] + place.offset + entries[k].r_offset;
        plan.stores.push_back({static_cast<std::uint32_t>(offset), is_wide(type)});
      }
    }
  }
  set.counts.relocations = plan.stores.size();
}

} // namespace

std::uint64_t dso_handle_address() { return stub_address(); }

Result<InputSet> load_set(std::string name, const std::vector<std::string>& archives, const std::vector<std::string>& wanted,
                          std::size_t name_limit, ThreadLocal thread_local_members) {
  InputSet set;
  set.name = std::move(name);
  for (const std::string& path : archives) {
    auto members = archive_members(path);
    if (!members) return std::move(members).error();
    for (InputObject& object : *members) {
      if (thread_local_members == ThreadLocal::left_out && has_thread_local(View(object)))
        ++set.counts.left_out;
      else
        set.objects.push_back(std::move(object));
    }
  }
  std::vector<View> views;
  for (InputObject& object : set.objects) views.emplace_back(object);
  for (const View& view : views) set.counts.hidden += internal_to_hidden(view);
  set.counts.objects = set.objects.size();
  SymbolTable table = collect_symbols(views);
  for (const std::string& name_wanted : wanted)
    if (!table.defined.contains(name_wanted))
      return Error{ErrorCode::undefined, set.name + ": " + name_wanted + " is not defined by " + archives.front()};
  find_absolutes(table, set);
  choose_names(table, views, wanted, name_limit, set);
  make_plan(views, set);
  return set;
}

} // namespace versus

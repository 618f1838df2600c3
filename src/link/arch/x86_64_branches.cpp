// References to functions that may be replaced.
//
// fix_section() has made every one of them refer to the function's stub, which is its address. Here direct branches are led
// to the function itself. Where the 4-byte displacement lies inside an aligned 8-byte word, one atomic store can lead the
// branch elsewhere while threads run it: it is a site. Elsewhere the branch stays on the stub, or, if old code must not come
// to new code that way (Module::may_know), goes to a veneer: a jump to the function among the module's stubs, which is a
// site. (A store that crosses such a word was seen to tear: crossing 32 or 64 bytes faults within seconds, inside of a word
// never.)
//
// Relocations do not tell branches from addresses: compilers emit PC32 for `call` and for `lea` of a static function, and
// PLT32 for `call`, `jmp` and conditional jumps. So instructions are decoded, from the beginning of the function on. A
// reference to a section's symbol means a function if it hits one's first byte; of distances in data, which jump tables are
// made of, distances.h tells.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64.h"
#include "link/arch/x86_64_length.h"
#include "link/distances.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>
#include <tuple>

namespace tenon::link::arch {

namespace {

// Whether one atomic store can change a displacement while threads run the instruction.
bool is_retargetable(std::uint64_t field) noexcept { return field % 8 <= 4; }

enum class Reference : std::uint8_t { branch, address, other };

// Goes over the code of one section, over each instruction once if asked in the order of offsets, and decodes those asked
// for.
class Sweep {
public:
  Sweep(const Module& module, std::uint32_t section, Bytes code) : module_(module), section_(section), code_(code) {
    ready_ = ZYAN_SUCCESS(ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
  }

  // What the instruction does with the 4-byte field at `offset`.
  Reference at(std::uint64_t offset) {
    if (!find(offset)) return Reference::other;
    const auto& immediate = instruction_.raw.imm[0];
    if (instruction_.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && immediate.is_relative && immediate.size == 32)
      return begin_ + immediate.offset == offset ? Reference::branch : Reference::other;
    if (instruction_.raw.disp.size != 32 || begin_ + instruction_.raw.disp.offset != offset) return Reference::other;
    return instruction_.mnemonic == ZYDIS_MNEMONIC_LEA ? Reference::address
           : instruction_.mnemonic == ZYDIS_MNEMONIC_CALL || instruction_.mnemonic == ZYDIS_MNEMONIC_JMP
               ? Reference::branch // through the GOT: the linker may have made it direct
               : Reference::other;
  }

private:
  bool find(std::uint64_t offset) {
    if (offset < begin_ || length_ == 0) restart(offset);
    while (ready_ && length_ != 0 && offset >= begin_ + length_) go_to(begin_ + length_);
    if (!ready_ || length_ == 0) return false;
    if (decoded_ != begin_ && !decode()) length_ = 0;
    return length_ != 0;
  }
  void restart(std::uint64_t offset) {
    auto after =
        std::upper_bound(module_.own_functions.begin(), module_.own_functions.end(), std::pair(section_, offset),
                         [](const auto& key, const OwnFunction& f) { return key < std::pair(f.section, f.offset); });
    const bool found = after != module_.own_functions.begin() && std::prev(after)->section == section_;
    go_to(found ? std::prev(after)->offset : 0);
  }
  void go_to(std::uint64_t at) {
    begin_ = at;
    length_ = at < code_.size() && ready_ ? instruction_length(decoder_, code_.data() + at, code_.size() - at) : 0;
  }
  bool decode() {
    decoded_ = begin_;
    return ZYAN_SUCCESS(
        ZydisDecoderDecodeInstruction(&decoder_, nullptr, code_.data() + begin_, code_.size() - begin_, &instruction_));
  }

  const Module& module_;
  std::uint32_t section_;
  Bytes code_;
  ZydisDecoder decoder_;
  ZydisDecodedInstruction instruction_;
  std::uint64_t begin_ = 0;
  std::size_t length_ = 0;                    // 0: nothing that could be decoded
  std::uint64_t decoded_ = ~std::uint64_t(0); // where `instruction_` begins
  bool ready_ = false;
};

class Binder {
public:
  Binder(Module& module, const SectionBytes& bytes, SectionKind kind)
      : module_(module), bytes_(bytes), kind_(kind), sweep_(module, bytes.section, bytes.original), distances_(module) {}

  void bind(const Relocation& r) {
    const std::uint32_t named = module_.callee_of[r.symbol];
    const Symbol& symbol = module_.symbols()[r.symbol];
    if (named == 0 && symbol.type != SymbolType::section) {
      if (symbol.type == SymbolType::function && !module_.parts.empty()) note_part(r, symbol);
      return;
    }
    Callee* callee = named != 0 ? &module_.callees[named - 1] : nullptr;
    switch (r.type) {
    case R_PC32:
    case R_PLT32: bytes_.code ? in_code(r, callee) : in_data(r, callee, 4, true); break;
    case R_PC64: in_data(r, callee, 8, true); break;
    case R_64: in_data(r, callee, 8, false); break;
    case R_32:
    case R_32S: in_data(r, callee, 4, false); break;
    case R_GOTOFF64: from_got(r, callee); break;
    case R_PLTOFF64:
      if (callee != nullptr) call_from_got(r, *callee);
      break;
    case R_GOTPCRELX:
    case R_REX_GOTPCRELX:
      if (callee != nullptr) through_got(r, *callee);
      break;
    default:
      if (callee != nullptr) callee->escapes = true;
    }
  }

  // Addresses of functions in the same section, which assemblers work out themselves: `lea f(%rip)` without a relocation.
  // What may be one is decoded only if it leads to where a function begins.
  void bind_resolved() {
    for (const AddressLoad& load : find_address_loads(bytes_.original)) {
      const std::uint64_t at = load.offset, target = std::uint64_t(load.target);
      const OwnFunction* function = find(module_.own_functions, bytes_.section, target);
      const bool part = function == nullptr && find(module_.parts, bytes_.section, target) != nullptr;
      if ((function == nullptr && !part) || is_relocated(at) || is_got_base(target) || sweep_.at(at) != Reference::address)
        continue;
      if (part) {
        module_.escaped_parts.push_back(bytes_.address + target);
        continue;
      }
      Callee& callee = module_.callees[function->callee];
      callee.escapes = true;
      put(bytes_.local + at, std::int32_t(callee.stub - (bytes_.address + at + 4)));
      module_.rewritten.push_back(bytes_.section);
    }
  }

  static const OwnFunction* find(std::span<const OwnFunction> functions, std::uint32_t section, std::uint64_t offset) {
    const std::pair key(section, offset);
    auto found = std::lower_bound(functions.begin(), functions.end(), key,
                                  [](const OwnFunction& f, const auto& k) { return std::pair(f.section, f.offset) < k; });
    return found != functions.end() && std::pair(found->section, found->offset) == key ? &*found : nullptr;
  }

private:
  std::uint64_t P(const Relocation& r) const { return bytes_.address + r.offset; }

  bool is_relocated(std::uint64_t offset) const {
    const std::span<const Relocation> relocations = module_.relocations(bytes_.section);
    return std::any_of(relocations.begin(), relocations.end(), [&](const Relocation& r) { return r.offset == offset; });
  }

  // Code of the large model begins with `lea here(%rip), %rax; movabs $_GLOBAL_OFFSET_TABLE_ - here, %r11`.
  bool is_got_base(std::uint64_t target) const {
    const std::span<const Relocation> relocations = module_.relocations(bytes_.section);
    return std::any_of(relocations.begin(), relocations.end(), [&](const Relocation& r) {
      return r.type == R_GOTPC64 && std::uint64_t(r.addend) == r.offset - target;
    });
  }

  // A function of the module that begins there.
  Callee* begins_at(const Relocation& r, std::int64_t offset) {
    const OwnFunction* found = find(module_.own_functions, module_.symbols()[r.symbol].section, std::uint64_t(offset));
    return found != nullptr ? &module_.callees[found->callee] : nullptr;
  }

  // Clones are only ever called, for which the large model loads their address, too.
  bool is_clone(const OwnFunction& part) const {
    const std::string_view name = module_.symbols()[part.callee].name();
    return name.find(".isra.") != name.npos || name.find(".part.") != name.npos || name.find(".constprop.") != name.npos;
  }

  // Something has a pointer to a part that begins there.
  void part_escapes(std::uint32_t section, std::uint64_t offset) {
    const bool table = kind_ == SectionKind::init || kind_ == SectionKind::unwind; // run by the linker, or not at all
    const OwnFunction* part = table ? nullptr : find(module_.parts, section, offset);
    if (part == nullptr || (bytes_.code && is_clone(*part))) return;
    module_.escaped_parts.push_back(module_.places[section].address + offset);
  }
  void note_part(const Relocation& r, const Symbol& symbol) {
    const bool absolute = r.type == R_64 || r.type == R_32 || r.type == R_32S || r.type == R_GOTOFF64;
    const bool relative = bytes_.code && (r.type == R_PC32 || r.type == R_PLT32 || r.type == R_REX_GOTPCRELX);
    const std::uint64_t offset = symbol.value + std::uint64_t(r.addend) + (relative ? 4 : 0);
    if (absolute || (relative && sweep_.at(r.offset) == Reference::address)) part_escapes(symbol.section, offset);
  }

  // The compiler may have made caller and callee for each other: old callers must not get to new ones, by whatever way.
  bool is_known_inside(const Callee& callee) const {
    const Symbol& symbol = module_.symbols()[callee.symbol];
    return module_.targets[callee.symbol].kind == TargetKind::section && symbol.type == SymbolType::function &&
           module_.may_know(symbol);
  }

  void branch(Callee& callee, std::uint64_t field) {
    const std::uint64_t address = bytes_.address + field;
    const bool fixed = !module_.patchable || !is_retargetable(address);
    if (fixed && callee.veneer != none) {
      put(bytes_.local + field, std::int32_t(module_.place(Synthetic::stubs).address + callee.veneer - (address + 4)));
      return;
    }
    if (fixed && is_known_inside(callee)) {
      put(bytes_.local + field, std::int32_t(callee.body - (address + 4)));
      return;
    }
    if (fixed) { // it leads to the stub
      put(bytes_.local + field, std::int32_t(callee.stub - (address + 4)));
      callee.through_stub = true;
      ++module_.branches_through_stubs;
      return;
    }
    put(bytes_.local + field, std::int32_t(callee.body - (address + 4)));
    module_.sites.push_back({address, std::uint32_t(&callee - module_.callees.data())});
  }

  void in_code(const Relocation& r, Callee* callee) {
    const Reference reference = sweep_.at(r.offset);
    if (callee == nullptr) {
      if (reference != Reference::other) callee = begins_at(r, r.addend + 4);
      if (callee == nullptr && reference == Reference::address)
        part_escapes(module_.symbols()[r.symbol].section, std::uint64_t(r.addend) + 4);
      if (callee == nullptr) return;
    } else if (r.addend != -4) { // into the function
      put(bytes_.local + r.offset, std::int32_t(callee->body + std::uint64_t(r.addend) - P(r)));
      return;
    }
    if (reference == Reference::branch) return branch(*callee, r.offset);
    callee->escapes = true;
    put(bytes_.local + r.offset, std::int32_t(callee->stub - (P(r) + 4)));
  }

  void in_data(const Relocation& r, Callee* callee, std::size_t width, bool relative) {
    const bool unwind = kind_ == SectionKind::unwind;
    if (callee == nullptr) {
      if (unwind) return;
      if (relative) return distance_in_data(r, width);
      callee = begins_at(r, r.addend);
      if (callee == nullptr) return part_escapes(module_.symbols()[r.symbol].section, std::uint64_t(r.addend));
      const std::uint64_t value = callee->stub;
      std::memcpy(bytes_.local + r.offset, &value, width);
    } else if (unwind || r.addend != 0) { // what describes the code, and what lies inside of it
      if (!unwind && relative) {          // `function - here`, from somewhere before
        callee->escapes = true;
        return;
      }
      const std::uint64_t value = callee->body + std::uint64_t(r.addend) - (relative ? P(r) : 0);
      std::memcpy(bytes_.local + r.offset, &value, width);
      return;
    }
    callee->escapes = true;
  }

  void distance_in_data(const Relocation& r, std::size_t width) {
    const OwnFunction* function = distances_.function(bytes_.section, r);
    if (function == nullptr) return;
    Callee& callee = module_.callees[function->callee];
    std::uint64_t value = 0; // the part of it that is there: both ends are in one reservation
    std::memcpy(&value, bytes_.local + r.offset, width);
    value += callee.stub - callee.body;
    std::memcpy(bytes_.local + r.offset, &value, width);
    callee.escapes = true;
  }

  // The large model's address of what the object defines itself counts from the GOT.
  void from_got(const Relocation& r, Callee* callee) {
    if (callee == nullptr) {
      callee = begins_at(r, r.addend);
      if (callee == nullptr) return part_escapes(module_.symbols()[r.symbol].section, std::uint64_t(r.addend));
      put_from_got(r, callee->stub);
    } else if (r.addend != 0) { // into the function
      return put_from_got(r, callee->body + std::uint64_t(r.addend));
    }
    callee->escapes = true;
  }
  // That is what its calls add to the GOT's address, and nothing else.
  void call_from_got(const Relocation& r, Callee& callee) {
    if (callee.veneer != none)
      return put_from_got(r, module_.place(Synthetic::stubs).address + callee.veneer + std::uint64_t(r.addend));
    if (is_known_inside(callee)) return put_from_got(r, callee.body + std::uint64_t(r.addend));
    callee.through_stub = true;
    ++module_.branches_through_stubs;
  }
  void put_from_got(const Relocation& r, std::uint64_t address) {
    put(bytes_.local + r.offset, address - module_.place(Synthetic::got).address);
  }

  // call *f@GOTPCREL(%rip) and jmp *f@GOTPCREL(%rip), which have become direct branches if the stub is near.
  void through_got(const Relocation& r, Callee& callee) {
    const bool direct = bytes_.code && r.offset >= 2 && r.addend == -4 && sweep_.at(r.offset) == Reference::branch;
    const auto byte = [&](std::uint64_t at) { return std::to_integer<std::uint8_t>(bytes_.local[at]); };
    if (direct && byte(r.offset - 2) == 0x67 && byte(r.offset - 1) == 0xE8) return branch(callee, r.offset);
    if (direct && byte(r.offset - 2) == 0xE9) return branch(callee, r.offset - 1);
    callee.escapes = true;
  }

  Module& module_;
  const SectionBytes& bytes_;
  SectionKind kind_;
  Sweep sweep_;
  Distances distances_;
};

} // namespace

std::vector<BranchAt> list_branches(const Module& module, const SectionBytes& bytes) {
  std::vector<BranchAt> branches;
  Sweep sweep(module, bytes.section, bytes.original);
  auto byte = [&](std::uint64_t at) { return std::to_integer<std::uint8_t>(bytes.local[at]); };
  for (const Relocation& r : module.relocations(bytes.section)) {
    const std::uint32_t type = r.type;
    std::uint64_t field = r.offset;
    const bool relaxed = type == R_GOTPCRELX || type == R_REX_GOTPCRELX;
    if ((type != R_PC32 && type != R_PLT32 && !relaxed) || sweep.at(field) != Reference::branch) continue;
    if (relaxed && byte(field - 2) == 0xE9)
      --field;
    else if (relaxed && (byte(field - 2) != 0x67 || byte(field - 1) != 0xE8))
      continue; // still through the GOT
    branches.push_back({field, r.symbol, is_retargetable(bytes.address + field)});
  }
  return branches;
}

std::vector<std::uint64_t> resolved_branches(const Module& module, std::uint32_t section, std::uint64_t begin,
                                             std::uint64_t end) {
  std::vector<std::uint64_t> targets;
  const Bytes code = module.sections()[section].content;
  ZydisDecoder decoder;
  if (!ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64))) return targets;
  ZydisDecodedInstruction instruction;
  for (std::uint64_t at = begin; at < end && at < code.size(); at += instruction.length) {
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data() + at, code.size() - at, &instruction)))
      break;
    const auto& immediate = instruction.raw.imm[0];
    if (instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE || !immediate.is_relative) continue;
    const std::uint64_t field = at + immediate.offset;
    const std::span<const Relocation> relocations = module.relocations(section);
    if (std::any_of(relocations.begin(), relocations.end(), [&](const Relocation& r) { return r.offset == field; }))
      continue;
    targets.push_back(at + instruction.length + std::uint64_t(immediate.value.s));
  }
  return targets;
}

void want_veneers(Module& module, std::uint32_t section) {
  const bool aligned = module.places[section].alignment() >= 8;
  for (const Relocation& r : module.relocations(section)) {
    const bool got = r.type == R_GOTPCRELX || r.type == R_REX_GOTPCRELX; // a jump has its displacement one byte before
    const bool fits = aligned && is_retargetable(r.offset) && (!got || is_retargetable(r.offset - 1));
    if (r.type != R_PLTOFF64 && ((r.type != R_PC32 && r.type != R_PLT32 && !got) || fits)) continue;
    std::uint32_t named = module.callee_of[r.symbol];
    // Assemblers say so of other, local names of it.
    if (const Symbol& symbol = module.symbols()[r.symbol]; named == 0 && symbol.type == SymbolType::section)
      if (const OwnFunction* own = Binder::find(module.own_functions, symbol.section, std::uint64_t(r.addend) + 4))
        named = own->callee + 1;
    if (named == 0) continue;
    Callee& callee = module.callees[named - 1];
    const Symbol& symbol = module.symbols()[callee.symbol];
    callee.wants_veneer |=
        module.targets[callee.symbol].kind == TargetKind::section && !symbol.is_local() && module.may_know(symbol);
  }
}

void write_veneers(Module& module) {
  const SectionPlace& stubs = module.place(Synthetic::stubs);
  for (std::uint32_t c = 0; c < module.callees.size(); ++c) {
    const Callee& callee = module.callees[c];
    if (callee.veneer == none) continue;
    const std::uint64_t field = stubs.address + callee.veneer + 1;
    stubs.local[callee.veneer] = std::byte{0xE9}; // jmp
    put(stubs.local + callee.veneer + 1, std::int32_t(callee.body - (field + 4)));
    module.sites.push_back({field, c});
  }
}

void bind_callees(Module& module, const SectionBytes& bytes) {
  Binder binder(module, bytes, module.section_kind(bytes.section));
  for (const Relocation& r : module.relocations(bytes.section)) binder.bind(r);
  if (bytes.code) binder.bind_resolved();
}

std::vector<AddressLoad> find_address_loads(Bytes code) {
  std::vector<AddressLoad> loads;
  const auto byte = [&](std::size_t at) { return std::to_integer<unsigned>(code[at]); };
  for (std::size_t at = 3; at + 4 <= code.size(); ++at) { // REX.W 8D /r with disp32(%rip)
    if (byte(at - 2) != 0x8D || (byte(at - 1) & 0xC7) != 0x05 || (byte(at - 3) & 0xF8) != 0x48) continue;
    std::int32_t displacement;
    std::memcpy(&displacement, code.data() + at, sizeof displacement);
    loads.push_back({at, std::int64_t(at) + 4 + displacement});
  }
  return loads;
}

} // namespace tenon::link::arch

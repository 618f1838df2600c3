// x86-64 (System V psABI, https://gitlab.com/x86-psABIs/x86-64-ABI, sections 4.4 "Relocation", B.2 "GOTPCRELX", and the TLS
// ABI, https://www.akkadia.org/drepper/tls.pdf).
//
// The psABI's letters: S is the symbol's address, A the addend, P the address of the field, G the symbol's cell in the GOT,
// GOT the address of the module's GOT (also _GLOBAL_OFFSET_TABLE_), L the symbol's stub, Z its size, B nothing here (no
// field is relative to a load address: addresses are final when bytes are written).
//
// How far things are from each other decides the rest. Inside a reservation everything reaches everything with 32 bits. What
// lies outside (the host's functions and data, the client's addresses) is reached
//   - by a branch: through a stub, `jmp *cell(%rip)`, whose cell lies in the GOT;
//   - by a GOT load: as it stands; it is relaxed to a direct reference (B.2) where the target is near;
//   - by a PC-relative load of data, `mov sym(%rip), %reg` or `lea sym(%rip), %reg`: the instruction is replaced by a jump
//   to a
//     thunk that loads the address as 64 bits and jumps back. A jump, not a call: the red zone below the stack pointer is
//     live;
//   - by any other PC-relative instruction: not at all, an error that names it.
// A thunk runs in the frame of the function that jumps to it, which its two instructions, at other addresses, have no
// description of: none is given, so that unwinding stops there instead of going astray. Only a signal or a sampler can see a
// thread there. An undefined weak symbol has S = 0 and is far by the same rules.
//
// TLS: general-dynamic, local-dynamic and descriptor sequences work for every variable, through the engine's own entry
// points. Local-dynamic code counts on its variables to lie in one block: see share_tls. Initial-exec and local-exec work
// for the host's variables that lie at a fixed distance from the thread pointer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/arch.h"

#include "base/check.h"
#include "base/hex.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

namespace tenon::link::arch {

TlsEntryPoints tls_entry_points;

namespace {

enum Type : std::uint32_t {
  R_NONE = 0,
  R_64 = 1,
  R_PC32 = 2,
  R_GOT32 = 3,
  R_PLT32 = 4,
  R_COPY = 5,
  R_GLOB_DAT = 6,
  R_JUMP_SLOT = 7,
  R_RELATIVE = 8,
  R_GOTPCREL = 9,
  R_32 = 10,
  R_32S = 11,
  R_16 = 12,
  R_PC16 = 13,
  R_8 = 14,
  R_PC8 = 15,
  R_DTPMOD64 = 16,
  R_DTPOFF64 = 17,
  R_TPOFF64 = 18,
  R_TLSGD = 19,
  R_TLSLD = 20,
  R_DTPOFF32 = 21,
  R_GOTTPOFF = 22,
  R_TPOFF32 = 23,
  R_PC64 = 24,
  R_GOTOFF64 = 25,
  R_GOTPC32 = 26,
  R_GOT64 = 27,
  R_GOTPCREL64 = 28,
  R_GOTPC64 = 29,
  R_GOTPLT64 = 30,
  R_PLTOFF64 = 31,
  R_SIZE32 = 32,
  R_SIZE64 = 33,
  R_GOTPC32_TLSDESC = 34,
  R_TLSDESC_CALL = 35,
  R_TLSDESC = 36,
  R_IRELATIVE = 37,
  R_RELATIVE64 = 38,
  R_GOTPCRELX = 41,
  R_REX_GOTPCRELX = 42,
  type_count = 43,
};

constexpr const char* type_names[type_count] = {"NONE",         "64",        "PC32",         "GOT32",      "PLT32",
                                                "COPY",         "GLOB_DAT",  "JUMP_SLOT",    "RELATIVE",   "GOTPCREL",
                                                "32",           "32S",       "16",           "PC16",       "8",
                                                "PC8",          "DTPMOD64",  "DTPOFF64",     "TPOFF64",    "TLSGD",
                                                "TLSLD",        "DTPOFF32",  "GOTTPOFF",     "TPOFF32",    "PC64",
                                                "GOTOFF64",     "GOTPC32",   "GOT64",        "GOTPCREL64", "GOTPC64",
                                                "GOTPLT64",     "PLTOFF64",  "SIZE32",       "SIZE64",     "GOTPC32_TLSDESC",
                                                "TLSDESC_CALL", "TLSDESC",   "IRELATIVE",    "RELATIVE64", "39",
                                                "40",           "GOTPCRELX", "REX_GOTPCRELX"};

// Width of the field; 0: no field; bad: not for relocatable files.
constexpr std::uint8_t bad = 0xFF;
constexpr std::uint8_t widths[type_count] = {0, 8,   4, 4, 4, bad, bad, bad, bad, 4,   4,   4, 2, 2, 1,
                                             1, bad, 8, 8, 4, 4,   4,   4,   4,   8,   8,   4, 8, 8, 8,
                                             8, 8,   4, 8, 4, 0,   bad, bad, bad, bad, bad, 4, 4};

template <class T> void put(std::byte* at, T value) { std::memcpy(at, &value, sizeof value); }
template <class T> T get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
std::uint8_t byte_at(const std::byte* at) { return std::to_integer<std::uint8_t>(*at); }

bool fits_signed(std::int64_t value, unsigned bits) {
  return value >= -(std::int64_t(1) << (bits - 1)) && value < (std::int64_t(1) << (bits - 1));
}
bool fits_32(std::int64_t value) { return value == std::int32_t(value); }
// The ABI does not say whether 8- and 16-bit fields are signed: both readings are allowed, as in other linkers.
bool fits_either(std::int64_t value, unsigned bits) {
  return value >= -(std::int64_t(1) << (bits - 1)) && value < (std::int64_t(1) << bits);
}

std::string symbol_label(const Module& module, std::uint32_t index) {
  const Symbol& symbol = module.symbols()[index];
  if (symbol.type == SymbolType::section && symbol.section < module.object_sections())
    return "section " + std::string(module.sections()[symbol.section].name);
  return symbol.name().empty() ? "symbol #" + std::to_string(index) : "'" + std::string(symbol.name()) + "'";
}

// "relocation R_X86_64_PC32 at offset 0x12 against 'f'": the module and section are said by the callers further out.
std::string label(const Module& module, const Relocation& r) {
  return "relocation " + relocation_name(r.type) + " at offset " + base::hex(r.offset) + " against " +
         symbol_label(module, r.symbol);
}

Error fault(ErrorCode code, const Module& module, const Relocation& r, std::string_view what) {
  return {code, label(module, r) + " " + std::string(what)};
}

Error out_of_range(const Module& module, const Relocation& r, std::uint64_t S, std::int64_t value, std::string_view hint) {
  std::string distance =
      value < 0 ? "-" + base::hex(std::uint64_t(0) - std::uint64_t(value)) : base::hex(std::uint64_t(value));
  std::string text = "(at " + base::hex(S) + ") is out of range: the field of " + std::to_string(widths[r.type] * 8) +
                     " bits can't hold the distance " + distance;
  if (!hint.empty()) text.append("; ").append(hint);
  return fault(ErrorCode::out_of_range, module, r, text);
}

// Whether a symbol that a thread-local sequence refers to can be thread-local at all.
bool may_be_tls(const Target& target) {
  bool known = target.kind == TargetKind::section || target.kind == TargetKind::module || target.kind == TargetKind::fixed ||
               target.kind == TargetKind::slot || target.kind == TargetKind::thunk;
  return !known || (target.flags & target_flag::tls) != 0;
}

constexpr std::string_view use_pic =
    "compile the object with -fPIC, or link it in an engine created with the option low_2gib";

bool in_bounds(const Relocation& r, std::uint64_t size) {
  if (r.type >= type_count) return false;
  std::uint64_t width = widths[r.type];
  return width <= size && r.offset <= size - width && width != bad;
}

Error bad_relocation(const Module& module, const Relocation& r, std::uint64_t size) {
  if (r.type >= type_count || widths[r.type] == bad)
    return fault(ErrorCode::unsupported, module, r, "is of a type that does not occur in relocatable files");
  return fault(ErrorCode::malformed, module, r, "lies outside of its section of " + std::to_string(size) + " bytes");
}

void want(Module& module, std::uint32_t symbol, std::uint8_t what) {
  Target& target = module.targets[symbol];
  if (target.needs == 0) module.needy.push_back(symbol);
  target.needs |= what;
}

// The byte before a PC-relative field tells branches from memory operands: the ModRM byte of `disp32(%rip)` is 05, 0d, ...
// 3d.
enum class Form { branch, memory, unknown };
Form form_at(const std::byte* field, std::uint64_t offset) {
  if (offset < 1) return Form::unknown;
  std::uint8_t before = byte_at(field - 1);
  if (before == 0xE8 || before == 0xE9) return Form::branch;
  if (offset >= 2 && byte_at(field - 2) == 0x0F && (before & 0xF0) == 0x80) return Form::branch;
  return (before & 0xC7) == 0x05 ? Form::memory : Form::unknown;
}

// psABI B.2: mov -> lea, call *cell -> addr32 call, jmp *cell -> jmp; nop. Another addend than -4 reads beside the cell.
bool relaxable(Bytes content, const Relocation& r) {
  if (r.offset < 2 || r.addend != -4) return false;
  const std::byte* field = content.data() + r.offset;
  std::uint8_t opcode = byte_at(field - 2), modrm = byte_at(field - 1);
  return (opcode == 0x8B && (modrm & 0xC7) == 0x05) || (opcode == 0xFF && (modrm == 0x15 || modrm == 0x25));
}

void relax(std::byte* field, std::int64_t value) { // value as for a field that ends the instruction
  std::uint8_t opcode = byte_at(field - 2), modrm = byte_at(field - 1);
  if (opcode == 0x8B) {
    field[-2] = std::byte{0x8D};
  } else if (modrm == 0x15) {
    field[-2] = std::byte{0x67};
    field[-1] = std::byte{0xE8};
  } else {
    field[-2] = std::byte{0xE9};
    field[3] = std::byte{0x90};
    put(field - 1, std::int32_t(value + 1));
    return;
  }
  put(field, std::int32_t(value));
}

// Whether a GOT load of the symbol may become a direct reference at all.
bool may_relax(const Target& target) {
  return target.kind == TargetKind::section || target.kind == TargetKind::module || target.kind == TargetKind::fixed;
}

bool surely_near(const Target& target, const Reach& reach) {
  switch (target.kind) {
  case TargetKind::section:
  case TargetKind::module: return reach.known;
  case TargetKind::fixed: return reach.covers(target.address);
  case TargetKind::null: return reach.covers(0);
  default: return false;
  }
}

bool fits_absolute_32(std::uint32_t type, std::uint64_t value) {
  return type == R_32 ? value <= std::numeric_limits<std::uint32_t>::max() : fits_32(std::int64_t(value));
}

// A stub can stand for a symbol, not for a place inside of a section.
bool can_stub(const Module& module, const Relocation& r) { return module.symbols()[r.symbol].type != SymbolType::section; }

const TlsBinding* find_tls_binding(const Module& module, std::uint32_t symbol) {
  auto binding = std::lower_bound(module.tls_bindings.begin(), module.tls_bindings.end(), symbol,
                                  [](const TlsBinding& b, std::uint32_t s) { return b.symbol < s; });
  return binding != module.tls_bindings.end() && binding->symbol == symbol ? &*binding : nullptr;
}

// Local-dynamic code adds an offset to the beginning of the module's own block, which the variable is not in.
Error foreign_local_dynamic(const Module& module, const Relocation& r) {
  const TlsBinding* binding = find_tls_binding(module, r.symbol);
  return fault(
      ErrorCode::unsupported, module, r,
      "is a local-dynamic access to a thread-local variable of another module (its own copy was dropped for the one that " +
          std::string(binding != nullptr ? binding->owner : "somebody else") + " provides): link both in one change");
}

void survey_pc32(Module& module, std::uint32_t section, const Relocation& r, const Reach& reach, Bytes content, bool code) {
  const Target& target = module.targets[r.symbol];
  if (surely_near(target, reach) || target.kind == TargetKind::discarded) return;
  Form form = code ? form_at(content.data() + r.offset, r.offset) : Form::unknown;
  bool call =
      r.type == R_PLT32 || form == Form::branch || target.kind == TargetKind::slot || target.kind == TargetKind::thunk;
  if (call && can_stub(module, r))
    want(module, r.symbol, need::stub);
  else if (form == Form::memory && (target.kind == TargetKind::fixed || target.kind == TargetKind::null))
    module.thunks.push_back({section, r.symbol, r.offset, r.addend, r.type, 0});
}

} // namespace

std::string relocation_name(std::uint32_t type) {
  return "R_X86_64_" + (type < type_count ? std::string(type_names[type]) : std::to_string(type));
}

namespace {

// Unwind information describes dropped functions too; nothing looks at it there.
bool covers_every_copy(const Section& section) {
  return section.kind == SectionKind::unwind || section.name.starts_with(".gcc_except_table");
}

} // namespace

Result<void> survey_section(Module& module, std::uint32_t section, const Reach& reach) {
  const Section& source = module.sections()[section];
  std::span<const Relocation> relocations = module.relocations(section);
  std::uint64_t size = module.places[section].content_size;
  bool code = source.kind == SectionKind::code;
  for (const Relocation& r : relocations) {
    if (!in_bounds(r, size)) return bad_relocation(module, r, size);
    const Target& target = module.targets[r.symbol];
    // Nearly all of a program: branches and PC-relative references inside the reservation need nothing.
    if (reach.known && (r.type == R_PC32 || r.type == R_PLT32) &&
        (target.kind == TargetKind::section || target.kind == TargetKind::module))
      continue;
    if (target.kind == TargetKind::discarded && !covers_every_copy(source) && r.type != R_NONE)
      return fault(ErrorCode::malformed, module, r,
                   "refers into a COMDAT group from outside, and this copy of the group was dropped");
    switch (r.type) {
    case R_PC32:
    case R_PLT32: survey_pc32(module, section, r, reach, source.content, code); break;
    case R_64: module.large_model |= code; [[fallthrough]];
    case R_32:
    case R_32S:
    case R_16:
    case R_8:
    case R_PC16:
    case R_PC8:
    case R_PC64:
      // An address that is reached through a cell only has its stub for an address; so has a host function that a field of
      // 32 bits names: objects that are not PIC compare and store such addresses.
      if (target.kind == TargetKind::slot || target.kind == TargetKind::thunk ||
          ((r.type == R_32 || r.type == R_32S) && target.kind == TargetKind::fixed &&
           (target.flags & target_flag::host) != 0 && (target.flags & target_flag::data) == 0 &&
           !fits_absolute_32(r.type, target.address) && can_stub(module, r)))
        want(module, r.symbol, need::stub);
      break;
    case R_GOTPCRELX:
    case R_REX_GOTPCRELX:
      if (may_relax(target) && surely_near(target, reach) && code && relaxable(source.content, r)) break;
      want(module, r.symbol, target.kind == TargetKind::thunk ? need::stub | need::got : need::got);
      break;
    case R_GOTPCREL:
    case R_GOTPCREL64: want(module, r.symbol, target.kind == TargetKind::thunk ? need::stub | need::got : need::got); break;
    case R_GOT32:
    case R_GOT64:
    case R_GOTPLT64:
      module.wants_got_base = true;
      want(module, r.symbol, target.kind == TargetKind::thunk ? need::stub | need::got : need::got);
      break;
    case R_GOTOFF64:
    case R_GOTPC32:
    case R_GOTPC64:
      module.large_model |= code && r.type != R_GOTPC32;
      module.wants_got_base = true;
      if (r.type == R_GOTOFF64 && (target.kind == TargetKind::slot || target.kind == TargetKind::thunk))
        want(module, r.symbol, need::stub);
      break;
    case R_PLTOFF64:
      module.large_model |= code;
      module.wants_got_base = true;
      if (!surely_near(target, reach) && can_stub(module, r)) want(module, r.symbol, need::stub);
      break;
    case R_TLSGD:
    case R_GOTPC32_TLSDESC:
      if (!may_be_tls(target))
        return fault(ErrorCode::malformed, module, r, "is for a thread-local variable, which this is not");
      want(module, r.symbol, r.type == R_TLSGD ? need::tls_pair : need::tls_descriptor);
      break;
    case R_TLSLD: module.needs_tls_ld = true; break;
    case R_DTPOFF32:
    case R_DTPOFF64:
      if (!may_be_tls(target))
        return fault(ErrorCode::malformed, module, r, "is for a thread-local variable, which this is not");
      if (target.kind == TargetKind::fixed) return foreign_local_dynamic(module, r);
      module.wants_shared_tls |= target.kind == TargetKind::module;
      break;
    case R_SIZE32:
    case R_SIZE64: want(module, r.symbol, need::size); break;
    case R_GOTTPOFF: want(module, r.symbol, need::tls_offset); [[fallthrough]];
    case R_TPOFF32:
    case R_TPOFF64:
      if (target.kind != TargetKind::missing && target.kind != TargetKind::null &&
          (target.flags & target_flag::static_tls) == 0)
        return fault(
            ErrorCode::needs_flag, module, r,
            "wants a fixed offset from the thread pointer, which only variables of the host have: compile the object with "
            "-fPIC and -ftls-model=global-dynamic");
      break;
    default: break;
    }
  }
  return {};
}

namespace {

// Everything that a fixup's formula needs, for one section.
struct Context {
  Module& module;
  std::uint32_t section;
  std::span<const std::unique_ptr<Module>> modules;
  bool low_2gib;
  std::uint64_t GOT;
  std::uint64_t stubs;
  std::uint64_t base; // of the section
  std::byte* local;
  bool code;
  bool debug;

  const Entry& entry(const Target& target) const {
    TENON_CHECK(target.entry != 0, "a relocation that the survey did not see");
    return module.entries[target.entry - 1];
  }
  // G + GOT: the cell that holds the symbol's address.
  std::uint64_t cell(const Target& target) const {
    if (target.kind == TargetKind::slot) return target.address;
    const Entry& e = entry(target);
    return GOT + (e.address_cell != none ? e.address_cell : e.got);
  }
  bool has_cell(const Target& target) const {
    if (target.kind == TargetKind::slot) return true;
    return target.entry != 0 && (entry(target).address_cell != none || entry(target).got != none);
  }
  bool has_stub(const Target& target) const { return target.entry != 0 && module.entries[target.entry - 1].stub != none; }
  std::uint64_t L(const Target& target) const { return stubs + entry(target).stub; }
};

// The address that a field reads for a symbol. A symbol behind a cell stands for its stub.
std::uint64_t address_of(const Context& c, const Target& target) {
  switch (target.kind) {
  case TargetKind::slot:
  case TargetKind::thunk: return c.has_stub(target) ? c.L(target) : 0;
  case TargetKind::null:
  case TargetKind::missing:
  case TargetKind::discarded: return 0;
  default: return target.address;
  }
}

bool is_thunked(const Module& module, std::uint32_t section, const Relocation& r) {
  auto key = [](const Thunk& t) { return std::tuple(t.section, t.offset, t.symbol); };
  const std::tuple wanted(section, std::uint64_t(r.offset), std::uint32_t(r.symbol));
  auto found = std::lower_bound(module.thunks.begin(), module.thunks.end(), wanted,
                                [&](const Thunk& t, const auto& k) { return key(t) < k; });
  return found != module.thunks.end() && key(*found) == wanted;
}

// PC32: S + A - P, signed 32 bits. PLT32: L + A - P, where L is S itself if that is near.
Result<void> fix_pc32(const Context& c, const Relocation& r, const Target& target, std::uint64_t S, std::uint64_t P) {
  std::int64_t value = std::int64_t(S + std::uint64_t(r.addend) - P);
  if ((!fits_32(value) || target.kind == TargetKind::null) && c.has_stub(target)) {
    S = c.L(target);
    value = std::int64_t(S + std::uint64_t(r.addend) - P);
  }
  if (!fits_32(value) && target.kind == TargetKind::discarded) value = 0;
  if (!fits_32(value)) {
    if (is_thunked(c.module, c.section, r)) return {};
    bool host_data = (target.flags & target_flag::host) != 0;
    return out_of_range(
        c.module, r, S, value,
        host_data ? "host data that far is reached by `mov` and `lea` loads or through the GOT: compile with -fPIC" : "");
  }
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

// GOTPCREL[X]: G + GOT + A - P. Relaxed to S + A - P where the target can be reached (psABI B.2).
Result<void> fix_gotpcrel(const Context& c, const Relocation& r, const Target& target, std::uint64_t S, std::uint64_t P) {
  // As the survey saw it: other relocations may have changed the bytes by now.
  if (r.type != R_GOTPCREL && c.code && may_relax(target) && relaxable(c.module.sections()[c.section].content, r)) {
    std::int64_t direct = std::int64_t(S + std::uint64_t(r.addend) - P);
    if (fits_32(direct) && fits_32(direct + 1)) {
      relax(c.local + r.offset, direct);
      return {};
    }
    if (!c.has_cell(target)) // the survey took it to be near: its value lies outside of its section
      return out_of_range(c.module, r, S, direct, {});
  }
  std::int64_t value = std::int64_t(c.cell(target) + std::uint64_t(r.addend) - P);
  if (!fits_32(value)) return out_of_range(c.module, r, c.cell(target), value, "its GOT entry is too far");
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

// Absolute fields. 32 is zero-extended, 32S sign-extended.
Result<void> fix_absolute(const Context& c, const Relocation& r, const Target& target, std::uint64_t S) {
  std::int64_t value = std::int64_t(S + std::uint64_t(r.addend));
  if ((r.type == R_32 || r.type == R_32S) && !c.debug && target.kind == TargetKind::fixed && c.has_stub(target) &&
      !fits_absolute_32(r.type, S))
    value = std::int64_t((S = c.L(target)) + std::uint64_t(r.addend));
  bool host = target.kind == TargetKind::fixed && (target.flags & target_flag::host) != 0;
  std::string_view hint = c.debug       ? ""
                          : !c.low_2gib ? use_pic
                          : host        ? "data of the host lies out of its reach: compile with -fPIC"
                                        : "";
  switch (r.type) {
  case R_64:
    put(c.local + r.offset, value);
    if (target.kind == TargetKind::slot && !c.code && !c.debug)
      c.module.slot_pointers.push_back({c.section, r.symbol, r.offset, r.addend});
    return {};
  case R_32:
    if (std::uint64_t(value) > std::numeric_limits<std::uint32_t>::max()) return out_of_range(c.module, r, S, value, hint);
    put(c.local + r.offset, std::uint32_t(value));
    return {};
  case R_32S:
    if (!fits_32(value)) return out_of_range(c.module, r, S, value, hint);
    put(c.local + r.offset, std::int32_t(value));
    return {};
  case R_16:
    if (!fits_either(value, 16)) return out_of_range(c.module, r, S, value, {});
    put(c.local + r.offset, std::int16_t(value));
    return {};
  default:
    if (!fits_either(value, 8)) return out_of_range(c.module, r, S, value, {});
    put(c.local + r.offset, std::int8_t(value));
    return {};
  }
}

// PC8, PC16, PC64: S + A - P.
Result<void> fix_pc(const Context& c, const Relocation& r, std::uint64_t S, std::uint64_t P) {
  std::int64_t value = std::int64_t(S + std::uint64_t(r.addend) - P);
  unsigned bits = widths[r.type] * 8U;
  if (bits < 64 && !fits_signed(value, bits)) return out_of_range(c.module, r, S, value, {});
  std::memcpy(c.local + r.offset, &value, widths[r.type]); // little-endian: the low bytes
  return {};
}

// Fields relative to the GOT, and fields that name it.
Result<void> fix_got(const Context& c, const Relocation& r, const Target& target, std::uint64_t S, std::uint64_t P) {
  std::uint64_t A = std::uint64_t(r.addend), value = 0;
  switch (r.type) {
  case R_GOT32:
  case R_GOT64:
  case R_GOTPLT64: value = c.cell(target) - c.GOT + A; break;                         // G + A
  case R_GOTPCREL64: value = c.cell(target) + A - P; break;                           // G + GOT + A - P
  case R_GOTOFF64: value = S + A - c.GOT; break;                                      // S + A - GOT
  case R_PLTOFF64: value = (c.has_stub(target) ? c.L(target) : S) + A - c.GOT; break; // L + A - GOT
  default: value = c.GOT + A - P; break;                                              // GOT + A - P
  }
  if (widths[r.type] == 8) {
    put(c.local + r.offset, value);
    return {};
  }
  if (!fits_32(std::int64_t(value))) return out_of_range(c.module, r, S, std::int64_t(value), {});
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

std::int64_t static_tls_offset(const Module& module, std::uint32_t symbol) {
  const TlsBinding* binding = find_tls_binding(module, symbol);
  return binding != nullptr ? binding->static_offset : 0;
}

Result<void> fix_tls(const Context& c, const Relocation& r, const Target& target, std::uint64_t P) {
  std::uint64_t A = std::uint64_t(r.addend), value = 0;
  switch (r.type) {
  case R_TLSGD: value = c.GOT + c.entry(target).tls_pair + A - P; break;
  case R_TLSLD: value = c.GOT + c.module.tls_ld + A - P; break;
  case R_GOTPC32_TLSDESC: value = c.GOT + c.entry(target).tls_descriptor + A - P; break;
  case R_GOTTPOFF: value = c.GOT + c.entry(target).tls_offset + A - P; break;
  case R_TPOFF32:
  case R_TPOFF64: value = std::uint64_t(static_tls_offset(c.module, r.symbol)) + A; break;
  default: value = target.address + A; break; // DTPOFF: the offset in its module's block
  }
  if (widths[r.type] == 8) {
    put(c.local + r.offset, value);
    return {};
  }
  if (!fits_32(std::int64_t(value))) return out_of_range(c.module, r, target.address, std::int64_t(value), {});
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

Result<void> fix_one(const Context& c, const Relocation& r) {
  const Target& target = c.module.targets[r.symbol];
  std::uint64_t S = address_of(c, target), P = c.base + r.offset;
  switch (r.type) {
  case R_NONE:
  case R_TLSDESC_CALL: return {};
  case R_PC32:
  case R_PLT32: return fix_pc32(c, r, target, S, P);
  case R_64:
  case R_32:
  case R_32S:
  case R_16:
  case R_8: return fix_absolute(c, r, target, S);
  case R_PC8:
  case R_PC16:
  case R_PC64: return fix_pc(c, r, S, P);
  case R_GOTPCREL:
  case R_GOTPCRELX:
  case R_REX_GOTPCRELX: return fix_gotpcrel(c, r, target, S, P);
  case R_GOT32:
  case R_GOT64:
  case R_GOTPLT64:
  case R_GOTPCREL64:
  case R_GOTOFF64:
  case R_PLTOFF64:
  case R_GOTPC32:
  case R_GOTPC64: return fix_got(c, r, target, S, P);
  case R_SIZE32:
  case R_SIZE64: {
    std::uint64_t Z = c.entry(target).size + std::uint64_t(r.addend);
    if (r.type == R_SIZE32 && Z > std::numeric_limits<std::uint32_t>::max())
      return out_of_range(c.module, r, S, std::int64_t(Z), {});
    std::memcpy(c.local + r.offset, &Z, widths[r.type]);
    return {};
  }
  default: return fix_tls(c, r, target, P);
  }
}

} // namespace

Result<void> fix_section(Module& module, std::uint32_t section, std::span<const std::unique_ptr<Module>> modules,
                         bool low_2gib) {
  const SectionPlace& place = module.places[section];
  SectionKind kind = module.sections()[section].kind;
  Context c{module,
            section,
            modules,
            low_2gib,
            module.place(Synthetic::got).address,
            module.place(Synthetic::stubs).address,
            place.address,
            place.local,
            kind == SectionKind::code,
            kind == SectionKind::debug};
  for (const Relocation& r : c.debug ? module.object.relocations(section) : module.relocations(section)) {
    if (c.debug && (!in_bounds(r, place.content_size) ||
                    (r.type != R_64 && r.type != R_32 && r.type != R_DTPOFF64 && r.type != R_DTPOFF32)))
      return bad_relocation(module, r, place.content_size);
    const Target& target = module.targets[r.symbol];
    std::uint64_t P = place.address + r.offset;
    // The two kinds that make up nearly all of a program are settled here when nothing is special about them.
    if ((r.type == R_PC32 || r.type == R_PLT32) && target.kind <= TargetKind::fixed && target.kind != TargetKind::missing) {
      std::int64_t value = std::int64_t(target.address + std::uint64_t(r.addend) - P);
      if (fits_32(value)) [[likely]] {
        put(place.local + r.offset, std::int32_t(value));
        continue;
      }
    }
    if (Result<void> done = fix_one(c, r); !done) return done;
  }
  return {};
}

bool write_stub(std::byte* at, std::uint64_t address, std::uint64_t cell) {
  static constexpr std::uint8_t code[stub_bytes] = {0xFF, 0x25, 0, 0, 0, 0, 0xCC, 0xCC}; // jmp *cell(%rip)
  std::memcpy(at, code, sizeof code);
  std::int64_t distance = std::int64_t(cell - (address + 6));
  put(at + 2, std::int32_t(distance));
  return fits_32(distance);
}

bool write_dso_stub(std::byte* at, std::uint64_t address, std::uint64_t cell, std::uint64_t dso_handle, unsigned argument) {
  // lea __dso_handle(%rip), %rsi | %rcx; jmp *cell(%rip): the second or fourth integer argument (psABI 3.2.3).
  const std::uint8_t code[13] = {0x48, 0x8D, std::uint8_t(argument == 2 ? 0x35 : 0x0D), 0, 0, 0, 0, 0xFF, 0x25, 0, 0, 0, 0};
  std::memcpy(at, code, sizeof code);
  std::int64_t to_dso = std::int64_t(dso_handle - (address + 7)), to_cell = std::int64_t(cell - (address + 13));
  put(at + 3, std::int32_t(to_dso));
  put(at + 9, std::int32_t(to_cell));
  return fits_32(to_dso) && fits_32(to_cell);
}

namespace {

// Finds instructions by decoding from the start of the function around them: bytes before a field alone don't tell a prefix
// from the end of the instruction before. Asked in the order of sections and offsets, it goes over the code once.
class Decoder {
public:
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  std::uint64_t begin = 0; // of `instruction`

  explicit Decoder(const Module& module) : module_(module) {
    for (const Symbol& symbol : module.symbols())
      if (symbol.type == SymbolType::function && symbol.section < module.object_sections())
        functions_.emplace_back(symbol.section, symbol.value);
    std::sort(functions_.begin(), functions_.end());
    ready_ = ZYAN_SUCCESS(ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
  }

  // The instruction whose displacement is the field at `offset`.
  bool find(std::uint32_t section, std::uint64_t offset) {
    Bytes content = module_.sections()[section].content;
    std::uint64_t at = function_around(section, offset);
    if (section == section_ && begin >= at && begin <= offset) at = begin;
    section_ = section;
    while (ready_ && at <= offset && at < content.size()) {
      begin = at;
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, content.data() + at, content.size() - at, &instruction, operands)))
        return false;
      if (at + instruction.length > offset)
        return instruction.raw.disp.size == 32 && at + instruction.raw.disp.offset == offset;
      at += instruction.length;
    }
    return false;
  }

private:
  std::uint64_t function_around(std::uint32_t section, std::uint64_t offset) const {
    auto after = std::upper_bound(functions_.begin(), functions_.end(), std::pair(section, offset));
    return after != functions_.begin() && std::prev(after)->first == section ? std::prev(after)->second : 0;
  }

  const Module& module_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> functions_; // section, offset; sorted
  ZydisDecoder decoder_;
  bool ready_ = false;
  std::uint32_t section_ = 0; // where `begin` lies
};

// mov disp(%rip), %r32/%r64 -> loads; lea -> only the address.
struct Load {
  std::uint8_t reg = 0; // 0 to 15
  bool wide = false, address_only = false;
};

bool load_of(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands, Load& load) {
  if (instruction.length < 6 || operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
  bool mov = instruction.mnemonic == ZYDIS_MNEMONIC_MOV && instruction.opcode == 0x8B;
  load.address_only = instruction.mnemonic == ZYDIS_MNEMONIC_LEA;
  load.wide = operands[0].size == 64;
  if ((!mov && !load.address_only) || (!load.wide && (load.address_only || operands[0].size != 32))) return false;
  ZyanI8 id = ZydisRegisterGetId(operands[0].reg.value);
  load.reg = std::uint8_t(id);
  return id >= 0 && id < 16 && id != 4; // never the stack pointer
}

std::size_t encode_load(std::uint8_t* code, const Load& load, std::uint64_t address) {
  std::uint8_t high = load.reg >> 3, low = load.reg & 7;
  std::size_t n = 0;
  code[n++] = std::uint8_t(0x48 | high); // movabs $address, %reg
  code[n++] = std::uint8_t(0xB8 + low);
  std::memcpy(code + n, &address, 8);
  n += 8;
  if (load.address_only) return n;
  code[n++] = std::uint8_t(0x40 | (load.wide ? 8 : 0) | (high << 2) | high); // mov 0(%reg), %reg
  code[n++] = 0x8B;
  code[n++] = std::uint8_t(0x40 | (low << 3) | low);
  if (low == 4) code[n++] = 0x24; // r12 as a base takes a SIB byte
  code[n++] = 0;
  return n;
}

Result<void> write_thunk(Module& module, const Thunk& thunk, Decoder& decoder) {
  const SectionPlace& place = module.places[thunk.section];
  const Target& target = module.targets[thunk.symbol];
  const Relocation relocation{thunk.offset, thunk.type, thunk.symbol, thunk.addend};
  std::uint64_t S = target.kind == TargetKind::null ? 0 : target.address;
  std::int64_t direct = std::int64_t(S + std::uint64_t(thunk.addend) - (place.address + thunk.offset));
  if (fits_32(direct)) return {}; // and so fixed up as it stands

  Load load;
  if (!decoder.find(thunk.section, thunk.offset) || !load_of(decoder.instruction, decoder.operands, load))
    return out_of_range(
        module, relocation, S, direct,
        "data of the host that far can be reached by `mov` to a general register and `lea` only: compile with -fPIC "
        "and without copy relocations (-fno-direct-access-external-data)");
  std::uint64_t begin = decoder.begin, end = begin + decoder.instruction.length;
  std::uint64_t address = S + std::uint64_t(thunk.addend) + (end - thunk.offset);
  const SectionPlace& stubs = module.place(Synthetic::stubs);
  std::uint64_t at = stubs.address + thunk.stub;
  std::uint8_t code[thunk_bytes];
  std::memset(code, 0xCC, sizeof code);
  std::size_t n = encode_load(code, load, address);
  code[n++] = 0xE9;
  std::int64_t back = std::int64_t(place.address + end - (at + n + 4)),
               there = std::int64_t(at - (place.address + begin + 5));
  if (!fits_32(back) || !fits_32(there)) return out_of_range(module, relocation, at, there, "its thunk is too far");
  std::int32_t back_32 = std::int32_t(back);
  std::memcpy(code + n, &back_32, 4);
  std::memcpy(stubs.local + thunk.stub, code, sizeof code);
  std::byte* site = place.local + begin;
  site[0] = std::byte{0xE9};
  put(site + 1, std::int32_t(there));
  std::memset(site + 5, 0x90, decoder.instruction.length - 5U);
  return {};
}

} // namespace

Result<void> write_thunks(Module& module) {
  if (module.thunks.empty()) return {};
  Decoder decoder(module);
  for (const Thunk& thunk : module.thunks)
    if (Result<void> done = write_thunk(module, thunk, decoder); !done)
      return std::move(done).error().within(module.sections()[thunk.section].name);
  return {};
}

bool write_stub_frames(std::byte* at, std::uint64_t address, std::uint64_t begin, std::uint64_t size) {
  // A stub has pushed nothing: the return address is on top of the stack (DWARF 5, 6.4; CFA = rsp + 8, return address at CFA
  // - 8).
  static constexpr std::uint8_t cie[24] = {20, 0,    0,  0, 0,    0,    0, 0, 1,    'z', 'R', 0,
                                           1,  0x78, 16, 1, 0x1B, 0x0C, 7, 8, 0x90, 1,   0,   0};
  std::uint8_t fde[24] = {20, 0, 0, 0, 28, 0, 0, 0};
  std::int64_t pc = std::int64_t(begin - (address + 24 + 8));
  std::int32_t pc_32 = std::int32_t(pc), size_32 = std::int32_t(size);
  std::memcpy(fde + 8, &pc_32, 4);
  std::memcpy(fde + 12, &size_32, 4);
  std::memcpy(at, cie, sizeof cie);
  std::memcpy(at + 24, fde, sizeof fde);
  return fits_32(pc);
}

void write_trap(std::byte* at, std::uint64_t report, std::string_view name) {
  std::uint8_t code[trap_bytes] = {0x48, 0x8D, 0x3D, trap_bytes - 7,
                                   0,    0,    0, // lea name(%rip), %rdi
                                   0x48, 0xB8, 0,    0,
                                   0,    0,    0,    0,
                                   0,    0,     // movabs $report, %rax
                                   0xFF, 0xE0}; // jmp *%rax
  std::memcpy(code + 9, &report, sizeof report);
  std::memcpy(at, code, sizeof code);
  std::memcpy(at + trap_bytes, name.data(), name.size());
  at[trap_bytes + name.size()] = std::byte{0};
}

} // namespace tenon::link::arch

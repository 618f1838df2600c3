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
//   - by a PC-relative load of data, `mov sym(%rip), %reg` or `lea sym(%rip), %reg`: a jump to a thunk takes its place
//     (x86_64_stubs.cpp);
//   - by any other PC-relative instruction: not at all, an error that names it.
// An undefined weak symbol has S = 0 and is far by the same rules.
//
// Relocations can be taken back and applied again (restore, relocate): fields of RELA relocations hold nothing of their own,
// and relaxed instructions can be told back from what they became. Sections for which that is not enough, because a field
// was not zero or an instruction was led through a thunk, are noted in Module::rewritten.
//
// TLS: general-dynamic, local-dynamic and descriptor sequences work for every variable, through the engine's own entry
// points. Local-dynamic code counts on its variables to lie in one block: see share_tls. Initial-exec and local-exec work
// for the host's variables that lie at a fixed distance from the thread pointer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "link/arch/x86_64.h"

#include "base/check.h"
#include "base/hex.h"
#include "link/passes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

namespace tenon::link::arch {

TlsEntryPoints tls_entry_points;

namespace {

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

template <class T> T get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
std::uint8_t byte_at(const std::byte* at) { return std::to_integer<std::uint8_t>(*at); }

bool fits_signed(std::int64_t value, unsigned bits) {
  return value >= -(std::int64_t(1) << (bits - 1)) && value < (std::int64_t(1) << (bits - 1));
}
// The ABI does not say whether 8- and 16-bit fields are signed: both readings are allowed, as in other linkers.
bool fits_either(std::int64_t value, unsigned bits) {
  return value >= -(std::int64_t(1) << (bits - 1)) && value < (std::int64_t(1) << bits);
}

// `module` is null once its object is gone.
std::string symbol_label(const Module* module, std::uint32_t index) {
  if (module == nullptr) return "symbol #" + std::to_string(index);
  const Symbol& symbol = module->symbols()[index];
  if (symbol.type == SymbolType::section && symbol.section < module->object_sections())
    return "section " + std::string(module->sections()[symbol.section].name);
  return symbol.name().empty() ? "symbol #" + std::to_string(index) : "'" + std::string(symbol.name()) + "'";
}

// "relocation R_X86_64_PC32 at offset 0x12 against 'f'": the module and section are said by the callers further out.
std::string label(const Module* module, const Relocation& r) {
  return "relocation " + relocation_name(r.type) + " at offset " + base::hex(r.offset) + " against " +
         symbol_label(module, r.symbol);
}

Error fault(ErrorCode code, const Module& module, const Relocation& r, std::string_view what) {
  return {code, label(&module, r) + " " + std::string(what)};
}

} // namespace

Error out_of_range(const Module* module, const Relocation& r, std::uint64_t S, std::int64_t value, std::string_view hint) {
  std::string distance =
      value < 0 ? "-" + base::hex(std::uint64_t(0) - std::uint64_t(value)) : base::hex(std::uint64_t(value));
  std::string text = "(at " + base::hex(S) + ") is out of range: the field of " + std::to_string(widths[r.type] * 8) +
                     " bits can't hold the distance " + distance;
  if (!hint.empty()) text.append("; ").append(hint);
  return {ErrorCode::out_of_range, label(module, r) + " " + text};
}

namespace {

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

void want(Module& module, std::uint32_t symbol, std::uint8_t what) { note_need(module, symbol, what); }

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

// Whether an instruction looks like what relax() makes of one.
bool seems_relaxed(const std::byte* local, const Relocation& r, bool code) {
  if (!code || r.offset < 2 || r.addend != -4) return false;
  std::uint8_t opcode = byte_at(local + r.offset - 2), modrm = byte_at(local + r.offset - 1);
  return (opcode == 0x8D && (modrm & 0xC7) == 0x05) || (opcode == 0x67 && modrm == 0xE8) || opcode == 0xE9;
}

void unrelax(std::byte* field) {
  std::uint8_t opcode = byte_at(field - 2);
  if (opcode == 0x8D) {
    field[-2] = std::byte{0x8B};
  } else {
    field[-2] = std::byte{0xFF};
    field[-1] = std::byte(opcode == 0x67 ? 0x15 : 0x25);
  }
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

const TlsBinding* find_tls_binding(std::span<const TlsBinding> bindings, std::uint32_t symbol) {
  auto binding = std::lower_bound(bindings.begin(), bindings.end(), symbol,
                                  [](const TlsBinding& b, std::uint32_t s) { return b.symbol < s; });
  return binding != bindings.end() && binding->symbol == symbol ? &*binding : nullptr;
}

// Local-dynamic code adds an offset to the beginning of the module's own block, which the variable is not in.
Error foreign_local_dynamic(const Module& module, const Relocation& r) {
  const TlsBinding* binding = find_tls_binding(module.tls_bindings, r.symbol);
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
    module.thunks.push_back({section, r.symbol, r.offset, r.addend, r.type, 0, 0, 0, 0});
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

Result<void> survey_section(Module& module, const SectionPlace& place, std::span<const Relocation> relocations,
                            const Reach& reach) {
  const std::uint32_t section = place.section;
  const Section& source = module.sections()[section]; // looked at only where need be: sections are far between
  const std::uint64_t size = place.content_size();
  const bool code = place.kind == SectionKind::code;
  const std::span<const Target> targets = module.targets;
  // Nearly all of a program needs nothing: branches and PC-relative references inside the reservation, addresses in data.
  const std::uint64_t plain_32 = reach.known && size >= 4 ? size - 3 : 0, plain_64 = !code && size >= 8 ? size - 7 : 0;
  for (const Relocation& r : relocations) {
    const Target& target = targets[r.symbol];
    const bool is_ours = target.kind == TargetKind::section || target.kind == TargetKind::module;
    if (r.type == R_PC32 || r.type == R_PLT32 ? is_ours && r.offset < plain_32
                                              : r.type == R_64 && is_ours && r.offset < plain_64)
      continue;
    if (!in_bounds(r, size)) return bad_relocation(module, r, size);
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
  const Bound& bound;
  const SectionBytes& bytes;
  Module* module; // where fields that name slots are listed; null: linked before
  std::uint64_t GOT;
  std::uint64_t stubs;
  std::byte* local; // of the section
  bool code;
  bool debug;
  bool odd = false; // restore() would not give back what stood there

  Context(const Bound& bound_, const SectionBytes& bytes_, Module* module_)
      : bound(bound_), bytes(bytes_), module(module_), GOT(bound.got), stubs(bound.stubs), local(bytes.local),
        code(bytes.code), debug(bytes.debug) {}

  const Entry& entry(const Target& target) const {
    TENON_CHECK(target.entry != 0, "a relocation that the survey did not see");
    return bound.entries[target.entry - 1];
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
  bool has_stub(const Target& target) const { return target.entry != 0 && bound.entries[target.entry - 1].stub != none; }
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

bool is_thunked(std::span<const Thunk> thunks, std::uint32_t section, const Relocation& r) {
  auto key = [](const Thunk& t) { return std::tuple(t.section, t.offset, t.symbol); };
  const std::tuple wanted(section, std::uint64_t(r.offset), std::uint32_t(r.symbol));
  auto found =
      std::lower_bound(thunks.begin(), thunks.end(), wanted, [&](const Thunk& t, const auto& k) { return key(t) < k; });
  return found != thunks.end() && key(*found) == wanted;
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
    if (is_thunked(c.bound.thunks, c.bytes.section, r)) return {};
    bool host_data = (target.flags & target_flag::host) != 0;
    return out_of_range(
        c.bound.module, r, S, value,
        host_data ? "host data that far is reached by `mov` and `lea` loads or through the GOT: compile with -fPIC" : "");
  }
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

// GOTPCREL[X]: G + GOT + A - P. Relaxed to S + A - P where the target can be reached (psABI B.2).
Result<void> fix_gotpcrel(Context& c, const Relocation& r, const Target& target, std::uint64_t S, std::uint64_t P) {
  // As the survey saw it: other relocations may have changed the bytes by now.
  bool relaxing = r.type != R_GOTPCREL && c.code && may_relax(target) && relaxable(c.bytes.original, r);
  if (relaxing) {
    std::int64_t direct = std::int64_t(S + std::uint64_t(r.addend) - P);
    if (fits_32(direct) && fits_32(direct + 1)) {
      c.odd |= std::memcmp(c.local + r.offset - 2, c.bytes.original.data() + r.offset - 2, 2) != 0;
      relax(c.local + r.offset, direct);
      return {};
    }
    if (!c.has_cell(target)) // the survey took it to be near: its value lies outside of its section
      return out_of_range(c.bound.module, r, S, direct, {});
  }
  c.odd |= r.type != R_GOTPCREL && !relaxing && seems_relaxed(c.local, r, c.code);
  std::int64_t value = std::int64_t(c.cell(target) + std::uint64_t(r.addend) - P);
  if (!fits_32(value)) return out_of_range(c.bound.module, r, c.cell(target), value, "its GOT entry is too far");
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
  std::string_view hint = c.debug             ? ""
                          : !c.bound.low_2gib ? use_pic
                          : host              ? "data of the host lies out of its reach: compile with -fPIC"
                                              : "";
  switch (r.type) {
  case R_64:
    put(c.local + r.offset, value);
    if (target.kind == TargetKind::slot && !c.code && !c.debug && c.module != nullptr)
      c.module->slot_pointers.push_back({c.bytes.section, r.symbol, r.offset, r.addend});
    return {};
  case R_32:
    if (std::uint64_t(value) > std::numeric_limits<std::uint32_t>::max())
      return out_of_range(c.bound.module, r, S, value, hint);
    put(c.local + r.offset, std::uint32_t(value));
    return {};
  case R_32S:
    if (!fits_32(value)) return out_of_range(c.bound.module, r, S, value, hint);
    put(c.local + r.offset, std::int32_t(value));
    return {};
  case R_16:
    if (!fits_either(value, 16)) return out_of_range(c.bound.module, r, S, value, {});
    put(c.local + r.offset, std::int16_t(value));
    return {};
  default:
    if (!fits_either(value, 8)) return out_of_range(c.bound.module, r, S, value, {});
    put(c.local + r.offset, std::int8_t(value));
    return {};
  }
}

// PC8, PC16, PC64: S + A - P.
Result<void> fix_pc(const Context& c, const Relocation& r, std::uint64_t S, std::uint64_t P) {
  std::int64_t value = std::int64_t(S + std::uint64_t(r.addend) - P);
  unsigned bits = widths[r.type] * 8U;
  if (bits < 64 && !fits_signed(value, bits)) return out_of_range(c.bound.module, r, S, value, {});
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
  if (!fits_32(std::int64_t(value))) return out_of_range(c.bound.module, r, S, std::int64_t(value), {});
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

std::int64_t static_tls_offset(const Bound& bound, std::uint32_t symbol) {
  const TlsBinding* binding = find_tls_binding(bound.tls_bindings, symbol);
  return binding != nullptr ? binding->static_offset : 0;
}

Result<void> fix_tls(const Context& c, const Relocation& r, const Target& target, std::uint64_t P) {
  std::uint64_t A = std::uint64_t(r.addend), value = 0;
  switch (r.type) {
  case R_TLSGD: value = c.GOT + c.entry(target).tls_pair + A - P; break;
  case R_TLSLD: value = c.GOT + c.bound.tls_ld + A - P; break;
  case R_GOTPC32_TLSDESC: value = c.GOT + c.entry(target).tls_descriptor + A - P; break;
  case R_GOTTPOFF: value = c.GOT + c.entry(target).tls_offset + A - P; break;
  case R_TPOFF32:
  case R_TPOFF64: value = std::uint64_t(static_tls_offset(c.bound, r.symbol)) + A; break;
  default: value = target.address + A; break; // DTPOFF: the offset in its module's block
  }
  if (widths[r.type] == 8) {
    put(c.local + r.offset, value);
    return {};
  }
  if (!fits_32(std::int64_t(value))) return out_of_range(c.bound.module, r, target.address, std::int64_t(value), {});
  put(c.local + r.offset, std::int32_t(value));
  return {};
}

// What stands in a field of at most 8 bytes; nothing, before it is relocated for the first time.
std::uint64_t field_of(const std::byte* local, const Relocation& r) {
  switch (widths[r.type]) {
  case 4: return get<std::uint32_t>(local + r.offset);
  case 8: return get<std::uint64_t>(local + r.offset);
  case 2: return get<std::uint16_t>(local + r.offset);
  case 1: return byte_at(local + r.offset);
  default: return 0;
  }
}

Result<void> fix_one(Context& c, const Relocation& r) {
  const Target& target = c.bound.targets[r.symbol];
  std::uint64_t S = address_of(c, target), P = c.bytes.address + r.offset;
  c.odd |= field_of(c.local, r) != 0;
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
      return out_of_range(c.bound.module, r, S, std::int64_t(Z), {});
    std::memcpy(c.local + r.offset, &Z, widths[r.type]);
    return {};
  }
  default: return fix_tls(c, r, target, P);
  }
}

} // namespace

Result<void> fix_section(Module& module, const Bound& bound, const SectionBytes& bytes) {
  Context c(bound, bytes, &module);
  std::uint64_t filled = 0;
  for (const Relocation& r : c.debug ? module.object.relocations(bytes.section) : module.relocations(bytes.section)) {
    if (c.debug && (!in_bounds(r, bytes.original.size()) ||
                    (r.type != R_64 && r.type != R_32 && r.type != R_DTPOFF64 && r.type != R_DTPOFF32)))
      return bad_relocation(module, r, bytes.original.size());
    const Target& target = bound.targets[r.symbol];
    std::uint64_t P = bytes.address + r.offset;
    // The kinds that make up nearly all of a program are settled here when nothing is special about them.
    if (target.kind <= TargetKind::fixed && target.kind != TargetKind::missing) {
      const std::uint64_t sum = target.address + std::uint64_t(r.addend);
      if (r.type == R_PC32 || r.type == R_PLT32) {
        const auto value = std::int64_t(sum - P);
        if (fits_32(value)) [[likely]] {
          filled |= get<std::uint32_t>(bytes.local + r.offset);
          put(bytes.local + r.offset, std::int32_t(value));
          continue;
        }
      } else if (r.type == R_64) {
        filled |= get<std::uint64_t>(bytes.local + r.offset);
        put(bytes.local + r.offset, sum);
        continue;
      }
    }
    if (Result<void> done = fix_one(c, r); !done) return done;
  }
  if ((filled != 0 || c.odd) && !c.debug) module.rewritten.push_back(bytes.section);
  return {};
}

Result<void> relocate(const Bound& bound, const SectionBytes& bytes, const Relocation& relocation) {
  Context c(bound, bytes, nullptr);
  return fix_one(c, relocation);
}

std::pair<std::uint64_t, std::uint64_t> restore(std::byte* local, const Relocation& r, bool code) {
  bool relaxed = (r.type == R_GOTPCRELX || r.type == R_REX_GOTPCRELX) && seems_relaxed(local, r, code);
  if (relaxed) unrelax(local + r.offset);
  std::memset(local + r.offset, 0, widths[r.type]);
  return {r.offset - (relaxed ? 2 : 0), r.offset + widths[r.type]};
}

} // namespace tenon::link::arch

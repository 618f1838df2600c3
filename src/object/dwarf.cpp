// Attributes and storage by way of libdw. See dwarf.h.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/dwarf.h"

#include <cstring>
#include <new>

namespace tenon::object::dwarf {

namespace {

// libdw's own would end the process. Its frames hold nothing that dwarf_end() does not free, and can be unwound as all code
// of this platform. (The standard's spelling of the attribute is no part of a function's type.)
__attribute__((noreturn)) void no_memory() { throw std::bad_alloc(); }

constexpr int longest_chain = 8; // of origins

Dwarf_Attribute* attribute_of(Dwarf_Die& die, unsigned name, Dwarf_Attribute& storage) {
  return dwarf_attr(&die, name, &storage);
}

} // namespace

File::File(DebugImage image) noexcept : image_(std::move(image)), left_(image_.info_size * 64 + 100'000) {}

File::~File() {
  if (dwarf_ != nullptr) dwarf_end(dwarf_);
  if (elf_ != nullptr) elf_end(elf_);
}

std::unique_ptr<File> File::open(DebugImage image) {
  static const bool usable = elf_version(EV_CURRENT) != EV_NONE;
  if (!usable) return nullptr;
  std::unique_ptr<File> file(new File(std::move(image)));
  file->elf_ = elf_memory(reinterpret_cast<char*>(file->image_.file.data()), file->image_.size);
  if (file->elf_ == nullptr) return nullptr;
  file->dwarf_ = dwarf_begin_elf(file->elf_, DWARF_C_READ, nullptr);
  if (file->dwarf_ == nullptr) return nullptr;
  dwarf_new_oom_handler(file->dwarf_, no_memory);
  return file;
}

std::string_view own_text(Dwarf_Die& die, unsigned attribute) {
  Dwarf_Attribute storage;
  Dwarf_Attribute* found = attribute_of(die, attribute, storage);
  const char* text = found != nullptr ? dwarf_formstring(found) : nullptr;
  return text != nullptr ? std::string_view(text, strnlen(text, longest_name)) : std::string_view();
}

bool has(Dwarf_Die& die, unsigned attribute) { return dwarf_hasattr(&die, attribute) != 0; }

std::optional<std::uint64_t> own_number(Dwarf_Die& die, unsigned attribute) {
  Dwarf_Attribute storage;
  Dwarf_Attribute* found = attribute_of(die, attribute, storage);
  Dwarf_Word value = 0;
  if (found == nullptr || dwarf_formudata(found, &value) != 0) return std::nullopt;
  return value;
}

std::optional<Dwarf_Die> own_reference(Dwarf_Die& die, unsigned attribute) {
  Dwarf_Attribute storage;
  Dwarf_Attribute* found = attribute_of(die, attribute, storage);
  Dwarf_Die target;
  if (found == nullptr || dwarf_formref_die(found, &target) == nullptr) return std::nullopt;
  return target;
}

std::optional<Dwarf_Die> origin_of(Dwarf_Die& die) {
  if (std::optional<Dwarf_Die> abstract = own_reference(die, DW_AT_abstract_origin)) return abstract;
  return own_reference(die, DW_AT_specification);
}

std::string_view text(Dwarf_Die die, unsigned attribute) {
  for (int i = 0; i < longest_chain; ++i) {
    if (std::string_view found = own_text(die, attribute); !found.empty()) return found;
    std::optional<Dwarf_Die> origin = origin_of(die);
    if (!origin) break;
    die = *origin;
  }
  return {};
}

std::optional<Dwarf_Die> reference(Dwarf_Die die, unsigned attribute) {
  for (int i = 0; i < longest_chain; ++i) {
    if (std::optional<Dwarf_Die> found = own_reference(die, attribute)) return found;
    std::optional<Dwarf_Die> origin = origin_of(die);
    if (!origin) break;
    die = *origin;
  }
  return std::nullopt;
}

namespace {

// An operation that gives an address of the program, or a thread-local variable's; 0, where nothing lies, for others.
std::uint64_t address_of(Dwarf_Attribute& location, Dwarf_Op& op) {
  switch (op.atom) {
  case DW_OP_addr:
  case DW_OP_const4u:
  case DW_OP_const8u: return op.number;
  case DW_OP_addrx:
  case DW_OP_constx:
  case DW_OP_GNU_addr_index:
  case DW_OP_GNU_const_index: {
    Dwarf_Attribute indexed;
    Dwarf_Addr address = 0;
    if (dwarf_getlocation_attr(&location, &op, &indexed) != 0 || dwarf_formaddr(&indexed, &address) != 0) return 0;
    return address;
  }
  default: return 0;
  }
}

bool is_plain_address(unsigned op) noexcept { return op == DW_OP_addr || op == DW_OP_addrx || op == DW_OP_GNU_addr_index; }

// Nearly all variables are in registers or frames: seen by the first byte.
bool may_be_stored(Dwarf_Attribute& location) {
  Dwarf_Block block;
  if (dwarf_formblock(&location, &block) != 0 || block.length == 0) return false;
  switch (block.data[0]) {
  case DW_OP_addr:
  case DW_OP_addrx:
  case DW_OP_GNU_addr_index:
  case DW_OP_const4u:
  case DW_OP_const8u:
  case DW_OP_constx:
  case DW_OP_GNU_const_index:
  case DW_OP_piece: return true;
  default: return false;
  }
}

} // namespace

std::vector<Stored> storage_of(Dwarf_Attribute& location) {
  Dwarf_Op* ops = nullptr;
  std::size_t count = 0;
  if (!may_be_stored(location) || dwarf_getlocation(&location, &ops, &count) != 0) return {};
  std::vector<Stored> pieces;
  std::uint64_t address = 0, at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (ops[i].atom == DW_OP_piece) {
      if (address != 0) pieces.push_back({address, at, ops[i].number});
      address = 0;
      at += ops[i].number;
      continue;
    }
    const bool threaded =
        i + 1 < count && (ops[i + 1].atom == DW_OP_GNU_push_tls_address || ops[i + 1].atom == DW_OP_form_tls_address);
    if (!threaded && !is_plain_address(ops[i].atom)) return {}; // computed: its storage is not it
    address = address_of(location, ops[i]);
    if (address == 0) return {};
    if (threaded) ++i;
  }
  if (address != 0) {
    if (!pieces.empty()) return {};
    pieces.push_back({address, 0, 0});
  }
  return pieces;
}

namespace {

int read_attribute(Dwarf_Attribute* attribute, void* argument) {
  VariableEntry& entry = *static_cast<VariableEntry*>(argument);
  switch (dwarf_whatattr(attribute)) {
  case DW_AT_name:
    if (const char* text = dwarf_formstring(attribute)) entry.name = {text, strnlen(text, longest_name)};
    break;
  case DW_AT_declaration: entry.declaration = true; break;
  case DW_AT_abstract_origin:
  case DW_AT_specification: {
    Dwarf_Die target;
    if (dwarf_formref_die(attribute, &target) != nullptr) entry.stands_for = dwarf_dieoffset(&target);
    break;
  }
  case DW_AT_location:
    entry.storage = storage_of(*attribute);
    entry.elsewhere = entry.storage.empty();
    break;
  default: break;
  }
  return DWARF_CB_OK;
}

} // namespace

VariableEntry read_variable(Dwarf_Die die) {
  VariableEntry entry;
  entry.die = die;
  entry.offset = dwarf_dieoffset(&die);
  dwarf_getattrs(&die, read_attribute, &entry, 0);
  return entry;
}

} // namespace tenon::object::dwarf

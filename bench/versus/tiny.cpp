// Compiles the templates, finds the places in them and exchanges them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tiny.h"

#include <algorithm>
#include <cstring>

namespace versus {
namespace {

constexpr std::size_t digits = 7;
constexpr std::uint32_t own_number = 0x0BAD'CAFE; // in the code, as the operand of an instruction
constexpr const char* own_name = "function_0000000";
constexpr const char* callee_name = "function_9999999";

// Not a tail call, so that there is call frame information that says something.
constexpr const char* calling_text = R"(
declare i32 @function_9999999(i32)
define i32 @function_0000000(i32 %x) {
  %stop = icmp eq i32 %x, 0
  br i1 %stop, label %own, label %other
own:
  ret i32 195939070
other:
  %less = add i32 %x, -1
  %y = call i32 @function_9999999(i32 %less)
  call void asm sideeffect "", ""()
  ret i32 %y
}
)";

constexpr const char* leaf_text = R"(
define i32 @function_0000000(i32 %x) uwtable {
  ret i32 195939070
}
)";

std::vector<std::size_t> places(const ObjectBytes& bytes, const void* wanted, std::size_t size) {
  std::vector<std::size_t> found;
  const auto* begin = static_cast<const std::byte*>(wanted);
  for (auto at = bytes.begin();; ++at) {
    at = std::search(at, bytes.end(), begin, begin + size);
    if (at == bytes.end()) return found;
    found.push_back(static_cast<std::size_t>(at - bytes.begin()));
  }
}

void put_digits(std::byte* to, std::size_t number) {
  for (std::size_t i = digits; i-- > 0; number /= 10) to[i] = static_cast<std::byte>('0' + number % 10);
}

void put_number(std::byte* to, std::size_t number) {
  const auto value = static_cast<std::uint32_t>(number);
  std::memcpy(to, &value, sizeof value);
}

} // namespace

Result<TinyObjects::Template> TinyObjects::compile(const std::string& text) {
  auto bytes = compile_text(text, "tiny", false);
  if (!bytes) return std::move(bytes).error();
  Template made{std::move(*bytes), {}, {}, {}};
  made.own_names = places(made.bytes, own_name, std::strlen(own_name));
  made.callee_names = places(made.bytes, callee_name, std::strlen(callee_name));
  made.numbers = places(made.bytes, &own_number, sizeof own_number);
  if (made.own_names.empty() || made.numbers.size() != 1)
    return Error{ErrorCode::unsupported, "the tiny object is not as expected"};
  for (auto* list : {&made.own_names, &made.callee_names})
    for (std::size_t& place : *list) place += std::strlen(own_name) - digits;
  return made;
}

Result<TinyObjects> TinyObjects::create() {
  auto calling = compile(calling_text);
  if (!calling) return std::move(calling).error();
  auto leaf = compile(leaf_text);
  if (!leaf) return std::move(leaf).error();
  auto object = tenon::Object::borrow(calling->bytes, nullptr, "tiny");
  if (!object) return std::move(object).error();
  TinyObjects made;
  bool frames = false;
  for (const tenon::Section& section : object->sections()) {
    if (section.allocated) made.content_ += section.size;
    frames = frames || section.kind == tenon::SectionKind::unwind;
  }
  if (!frames || calling->callee_names.empty())
    return Error{ErrorCode::unsupported, "the tiny object has no .eh_frame, or calls nobody"};
  made.calling_ = std::move(*calling);
  made.leaf_ = std::move(*leaf);
  return made;
}

TinyObjects::Name TinyObjects::name(std::size_t module) {
  Name made{};
  std::memcpy(made.data(), own_name, made.size());
  put_digits(reinterpret_cast<std::byte*>(made.data()) + made.size() - 1 - digits, module);
  return made;
}

ObjectBytes TinyObjects::first() const {
  ObjectBytes bytes = leaf_.bytes;
  put_number(bytes.data() + leaf_.numbers[0], 0);
  return bytes;
}

void TinyObjects::stamp(std::size_t module, std::size_t callee, std::span<std::byte> to) const {
  std::memcpy(to.data(), calling_.bytes.data(), calling_.bytes.size());
  for (std::size_t place : calling_.own_names) put_digits(to.data() + place, module);
  for (std::size_t place : calling_.callee_names) put_digits(to.data() + place, callee);
  put_number(to.data() + calling_.numbers[0], module);
}

TinyBatch::TinyBatch(const TinyObjects& objects, std::size_t capacity)
    : objects_(objects), bytes_(capacity * objects.bytes()), names_(capacity) {}

std::string check_tiny(std::uint64_t address, std::size_t module) {
  const int depth = static_cast<int>(std::min<std::size_t>(module, 5));
  const int wanted = static_cast<int>(module) - depth;
  const int got = reinterpret_cast<int (*)(int)>(static_cast<std::uintptr_t>(address))(depth);
  if (got == wanted) return {};
  return std::string(TinyObjects::name(module).data()) + " gave " + std::to_string(got) + " instead of " +
         std::to_string(wanted);
}

} // namespace versus

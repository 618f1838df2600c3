// Types and signatures as text: so that two versions of an object can be compared, and a person can read what differs.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/dwarf.h"

#include <algorithm>
#include <utility>

namespace tenon::object::dwarf {

namespace {

constexpr int deepest_type = 24;
constexpr std::size_t longest_type = 2000;

std::string shortened(std::string text) {
  if (text.size() > longest_type) text.resize(longest_type);
  return text;
}

// "long unsigned int" and "unsigned long" are one type.
std::string arithmetic(std::string_view name) {
  unsigned longs = 0;
  bool is_unsigned = false, is_short = false, is_int = false;
  for (std::string_view rest = name; !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (word == "long")
      ++longs;
    else if (word == "unsigned")
      is_unsigned = true;
    else if (word == "short")
      is_short = true;
    else if (word == "int")
      is_int = true;
    else
      return std::string(name); // "unsigned char", "long double"
  }
  if (longs == 0 && !is_short && !is_int && !is_unsigned) return std::string(name);
  std::string text = is_unsigned ? "unsigned " : "";
  return text + (is_short ? "short" : longs == 1 ? "long" : longs > 1 ? "long long" : "int");
}

Dwarf_Die without_typedefs(Dwarf_Die type) {
  for (int i = 0; i < deepest_type && dwarf_tag(&type) == DW_TAG_typedef; ++i)
    if (std::optional<Dwarf_Die> meant = own_reference(type, DW_AT_type))
      type = *meant;
    else
      break;
  return type;
}

// Whether a parameter is constant is the callee's own business.
std::optional<Dwarf_Die> as_passed(std::optional<Dwarf_Die> type) {
  for (int i = 0; type && i < deepest_type; ++i) {
    Dwarf_Die meant = without_typedefs(*type);
    const int tag = dwarf_tag(&meant);
    if (tag != DW_TAG_const_type && tag != DW_TAG_volatile_type) break;
    type = own_reference(meant, DW_AT_type);
  }
  return type;
}

std::string_view name_of_compound(Dwarf_Die type) {
  if (std::optional<Dwarf_Die> whole = own_reference(type, DW_AT_signature)) type = *whole;
  return own_text(type, DW_AT_name);
}

} // namespace

std::string Types::name(const std::optional<Dwarf_Die>& type, int depth) {
  if (!type) return "void";
  if (depth > deepest_type || !file_.spend(4)) return "...";
  if (depth == 0)
    if (auto found = known_.find(type->addr); found != known_.end()) return found->second;
  std::string text = shortened(make(*type, depth));
  file_.spend(text.size());
  if (depth == 0) known_.emplace(type->addr, text);
  return text;
}

std::string Types::make(Dwarf_Die type, int depth) {
  std::string_view alias; // a structure without a name of its own goes by its typedef's
  for (int i = 0; i < deepest_type && dwarf_tag(&type) == DW_TAG_typedef; ++i) {
    alias = own_text(type, DW_AT_name);
    std::optional<Dwarf_Die> meant = own_reference(type, DW_AT_type);
    if (!meant) return "void";
    type = *meant;
  }
  // Of a type that stands in a unit of its own there is a reference only.
  if (std::optional<Dwarf_Die> whole = own_reference(type, DW_AT_signature)) type = *whole;
  const auto inner = [&] { return name(own_reference(type, DW_AT_type), depth + 1); };
  switch (dwarf_tag(&type)) {
  case DW_TAG_const_type: {
    std::string text = inner(); // compilers differ in the order of the two
    const std::size_t before =
        text.ends_with(" volatile") ? text.size() - std::string_view(" volatile").size() : text.size();
    return text.insert(before, " const");
  }
  case DW_TAG_volatile_type: return inner() + " volatile";
  case DW_TAG_restrict_type: return inner();
  case DW_TAG_atomic_type: return "_Atomic " + inner();
  case DW_TAG_pointer_type: return pointer(type, "*", depth);
  case DW_TAG_reference_type: return pointer(type, "&", depth);
  case DW_TAG_rvalue_reference_type: return pointer(type, "&&", depth);
  case DW_TAG_ptr_to_member_type: {
    std::optional<Dwarf_Die> whose = own_reference(type, DW_AT_containing_type);
    return inner() + " " + std::string(whose ? name_of_compound(*whose) : "") + "::*";
  }
  case DW_TAG_structure_type: return compound(type, "struct", depth == 0, alias);
  case DW_TAG_class_type: return compound(type, "class", depth == 0, alias);
  case DW_TAG_union_type: return compound(type, "union", depth == 0, alias);
  case DW_TAG_enumeration_type: return compound(type, "enum", depth == 0, alias);
  case DW_TAG_array_type: return array(type, depth);
  case DW_TAG_subroutine_type: return signature(type, depth + 1);
  default: break;
  }
  const std::string_view own = own_text(type, DW_AT_name);
  return own.empty() ? "?" : arithmetic(own);
}

// The size belongs to values only: of what is pointed to, one version may know it and the other not.
std::string Types::compound(Dwarf_Die type, const char* keyword, bool sized, std::string_view alias) {
  std::string_view own = own_text(type, DW_AT_name);
  std::string text = std::string(keyword) + " " + std::string(!own.empty() ? own : !alias.empty() ? alias : "(unnamed)");
  if (std::optional<std::uint64_t> size = own_number(type, DW_AT_byte_size); sized && size)
    text += "{" + std::to_string(*size) + "}";
  return text;
}

std::string Types::pointer(Dwarf_Die type, const char* mark, int depth) {
  std::optional<Dwarf_Die> to = own_reference(type, DW_AT_type);
  const bool function = to && dwarf_tag(&*to) == DW_TAG_subroutine_type;
  std::string text = name(to, depth + 1);
  const std::size_t parameters = text.find(" (");
  if (function && parameters != text.npos) return text.insert(parameters + 1, "(" + std::string(mark) + ")");
  return text + mark;
}

std::string Types::array(Dwarf_Die type, int depth) {
  std::string text = name(own_reference(type, DW_AT_type), depth + 1);
  Dwarf_Die bound;
  int status = dwarf_child(&type, &bound);
  for (int i = 0; status == 0 && i < deepest_type && file_.spend(4); ++i, status = dwarf_siblingof(&bound, &bound)) {
    std::optional<std::uint64_t> count = own_number(bound, DW_AT_count);
    if (std::optional<std::uint64_t> last = own_number(bound, DW_AT_upper_bound); !count && last) count = *last + 1;
    text += "[" + (count ? std::to_string(*count) : std::string()) + "]";
  }
  return text;
}

std::string Types::signature(Dwarf_Die function, int depth) {
  if (depth > deepest_type) return "...";
  const auto passed = [&](const std::optional<Dwarf_Die>& type) { return name(as_passed(type), depth); };
  std::string text = passed(reference(function, DW_AT_type)) + " (";
  // Of what was inlined somewhere the abstract instance has all parameters, in their order.
  if (std::optional<Dwarf_Die> abstract = own_reference(function, DW_AT_abstract_origin)) function = *abstract;
  Dwarf_Die child;
  bool first = true;
  for (int status = dwarf_child(&function, &child); status == 0 && file_.spend(4);
       status = dwarf_siblingof(&child, &child)) {
    const int tag = dwarf_tag(&child);
    if (tag != DW_TAG_formal_parameter && tag != DW_TAG_unspecified_parameters) continue;
    if (!std::exchange(first, false)) text += ", ";
    text += tag == DW_TAG_formal_parameter ? passed(reference(child, DW_AT_type)) : std::string("...");
    if (text.size() > longest_type) break;
  }
  return text + ")";
}

} // namespace tenon::object::dwarf

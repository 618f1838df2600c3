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

Die without_typedefs(Die type) {
  for (int i = 0; i < deepest_type && type.tag() == tag::typedef_; ++i)
    if (std::optional<Die> meant = own_reference(type, attribute::type))
      type = *meant;
    else
      break;
  return type;
}

// Whether a parameter is constant is the callee's own business.
std::optional<Die> as_passed(std::optional<Die> type) {
  for (int i = 0; type && i < deepest_type; ++i) {
    Die meant = without_typedefs(*type);
    if (meant.tag() != tag::const_type && meant.tag() != tag::volatile_type) break;
    type = own_reference(meant, attribute::type);
  }
  return type;
}

// Offsets are far below 2^63.
std::uint64_t key_of(const Die& die) { return die.offset << 1 | std::uint64_t(die.unit->in_types); }

std::string_view name_of_compound(Die type) {
  if (std::optional<Die> whole = own_reference(type, attribute::signature)) type = *whole;
  return own_text(type, attribute::name);
}

} // namespace

std::string Types::name(const std::optional<Die>& type, int depth) {
  if (!type) return "void";
  if (depth > deepest_type || !file_.spend(4)) return "...";
  if (depth == 0)
    if (auto found = known_.find(key_of(*type)); found != known_.end()) return found->second;
  std::string text = shortened(make(*type, depth));
  file_.spend(text.size());
  if (depth == 0) known_.emplace(key_of(*type), text);
  return text;
}

std::string Types::make(Die type, int depth) {
  std::string_view alias; // a structure without a name of its own goes by its typedef's
  for (int i = 0; i < deepest_type && type.tag() == tag::typedef_; ++i) {
    alias = own_text(type, attribute::name);
    std::optional<Die> meant = own_reference(type, attribute::type);
    if (!meant) return "void";
    type = *meant;
  }
  // Of a type that stands in a unit of its own there is a reference only.
  if (std::optional<Die> whole = own_reference(type, attribute::signature)) type = *whole;
  const auto inner = [&] { return name(own_reference(type, attribute::type), depth + 1); };
  switch (type.tag()) {
  case tag::const_type: {
    std::string text = inner(); // compilers differ in the order of the two
    const std::size_t before =
        text.ends_with(" volatile") ? text.size() - std::string_view(" volatile").size() : text.size();
    return text.insert(before, " const");
  }
  case tag::volatile_type: return inner() + " volatile";
  case tag::restrict_type: return inner();
  case tag::atomic_type: return "_Atomic " + inner();
  case tag::pointer_type: return pointer(type, "*", depth);
  case tag::reference_type: return pointer(type, "&", depth);
  case tag::rvalue_reference_type: return pointer(type, "&&", depth);
  case tag::ptr_to_member_type: {
    std::optional<Die> whose = own_reference(type, attribute::containing_type);
    return inner() + " " + std::string(whose ? name_of_compound(*whose) : "") + "::*";
  }
  case tag::structure_type: return compound(type, "struct", depth == 0, alias);
  case tag::class_type: return compound(type, "class", depth == 0, alias);
  case tag::union_type: return compound(type, "union", depth == 0, alias);
  case tag::enumeration_type: return compound(type, "enum", depth == 0, alias);
  case tag::array_type: return array(type, depth);
  case tag::subroutine_type: return signature(type, depth + 1);
  default: break;
  }
  const std::string_view own = own_text(type, attribute::name);
  return own.empty() ? "?" : arithmetic(own);
}

// The size belongs to values only: of what is pointed to, one version may know it and the other not.
std::string Types::compound(Die type, const char* keyword, bool sized, std::string_view alias) {
  std::string_view own = own_text(type, attribute::name);
  std::string text = std::string(keyword) + " " + std::string(!own.empty() ? own : !alias.empty() ? alias : "(unnamed)");
  if (std::optional<std::uint64_t> size = own_number(type, attribute::byte_size); sized && size)
    text += "{" + std::to_string(*size) + "}";
  return text;
}

std::string Types::pointer(Die type, const char* mark, int depth) {
  std::optional<Die> to = own_reference(type, attribute::type);
  const bool function = to && to->tag() == tag::subroutine_type;
  std::string text = name(to, depth + 1);
  const std::size_t parameters = text.find(" (");
  if (function && parameters != text.npos) return text.insert(parameters + 1, "(" + std::string(mark) + ")");
  return text + mark;
}

std::string Types::array(Die type, int depth) {
  std::string text = name(own_reference(type, attribute::type), depth + 1);
  Die bound;
  Step step = file_.child(type, bound);
  for (int i = 0; step == Step::found && i < deepest_type && file_.spend(4); ++i, step = file_.sibling(bound, bound)) {
    std::optional<std::uint64_t> count = own_number(bound, attribute::count);
    if (std::optional<std::uint64_t> last = own_number(bound, attribute::upper_bound); !count && last) count = *last + 1;
    text += "[" + (count ? std::to_string(*count) : std::string()) + "]";
  }
  return text;
}

std::string Types::signature(Die function, int depth) {
  if (depth > deepest_type) return "...";
  const auto passed = [&](const std::optional<Die>& type) { return name(as_passed(type), depth); };
  std::string text = passed(reference(function, attribute::type)) + " (";
  // Of what was inlined somewhere the abstract instance has all parameters, in their order.
  if (std::optional<Die> abstract = own_reference(function, attribute::abstract_origin)) function = *abstract;
  Die child;
  bool first = true;
  for (Step step = file_.child(function, child); step == Step::found && file_.spend(4); step = file_.sibling(child, child)) {
    const bool parameter = child.tag() == tag::formal_parameter;
    if (!parameter && child.tag() != tag::unspecified_parameters) continue;
    if (!std::exchange(first, false)) text += ", ";
    text += parameter ? passed(reference(child, attribute::type)) : std::string("...");
    if (text.size() > longest_type) break;
  }
  return text + ")";
}

} // namespace tenon::object::dwarf

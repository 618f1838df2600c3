// Walks the entries of an object's debug information. See debug_info.h.
//
// Variables are collected first, in the order of the file, those without storage too: what stands for another entry (an
// inlined function's variable) is looked up among them at the end, and whether a name is declared once in a function can
// only be said when all of it has been seen.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/debug_info.h"

#include "object/dwarf.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

namespace tenon::object {

namespace {

namespace attribute = dwarf::attribute;
namespace tag = dwarf::tag;
using dwarf::Die;
using dwarf::Step;

// Where an entry stands: its scope ("f::", "ns::"), and the blocks in it, "{0}{2}".
struct Where {
  std::uint32_t scope = 0;
  std::string blocks;
};

struct Variable {
  dwarf::VariableEntry entry;
  Where where;
};

std::string basename(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return std::string(slash == path.npos ? path : path.substr(slash + 1));
}

bool is_cxx(const dwarf::Die& unit) {
  namespace language = dwarf::language;
  switch (dwarf::own_number(unit, dwarf::attribute::language).value_or(0)) {
  case language::cxx:
  case language::cxx_03:
  case language::cxx_11:
  case language::cxx_14:
  case language::cxx_17:
  case language::cxx_20: return true;
  default: return false;
  }
}

class Reader {
public:
  Reader(dwarf::File& file, const Object& object) : file_(file), object_(object), types_(file) {}

  std::optional<DebugInfo> read() {
    if (!walk_units()) return std::nullopt;
    finish_variables();
    finish_functions();
    if (file_.exhausted()) return std::nullopt;
    return std::move(result_);
  }

private:
  bool walk_units() {
    std::vector<std::pair<Die, std::string>> all;
    for (const std::unique_ptr<dwarf::Unit>& unit : file_.units()) {
      if (!file_.spend(64)) return false;
      if (unit->type == dwarf::unit::type || unit->type == dwarf::unit::split_type) continue;
      const std::optional<Die> top = file_.entry(*unit, unit->first);
      if (!top || top->tag() != tag::compile_unit) continue;
      all.emplace_back(*top, basename(dwarf::own_text(*top, attribute::name)));
      const Knowledge knowledge = knowledge_of(dwarf::own_text(*top, attribute::producer));
      result_.knowledge = all.size() == 1 ? knowledge : std::max(result_.knowledge, knowledge);
    }
    const std::size_t units = all.size();
    // `ld -r` may have put something with it that says nothing.
    const auto files = std::count_if(object_.symbols().begin(), object_.symbols().end(),
                                     [](const Symbol& symbol) { return symbol.type == SymbolType::file; });
    if (std::size_t(files) > units) result_.knowledge = Knowledge::any;
    result_.several_units = units > 1;
    for (const auto& [die, name] : all) {
      tells_types_ = false;
      overloads_ = is_cxx(die);
      const std::size_t before = functions_.size();
      if (!walk(die, {add_scope(units > 1 ? name + "|" : ""), {}}, 0)) return false;
      if (!tells_types_) functions_.resize(before); // -g1: nothing is said of parameters either
    }
    return true;
  }

  std::uint32_t add_scope(std::string path) {
    file_.spend(path.size());
    scopes_.push_back(std::move(path));
    return std::uint32_t(scopes_.size() - 1);
  }

  // The entries below one. False: deeper or more than is sensible.
  bool walk(const Die& parent, const Where& where, int depth) {
    if (depth > dwarf::deepest || file_.exhausted()) return false;
    std::map<std::string_view, std::uint32_t> namespaces; // may be opened again and again
    std::uint32_t blocks = 0;
    Die child;
    Step step = file_.child(parent, child);
    for (; step == Step::found; step = file_.sibling(child, child)) {
      if (!file_.spend(8)) return false;
      bool walked = true;
      switch (child.tag()) {
      case tag::variable: note(child, where); break;
      case tag::subprogram: walked = walk_function(child, where, depth); break;
      case tag::namespace_: {
        auto [found, first] = namespaces.emplace(dwarf::own_text(child, attribute::name), 0);
        if (first)
          found->second =
              add_scope(scopes_[where.scope] + (found->first.empty() ? "(anonymous)" : std::string(found->first)) + "::");
        walked = walk(child, {found->second, {}}, depth + 1);
        break;
      }
      case tag::lexical_block:
      case tag::try_block:
      case tag::catch_block: {
        std::string inner = where.blocks + "{" + std::to_string(blocks++) + "}";
        if (!file_.spend(inner.size())) return false;
        walked = walk(child, {where.scope, std::move(inner)}, depth + 1);
        break;
      }
      case tag::inlined_subroutine:
      case tag::formal_parameter:
      case tag::gnu_call_site:
      case tag::call_site:
      case tag::label: break;
      default: tells_types_ = true; break;
      }
      if (!walked) return false;
    }
    return step == Step::end;
  }

  bool walk_function(const Die& function, const Where& where, int depth) {
    if (dwarf::has(function, attribute::declaration)) return true;
    std::string_view name = dwarf::text(function, attribute::linkage_name);
    const bool linkage = !name.empty();
    if (!linkage) name = dwarf::text(function, attribute::name);
    if (name.empty()) return true;
    std::string path(name);
    // GCC gives no linkage names to statics, which may be overloaded.
    if (!linkage && overloads_) {
      const std::string signature = types_.signature(function, 1);
      path += signature.substr(std::min(signature.size(), signature.find(" (") + 1));
    }
    // Statics of two units may have the same name.
    if (!linkage)
      path = scopes_[where.scope] + path;
    else if (result_.several_units)
      path = scopes_[where.scope].substr(0, scopes_[where.scope].find('|') + 1) + path;
    tells_types_ |= dwarf::has(function, attribute::prototyped);
    if (dwarf::has(function, attribute::low_pc) || dwarf::has(function, attribute::ranges)) {
      // What has its own linkage name is it; a part that was split off has none.
      const std::string_view own = dwarf::own_text(function, attribute::linkage_name);
      functions_.push_back({std::string(own.empty() ? name : own), types_.signature(function)});
      file_.spend(functions_.back().signature.size());
    }
    return walk(function, {add_scope(path + "::"), {}}, depth + 1);
  }

  void note(const Die& die, const Where& where) { variables_.push_back({dwarf::read_variable(die), where}); }

  // The entry whose place in the source is meant.
  const Variable* meant(const Variable& variable) const {
    const Variable* at = &variable;
    for (int i = 0; i < 4 && at->entry.stands_for != 0; ++i) {
      auto found = std::lower_bound(variables_.begin(), variables_.end(), at->entry.stands_for,
                                    [](const Variable& v, std::uint64_t offset) { return v.entry.offset < offset; });
      if (found == variables_.end() || found->entry.offset != at->entry.stands_for) return nullptr;
      at = &*found;
    }
    return at->entry.stands_for == 0 && !at->entry.name.empty() ? at : nullptr;
  }

  const std::string& scope_of(const Variable& variable) const { return scopes_[variable.where.scope]; }

  // How often each name is declared in its scope, by what may be a static variable: one without storage may have been
  // removed.
  using Counts = std::map<std::pair<std::string_view, std::string_view>, unsigned>;
  Counts count_declarations() const {
    std::unordered_set<std::string_view> stored; // of other names there is nothing to tell
    for (const Variable& v : variables_)
      if (!v.entry.storage.empty())
        if (const Variable* source = meant(v)) stored.insert(source->entry.name);
    Counts declared;
    for (const Variable& v : variables_)
      if (v.entry.stands_for == 0 && !v.entry.elsewhere && (!v.entry.declaration || !v.entry.storage.empty()) &&
          stored.contains(v.entry.name))
        ++declared[{scope_of(v), v.entry.name}];
    return declared;
  }

  void finish_variables() {
    std::sort(variables_.begin(), variables_.end(),
              [](const Variable& a, const Variable& b) { return a.entry.offset < b.entry.offset; });
    const Counts declared = count_declarations();
    std::unordered_map<std::uint64_t, std::string> places;
    std::map<std::string, unsigned> alike;
    for (const Variable& v : variables_) {
      const Variable* source = v.entry.storage.empty() ? nullptr : meant(v);
      if (source == nullptr || !file_.spend(64)) continue;
      DebugVariable made;
      made.path = scope_of(*source) + std::string(source->entry.name);
      auto count = declared.find({scope_of(*source), source->entry.name});
      made.alone = count == declared.end() || count->second <= 1;
      if (!made.alone) {
        std::string& place = places[source->entry.offset];
        if (place.empty()) {
          place = source->where.blocks + types_.name(dwarf::reference(source->entry.die, attribute::type));
          place += "#" + std::to_string(alike[made.path + place]++);
        }
        made.place = place;
      }
      if (!file_.spend(made.path.size() + made.place.size())) return;
      for (const dwarf::Stored& stored : v.entry.storage) add(made, stored);
    }
    settle_places();
  }

  void add(DebugVariable variable, const dwarf::Stored& stored) {
    const std::optional<DebugImage::Place> place = file_.image().place_of(stored.address);
    if (!place || place->section >= object_.sections().size()) return;
    const Section& section = object_.sections()[place->section];
    if (!section.allocated || place->offset >= section.size) return;
    variable.section = place->section;
    variable.offset = place->offset;
    variable.piece = stored.at;
    variable.piece_size = stored.size;
    result_.variables.push_back(std::move(variable));
  }

  // An inlined function's variable is found in each copy. What is said to be two things at once is neither.
  void settle_places() {
    std::vector<DebugVariable>& all = result_.variables;
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    std::vector<DebugVariable> clear;
    const auto same_place = [](const DebugVariable& a, const DebugVariable& b) {
      return a.section == b.section && a.offset == b.offset;
    };
    for (std::size_t i = 0; i < all.size(); ++i)
      if ((i == 0 || !same_place(all[i], all[i - 1])) && (i + 1 == all.size() || !same_place(all[i], all[i + 1])))
        clear.push_back(std::move(all[i]));
    all = std::move(clear);
  }

  void finish_functions() {
    std::sort(functions_.begin(), functions_.end());
    functions_.erase(std::unique(functions_.begin(), functions_.end()), functions_.end());
    for (std::size_t i = 0; i < functions_.size(); ++i)
      if ((i == 0 || functions_[i].name != functions_[i - 1].name) &&
          (i + 1 == functions_.size() || functions_[i].name != functions_[i + 1].name))
        result_.functions.push_back(functions_[i]);
  }

  dwarf::File& file_;
  const Object& object_;
  dwarf::Types types_;
  std::vector<std::string> scopes_; // "", or with "::" or "|" at the end
  std::vector<Variable> variables_;
  std::vector<DebugFunction> functions_;
  bool tells_types_ = false, overloads_ = false; // the unit that is walked
  DebugInfo result_;
};

} // namespace

bool same_signature(std::string_view a, std::string_view b) noexcept {
  const auto skip = [](std::string_view& text) { text.remove_prefix(std::min(text.size(), text.find('}') + 1)); };
  while (!a.empty() && !b.empty()) {
    if (a[0] == b[0]) {
      a.remove_prefix(1);
      b.remove_prefix(1);
    } else if (a[0] == '{') {
      skip(a);
    } else if (b[0] == '{') {
      skip(b);
    } else {
      return false;
    }
  }
  return a.empty() && b.empty();
}

bool has_debug_info(const Object& object) noexcept {
  return std::any_of(object.sections().begin(), object.sections().end(), [](const Section& section) {
    return !section.allocated && (section.name == ".debug_info" || section.name == ".zdebug_info");
  });
}

std::optional<DebugInfo> read_debug_info(const Object& object) {
  if (!has_debug_info(object)) return std::nullopt;
  std::optional<DebugImage> image = make_debug_image(object);
  if (!image) return std::nullopt;
  std::unique_ptr<dwarf::File> file = dwarf::File::open(std::move(*image));
  if (file == nullptr) return std::nullopt;
  return Reader(*file, object).read();
}

} // namespace tenon::object

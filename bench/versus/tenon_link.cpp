// Tenon as a participant: one warm engine, a fresh anonymous library for every round, one change with all objects.
//
// The absolute symbols are answered by a resolver that is searched after the process. Everything from the first borrow() to
// the last name found is timed; removal is the library's end.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "participant.h"

#include <tenon/engine.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>

namespace versus {
namespace {

class AbsoluteResolver final : public tenon::Resolver {
public:
  explicit AbsoluteResolver(const InputSet& set) {
    for (const Absolute& absolute : set.absolutes) addresses_.emplace(absolute.name, tenon::Addr{absolute.address});
  }

  Result<void> resolve(std::span<const tenon::Needed> needed, std::span<tenon::Answer> answers) noexcept override {
    for (std::size_t i = 0; i < needed.size(); ++i)
      if (auto place = addresses_.find(needed[i].name); place != addresses_.end())
        answers[i] = tenon::Answer::at(place->second);
    return {};
  }

private:
  std::unordered_map<std::string_view, tenon::Addr> addresses_;
};

Error undefined_symbols(std::span<const tenon::Missing> missing) {
  std::string names;
  for (const tenon::Missing& one : missing.first(std::min<std::size_t>(missing.size(), 5))) names += " " + one.name;
  return Error{ErrorCode::undefined, std::to_string(missing.size()) + " undefined symbols:" + names};
}

class Tenon final : public Participant {
public:
  explicit Tenon(std::optional<tenon::Engine> engine = {}) : engine_(std::move(engine)) {}
  const char* name() const override { return "tenon"; }

  Result<void> link(const InputSet& set, std::vector<std::uint64_t>& found) override {
    if (!engine_) {
      auto engine = tenon::Engine::create(); // in the untimed first round
      if (!engine) return std::move(engine).error();
      engine_.emplace(std::move(*engine));
    }
    auto library = engine_->library();
    if (!library) return std::move(library).error();
    library_.emplace(std::move(*library));
    auto absolutes = std::make_shared<AbsoluteResolver>(set);
    if (auto searched = library_->search({tenon::Source::process(), tenon::Source::resolver(absolutes)}); !searched)
      return searched;
    if (auto committed = commit_all(set); !committed) return committed;
    return look_up(set, found);
  }

  Result<void> remove() override {
    if (!library_) return {};
    Result<void> closed = library_->close(tenon::Quiet::caller_guarantees); // nobody has run any of it
    library_.reset();
    return closed;
  }

private:
  Result<void> commit_all(const InputSet& set) {
    tenon::Change change = engine_->change();
    for (const InputObject& input : set.objects) {
      auto object = tenon::Object::borrow(input.bytes, nullptr, input.name);
      if (!object) return std::move(object).error();
      tenon::ModuleOptions options;
      options.initialize = false;
      change.add(*library_, std::move(*object), std::move(options));
    }
    auto draft = std::move(change).draft();
    if (!draft) return std::move(draft).error();
    if (!draft->undefined().empty()) return undefined_symbols(draft->undefined());
    auto placed = std::move(*draft).place();
    if (!placed) return std::move(placed).error();
    auto linked = std::move(*placed).link();
    if (!linked) return std::move(linked).error();
    auto committed = std::move(*linked).commit(tenon::Initialize::skip);
    if (!committed) return std::move(committed).error();
    return {};
  }

  Result<void> look_up(const InputSet& set, std::vector<std::uint64_t>& found) {
    std::vector<std::string_view> names(set.names.begin(), set.names.end());
    std::vector<tenon::Addr> addresses(names.size());
    std::size_t count = library_->find(names, addresses);
    if (count != names.size()) return Error{ErrorCode::undefined, "only " + std::to_string(count) + " names were found"};
    for (std::size_t i = 0; i < addresses.size(); ++i) found[i] = addresses[i].value;
    return {};
  }

  std::optional<tenon::Engine> engine_;
  std::optional<tenon::Library> library_;
};

} // namespace

std::unique_ptr<Participant> make_tenon() { return std::make_unique<Tenon>(); }
std::unique_ptr<Participant> make_tenon_in(const tenon::Engine& engine) { return std::make_unique<Tenon>(engine); }

} // namespace versus

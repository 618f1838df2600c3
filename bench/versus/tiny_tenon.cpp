// Tenon and tiny modules: one engine, one library, a change for each module. The thread has registered at the border, so
// that what it removes need not wait for it to be looked at.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "measure.h"
#include "tiny_linkers.h"

#include <optional>

namespace versus {
namespace {

class TinyTenon final : public TinyLinker {
public:
  explicit TinyTenon(Leaving leaving) : leaving_(leaving) {}

  const char* name() const override { return leaving_ == Leaving::prove ? "tenon_prove" : "tenon"; }

  Result<void> start(std::size_t removals) override {
    stop();
    removals_ = removals;
    added_ = 0;
    modules_.resize(removals); // the handles are the client's: their pages count as before
    auto engine = tenon::Engine::create();
    if (!engine) return std::move(engine).error();
    engine_.emplace(std::move(*engine));
    auto border = engine_->border("main");
    if (!border) return std::move(border).error();
    border_.emplace(std::move(*border));
    auto library = engine_->library("many");
    if (!library) return std::move(library).error();
    library_.emplace(std::move(*library));
    return {};
  }

  Result<std::uint64_t> add(std::span<const std::byte> bytes, const char* wanted) override {
    auto object = tenon::Object::borrow(bytes, nullptr, "tiny");
    if (!object) return std::move(object).error();
    tenon::Change change = engine_->change();
    change.add(*library_, std::move(*object));
    auto committed = commit_all(std::move(change));
    if (!committed) return std::move(committed).error();
    if (added_ < removals_) modules_[added_++].emplace(committed->modules()[0]);
    auto address = library_->find(wanted);
    if (!address) return Error{ErrorCode::undefined, std::string(wanted) + " was not found"};
    return address->value;
  }

  Result<void> remove(std::size_t index) override {
    tenon::Change change = engine_->change();
    change.remove(std::move(*modules_[index]),
                  leaving_ == Leaving::prove ? tenon::Quiet::prove : tenon::Quiet::caller_guarantees);
    modules_[index].reset();
    auto committed = commit_all(std::move(change));
    if (!committed) return std::move(committed).error();
    return {};
  }

  Result<void> settle() override {
    constexpr double patience_ms = 60'000;
    const double begin = now_ms();
    for (;;) {
      auto delays = engine_->collect();
      if (!delays) return std::move(delays).error();
      if (delays->empty()) return {};
      if (now_ms() - begin > patience_ms) return Error{ErrorCode::unsupported, "what was removed is not freed"};
    }
  }

  void stop() override {
    modules_.clear();
    library_.reset();
    border_.reset();
    engine_.reset();
  }

private:
  Leaving leaving_;
  std::size_t removals_ = 0, added_ = 0;
  std::optional<tenon::Engine> engine_;
  std::optional<tenon::Border> border_;
  std::optional<tenon::Library> library_;
  std::vector<std::optional<tenon::Module>> modules_;
};

} // namespace

TinyLinker::~TinyLinker() = default;

std::unique_ptr<TinyLinker> make_tiny_tenon(Leaving leaving) { return std::make_unique<TinyTenon>(leaving); }

} // namespace versus

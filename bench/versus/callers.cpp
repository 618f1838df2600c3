// Threads that call and threads that replace.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "callers.h"

#include <optional>

namespace versus {

Callers::Callers(int (*function)(int), unsigned count, tenon::Engine* engine) {
  for (unsigned i = 0; i < count; ++i) threads_.emplace_back([=, this] { call(function, engine); });
  while (started_.load(std::memory_order_acquire) != count) std::this_thread::yield();
}

void Callers::call(int (*function)(int), tenon::Engine* engine) {
  std::optional<tenon::Border> border;
  if (engine != nullptr)
    if (auto made = engine->border("caller")) border.emplace(std::move(*made));
  bool first = true;
  while (!stopping_.load(std::memory_order_relaxed)) {
    int result = 0;
    if (border) {
      tenon::Border::Entry entry(*border);
      result = function(1000);
    } else {
      result = function(1000);
    }
    if (result < 1000 || result >= 1000 + static_cast<int>(LiveFunction::versions)) ++wrong_;
    if (first) ++started_;
    first = false;
  }
}

std::string Callers::stop() {
  stopping_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  return wrong_ == 0 ? std::string() : std::to_string(wrong_) + " calls gave what no version gives";
}

Swapper::Swapper(LiveFunction& live)
    : thread_([this, &live] {
        auto border = live.engine().border("swapper"); // calls no linked code: outside all the time
        while (!stopping_.load(std::memory_order_relaxed) && outcome_) {
          outcome_ = live.swap();
          ++swaps_;
        }
      }) {}

Result<std::uint64_t> Swapper::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
  if (!outcome_) return outcome_.error();
  return swaps_;
}

} // namespace versus

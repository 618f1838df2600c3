// Redirecting by handles.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tenon_redirect.h"

namespace versus {

Result<std::unique_ptr<Redirector>> Redirector::create(const LiveChain& chain, std::size_t count) {
  std::unique_ptr<Redirector> made(new Redirector(chain.engine()));
  for (std::size_t i = 0; i < count; ++i) {
    auto own = chain.library().redirect("target" + std::to_string(i));
    if (!own) return std::move(own).error();
    auto other = chain.library().redirect("other" + std::to_string(i));
    if (!other) return std::move(other).error();
    made->targets_.push_back(std::move(*own));
    made->others_.push_back(std::move(*other));
  }
  for (std::size_t i = 0; i < count; ++i) {
    made->away_.push_back({&made->targets_[i], &made->others_[i]});
    made->home_.push_back({&made->targets_[i], nullptr});
  }
  return made;
}

Result<void> Redirector::redirect(std::size_t index, bool to_other) {
  if (to_other) return targets_[index].to(others_[index]);
  targets_[index].back();
  return {};
}

Result<void> Redirector::redirect_all(bool to_other) { return engine_.redirect(to_other ? away_ : home_); }

} // namespace versus

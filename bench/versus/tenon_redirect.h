// Functions whose calls are led to other bodies that are linked already: the slot and each call site get one store.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "chain.h"

#include <memory>
#include <vector>

namespace versus {

class Redirector {
public:
  // For the first `count` targets of the chain.
  static Result<std::unique_ptr<Redirector>> create(const LiveChain& chain, std::size_t count);

  Result<void> redirect(std::size_t index, bool to_other);
  Result<void> redirect_all(bool to_other);

private:
  explicit Redirector(tenon::Engine engine) : engine_(std::move(engine)) {}
  tenon::Engine engine_;
  std::vector<tenon::Redirect> targets_, others_;
  std::vector<tenon::Redirection> away_, home_; // the batches
};

} // namespace versus

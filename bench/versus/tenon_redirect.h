// A function whose calls are led to another body that is linked already: the slot and each call site get one store.
//
// The public API replaces a body by bytes that it links first; this is the step after that, by itself.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "chain.h"

#include <memory>

namespace versus {

class Redirector {
public:
  // For the first `count` targets of the chain.
  static Result<std::unique_ptr<Redirector>> create(const LiveChain& chain, std::size_t count);
  // Leads them back to their own bodies: the engine frees what it believes to be unused.
  ~Redirector();

  void redirect(std::size_t index, bool to_other) noexcept;
  void redirect_all(bool to_other) noexcept;

private:
  struct State;
  explicit Redirector(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace versus

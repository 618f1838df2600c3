// Redirecting a function: calls of it reach another function that is linked already, until they are led back.
//
//     Redirect f = *library.redirect("f"), g = *library.redirect("g");
//     f.to(g);     // callers in all modules, and pointers to f, reach g's body
//     f.back();
//
// Costs some nanoseconds: a store for f's slot and one for each call site, under the lock that serializes commits; it waits
// for a commit that is in its last, short part, and needs no memory. With Mapping::single, calls that a module makes of its
// own functions are not redirected, unless it is opaque (ModuleOptions). Running frames are not touched; calls that frames of
// superseded versions make may still reach f.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <memory>

namespace tenon {

// A counted handle on a function of a replaceable library, as what is redirected and as what is redirected to; made by
// Library::redirect. It keeps the function's module in memory, as a Function does, and its engine. Any thread.
class Redirect {
public:
  // From when it returns, new calls of this function reach the body that `target` has then, whatever `target` itself is
  // redirected to: two functions can be exchanged. It stays so until back(), another to(), or the end of the last copy of
  // this handle: new versions of this function show then only, those of `target` at once. Of several handles on one function
  // the one that spoke last decides. Meanwhile `target` can't vanish and its module can't be removed (still_used). To the
  // function itself: as back().
  // Errors: invalid_argument (functions of different engines; one has vanished, or its module is removed).
  Result<void> to(const Redirect& target) const;
  // Calls reach the function itself again, if this handle, or a copy, has redirected it.
  void back() const noexcept;

  struct State;
  explicit Redirect(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const noexcept { return state_; }

private:
  std::shared_ptr<State> state_;
};

// One of a batch: see Engine::redirect.
struct Redirection {
  const Redirect* function = nullptr;
  const Redirect* to = nullptr; // null: back
};

} // namespace tenon

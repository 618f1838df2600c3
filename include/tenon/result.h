// Errors are values: every call that can fail for a reason outside the program returns Result<T>.
//
// A Result holds either a T or an Error. Error says which kind of fault it was (so that a client can react) and one line of
// text for a person, which names the file or module, the section, the offset and the symbol where there are any.
//
// Nothing here throws for a fault, a lack of memory included: what needs memory returns a Result, all else is noexcept or
// keeps the failure for the next call that returns one. Strings, lists and functions that a client makes or copies for an
// argument, and its copies of results that hold such, are allocated by the client as anywhere else.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace tenon {

enum class ErrorCode : unsigned char {
  malformed,        // an object, archive or IR file breaks its format
  unsupported,      // well-formed, but of a machine, class or kind that this engine does not serve
  undefined,        // symbols that nothing defines; the text names all of them and who needs each
  duplicate,        // two strong definitions of one symbol
  out_of_range,     // a relocation's value does not fit its field
  needs_flag,       // the object must be compiled with another flag; the text names it
  exhausted,        // the reservation, or the client's memory, is full
  out_of_memory,    // the heap is
  system,           // the operating system refused; the text names the call and its reason
  vetoed,           // the client's inspector said no
  still_used,       // what is to be removed is referred to; the text names by whom
  conflict,         // another change, committed meanwhile, took away what this one builds on
  initializer,      // a static initializer threw
  resolver,         // the client's resolver failed or gave an answer that can't be used
  compile,          // the compiler refused the IR
  invalid_argument, // a call that can't be served as it stands
};

// The word for a code, as it stands in this header: "malformed", "undefined", ...
const char* to_string(ErrorCode code) noexcept;

struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::invalid_argument;
  std::string message;

  // The same fault seen from further out: "CONTEXT: MESSAGE"; the message alone if there is no memory for more.
  Error within(std::string_view context) && noexcept;
};

template <class T> class [[nodiscard]] Result {
public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  // Only after ok(): anything else is a bug of the caller and stops the program (std::bad_variant_access).
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Only after !ok().
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

private:
  std::variant<T, Error> state_;
};

template <> class [[nodiscard]] Result<void> {
public:
  Result() = default;
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

private:
  std::variant<std::monostate, Error> state_;
};

} // namespace tenon

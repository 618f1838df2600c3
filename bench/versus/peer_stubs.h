// What ORC has for functions that may be replaced: every call goes through a stub that jumps by a pointer.
//
// Two kinds of stub, each behind the same interface: IndirectStubsManager's, of which many lie on a page, and
// JITLinkRedirectableSymbolManager's, of which each is linked as a module of its own.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "live.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace versus {

class OrcStubs {
public:
  enum class Kind { indirect, redirectable };
  static Result<std::unique_ptr<OrcStubs>> create(Kind kind);
  ~OrcStubs();

  // Links an object whose names are not seen by others, and gives the addresses of some.
  Result<std::vector<std::uint64_t>> link_body(const ObjectBytes& object, const std::vector<std::string>& names);
  // Stubs of these names, which lead to these addresses.
  Result<void> make_stubs(const std::vector<std::string>& names, const std::vector<std::uint64_t>& addresses);
  // Links an object that may call them.
  Result<std::uint64_t> link_caller(const ObjectBytes& object, const std::string& name);

  // One after the other, or all that make_stubs() made in the way that is fastest.
  Result<void> redirect(std::size_t index, std::uint64_t address);
  Result<void> redirect_all(const std::vector<std::uint64_t>& addresses);

private:
  struct State;
  explicit OrcStubs(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace versus

// How an object was compiled, as far as its debug information says (DWARF 5, 3.1.1: DW_AT_producer): GCC writes its options
// there, Clang with -grecord-command-line.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/object.h>

#include <cstdint>
#include <string_view>

namespace tenon::object {

// What a compiler may have counted on of other functions' code, where the object has both: what they return and change, in
// which registers, that they return at all.
enum class Knowledge : std::uint8_t {
  none,       // nothing but their declarations: it has not optimized
  not_public, // nothing of public functions that aren't inline, which another may stand in for: GCC's -fPIC, Clang's
              // -fPIC -fsemantic-interposition
  any,
};

// Of one compilation unit. `any` if it does not say.
Knowledge knowledge_of(std::string_view producer) noexcept;

// Whether all of the object is GCC's, by `.comment`, where each compiler leaves its name. GCC gives a function that it
// changes for its callers another name.
bool is_of_gcc(const Object& object) noexcept;

} // namespace tenon::object

// Distances in data to functions that their assembler names by their section: `.quad f - .`, `.long f - table`.
//
// In relocations a jump table looks the same, and it leads to blocks of a function that may begin wherever. Worse, what a
// relocation gives is a sum of where the distance leads and of how far it lies from where it counts from. So nothing is
// guessed from one of them. Compilers make jump tables outside of what symbols cover, and so do those that describe code
// (XRay's, extended exception tables). A distance counts as a function's address if it lies in an object of the data's, and
// all distances in that object lead to where functions begin, counted from themselves or else from where the object does.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "link/module.h"

namespace tenon::link {

// What find_callees() has made is asked; of relocations in the order of a section, each object is looked at once.
class Distances {
public:
  explicit Distances(const Module& module) : module_(module) {}

  // The function that a relocation leads to which names its section; null: none, or something inside of one.
  const OwnFunction* function(std::uint32_t section, const Relocation& relocation);

private:
  enum class From : std::uint8_t { none, itself, object };

  From look(const DataObject& object) const;
  const OwnFunction* find(const Relocation& relocation, std::uint64_t from) const;

  const Module& module_;
  const DataObject* last_ = nullptr;
  From from_ = From::none;
};

// The function of the module's own that begins there, or null.
const OwnFunction* find_function(std::span<const OwnFunction> functions, std::uint32_t section,
                                 std::uint64_t offset) noexcept;

} // namespace tenon::link
